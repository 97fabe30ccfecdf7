"""Look at training identities that are held out: how well does the network find people whom it has never trained on?

In:      SPLIT, INDEX and the seed of the run; the network as it is.
Out:     a SPLIT without the held-out identities, their mAP and rank-1 now and then, and the weights that are handed on.
Source:  decisions.md (model selection). Ours: every held-out tracklet asks, and all others answer, by the usual rule (entries
         of its identity and camera removed, itself among them; AP at hits). Nothing of the test set gets here.

The held-out set is a function of (seed of the run, SPLIT, INDEX), so a student and its teacher are trained on the same
identities. A network that hears label-derived sound is not looked at: the voice would say who it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from evaluate.protocols import Protocol, Subjects, apply
from model.api import Network
from model.vectors import BATCH_FRAMES, tracklet_vectors
from pipeline.base import tables
from pipeline.base.batch import Batch
from pipeline.base.config import RunConfig, ValidationConfig
from pipeline.base.errors import ShardError, TrainError
from pipeline.base.seeds import rng
from shards.loader import DenseLoader, Samples
from train.aside import aside

HELD_OUT = "query"
"""Role of held-out tracklets in a SPLIT of their own: they ask, and they are the gallery."""

RULE = Protocol(
    name="held_out",
    description="Every held-out training tracklet against all others; entries of its identity and camera, itself among them, removed.",
    gallery_roles=(HELD_OUT,),
    gallery_definition="held-out training tracklets",
)


def hold_out(split: pa.Table, index: pa.Table, count: int, seed: int, least: int = 2) -> tuple[pa.Table, pa.Table]:
    """Take identities out of training.

    Args:
        split: SPLIT; only its rows of role 'train' are looked at.
        index: INDEX (columns key, identity, camera).
        count: identities to hold out; 0: none.
        seed: seed of the run.
        least: identities that must be left to train (`sampler.identities`).

    Returns:
        SPLIT with the held-out rows as 'unused', and labels 0..K-1 of the other training identities by their sorted names;
        SPLIT of the held-out rows alone, all of role `HELD_OUT`, for `shards.loader.DenseLoader`.

    Raises:
        ShardError: a training tracklet is not in INDEX.
        TrainError: too few identities that two cameras saw, or too few are left.
    """
    place = {row["key"]: (row["identity"], row["camera"]) for row in index.select(["key", "identity", "camera"]).to_pylist()}
    rows = split.to_pylist()
    training = sorted(row["tracklet"] for row in rows if row["role"] == "train")
    missing = [name for name in training if name not in place]
    if missing:
        raise ShardError(
            f"{len(missing)} of {len(training)} training tracklets are not in the shards ({missing[0]}, ...); make SPLIT and shards from "
            "the same TRACKLETS"
        )
    cameras: dict[str, set[int]] = {}
    for name in training:
        identity, camera = place[name]
        cameras.setdefault(identity, set()).add(camera)
    fit = sorted(identity for identity, seen in cameras.items() if len(seen) >= 2)
    if count > len(fit):
        raise TrainError(
            f"validation.identities={count}: only {len(fit)} of {len(cameras)} training identities were seen by two cameras or more; "
            f"set it to {len(fit)} or less, or to 0"
        )
    if count and len(cameras) - count < least:
        raise TrainError(
            f"validation.identities={count}: leaves {len(cameras) - count} of {len(cameras)} training identities, and a batch needs {least}; "
            f"set it to {max(len(cameras) - least, 0)} or less"
        )
    held = {fit[i] for i in rng(seed, "validation").permutation(len(fit))[:count]}
    label = {identity: i for i, identity in enumerate(sorted(cameras.keys() - held))}
    for row in rows:
        if row["role"] == "train":
            identity = place[row["tracklet"]][0]
            row |= {"role": "unused", "label": -1} if identity in held else {"label": label[identity]}
    asked = [{"tracklet": name, "role": HELD_OUT, "label": -1} for name in training if place[name][0] in held]
    return tables.table(rows, tables.SPLIT), tables.table(asked, tables.SPLIT)


def why_no_look(hears: bool, companion: dict[str, Any] | None) -> str:
    """Why a network cannot be looked at; '' where it can.

    Args:
        hears: whether the network itself hears (its teacher does not count).
        companion: entry of INDEX meta.
    """
    if not hears or companion is None or (companion["test"] and not companion["label_derived"]):
        return ""
    policy = companion["policy"]
    return f"no look at held-out identities: the network hears sound of policy '{policy}', and at a look that would tell who it is"


class Validator:
    """Scores a network on the held-out tracklets.

    Args:
        batches: clips of the tracklets of `held`; iterated anew at every look.
        held: of :func:`hold_out`.
        index: INDEX.
        device: where the network is.

    A look depends on the network alone, so under several ranks all may take it, or the first alone while the others wait.
    """

    def __init__(self, batches: Iterable[Batch], held: pa.Table, index: pa.Table, device: torch.device) -> None:
        self._batches, self._device = batches, device
        facts = {row["key"]: row for row in index.select(["key", "identity", "kind", "camera"]).to_pylist()}
        self._rows = [facts[name] for name in sorted(held.column("tracklet").to_pylist())]
        self.identities = len({row["identity"] for row in self._rows})

    def look(self, network: Network) -> dict[str, Any]:
        """mAP and rank-1 as fractions, valid and all queries, identities. The network's modes and all generators stay as they are.

        In float32, as in the evaluation: call it outside of autocast.

        Raises:
            ScoreError: a feature is not finite.
        """
        with aside(network, self._device):
            vectors = tracklet_vectors(network, self._batches, self._device)
        assert vectors.tracklet == [row["key"] for row in self._rows], "the loader gave other tracklets than were held out"
        subjects = Subjects(
            vectors.tracklet,
            role=np.full(len(self._rows), HELD_OUT),
            identity=np.array([row["identity"] for row in self._rows]),
            kind=np.array([row["kind"] for row in self._rows]),
            camera=np.array([row["camera"] for row in self._rows], np.int64),
            vector=vectors.values,
        )
        found = apply(RULE, subjects).summary
        return {
            "mAP": found.mean_ap,
            "rank1": float(found.cmc[0]),
            "valid": found.valid,
            "queries": found.queries,
            "identities": self.identities,
        }


def make_validator(store: Samples, held: pa.Table, run: RunConfig, hears: bool, device: torch.device, workers: int) -> Validator:
    """A validator that reads the held-out tracklets from the shards, with the companion for a network that hears.

    Raises:
        ConfigError, ShardError, TableError: of `DenseLoader`; it refuses sound that gives the label away, see :func:`why_no_look`.
    """
    frames = max(BATCH_FRAMES, run.settings.clip.frames)
    return Validator(DenseLoader(store, held, (HELD_OUT,), run, hears, workers, frames), held, store.table, device)


def in_words(look: dict[str, Any]) -> str:
    """One look for the log."""
    return (
        f"{look['identities']} held-out identities: mAP {look['mAP']:.1%}, rank-1 {look['rank1']:.1%} "
        f"({look['valid']} of {look['queries']} queries valid)"
    )


class Best:
    """A copy of the weights of the best look so far, on the host; of equal ones the first."""

    def __init__(self) -> None:
        self.epoch, self.score = 0, -1.0
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, score: float, network: Network) -> bool:
        """Keep a copy if `score` (a fraction) is higher than all before; returns whether it was."""
        if score <= self.score:
            return False
        self.epoch, self.score = epoch, score
        self.weights = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in network.state_dict().items()}
        return True


class Selection:
    """Looks at the held-out identities whenever that is due, and says which weights are handed on.

    Args:
        settings: `validation` of the method.
        epochs: of the stage.
        validator: None: there are no looks.
        why: :func:`why_no_look`, where that is the reason.
    """

    def __init__(self, settings: ValidationConfig, epochs: int, validator: Validator | None, why: str = "") -> None:
        self._settings, self._epochs, self._validator, self._why = settings, epochs, validator, why
        self._looks, self._best, self._last = 0, Best(), dict[str, Any]()

    def due(self, epoch: int) -> bool:
        """Whether there is a look after this epoch (from 1)."""
        return self._validator is not None and (epoch % self._settings.epochs == 0 or epoch == self._epochs)

    def after(self, epoch: int, network: Network) -> dict[str, Any]:
        """The look after an epoch, for its record: {"validation": of :meth:`Validator.look`}, or {} where none is due.

        Args:
            network: what would be handed on now (the moving average, where there is one).
        """
        if not self.due(epoch):
            return {}
        assert self._validator is not None, "due() said so"
        self._last = self._validator.look(network)
        self._looks += 1
        if self._settings.keep == "best":
            self._best.offer(epoch, self._last["mAP"], network)
        return {"validation": self._last}

    def hand_on(self, network: Network) -> dict[str, Any]:
        """Put the kept weights into the trained network; call once, at the end.

        Returns:
            For the weights' meta and the last line of metrics.jsonl: keep ('last' or 'best'), epoch, looks, identities (held
            out), mAP (of the kept weights; None: not looked at), remark ('' or why there was no look).
        """
        facts = {"keep": "last", "epoch": self._epochs, "looks": self._looks, "identities": self._settings.identities}
        facts |= {"mAP": None, "remark": ""}
        if self._validator is None:
            wanted = ", so the last epoch is kept instead of the best" if self._settings.keep == "best" else ""
            return {**facts, "remark": self._why + wanted if self._why else ""}
        if self._best.weights:
            network.load_state_dict(self._best.weights)
            return {**facts, "keep": "best", "epoch": self._best.epoch, "mAP": self._best.score}
        return {**facts, "mAP": self._last.get("mAP")}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint stores: tensors (none unless the best are kept), and plain JSON values."""
        return self._best.weights, {"looks": self._looks, "epoch": self._best.epoch, "score": self._best.score, "last": self._last}

    def load(self, weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self._looks, self._last = facts["looks"], facts["last"]
        self._best.epoch, self._best.score, self._best.weights = facts["epoch"], facts["score"], dict(weights)
