"""Teach a student that sees what a frozen teacher sees and hears (or only sees).

In:      batches of labelled clips, with the companion where the teacher hears.
Out:     the terms of `train.tasks.labelled` for the student, and by the settings of `distill`:
         'tokens' unless `token: off`; 'budget' for a mask that is learned within one (`mask: normalized`);
         'logits' for `logits: kl` and 'both'; 'features' for `logits: feat_mse` and 'both'.
Source:  specs/dubbernet.md sections 5.2 (MG) to 5.4 and 6; the values of the switches are those of section 10.
"""

# B clips, R rows (frames of all clips, B*T), N tokens of a frame, D token width

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.api import Network, Outputs
from model.ranks import gather
from model.registry import mask_generators
from pipeline.base.batch import Batch
from pipeline.base.config import MethodConfig
from pipeline.base.errors import TrainError
from train.losses.distill import (
    feature_distill_loss,
    logits_distill_loss,
    mask_budget_loss,
    mask_statistics,
    mask_weights,
    token_distill_loss,
)
from train.tasks.labelled import Labelled

COLLAPSED = 0.95
"""Fraction of tokens at exactly 0 above which a mask is reported as collapsed (5.3). The mask's own dropout is in it."""

TAPS = {"fused": ("taps_fused", "taps_fused"), "attn": ("taps_attn", "taps_attn"), "released": ("taps_fused", "taps_attn")}
"""Which lists of Outputs are compared, the student's and the teacher's, by `distill.tap` (5.3; 9, B10 for released)."""


