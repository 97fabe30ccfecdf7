"""What the three training loaders have in common: what they refuse, the order of their batches, the way to the device.

In:      a store (or its INDEX), SPLIT, RunConfig, rank and ranks.   Out: the base class of TrainLoader, StreamLoader, ResidentLoader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.base.batch import Batch
from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError, TrainError, UserError
from shards import checks
from shards.device import Check, on_device
from shards.order import Order


class Training:
    """Identity-balanced training batches: P identities x K tracklets, one augmented clip of T frames each.

    A batch is a pure function of (seed, epoch, step), whatever the loader, the number of its workers and the number of ranks:
    rank r of R gets the r-th of R equal runs of its clips. `batch.erased` says which frames lose a rectangle to augmentation.

    Args:
        store: the packed tracklets.
        split: SPLIT table; rows of role 'train' are used.
        run: the run; its seed, clip, sampler and augment settings decide every byte.
        hears: whether batches carry the companion (to train a network that hears, or to distil from one).
        rank, ranks: this process and the number of processes that share each batch.

    Raises:
        ConfigError, ShardError, TableError, TrainError: INDEX, SPLIT and settings do not fit together.
    """

    steps: int
    """Batches per epoch, the same in each."""
    classes: int
    """Training identities; labels are 0..classes-1."""
    meta: dict[str, Any]
    """INDEX meta: dataset, cameras, frames, companion."""

    def __init__(self, store: checks.Packed, split: pa.Table, run: RunConfig, hears: bool, rank: int = 0, ranks: int = 1) -> None:
        if hears and not (run.this.hears or run.teacher):
            raise ConfigError(f"stage '{run.stage}' neither hears nor has a teacher that could: load it without its companion")
        self.rows = checks.rows(store, split, ("train",), run)
        checks.check_frames(store, run)
        if hears:
            checks.check_companion(store, run, run.companion)
        self.classes, self.meta, self.run, self.hears = checks.classes(self.rows), store.meta, run, hears
        policy = store.meta["companion"]["policy"] if hears else ""
        deaf = [key for key, row in self.rows.items() if not row["items"]]
        if hears and deaf and policy != "recorded":  # own sound may be missing: counted in ALIGNMENT
            raise TrainError(
                f"{len(deaf)} of {len(self.rows)} training tracklets have no {run.kind} ({checks.some(deaf)}), but stage '{run.stage}' "
                "hears it; pack shards whose alignment covers this split"
            )
        self.order = Order(self.rows, run, policy, rank, ranks)
        self.steps = self.order.steps
        self._turn = 0
        self._closed = False

    def close(self) -> None:
        """End all that works for this loader (processes, threads, commands), whatever it waits for. It gives no batch any more.

        A process that ends by an error must call this, because Python waits for threads before it ends. Any number of times.
        """
        if not self._closed:
            self._closed = True
            self._close()

    def _close(self) -> None:
        raise NotImplementedError

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Any]:
        """What `batches` makes ready, on the host (host batches; resident: numbers), in order, from `first_step` on.

        One iterator is served at a time: after a later call of this method an earlier iterator raises RuntimeError, and after
        `close` all do.
        """
        if not 0 <= first_step <= self.steps:
            raise ValueError(f"first_step={first_step}: must be in 0..{self.steps}")
        self._turn += 1
        self._require_turn(self._turn)
        return self._in_turn(epoch, first_step, self._turn)

    def batches(self, epoch: int, first_step: int, device: torch.device, check: Check | None = None) -> Iterator[Batch]:
        """The ready batches of an epoch on a device, in order, from `first_step` on.

        Args:
            epoch: any number; another one gives other batches.
            first_step: step of the first batch, from 0.
            device: where batches are to be; on CUDA they are copied ahead.
            check: is given each batch while its values are on the host (`Task.check`).
        """
        return on_device(self.epoch(epoch, first_step), device, check)

    def _in_turn(self, epoch: int, first_step: int, turn: int) -> Iterator[Any]:
        self._require_turn(turn)
        batches = self._host_batches(epoch, first_step)
        for _ in range(first_step, self.steps):
            self._require_turn(turn)
            yield next(batches)

    def _host_batches(self, epoch: int, first_step: int) -> Iterator[Any]:
        raise NotImplementedError

    def _require_turn(self, turn: int) -> None:
        if self._closed:
            raise RuntimeError("this loader was closed")
        if turn != self._turn:
            raise RuntimeError("another epoch of this loader was started meanwhile")


class Made(Dataset[Any]):
    """Makes a whole batch per item. A UserError is handed over as a value: torch would raise it again with the worker's
    traceback in its message instead of its one sentence."""

    def make(self, at: Any) -> Any:
        raise NotImplementedError

    def __getitem__(self, at: Any) -> Any:
        try:
            return self.make(at)
        except UserError as error:
            return error


class Steps:
    """The order in which steps are asked for; changed from epoch to epoch while the workers live on."""

    def __init__(self, steps: int) -> None:
        self.steps, self.epoch, self.first = steps, 0, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, step) for step in range(self.first, self.steps))

    def __len__(self) -> int:
        return self.steps - self.first


def data_loader(data: Made, order: range | Steps, workers: int) -> DataLoader[Any]:
    """torch's DataLoader over whole batches. Each worker computes on one thread (torch sees to that).

    Its own generator keeps torch from taking a number out of the global stream, which would tie the dropout of a resumed
    training to how often loaders were started.
    """
    return DataLoader(
        data,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def end_workers(loader: DataLoader[Any]) -> None:
    """End the loader's processes, also where an iterator of it still stands somewhere."""
    iterator: Any = loader._iterator
    if iterator is not None:  # there are processes, and they have begun
        iterator._shutdown_workers()  # torch has no other name for it


def checked(loader: DataLoader[Any]) -> Iterator[Any]:
    """What the loader made, or the first UserError, raised."""
    for made in loader:
        if isinstance(made, UserError):
            try:
                raise made
            finally:
                del made  # else the error and this frame hold each other, and with them the workers
        yield made
