"""Order training tracklets into batches of exactly P identities x K tracklets.

In:      the label of every training tracklet.   Out: the tracklets of any step of any epoch, computed on the spot.
Source:  specs/dubbernet.md section 6 (sampler) and B22 in section 9. As released: an identity's tracklets are shuffled
         and cut into groups of K; one with fewer than K is drawn with replacement. Ours: the number of steps is exact and
         the same in every epoch, and (nearly) all groups are used, where the released sampler stops once fewer than
         16 identities are left.

The rule. An identity with n tracklets has ``max(1, n // K)`` groups per epoch; the ``n % K`` tracklets left over are
others in each epoch. With g_i groups of identity i, S batches of P distinct identities can be filled exactly if
``sum_i min(g_i, S) >= P * S``: an identity enters a batch at most once. `steps` is the largest such S; fewer than P
groups then stay unused (drawn by lot), beside those of identities with more than S groups.
MARS (625 identities, 8,298 tracklets), P=8, K=4: 235 steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.base.errors import TrainError
from pipeline.base.seeds import rng


class Batches:
    """Identity-balanced batches: a pure function of (seed, epoch, step), whatever the order of `labels`.

    Args:
        labels: training label of each tracklet, by its name.
        P: distinct identities in a batch.
        K: tracklets of each identity in a batch.
        seed: seed of the run.

    Raises:
        TrainError: there are fewer than P identities.
    """

    steps: int
    """Batches per epoch."""

    def __init__(self, labels: Mapping[str, int], P: int, K: int, seed: int) -> None:
        self._keys = sorted(labels)
        identities, self._identity = np.unique(np.array([labels[key] for key in self._keys], np.int64), return_inverse=True)
        check_identities(len(identities), P)
        self._P, self._K, self._seed = P, K, seed
        self._counts = np.bincount(self._identity, minlength=len(identities))
        self._groups = np.maximum(self._counts // K, 1)
        self.steps = most_steps(self._groups, P)
        self._plan: tuple[int, np.ndarray] | None = None

    def batch(self, epoch: int, step: int) -> list[str]:
        """Names of the P*K tracklets of one batch, each identity's K in a row.

        Raises:
            IndexError: `step` is outside 0..steps-1.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside 0..{self.steps - 1}")
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self._make_plan(epoch))
        return [self._keys[i] for i in self._plan[1][step]]

    def _make_plan(self, epoch: int) -> np.ndarray:
        """Index of the tracklet of each slot of an epoch: int64 [steps, P*K]."""
        draw = rng(self._seed, "balance", epoch)
        mixed = draw.permutation(len(self._keys))
        by_identity = np.split(mixed[np.argsort(self._identity[mixed], kind="stable")], np.cumsum(self._counts)[:-1])
        groups = [split(own, self._K, draw) for own in by_identity]
        steps = spread(self._groups, self._P, self.steps, draw)
        used = np.zeros(len(groups), np.int64)
        plan = np.empty((self.steps, self._P, self._K), np.int64)
        for step, identities in enumerate(steps):
            for slot, i in enumerate(identities):
                plan[step, slot] = groups[i][used[i]]
                used[i] += 1
        return plan.reshape(self.steps, -1)


def check_identities(found: int, P: int) -> None:
    """Refuse a batch of more identities than there are."""
    if found < P:
        raise TrainError(f"sampler.identities={P}: only {found} training identities; set sampler.identities to {found} or less")


def split(own: np.ndarray, K: int, draw: np.random.Generator) -> np.ndarray:
    """Cut one identity's shuffled tracklets, int64 [n], into groups: int64 [max(1, n // K), K].

    An identity with n < K tracklets gives one group: each of them once, the rest drawn with replacement. (As released
    all K are drawn with replacement, so that a group may hold one tracklet K times and the triplet loss no positive.)
    """
    if len(own) < K:
        own = np.concatenate([own, draw.choice(own, K - len(own))])
    return own[: len(own) // K * K].reshape(-1, K)


def most_steps(groups: np.ndarray, P: int) -> int:
    """The largest S with ``sum(min(groups, S)) >= P * S``; `groups` int64 [identities >= P], each at least 1."""
    steps = int(groups.sum()) // P
    while (fits := int(np.minimum(groups, steps).sum()) // P) < steps:
        steps = fits
    return steps


def spread(groups: np.ndarray, P: int, steps: int, draw: np.random.Generator) -> np.ndarray:
    """Deal identities to batches so that none is twice in one batch.

    Identities stand in a random row, each as often as it has groups (at most `steps` times), and the row is dealt out to
    the batches in turn, as cards are: equal ones are neighbours, so they reach different batches.

    Returns:
        int64 [steps, P]: identities of each batch, all distinct in a row.
    """
    order = draw.permutation(len(groups))
    row = np.repeat(order, np.minimum(groups, steps)[order])
    row = np.delete(row, draw.choice(len(row), len(row) - P * steps, replace=False))
    return draw.permutation(row.reshape(P, steps).T)
