"""The training loader over a training set that lives on the device: decoded once, then nothing but numbers leaves the host.

In:      a Store, and room on the device.   Out: the same batches as from indexed tars.
Source:  ours. MARS: 509,914 training frames of 256x128 are 50 GB.

Loader processes draw numbers (which frames, which changes, which items). Frames and items are gathered, and frames changed, on the
device.
"""

# B clips in the batch, T frames per clip, N distinct companion items, F companion frames of width M

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.base.batch import Batch, Companion
from pipeline.base.config import MachineConfig, RunConfig
from pipeline.base.errors import ConfigError
from shards.clips import Clips, room, training_batch
from shards.device import Check
from shards.order import Order, Part
from shards.prepare import PREPARE
from shards.prepare.frames import augment, take
from shards.read import Store
from shards.training import Made, Steps, Training, checked, data_loader, end_workers

CHUNK = 256
"""Frames that are decoded and copied together, or one tracklet's."""


class ResidentLoader(Training):
    """See :class:`shards.training.Training`; batches are those of TrainLoader. Every rank holds the whole training set.

    Args:
        store: the packed tracklets; read once, here.
        machine: workers: processes that decode, and later draw numbers; resident_share.
        device: where the training set is to live, and the only one that batches are made for.
        say: is given a line about what is loaded.

    Raises:
        ConfigError: the training set takes more than `resident_share` of the device's free memory (on a CPU: of the equal part
            that each process of this machine has of it).
    """

    def __init__(
        self,
        store: Store,
        split: pa.Table,
        run: RunConfig,
        hears: bool,
        machine: MachineConfig,
        device: torch.device,
        rank: int = 0,
        ranks: int = 1,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        super().__init__(store, split, run, hears, rank, ranks)
        self._device, self._at_once = device, device.type != "cpu"
        table = Contents(store, self.rows, run.kind if hears else "")
        width = run.bands if hears else 0
        size = table.frames * run.height * run.width * 3 + table.item_frames * width * 2
        what = f"{table.frames:,} training frames of {run.height}x{run.width}" + (f" and their {run.kind}" if hears else "")
        sharing = 1 if self._at_once else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # GPUs are not shared; torchrun says how many
        free = free_memory(device) // sharing
        room_there = f"{free / 1e9:,.3f} GB that are free on {device}" + (f" for each of {sharing} processes" if sharing > 1 else "")
        if size > machine.resident_share * free:
            raise ConfigError(
                f"machine.data=resident: {what} take {size / 1e9:,.3f} GB, more than resident_share={machine.resident_share} of the "
                f"{room_there}; use machine.data=indexed, or a larger machine.resident_share"
            )
        say(f"{run.dataset}: {what} take {size / 1e9:,.3f} GB of the {room_there}")
        self._frames = torch.empty((table.frames, run.height, run.width, 3), dtype=torch.uint8, device=device)
        self._items = torch.empty((table.item_frames, width), dtype=torch.float16, device=device)
        decoding = _Chunks(Clips(store, self.rows, run, hears), table)
        for frames_at, frames, items_at, items in checked(data_loader(decoding, range(len(decoding)), machine.workers)):
            self._frames[frames_at : frames_at + len(frames)].copy_(frames, non_blocking=True)
            self._items[items_at : items_at + len(items)].copy_(items, non_blocking=True)
        self._at = Steps(self.steps)
        self._loader = data_loader(_Numbers(self.order, table), self._at, machine.workers)

    def batches(self, epoch: int, first_step: int, device: torch.device, check: Check | None = None) -> Iterator[Batch]:
        """See :class:`shards.training.Training`. `check` sees frames and companion values without content (device 'meta')."""
        if device != self._device:
            raise ValueError(f"the training set lives on {self._device}, batches were asked for on {device}")
        for numbers in self.epoch(epoch, first_step):
            batch = self._described(numbers)
            if check is not None:
                check(batch)
            yield self._gathered(batch, numbers)

    def _host_batches(self, epoch: int, first_step: int) -> Iterator[Numbers]:
        self._at.epoch, self._at.first = epoch, first_step
        return checked(self._loader)

    def _close(self) -> None:
        end_workers(self._loader)

    def _described(self, numbers: Numbers) -> Batch:
        """All of a batch that is known on the host."""
        run, (B, T) = self.run, numbers.frames.shape
        companions = {}
        if self.hears:
            values = torch.empty((len(numbers.starts), run.item_frames, run.bands), device="meta")
            companions = {run.kind: Companion(values, torch.from_numpy(numbers.lengths), torch.from_numpy(numbers.align))}
        frames = torch.empty((B, T, 3, run.height, run.width), dtype=torch.uint8, device="meta")
        return training_batch(numbers.part, frames, companions, self.rows, run)

    def _gathered(self, described: Batch, numbers: Numbers) -> Batch:
        """The ready batch. What is sent has row numbers in the place of frames and of companion values."""
        starts = {kind: replace(some, values=torch.from_numpy(numbers.starts)) for kind, some in described.companions.items()}
        sent = replace(described, frames=torch.from_numpy(numbers.frames), companions=starts)
        if self._device.type == "cuda":
            sent = sent.pin_memory()  # else the device might be waited for
        there = sent.to(self._device)
        assert there.augmentation is not None
        if self._at_once:
            frames = take(self._frames, there.frames, there.augmentation)
        else:
            frames = augment(self._frames[there.frames].permute(0, 1, 4, 2, 3), there.augmentation).permute(0, 1, 3, 4, 2)
        for companion in there.companions.values():
            place = torch.arange(self.run.item_frames, device=self._device)
            valid = place < companion.lengths[:, None]
            values = self._items[torch.where(valid, companion.values[:, None] + place, 0)].float()
            companion.values = torch.where(valid[..., None], values, 0.0)
        return replace(there, frames=frames.permute(0, 1, 4, 2, 3), augmentation=None)


@dataclass(frozen=True, slots=True)
class Numbers:
    """A batch as numbers of what lies on the device."""

    part: Part
    frames: np.ndarray
    """int64 [B, T]; rows of the frames."""
    starts: np.ndarray
    """int64 [N]; row of the first kept frame of each item."""
    lengths: np.ndarray
    """int64 [N]; as in `Companion`."""
    align: np.ndarray
    """int64 [B, T]; as in `Companion`."""


class Contents:
    """Where each training frame and each distinct companion item lies, in two tables without gaps.

    Attributes:
        first: row of the first frame of each tracklet.
        frames, item_frames: rows of both tables.
        item_of: int64 [frames]; item that each frame hears, -1: none.
        names: of the items, in the order in which they lie.
        starts: int64 [items + 1]; row of the first frame of each item, and the end.
        new: by tracklet, numbers of those of its items that lie in its place: those that no tracklet before it has.
    """

    def __init__(self, store: Store, rows: Mapping[str, Mapping[str, Any]], kind: str) -> None:
        self.first: dict[str, int] = {}
        self.new: dict[str, list[int]] = {}
        number: dict[str, int] = {}
        lengths, item_of, self.frames = [0], [], 0
        for key, row in rows.items():
            self.first[key], self.new[key] = self.frames, []
            self.frames += row["frames"]
            align = store.align(key, kind) if kind else None
            if align is None:
                item_of.append(np.full(row["frames"], -1))
                continue
            names = store.items(key)
            for item, (name, length) in enumerate(zip(names, store.lengths(key, kind), strict=True)):
                if name not in number:
                    number[name] = len(number)
                    lengths.append(length)
                    self.new[key].append(item)
            item_of.append(np.array([*(number[name] for name in names), -1])[align])
        self.item_of = np.concatenate(item_of)
        self.names = list(number)
        self.starts = np.cumsum(lengths)
        self.item_frames = int(self.starts[-1])


class _Chunks(Made):
    """Decoded frames and new items of some tracklets in a row, with the rows where they belong."""

    def __init__(self, clips: Clips, table: Contents) -> None:
        self._clips, self._table = clips, table
        self._keys: list[list[str]] = []
        held = CHUNK
        for key, row in clips.rows.items():
            if held + row["frames"] > CHUNK:
                self._keys.append([])
                held = 0
            self._keys[-1].append(key)
            held += row["frames"]
        counts = [sum(len(table.new[key]) for key in keys) for keys in self._keys]
        self._items = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return len(self._keys)

    def make(self, at: int) -> tuple[int, Tensor, int, Tensor]:
        clips, table, run, keys = self._clips, self._table, self._clips.run, self._keys[at]
        counts = [clips.rows[key]["frames"] for key in keys]
        out = room(1, sum(counts), run.height, run.width)[0]
        items: list[np.ndarray] = []
        for key, part in zip(keys, out.split(counts), strict=True):
            clips.pictures(part, key, np.arange(len(part)))
            if table.new[key]:
                items += clips.store.companion(key, run.kind, table.new[key])
        if run.kind == "audio_tokens":
            PREPARE[run.kind](items, run.item_frames, run.bands, None)  # refuses other lengths
        values = (
            torch.from_numpy(np.concatenate(items)) if items else torch.empty((0, run.bands if clips.hears else 0), dtype=torch.float16)
        )
        return table.first[keys[0]], out.permute(0, 2, 3, 1), int(table.starts[self._items[at]]), values


class _Numbers(Made):
    def __init__(self, order: Order, table: Contents) -> None:
        self._order, self._table = order, table

    def make(self, at: tuple[int, int]) -> Numbers:
        """Numbers of the batch of (epoch, step)."""
        table, part = self._table, self._order.part(*at)
        frames = np.array([table.first[key] for key in part.keys])[:, None] + part.drawn
        if not part.speakers:
            none = np.zeros(0, np.int64)
            return Numbers(part, frames, none, none, np.full(frames.shape, -1))
        heard = table.item_of[np.array([table.first[key] for key in part.speakers])[:, None] + part.heard]
        items = [item for item in dict.fromkeys(heard.ravel().tolist()) if item >= 0]  # in order of first use
        place = np.full(len(table.names) + 1, -1)
        place[items] = np.arange(len(items))
        whole = np.diff(table.starts)[items]
        lengths = np.minimum(whole, self._order.run.item_frames)
        spare = (whole - lengths).tolist()
        cuts = [self._order.cut(*at, table.names[item], more) if more else 0 for item, more in zip(items, spare, strict=True)]
        return Numbers(part, frames, table.starts[items] + np.array(cuts, np.int64), lengths, place[heard])


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a CUDA device, or that programs on this machine may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
