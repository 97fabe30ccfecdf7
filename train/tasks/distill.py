"""Teach a student that sees what a frozen teacher sees and hears.

In:      batches of labelled clips with the companion that the teacher hears.
Out:     the terms 'identity', 'triplet', 'tokens', 'logits' and, for a mask that is learned within a budget, 'budget'.
Source:  specs/dubbernet.md sections 5.2 to 5.4 and 6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.api import Network, Outputs
from model.registry import mask_generators
from pipeline.base.batch import Batch
from pipeline.base.config import MethodConfig
from pipeline.base.errors import TrainError
from train.losses.distill import (
    logits_distill_loss,
    mask_budget_loss,
    mask_statistics,
    mask_weights,
    token_distill_loss,
)
from train.losses.identity import identity_loss
from train.losses.triplet import triplet_loss
from train.tasks.task import Task

COLLAPSED = 0.95
"""Fraction of tokens at exactly 0 above which a mask is reported as collapsed (section 5.3)."""


class Distill(Task):
    """The student sees frames; a frozen teacher sees the same augmented frames and hears their companion.

    Args:
        model: the student. It never gets the companion.
        settings: `smoothing`, `distill`, `model`.
        teacher: already on the device of the task. It is put into evaluation mode here, without gradients, and is no part
            of this module: neither `train()`, `parameters()` nor `state_dict()` reach it.

    `settings.distill.mask` says how the divergence of a token is weighed:
        normalized: mask of the generator relative to its mean over the frame, learned within a budget.
        raw: mask as it is, learned; it collapses to 0 (control).
        detached_random: as normalized, from generators that keep their random initial weights (control).
        off: every token 1; there are no generators.
    """

    def __init__(self, model: Network, settings: MethodConfig, teacher: Network | None = None) -> None:
        super().__init__(model)
        if teacher is None:
            raise TrainError("task 'distill' needs a teacher; name its stage in stages.<name>.teacher")
        points = len(settings.model.fusion_after_blocks)
        if not points:
            raise TrainError("model.fusion_after_blocks is empty: task 'distill' compares tokens after these blocks; name at least one")
        self.smoothing, self.settings = settings.smoothing, settings.distill
        self.names = ("identity", "triplet", "tokens", "logits") + ("budget",) * (settings.distill.mask == "normalized")
        self.masks = mask_generators(settings.model, settings.distill) if settings.distill.mask != "off" else nn.ModuleList()
        self.masks.requires_grad_(settings.distill.mask != "detached_random")
        teacher.eval().requires_grad_(False)
        self._teacher = (teacher,)  # in a tuple: a module among the attributes would become a part of this one

    @property
    def teacher(self) -> Network:
        """The frozen network that teaches."""
        return self._teacher[0]

    def check(self, batch: Batch) -> None:
        self.model.check(batch.frames_only())
        self.teacher.check(batch)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            target = self.teacher(batch)
        out = self.model(batch.frames_only())
        return {
            "identity": identity_loss(out.logits, batch.label, self.smoothing),
            "triplet": triplet_loss(out.feat, batch.label),
            **self._token_terms(out, target),
            "logits": logits_distill_loss(out.logits, target.logits, self.settings.temperature),
        }

    def _token_terms(self, out: Outputs, target: Outputs) -> dict[str, Tensor]:
        """'tokens' and 'budget', each the mean over the fusion points; notes the masks' statistics."""
        found, wanted = len(out.taps_fused), len(target.taps_fused)
        if not found or found != wanted:
            raise TrainError(
                f"the student gives tokens at {found} fusion points, the teacher at {wanted}; 'distill' needs networks that both have "
                "model.fusion_after_blocks (a student without any can only learn by 'identify')"
            )
        tokens, budgets = [], []
        for i, (student_RND, target_RND) in enumerate(zip(out.taps_fused, target.taps_fused, strict=True)):
            weight_RN = None
            if self.settings.mask != "off":
                mask_RN = self.masks[i](student_RND, target_RND)
                weight_RN = mask_RN if self.settings.mask == "raw" else mask_weights(mask_RN)
                budgets.append(mask_budget_loss(mask_RN, self.settings.mask_target))
                self.stats |= {f"mask_{i}_{name}": value for name, value in mask_statistics(mask_RN).items()}
            tokens.append(token_distill_loss(student_RND, target_RND, weight_RN, self.settings.temperature))
        terms = {"tokens": torch.stack(tokens).mean()}
        if "budget" in self.names:
            terms["budget"] = torch.stack(budgets).mean()
        return terms

    def remarks(self, stats: dict[str, float]) -> list[str]:
        closed = [name for name, value in stats.items() if name.endswith("_zero") and value > COLLAPSED]
        return [
            f"{name}={stats[name]:.3f}: the mask has collapsed, hardly any token is distilled (distill.mask={self.settings.mask})"
            for name in closed
        ]
