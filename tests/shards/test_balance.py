"""Batches of P identities x K tracklets: golden fact D3 of specs/dubbernet.md section 11.4, by hand, and as a property."""

import time
from collections import Counter

import numpy as np
import pytest

from pipeline.base.errors import TrainError
from pipeline.base.seeds import rng
from shards.balance import Batches, most_steps


def labels(*counts):
    """`counts[i]` tracklets of identity i."""
    return {f"{i:04d}-{n}": i for i, count in enumerate(counts) for n in range(count)}


def epoch(batches, number=0):
    return [batches.batch(number, step) for step in range(batches.steps)]


@pytest.mark.parametrize(
    ("groups", "P", "expected"),
    [
        ([1, 1, 1, 1], 2, 2),
        ([1, 1, 1, 1, 1], 2, 2),  # one group left over
        ([9, 1, 1], 2, 2),  # the big one can meet each of the others once
        ([9, 1], 2, 1),
        ([2, 2, 2], 2, 3),  # ab, bc, ca
        ([3, 3, 1], 3, 1),
    ],
)
def test_most_steps_by_hand(groups, P, expected):
    assert most_steps(np.array(groups), P) == expected


def test_most_steps_is_the_largest_that_fits():
    draw = np.random.default_rng(0)
    for _ in range(200):
        groups = draw.integers(1, 12, size=draw.integers(3, 9))
        fitting = [s for s in range(1, groups.sum() + 1) if np.minimum(groups, s).sum() >= 3 * s]
        assert most_steps(groups, 3) == max(fitting)


PRID = labels(*[2] * 89)
ILIDS = labels(*[2] * 150)


def by_the_released_rule(own, seed):
    """Identities of each batch of an epoch by the rule of the released sampler (specs/dubbernet.md section 6).

    An identity's tracklets are cut into groups of 4 (fewer: one group, drawn with replacement). As long as 16 identities have
    a group left, 16 of them are drawn and give one each; the loader cuts these 16 x 4 into two batches of 8 x 4.
    """
    draw = rng(seed, "released")
    left = {identity: max(count // 4, 1) for identity, count in sorted(Counter(own.values()).items())}
    batches = []
    while len(left) >= 16:
        chosen = draw.choice(sorted(left), 16, replace=False).tolist()
        batches += [chosen[:8], chosen[8:]]
        left = {identity: count - (identity in chosen) for identity, count in left.items() if count > (identity in chosen)}
    return batches


@pytest.mark.parametrize(("own", "released", "ours"), [(PRID, 10, 11), (ILIDS, 18, 18)], ids=["prid2011", "ilidsvid"])
def test_d3_batches_of_prid_and_ilids(own, released, ours):
    """Two tracklets per identity are one group. The released rule moves 16 identities at a time: 89 = 5 * 16 + 9 and
    150 = 9 * 16 + 6; ours moves 8: 89 = 11 * 8 + 1 and 150 = 18 * 8 + 6."""
    assert len(by_the_released_rule(own, seed=0)) == released
    batches = Batches(own, 8, 4, seed=0)
    assert batches.steps == ours
    for keys in epoch(batches):
        assert sorted(Counter(own[key] for key in keys).values()) == [4] * 8


def test_d3_ours_never_has_fewer_batches_than_the_released_rule():
    """Its batches are of distinct identities too, and ours has as many of these as there can be."""
    draw, more = rng(0, "test", "counts"), 0
    for seed in range(60):
        own = labels(*draw.geometric(1 / 9, size=draw.integers(16, 60)).tolist())
        ours, released = Batches(own, 8, 4, seed).steps, len(by_the_released_rule(own, seed))
        assert ours >= released > 0
        more += ours > released
    assert more > 30


@pytest.mark.parametrize(
    ("counts", "P", "K"), [((7, 1, 4, 9, 2, 30), 3, 2), ((5, 5, 5), 3, 5), ((1,) * 9, 8, 4), ((40, 3, 3), 2, 3), ((13,) * 20, 8, 4)]
)
def test_d3_every_batch_is_exactly_p_by_k(counts, P, K):
    own = labels(*counts)
    batches = Batches(own, P, K, seed=3)
    for number in range(3):
        for keys in epoch(batches, number):
            assert len(keys) == P * K
            assert sorted(Counter(own[key] for key in keys).values()) == [K] * P


def test_tracklets_do_not_repeat_within_an_epoch_where_there_are_enough():
    own = labels(8, 8, 11, 9)  # 2 groups of 4 each
    used = Counter(key for keys in epoch(Batches(own, 2, 4, seed=0)) for key in keys)
    assert max(used.values()) == 1 and len(used) == 32


def test_left_over_tracklets_differ_from_epoch_to_epoch():
    own = labels(5, 5)
    batches = Batches(own, 2, 4, seed=0)
    assert {key for number in range(40) for keys in epoch(batches, number) for key in keys} == set(own)


def test_few_tracklets_are_each_there_and_then_repeat():
    own = labels(2, 2, 3)
    for keys in epoch(Batches(own, 3, 4, seed=1)):
        assert set(keys) == set(own)


def test_a_pure_function_of_seed_epoch_and_step():
    own = labels(7, 1, 4, 9, 2, 30)
    batches = Batches(own, 3, 2, seed=5)
    expected = {number: epoch(batches, number) for number in range(3)}
    fresh = Batches(dict(reversed(own.items())), 3, 2, seed=5)  # the order of rows does not matter
    for number in (2, 0, 1):
        for step in reversed(range(fresh.steps)):
            assert fresh.batch(number, step) == expected[number][step]
    assert expected[0] != expected[1]
    assert epoch(Batches(own, 3, 2, seed=6)) != expected[0]


def test_identities_meet_different_ones():
    """Dealing a fixed row would always pair neighbours."""
    own = labels(*[1] * 12)
    batches = Batches(own, 2, 1, seed=0)
    pairs = {frozenset(own[key] for key in keys) for number in range(100) for keys in epoch(batches, number)}
    assert len(pairs) == 12 * 11 / 2


def test_too_few_identities():
    with pytest.raises(TrainError, match=r"sampler\.identities=8: only 3 training identities; set sampler\.identities to 3"):
        Batches(labels(4, 4, 4), 8, 4, seed=0)


def test_a_step_that_is_not_there():
    batches = Batches(labels(4, 4), 2, 4, seed=0)
    with pytest.raises(IndexError):
        batches.batch(0, batches.steps)


@pytest.mark.real_data
def test_d3_batches_of_mars(golden):
    """625 identities, 8,298 tracklets: the released sampler announces 235 batches and gives 216 to 220; ours gives 235."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    rows = loadmat(golden / "mars_info" / "tracks_train_info.mat")["track_train_info"]
    own = {f"{i:05d}": int(pid) for i, pid in enumerate(rows[:, 2])}
    assert {len(by_the_released_rule(own, seed)) for seed in range(5)} <= set(range(216, 221))
    batches = Batches(own, 8, 4, seed=0)
    assert batches.steps == 235
    for keys in epoch(batches):
        assert sorted(Counter(own[key] for key in keys).values()) == [4] * 8


def test_a_plan_of_the_size_of_mars_is_quick():
    counts = np.random.default_rng(0).geometric(1 / 13.3, 625)
    batches = Batches(labels(*counts), 8, 4, seed=0)
    times = []
    for number in range(3):
        start = time.process_time()
        batches.batch(number, 0)
        times.append(time.process_time() - start)
    assert min(times) < 0.05
