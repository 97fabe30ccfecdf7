"""Order training tracklets into batches of P identities x K tracklets that a stream of whole shards can serve.

In:      label and shard of every training tracklet.   Out: the tracklets of any step of any epoch, computed on the spot.
Source:  ours. The rule of shards/balance.py, applied to a window of shards at a time.

The rule. In each epoch shards are shuffled and dealt to *lanes*. A lane goes through its shards in windows of neighbours and
fills P / lanes groups of every batch from the window it is in: slots of a batch are lane after lane. Steps of the epoch are as
many as without windows, always; a window gets its share of them by the groups its tracklets make. Where the share is more than
these, tracklets come again; where it is less, some stay unused, others in each epoch. (An identity that is spread over several
shards can be drawn in each of them.)

No identity is twice in a batch. One whose shards lie in two lanes can be drawn by both at one step: then the later lane takes
the identity of its window that was drawn least instead. That there is one is sure, because a window has at least P identities:
call the shard that holds most tracklets of an identity its home; so many shards make a window that any so many are home to P.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.base.errors import TrainError
from pipeline.base.seeds import rng
from shards.balance import check_identities, most_steps, split


@dataclass(frozen=True, slots=True)
class Window:
    """Shards that a lane mixes with each other."""

    first: int
    """Step at which the lane begins to draw from it."""
    last: int
    """Step after the last one."""
    shards: list[str]


@dataclass(frozen=True, slots=True)
class _Plan:
    epoch: int
    slots: np.ndarray
    """int64 [steps, P*K], index of the tracklet of each slot."""
    windows: list[list[Window]]
    """Of each lane."""


class Windows:
    """Batches that are a pure function of (seed, epoch, step), and the windows that they are drawn from.

    Args:
        labels: training label of each tracklet, by its name.
        shards: shard of each tracklet, by its name.
        P: distinct identities in a batch.
        K: tracklets of each identity in a batch.
        seed: seed of the run.
        window: shards of a window; a few more or fewer, so that the windows of a lane are nearly equal, and more where so
            many shards might have fewer than P identities.
        lanes: streams that each fill an equal part of every batch; divides P.

    Raises:
        TrainError: there are fewer than P identities, fewer shards than lanes, or a lane could get fewer than P identities.
    """

    steps: int
    """Batches per epoch."""
    largest: int
    """Shards of the largest window of any epoch."""

    def __init__(self, labels: Mapping[str, int], shards: Mapping[str, str], P: int, K: int, seed: int, window: int, lanes: int) -> None:
        self._keys = sorted(labels)
        identities, self._identity = np.unique(np.array([labels[key] for key in self._keys], np.int64), return_inverse=True)
        check_identities(len(identities), P)
        names, self._shard = np.unique(np.array([shards[key] for key in self._keys]), return_inverse=True)
        self._names = names.tolist()
        if len(names) < lanes:
            raise TrainError(f"sampler.lanes={lanes}: only {len(names)} shards have training tracklets; set sampler.lanes to less")
        self._P, self._K, self._seed, self._lanes = P, K, seed, lanes
        self.steps = most_steps(np.maximum(np.bincount(self._identity) // K, 1), P)

        held = np.zeros((len(identities), len(names)), np.int64)
        np.add.at(held, (self._identity, self._shard), 1)
        homes = np.sort(np.bincount(held.argmax(1), minlength=len(names)))
        fewest = len(names) // lanes
        enough = int(np.searchsorted(np.cumsum(homes), P)) + 1  # any so many shards are home to P identities
        if enough > fewest:
            fitting = [number for number in range(1, P + 1) if P % number == 0 and number * enough <= len(names)]
            raise TrainError(
                f"sampler.lanes={lanes}: a lane gets {fewest} of {len(names)} shards, which may have fewer than P={P} training identities "
                f"({enough} shards are sure to have them); set sampler.lanes to {max(fitting)} or less, or pack more identities into a shard"
            )
        self._window, self._enough = window, enough
        self.largest = max(-(-size // self._count(size)) for size in (fewest, -(-len(names) // lanes)))
        self._plan: _Plan | None = None

    def batch(self, epoch: int, step: int) -> list[str]:
        """Names of the P*K tracklets of one batch, each identity's K in a row, lane after lane.

        Raises:
            IndexError: `step` is outside 0..steps-1.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside 0..{self.steps - 1}")
        return [self._keys[i] for i in self._planned(epoch).slots[step]]

    def windows(self, epoch: int) -> list[list[Window]]:
        """The windows of each lane, in order; together they take all steps. Those without a step are left out."""
        return self._planned(epoch).windows

    def _planned(self, epoch: int) -> _Plan:
        if self._plan is None or self._plan.epoch != epoch:
            self._plan = self._make_plan(epoch)
        return self._plan

    def _make_plan(self, epoch: int) -> _Plan:
        draw = rng(self._seed, "windows", epoch)
        mixed = draw.permutation(len(self._names))
        p = self._P // self._lanes
        slots = np.empty((self.steps, self._lanes, p, self._K), np.int64)
        batches: list[set[int]] = [set() for _ in range(self.steps)]  # identities that earlier lanes have drawn
        windows = []
        for lane in range(self._lanes):
            windows.append(self._lane_windows(mixed[lane :: self._lanes]))
            for part in windows[-1]:
                slots[part.first : part.last, lane] = self._fill(part, p, batches[part.first : part.last], draw)
        return _Plan(epoch, slots.reshape(self.steps, -1), windows)

    def _lane_windows(self, lane: np.ndarray) -> list[Window]:
        """Cut a lane's shards into windows, and its steps by the groups that each window makes."""
        cut = np.array_split(lane, self._count(len(lane)))
        groups = [np.maximum(np.unique(self._identity[self._inside(part)], return_counts=True)[1] // self._K, 1).sum() for part in cut]
        ends = np.rint(self.steps * np.cumsum(groups) / np.sum(groups)).astype(int).tolist()
        starts = [0, *ends[:-1]]
        made = [Window(first, last, [self._names[s] for s in part]) for first, last, part in zip(starts, ends, cut, strict=True)]
        return [window for window in made if window.first < window.last]

    def _count(self, size: int) -> int:
        """Windows of a lane of so many shards."""
        return min(-(-size // self._window), size // self._enough)

    def _inside(self, shards: np.ndarray) -> np.ndarray:
        """Index of the tracklets of some shards."""
        return np.flatnonzero(np.isin(self._shard, shards))

    def _fill(self, window: Window, p: int, batches: list[set[int]], draw: np.random.Generator) -> np.ndarray:
        """Tracklets of the steps of one window of one lane: int64 [steps, p, K]; `batches` get its identities."""
        steps = len(batches)
        inside = draw.permutation(self._inside(np.searchsorted(self._names, window.shards)))
        identities, of, counts = np.unique(self._identity[inside], return_inverse=True, return_counts=True)
        own = np.split(inside[np.argsort(of, kind="stable")], np.cumsum(counts)[:-1])
        chosen = deal(times(np.maximum(counts // self._K, 1), steps, p, draw), steps, p, draw)
        used = np.bincount(chosen.ravel(), minlength=len(identities))
        groups: list[list[np.ndarray]] = [[] for _ in identities]
        out = np.empty((steps, p, self._K), np.int64)
        for step, (taken, row) in enumerate(zip(batches, chosen, strict=True)):
            for slot, i in enumerate(row):
                if identities[i] in taken:  # an earlier lane has it, or this one has just taken it in the place of another
                    free = [j for j in range(len(identities)) if identities[j] not in taken and j not in row[slot:]]
                    used[i] -= 1
                    i = min(free, key=lambda j: used[j])
                    used[i] += 1
                taken.add(int(identities[i]))
                if not groups[i]:
                    groups[i] = list(split(draw.permutation(own[i]), self._K, draw))
                out[step, slot] = groups[i].pop()
        return out


def times(groups: np.ndarray, steps: int, p: int, draw: np.random.Generator) -> np.ndarray:
    """How often each identity is drawn so that `steps` batches of p distinct ones are full.

    As often as it has groups; some less often, by lot, where these are too many, and some more often where they are too few.

    Args:
        groups: int64 [identities >= p], each at least 1.

    Returns:
        int64 [identities], each at most `steps`, with sum ``p * steps``.
    """
    out = np.minimum(groups, steps)
    spare = int(out.sum()) - p * steps
    if spare > 0:
        row = np.repeat(np.arange(len(groups)), out)
        return out - np.bincount(draw.choice(row, spare, replace=False), minlength=len(groups))
    while spare < 0:
        more = draw.permutation(np.flatnonzero(out < steps))[:-spare]
        out[more] += 1
        spare += len(more)
    return out


def deal(counts: np.ndarray, steps: int, p: int, draw: np.random.Generator) -> np.ndarray:
    """Deal identities to batches so that none is twice in one.

    Identities stand in a random row, each `counts` times (at most `steps`), and the row is dealt out to the batches in turn, as
    cards are: equal ones are neighbours, so they reach different batches.

    Returns:
        int64 [steps, p], all distinct in a row.
    """
    order = draw.permutation(len(counts))
    return draw.permutation(np.repeat(order, counts[order]).reshape(p, steps).T)
