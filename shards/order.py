"""What a training batch holds, as numbers: which tracklets, which frames, how they are changed, which sound each frame hears.

In:      rows of INDEX with labels, INDEX meta, RunConfig, rank and ranks.   Out: this rank's part of any step of any epoch.
Source:  specs/dubbernet.md sections 3.2, 3.3, 6, 7.4. Ours: a part is a pure function of (seed, epoch, step, slot), so any number
         of workers and ranks gives the same clips, and training goes on at any step without replaying the steps before it.

A *slot* is a place in the batch of all ranks, 0..P*K-1. Rank r of R fills the r-th of R equal runs of slots. What belongs to one
clip is drawn by its slot, what belongs to the batch is drawn for all slots, and what belongs to an item by its name.
"""

# B clips of this rank's part, T frames of a clip

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError
from pipeline.base.seeds import rng
from shards.augment import draw_changes
from shards.balance import Batches
from shards.draw import train_indices
from shards.windows import Windows

REDRAWN = ("shuffled", "random_clip", "single_speaker")
"""Policies of a companion under which a clip hears another tracklet's sound."""


@dataclass(frozen=True, slots=True)
class Part:
    """One rank's part of one batch."""

    epoch: int
    step: int
    keys: list[str]
    """Tracklet of each clip."""
    drawn: np.ndarray
    """int64 [B, T]; frames of the tracklet, from 0."""
    flip: np.ndarray
    """bool [B, T]; this and the next two are those of `shards.augment.draw_changes`."""
    shift: np.ndarray
    """int64 [B, T, 2]."""
    erase: np.ndarray
    """int64 [B, T, 4]."""
    speakers: list[str]
    """Tracklet whose sound each clip hears; its own unless the policy is one of REDRAWN. Empty where nothing is heard."""
    heard: np.ndarray
    """int64 [B, T]; frames of the speaker whose sound is heard."""


class Order:
    """Parts of all batches.

    Args:
        rows: training rows of INDEX and SPLIT by tracklet (label, frames, items).
        run: the run.
        policy: policy of the companion that is heard; '' where nothing is heard.
        rank, ranks: which part.

    Raises:
        ConfigError: a batch cannot be cut into `ranks` equal parts.
        TrainError: there are too few identities.
    """

    steps: int
    """Batches per epoch, the same in each."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]], run: RunConfig, policy: str, rank: int = 0, ranks: int = 1) -> None:
        sampler = run.settings.sampler
        clips = sampler.identities * sampler.tracklets
        if clips % ranks:
            fitting = [str(number) for number in range(1, clips + 1) if clips % number == 0]
            raise ConfigError(
                f"{ranks} processes cannot share batches of {sampler.identities} x {sampler.tracklets} = {clips} clips equally; "
                f"train with {', '.join(fitting[:-1])} or {fitting[-1]}"
            )
        self.rows, self.run, self.policy = rows, run, policy
        labels = {key: row["label"] for key, row in rows.items()}
        self.windows: Windows | None = None
        """Where there are some: what a stream needs to know."""
        self._batches: Batches | Windows
        if sampler.window:
            where = {key: row["shard"] for key, row in rows.items()}
            self._batches = self.windows = Windows(
                labels, where, sampler.identities, sampler.tracklets, run.seed, sampler.window, sampler.lanes
            )
        else:
            self._batches = Batches(labels, sampler.identities, sampler.tracklets, run.seed)
        self.steps = self._batches.steps
        self.slots = range(rank * clips // ranks, (rank + 1) * clips // ranks)
        self._sounding = [key for key, row in rows.items() if row["items"]]
        self._by_label: dict[int, list[str]] = {}
        for key in self._sounding:
            self._by_label.setdefault(rows[key]["label"], []).append(key)

    def part(self, epoch: int, step: int) -> Part:
        """This rank's part of one batch.

        Raises:
            IndexError: `step` is outside 0..steps-1.
        """
        run, whole = self.run, self._batches.batch(epoch, step)
        keys = [whole[slot] for slot in self.slots]
        drawn, changes = [], []
        for slot, key in zip(self.slots, keys, strict=True):
            draw = rng(run.seed, "draw", epoch, step, slot)
            drawn.append(train_indices(self.rows[key]["frames"], run.settings.clip.frames, draw))
            changes.append(draw_changes(run.settings.clip.frames, run.height, run.width, run.settings.augment, draw))
        flip, shift, erase = (np.stack(some) for some in zip(*changes, strict=True))
        speakers = self._speakers(whole, epoch, step)[self.slots.start : self.slots.stop] if self.policy else []
        heard = [
            own if speaker == key else own * self.rows[speaker]["frames"] // self.rows[key]["frames"]
            for key, speaker, own in zip(keys, speakers, drawn, strict=False)
        ]
        return Part(epoch, step, keys, np.stack(drawn), flip, shift, erase, speakers, np.array(heard, np.int64))

    def cut(self, epoch: int, step: int, item: str, spare: int) -> int:
        """How many of the `spare` frames that a companion item has too many are lost at its start."""
        return int(rng(self.run.seed, "cut", epoch, step, item).integers(0, spare, endpoint=True))

    def _speakers(self, keys: Sequence[str], epoch: int, step: int) -> list[str]:
        """The tracklet whose sound each clip of a whole batch hears: its own, but for three controls, not to be learnt by heart.

        shuffled: a tracklet of the identity that a permutation, new in each epoch, puts in the place of its own. Within an
        epoch it is one to one, so the clips of one identity still share a voice: only whose voice it is cannot be learnt.
        random_clip, single_speaker: any tracklet, drawn anew for each clip. Of one speaker too, each tracklet was allotted
        clips of its own, which would give the identity away.
        """
        seed = self.run.seed
        draw = rng(seed, "speaker", epoch, step)
        if self.policy in ("random_clip", "single_speaker"):
            return [self._sounding[i] for i in draw.integers(len(self._sounding), size=len(keys))]
        if self.policy == "shuffled":
            labels = sorted(self._by_label)
            other = dict(zip(labels, rng(seed, "shuffle", epoch).permutation(labels).tolist(), strict=True))
            choices = [self._by_label[other[self.rows[key]["label"]]] for key in keys]
            return [some[draw.integers(len(some))] for some in choices]
        return list(keys)
