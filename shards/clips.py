"""What a worker does: reads the drawn frames and companions of a batch from a store and puts them together.

In:      samples by name, what was drawn (`shards.order.Part`, or chunks of frames).   Out: host batches.
Source:  specs/dubbernet.md sections 3.1 and 7.4.
"""

# B clips in the batch, T frames per clip, N distinct companion items, F companion frames of width M (mel bands, or a token's)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from pipeline.base.batch import Augmentation, Batch, Companion
from pipeline.base.config import RunConfig
from shards.checks import Packed
from shards.order import Order, Part
from shards.prepare import PREPARE
from shards.prepare.frames import decode


class Readable(Protocol):
    """Samples by name."""

    def frames(self, key: str, indices: Sequence[int]) -> Sequence[bytes | memoryview]: ...

    def companion(self, key: str, kind: str, items: Sequence[int]) -> Sequence[np.ndarray]: ...

    def align(self, key: str, kind: str) -> np.ndarray | None: ...

    def items(self, key: str) -> Sequence[str]: ...


class Samples(Packed, Readable, Protocol):
    """What is needed of a `shards.read.Store`; it goes to the workers, so it pickles."""


class Clips:
    """Makes batches of some tracklets.

    Args:
        store: where samples are read.
        rows: INDEX row of each tracklet that may be asked for, with its camera and label.
        run: the run.
        hears: whether batches carry the companion.
    """

    def __init__(self, store: Readable, rows: Mapping[str, Mapping[str, Any]], run: RunConfig, hears: bool) -> None:
        self.store, self.rows, self.run, self.hears = store, rows, run, hears

    def train(self, part: Part, order: Order) -> Batch:
        """A training batch; its frames are as they were stored, `augmentation` says what is to be done to them."""
        frames = room(len(part.keys), part.drawn.shape[1], self.run.height, self.run.width)
        for clip, key, drawn in zip(frames, part.keys, part.drawn, strict=True):
            self.pictures(clip, key, drawn)
        companions = {}
        if self.hears:
            heard = list(zip(part.speakers, part.heard, strict=True))
            companions = {self.run.kind: self.companion(heard, lambda item, spare: order.cut(part.epoch, part.step, item, spare))}
        return training_batch(part, frames, companions, self.rows, self.run)

    def dense(self, clips: Sequence[tuple[str, np.ndarray]]) -> Batch:
        """A batch for evaluation, of (tracklet, frames int64 [T]) per clip; neighbours of one tracklet are decoded together."""
        keys, T = [key for key, _ in clips], len(clips[0][1])
        frames = room(len(clips), T, self.run.height, self.run.width)
        first = 0
        while first < len(clips):
            last = first + 1
            while last < len(clips) and keys[last] == keys[first]:
                last += 1
            self.pictures(frames[first:last].flatten(0, 1), keys[first], np.concatenate([drawn for _, drawn in clips[first:last]]))
            first = last
        companions = {}
        if self.hears:
            companion = self.companion(clips, None)
            companions = {self.run.kind: Companion(companion.values.float(), companion.lengths, companion.align)}
        cameras = [self.rows[key]["camera"] for key in keys]
        return Batch(frames, torch.full((len(keys),), -1), torch.tensor(cameras), keys, companions)

    def pictures(self, out: Tensor, key: str, indices: np.ndarray) -> None:
        """Decode frames into `out`, uint8 [len(indices), 3, H, W]; a frame that is drawn twice is decoded once."""
        distinct, back = np.unique(indices, return_inverse=True)
        once = len(distinct) == len(indices) and bool((indices[1:] > indices[:-1]).all())
        where = f"shard {self.rows[key]['shard']}, sample {key}"
        made = out if once else torch.empty_like(out[: len(distinct)])
        decode(self.store.frames(key, distinct.tolist()), made, where, distinct)
        if not once:
            out.copy_(made[torch.from_numpy(back)])

    def companion(self, heard: Sequence[tuple[str, np.ndarray]], cut: Callable[[str, int], int] | None) -> Companion:
        """The items that clips hear, each distinct name once, in order of first use, float16.

        `heard` names for each clip the tracklet and its frames [T]; `cut` says by an item's name and its spare frames how many
        of these are lost at its start (None: half of them).
        """
        kind = self.run.kind
        place: dict[str, int] = {}
        values: list[np.ndarray] = []
        align = np.full((len(heard), len(heard[0][1])), -1, np.int64)
        for b, (key, drawn) in enumerate(heard):
            item_of_frame = self.store.align(key, kind)
            if item_of_frame is None:
                continue
            names, of_clip = self.store.items(key), item_of_frame[drawn].tolist()
            new = [item for item in dict.fromkeys(of_clip) if item >= 0 and names[item] not in place]
            for item in new:
                place[names[item]] = len(place)
            values += self.store.companion(key, kind, new)
            align[b] = [place[names[item]] if item >= 0 else -1 for item in of_clip]
        order = list(place)
        by_number = None if cut is None else lambda n, spare: cut(order[n], spare)
        fitted, lengths = PREPARE[kind](values, self.run.item_frames, self.run.bands, by_number)
        return Companion(fitted, lengths, torch.from_numpy(align))


def training_batch(
    part: Part, frames: Tensor, companions: dict[str, Companion], rows: Mapping[str, Mapping[str, Any]], run: RunConfig
) -> Batch:
    """A training batch of what was drawn, of stored frames and companions."""
    level = torch.tensor(run.settings.augment.erase_level, dtype=torch.uint8)
    changes = Augmentation(torch.from_numpy(part.flip), torch.from_numpy(part.shift), torch.from_numpy(part.erase), level)
    return Batch(
        frames,
        torch.tensor([rows[key]["label"] for key in part.keys]),
        torch.tensor([rows[key]["camera"] for key in part.keys]),
        part.keys,
        companions,
        torch.from_numpy(part.erase[..., 2] > 0),
        changes,
    )


def room(B: int, T: int, height: int, width: int) -> Tensor:
    """New memory for frames: uint8 [B, T, 3, height, width], colours last in memory.

    In a loader process it is memory that the parent can read, so that a batch is handed over without being copied.
    """
    shape = B, T, height, width, 3
    if get_worker_info() is None:
        out = torch.empty(shape, dtype=torch.uint8)
    else:
        out = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(math.prod(shape))).view(shape)
    return out.permute(0, 1, 4, 2, 3)