class Distill(Labelled):
    """The student sees frames; a frozen teacher sees the same augmented frames and may hear their companion.

    Args:
        model: the student. It never gets the companion.
        settings: `smoothing`, `distill`, `model`.
        teacher: already on the device of the task. It is put into evaluation mode here, without gradients, and is no part
            of this module: neither `train()`, `parameters()` nor `state_dict()` reach it.

    `settings.distill.mask` says how the distance of a token is weighed:
        normalized: mask of the generator relative to its mean over the frame, learned within a budget.
        raw: mask as it is, learned; it collapses to 0 (control).
        detached_random: as normalized, from generators that keep their random initial weights (control).
        off: every token 1; there are no generators.
    A generator sees the tokens that are compared (`distill.tap`), as the networks give them: `distill.normalize` is a part
    of the distance alone.

    Raises:
        TrainError: no teacher, a student that hears, or no fusion point where tokens are compared.
    """

    def __init__(self, model: Network, settings: MethodConfig, teacher: Network | None = None) -> None:
        super().__init__(model, settings)
        if teacher is None:
            raise TrainError("task 'distill' needs a teacher; name its stage in stages.<name>.teacher")
        if model.hears:
            raise TrainError(f"task 'distill': a student sees frames only, but {type(model).__name__} hears '{model.kind}'; name another")
        self.settings = of = settings.distill
        if of.token != "off" and not settings.model.fusion_after_blocks:
            raise TrainError(
                "model.fusion_after_blocks is empty: task 'distill' compares tokens after these blocks; "
                "name at least one, or set distill.token to off"
            )
        masked = of.token != "off" and of.mask != "off"
        self.names += ("tokens",) * (of.token != "off") + ("budget",) * (masked and of.mask == "normalized")
        self.names += ("logits",) * (of.logits in ("kl", "both")) + ("features",) * (of.logits in ("feat_mse", "both"))
        self.masks = mask_generators(settings.model, of) if masked else nn.ModuleList()  # 5.2: outside the student
        self.masks.requires_grad_(of.mask != "detached_random")
        teacher.eval().requires_grad_(False)  # 5.3: evaluation mode, no gradient
        self._teacher = (teacher,)  # in a tuple: a module among the attributes would become a part of this one

    @property
    def teacher(self) -> Network:
        """The frozen network that teaches."""
        return self._teacher[0]

    def check(self, batch: Batch) -> None:
        super().check(batch.frames_only())
        self.teacher.check(batch)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """See :class:`Task`.

        Raises:
            TrainError: a network does not give what is compared, or both give it in different shapes.
        """
        with torch.no_grad():
            target = self.teacher(batch)
        out = self.model(batch.frames_only())  # 5.4: no companion
        terms = self.label_terms(out, batch)
        if self.settings.token != "off":
            terms |= self._token_terms(out, target)
        if "logits" in self.names:
            terms["logits"] = logits_distill_loss(out.logits, target.logits, self.settings.temperature)  # 5.3 LKD
        if "features" in self.names:
            _require_same("clip features", out.feat, target.feat, "distill.logits to kl")
            terms["features"] = feature_distill_loss(out.feat, target.feat, self.settings.temperature)  # 5.3 LKD, released
        return terms

    def _token_terms(self, out: Outputs, target: Outputs) -> dict[str, Tensor]:
        """'tokens' (5.3 TKD) and 'budget', each the mean over the fusion points; notes the masks' statistics."""
        tokens, budgets, of = [], [], self.settings
        for i, (student_RND, target_RND) in enumerate(self._pairs(out, target)):
            weight_RN = None
            if self.masks:
                mask_RN, score_RN = self.masks[i](student_RND, target_RND)  # 5.2 MG
                weight_RN = mask_RN if of.mask == "raw" else mask_weights(mask_RN)  # 5.3 mask.mode
                budgets.append(mask_budget_loss(gather(score_RN), of.mask_target))  # 5.3 rho; a mean over the whole batch, squared
                self.stats |= {f"mask_{i}_{name}": value for name, value in mask_statistics(mask_RN).items()}
            tokens.append(token_distill_loss(student_RND, target_RND, weight_RN, of.temperature, of.token, of.normalize))
        terms = {"tokens": torch.stack(tokens).mean()}  # 5.3 mean_l
        if "budget" in self.names:
            terms["budget"] = torch.stack(budgets).mean()
        return terms

    def token_weights(self, batch: Batch) -> list[Tensor]:
        """How much each token of the batch counts in 'tokens', per fusion point [B, T, N]; empty where all count alike.

        For pictures: call it in evaluation mode and without gradients.
        """
        if not self.masks:
            return []
        pairs = self._pairs(self.model(batch.frames_only()), self.teacher(batch))
        masks = [generator(*pair)[0] for generator, pair in zip(self.masks, pairs, strict=True)]
        weights = masks if self.settings.mask == "raw" else [mask_weights(mask_RN) for mask_RN in masks]
        return [weight_RN.unflatten(0, batch.frames.shape[:2]) for weight_RN in weights]

    def _pairs(self, out: Outputs, target: Outputs) -> list[tuple[Tensor, Tensor]]:
        """The compared tokens of each fusion point, the student's and the teacher's, [R, N, D] each."""
        tap = self.settings.tap
        ours, theirs = getattr(out, TAPS[tap][0]), getattr(target, TAPS[tap][1])
        for who, network, taps in (("student", self.model, ours), ("teacher", self.teacher, theirs)):
            if not taps:
                raise TrainError(
                    f"distill.tap={tap}: the {who} ({type(network).__name__}) fuses nothing, so it has no such tokens; "
                    f"set {'distill.token to off' if tap == 'fused' else 'distill.tap to fused'}, or use a network with fusion"
                )
        if len(ours) != len(theirs):
            raise TrainError(
                f"distill: the student gives tokens at {len(ours)} fusion points, the teacher at {len(theirs)}; "
                "give both the same number of model.fusion_after_blocks, or set distill.token to off"
            )
        for student_RND, target_RND in zip(ours, theirs, strict=True):
            _require_same("tokens", student_RND, target_RND, "distill.token to off")
        return list(zip(ours, theirs, strict=True))

    def remarks(self, stats: dict[str, float]) -> list[str]:
        raw = self.settings.mask == "raw"
        effect = "hardly any token is distilled" if raw else "frames with no weight left count every token alike, others hang on few"
        return [
            f"{name}={value:.3f}: the mask has collapsed, {effect} (distill.mask={self.settings.mask})"
            for name, value in stats.items()
            if name.endswith("_zero") and value > COLLAPSED
        ]


def _require_same(what: str, student: Tensor, target: Tensor, otherwise: str) -> None:
    """Refuse to compare tensors of different shapes, which broadcasting would let pass."""
    if student.shape != target.shape:
        raise TrainError(
            f"distill: {what} of the student are {list(student.shape)}, of the teacher {list(target.shape)}; "
            f"give both networks the same model.width, patch and stride, or set {otherwise}"
        )
