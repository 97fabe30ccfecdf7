"""The training loader over streams: whole tars are read one after another, clips are made of the windows in flight.

In:      INDEX, and tars wherever `machine.urls` says.   Out: the same batches as from indexed tars.
Source:  ours; the order is that of shards/windows.py.

Each lane of this rank has a thread that reads its shards, epoch after epoch, and keeps the samples that will be drawn until their
last use. It waits when it holds as much as one shard more than its largest window could. A pool of threads makes batches; decoding
does not hold Python's lock. Training that goes on at (epoch, step) starts to read at the windows of that step.
"""

from __future__ import annotations

import copy
import signal
import threading
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import torch

from pipeline.base.batch import Batch
from pipeline.base.config import MachineConfig, RunConfig
from pipeline.base.errors import ConfigError
from shards import codec
from shards.clips import Clips
from shards.order import REDRAWN, Part
from shards.read import Index
from shards.stream import Opened, Tars
from shards.training import Training
from shards.windows import Windows


class StreamLoader(Training):
    """See :class:`shards.training.Training`; batches are those of TrainLoader with the same `sampler.window` and `lanes`.

    Args:
        index: INDEX of the store; its tars are read from where `machine` says.
        machine: urls, commands, check, and workers: threads that make batches; 0 makes them in the thread that asks.

    Raises:
        ConfigError: the order has no windows, ranks cannot share the lanes, `urls` would start a command and may not, or clips
            hear other tracklets, which a stream does not have at hand.
    """

    def __init__(
        self, index: Index, split: pa.Table, run: RunConfig, hears: bool, machine: MachineConfig, rank: int = 0, ranks: int = 1
    ) -> None:
        super().__init__(index, split, run, hears, rank, ranks)
        lanes = run.settings.sampler.lanes
        if self.order.windows is None:
            raise ConfigError("machine.data=stream: needs an order of windows; set sampler.window to the number of shards that are mixed")
        if lanes % ranks:
            raise ConfigError(
                f"machine.data=stream: {ranks} processes cannot share {lanes} lanes; set sampler.lanes to a multiple of {ranks}"
            )
        if hears and self.order.policy in REDRAWN:
            raise ConfigError(
                f"machine.data=stream: with policy '{self.order.policy}' clips hear other tracklets, which a stream does not have at hand; "
                "use machine.data=indexed or resident"
            )
        self._lanes = range(rank * lanes // ranks, (rank + 1) * lanes // ranks)
        self._tars = Tars(index, machine.urls, machine.commands, machine.check)
        self._workers = machine.workers
        self._pool = ThreadPoolExecutor(machine.workers, "clips") if machine.workers else None
        self._reading: Reading | None = None
        self._next: tuple[int, int] | None = None

    def _host_batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        if self._reading is None or self._next != (epoch, first_step):
            if self._reading is not None:
                self._reading.stop()
            assert self.order.windows is not None
            ahead = copy.copy(self.order.windows)  # its own, because it plans ahead
            self._reading = Reading(
                self._tars, ahead, self._lanes, self.order.slots, self.run.kind if self.hears else "", epoch, first_step
            )
            weakref.finalize(self, self._reading.stop)
        self._next = None
        for done, batch in enumerate(self._made(self._reading, epoch, first_step), first_step + 1):
            if done == self.steps:
                self._next = epoch + 1, 0  # reading has gone on meanwhile
            yield batch

    def _close(self) -> None:
        if self._reading is not None:
            self._reading.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _made(self, reading: Reading, epoch: int, first_step: int) -> Iterator[Batch]:
        """Batches in order, made ahead by the pool."""
        jobs: deque[Future[Batch]] = deque()
        try:
            for step in range(first_step, self.steps):
                part = self.order.part(epoch, step)
                if self._pool is None:
                    yield self._make(reading, part)
                    continue
                jobs.append(self._pool.submit(self._make, reading, part))
                if len(jobs) > 2 * self._workers:
                    yield jobs.popleft().result()
            while jobs:
                yield jobs.popleft().result()
        finally:
            for job in jobs:
                job.cancel()

    def _make(self, reading: Reading, part: Part) -> Batch:
        samples = reading.take(part.epoch, part.keys)
        try:
            batch = Clips(samples, self.rows, self.run, self.hears).train(part, self.order)
        finally:
            reading.release(part.epoch, part.keys)
        return batch.pin_memory() if torch.cuda.is_available() else batch


class Held:
    """Samples in memory, read as those of a store are."""

    def __init__(self, samples: Mapping[str, codec.Sample]) -> None:
        self._samples = samples

    def frames(self, key: str, indices: Sequence[int]) -> list[bytes]:
        frames = self._samples[key].frames
        return [frames[index] for index in indices]

    def align(self, key: str, kind: str) -> np.ndarray | None:
        items = self._samples[key].companions.get(kind)
        return None if items is None else codec.resolve(items.align)

    def companion(self, key: str, kind: str, items: Sequence[int]) -> list[np.ndarray]:
        held = self._samples[key].companions[kind]
        ends = np.cumsum(held.lengths).tolist()
        return [held.values[ends[item] - held.lengths[item] : ends[item]] for item in items]

    def items(self, key: str) -> list[str]:
        return self._samples[key].meta["items"]


class Reading:
    """Lanes that are read by a thread each, from one step on, then epoch after epoch, until `stop`.

    Commands that the threads start do not hear SIGTERM. Clusters send it to all processes of a job, and training still needs
    its data until it has saved.

    Args:
        tars: where shards are read.
        order: the windows, for the threads alone.
        lanes: those that are read.
        slots: places in a batch that are filled from them.
        kind: companion that is kept; '' keeps none.
        epoch, first_step: the first batch that will be asked for.
    """

    def __init__(self, tars: Tars, order: Windows, lanes: range, slots: range, kind: str, epoch: int, first_step: int) -> None:
        self._tars, self._order, self._slots, self._kind = tars, order, slots, kind
        self._changed = threading.Condition()
        self._held: dict[tuple[int, str], tuple[codec.Sample, int, int]] = {}
        """By epoch and tracklet: the sample, its lane and its bytes."""
        self._uses: dict[int, Counter[str]] = {}
        """By epoch: how often each tracklet will be drawn yet."""
        self._shards: dict[int, list[list[str]]] = {}
        """By epoch: shards of each lane, in order."""
        self._bytes = dict.fromkeys(lanes, 0)
        self.limit = (order.largest + 1) * max(tars.sizes.values())
        """Bytes that a lane may hold."""
        self._error: Exception | None = None
        self._stopped = False
        self._opened = Opened()
        for lane in lanes:
            threading.Thread(target=self._read, args=(lane, epoch, first_step), name=f"lane {lane}", daemon=True).start()

    def take(self, epoch: int, keys: Sequence[str]) -> Held:
        """Samples that are drawn, as soon as they are there; what is taken must be released.

        Raises:
            UserError: of reading.
            RuntimeError: reading was stopped.
        """
        with self._changed:
            while any((epoch, key) not in self._held for key in keys):
                if self._error is not None:
                    raise self._error
                if self._stopped:
                    raise RuntimeError("another epoch of this loader was started meanwhile, or it was closed")
                self._changed.wait()
            return Held({key: self._held[epoch, key][0] for key in keys})

    def release(self, epoch: int, keys: Sequence[str]) -> None:
        """These samples were drawn; those that will not be drawn again are dropped."""
        with self._changed:
            uses = self._uses[epoch]
            for key in keys:
                uses[key] -= 1
                if uses[key] == 0 and (epoch, key) in self._held:
                    _, lane, size = self._held.pop((epoch, key))
                    self._bytes[lane] -= size
            if not any(uses.values()):
                del self._uses[epoch], self._shards[epoch]
            self._changed.notify_all()

    def stop(self) -> None:
        """Let threads end with the commands that they read, and drop what is held."""
        with self._changed:
            self._stopped = True
            self._held.clear()
            self._changed.notify_all()
        self._opened.end()

    def _read(self, lane: int, epoch: int, first_step: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # what this thread starts inherits it
        try:
            while True:
                for shard in self._plan(epoch, first_step)[lane]:
                    for key, members in self._tars.samples(shard, self._opened):
                        if not self._keep(lane, shard, epoch, key, members):
                            return
                epoch, first_step = epoch + 1, 0
        except Exception as error:  # it is raised where a batch is waited for
            with self._changed:
                self._error = None if self._stopped else error  # a command that was ended gives no whole tar
                self._changed.notify_all()

    def _plan(self, epoch: int, first_step: int) -> list[list[str]]:
        """Shards of each lane from a step on; notes how often each tracklet will be drawn."""
        with self._changed:
            if epoch not in self._uses:
                batches = [
                    self._order.batch(epoch, step)[self._slots.start : self._slots.stop] for step in range(first_step, self._order.steps)
                ]
                self._uses[epoch] = Counter(key for batch in batches for key in batch)
                windows = self._order.windows(epoch)
                self._shards[epoch] = [[shard for w in lane if w.last > first_step for shard in w.shards] for lane in windows]
            return self._shards[epoch]

    def _keep(self, lane: int, shard: str, epoch: int, key: str, members: dict[str, bytes]) -> bool:
        """Hold a sample if it will be drawn, once there is room; False: stopped."""
        with self._changed:
            if self._stopped:
                return False
            if epoch not in self._uses or not self._uses[epoch][key]:
                return True
        wanted = {suffix: data for suffix, data in members.items() if suffix in codec.REQUIRED or suffix.partition(".")[0] == self._kind}
        sample, size = codec.decode(wanted, f"shard {shard}, sample {key}"), sum(map(len, wanted.values()))
        with self._changed:
            while self._bytes[lane] + size > self.limit and not self._stopped:
                self._changed.wait()
            if not self._stopped:
                self._held[epoch, key] = sample, lane, size
                self._bytes[lane] += size
                self._changed.notify_all()
            return not self._stopped
