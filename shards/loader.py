"""Loaders that read drawn frames by offset: for training, and for evaluation.

In:      a Store (INDEX and tars), a SPLIT table laid over it, a RunConfig.   Out: batches (pipeline/base/batch.py).
Source:  specs/dubbernet.md sections 3.1, 3.2, 3.3, 6 and 7.4. Ours: a worker makes whole batches, and a batch is a pure
         function of (seed, epoch, step). So any number of workers gives the same bytes, and training resumes at any step
         without replaying the steps before it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from pipeline.base.batch import Batch
from pipeline.base.config import MachineConfig, RunConfig
from pipeline.base.errors import ConfigError
from shards import checks
from shards.clips import Clips, Samples
from shards.draw import dense_chunk, dense_count
from shards.order import Order
from shards.read import Index, Store
from shards.resident import ResidentLoader
from shards.stream import Tars
from shards.streamed import StreamLoader
from shards.training import Made, Steps, Training, checked, data_loader, end_workers
from shards.whole import Place, check_tars, own_share


def train_loader(
    index_path: str | os.PathLike[str],
    split: pa.Table,
    run: RunConfig,
    hears: bool,
    machine: MachineConfig,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
    say: Callable[[str], object] = lambda line: None,
    also: Iterable[str] = (),
    meet: Callable[[], object] = lambda: None,
) -> Training:
    """The training loader that `machine.data` names; all give the same batches.

    Before that the tars are checked (`machine.check`), each by one process of a node.

    Args:
        index_path: INDEX; its tars lie beside it, or (stream) where `machine.urls` says.
        split, run, hears, rank, ranks: see :class:`shards.training.Training`.
        machine: data, workers, urls, commands, check, resident_share.
        device: where batches will be asked for.
        say: is given lines for whoever reads the log.
        also: tracklets that somebody else will read from tars beside INDEX; theirs are checked, too, if these are the loader's.
        meet: waits for all ranks; called when this one has checked its share.

    Raises:
        ConfigError, ShardError, TableError, TrainError: something does not fit together.
    """
    if machine.data != "stream" and (machine.urls or machine.commands):
        what = f"urls='{machine.urls}'" if machine.urls else "commands=true"
        raise ConfigError(f"machine.{what}: is for machine.data=stream, but data is '{machine.data}'; change data, or leave it out")
    roles, names = (split.column(name).to_pylist() for name in ("role", "tracklet"))
    training = [name for role, name in zip(roles, names, strict=True) if role == "train"]
    if machine.data == "stream":
        index = Index(index_path)
        tars = Tars(index, machine.urls, machine.commands, machine.check)
        if tars.local:
            check(index, training if machine.urls else [*training, *also], machine.check, say, tars.path)
        meet()
        return StreamLoader(index, split, run, hears, machine, rank, ranks)
    store = Store(index_path)
    check(store, [*training, *also], machine.check, say)
    meet()
    if machine.data == "resident":
        return ResidentLoader(store, split, run, hears, machine, device, rank, ranks, say)
    return TrainLoader(store, split, run, hears, machine.workers, rank, ranks)


def check(
    index: Index, keys: Iterable[str], how: str, say: Callable[[str], object], place: Place | None = None, alone: bool = False
) -> None:
    """Check this process's share of the tars that hold some tracklets, and say what was done.

    Args:
        how: `MachineConfig.check`.
        place: path of a tar by its name; None: beside INDEX.
        alone: no other rank of this node takes part.

    Raises:
        ShardError: something is wrong; names the first shard, sample and member.
    """
    if how == "sizes":
        say("machine.check=sizes: the bytes of the tars were not checked (python -m shards.verify does it)")
        return
    rank, ranks, threads = own_share(alone)
    done = check_tars(index, keys, place or index.path.with_name, threads, (rank, ranks))
    say(f"{done}{f', the share of one of {ranks} processes' if ranks > 1 else ''}")


class TrainLoader(Training):
    """The training loader over indexed tars; see :class:`shards.training.Training`.

    Args:
        workers: loader processes; 0 loads in this process. The batches are the same.
    """

    def __init__(self, store: Samples, split: pa.Table, run: RunConfig, hears: bool, workers: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(store, split, run, hears, rank, ranks)
        self._at = Steps(self.steps)
        self._loader = data_loader(_TrainBatches(Clips(store, self.rows, run, hears), self.order), self._at, workers)

    def _host_batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        self._at.epoch, self._at.first = epoch, first_step
        return checked(self._loader)

    def _close(self) -> None:
        end_workers(self._loader)


class _TrainBatches(Made):
    def __init__(self, clips: Clips, order: Order) -> None:
        self._clips, self._order = clips, order

    def make(self, at: tuple[int, int]) -> Batch:
        """The batch of (epoch, step)."""
        return self._clips.train(self._order.part(*at), self._order)


class DenseLoader:
    """Every clip of the tracklets of some roles, as they are, batched across tracklets in the order of their names.

    `batch.tracklet` names the tracklet of each clip; clips of one tracklet may be spread over neighbouring batches.
    Labels are -1; `batch.erased` is None; batches are ready but for their device.

    Args:
        store: the packed tracklets.
        split: SPLIT table.
        roles: roles of SPLIT to load, for example ``("query", "gallery", "junk")``; a role may have no tracklet.
        run: the run; `settings.clip` says which frames make a clip.
        hears: whether batches carry the companion. A stage that does not hear is refused; so are, for other roles than
            'train', shards whose test tracklets have no sound (meta `test`), mostly because it would give the label away.
        workers: loader processes; 0 loads in this process. The batches are the same.
        batch_frames: most frames in one batch, at least `settings.clip.frames`.

    Raises:
        ConfigError, ShardError, TableError: INDEX, SPLIT and settings do not fit together, or `hears` is refused.
    """

    def __init__(
        self, store: Samples, split: pa.Table, roles: Sequence[str], run: RunConfig, hears: bool, workers: int, batch_frames: int
    ) -> None:
        T = run.settings.clip.frames
        if batch_frames < T:
            raise ConfigError(f"batch_frames={batch_frames}: at least clip.frames={T}, one clip")
        rows = checks.rows(store, split, roles, run)
        checks.check_frames(store, run)
        if hears:
            checks.check_companion(store, run, run.test_companion)
            checks.check_may_hear(store, roles, run)
        self._data = _DenseBatches(Clips(store, rows, run, hears), batch_frames // T)
        self._workers = workers

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._data)

    def __iter__(self) -> Iterator[Batch]:
        return checked(data_loader(self._data, range(len(self._data)), self._workers))


class _DenseBatches(Made):
    def __init__(self, clips: Clips, clips_per_batch: int) -> None:
        clip = clips.run.settings.clip
        self._clips, self._size, self._T = clips, clips_per_batch, clip.frames
        self._keys = list(clips.rows)
        counts = [dense_count(clips.rows[key]["frames"], clip.frames, clip.max_clips) for key in self._keys]
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return -(-int(self._first[-1]) // self._size)

    def make(self, at: int) -> Batch:
        """Batch `at`: clips ``at * size`` and on, of all clips in a row."""
        numbers = np.arange(at * self._size, min((at + 1) * self._size, self._first[-1]))
        tracklets = np.searchsorted(self._first, numbers, side="right") - 1
        keys = [self._keys[tracklet] for tracklet in tracklets]
        chunks = (numbers - self._first[tracklets]).tolist()
        return self._clips.dense(
            [(key, dense_chunk(self._clips.rows[key]["frames"], self._T, n)) for key, n in zip(keys, chunks, strict=True)]
        )
