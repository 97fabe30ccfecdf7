"""Batches from windows of shards: exact, the same number in every epoch, and served by shards in order."""

from collections import Counter

import numpy as np
import pytest

from pipeline.base.errors import TrainError
from shards import windows
from shards.balance import Batches
from shards.windows import Windows, deal, times


def packed(*counts, shards=6, spread=()):
    """Labels and shards of `counts[i]` tracklets of identity i; identities in a row fill the shards, those of `spread` are in all."""
    labels, where = {}, {}
    for i, count in enumerate(counts):
        for n in range(count):
            key = f"{i:04d}-{n}"
            labels[key] = i
            where[key] = f"{n % shards if i in spread else i * shards // len(counts):05d}.tar"
    return labels, where


def made(store, P=4, K=2, seed=0, window=2, lanes=1):
    return Windows(*store, P, K, seed, window, lanes)


def epoch(order, number=0):
    return [order.batch(number, step) for step in range(order.steps)]


STORE = packed(*[3, 5, 2, 8, 1, 4] * 4)  # 24 identities, 4 in each of 6 shards
SPREAD = packed(*[3, 5, 12, 8, 1, 12] * 4, spread=(2, 5))


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("store", [STORE, SPREAD], ids=["whole", "spread"])
def test_every_batch_is_exactly_p_by_k_and_comes_from_the_windows(store, lanes):
    labels, where = store
    order = made(store, lanes=lanes)
    assert order.steps == Batches(labels, 4, 2, 0).steps
    for number in range(5):
        parts, batches = order.windows(number), epoch(order, number)
        assert len(parts) == lanes
        for lane in parts:
            assert [w.first for w in lane] == [0, *(w.last for w in lane[:-1])] and lane[-1].last == order.steps
        used = [name for lane in parts for window in lane for name in window.shards]
        assert sorted(used) == sorted(set(where.values()))  # each shard once
        for step, keys in enumerate(batches):
            assert sorted(Counter(labels[key] for key in keys).values()) == [2] * 4  # across lanes, too
            for lane, own in zip(parts, np.split(np.array(keys), lanes), strict=True):
                (window,) = [w for w in lane if w.first <= step < w.last]
                assert {where[key] for key in own} <= set(window.shards)


def test_two_lanes_do_draw_the_same_identity_where_nothing_keeps_them_from_it(monkeypatch):
    """Negative control of the test above: the sets that lanes share are taken away."""

    class Forgetful(set):
        def add(self, identity):
            pass

    monkeypatch.setattr(windows, "set", Forgetful, raising=False)
    batches = epoch(made(SPREAD, lanes=2))
    assert any(max(Counter(SPREAD[0][key] for key in keys).values()) > 2 for keys in batches)


def test_a_pure_function_of_seed_epoch_and_step():
    order = made(STORE, seed=5, lanes=2)
    expected = {number: epoch(order, number) for number in range(3)}
    fresh = made(tuple(dict(reversed(part.items())) for part in STORE), seed=5, lanes=2)  # the order of rows does not matter
    for number in (2, 0, 1):
        for step in reversed(range(fresh.steps)):
            assert fresh.batch(number, step) == expected[number][step]
    assert expected[0] != expected[1]
    for other in (made(STORE, seed=6, lanes=2), made(STORE, seed=5), made(STORE, seed=5, lanes=2, window=1)):
        assert epoch(other) != expected[0]


def test_nearly_every_tracklet_is_drawn_as_often_as_without_windows():
    labels, _ = STORE
    times_drawn = Counter(key for number in range(60) for keys in epoch(made(STORE, lanes=2), number) for key in keys)
    assert set(times_drawn) == set(labels)
    plain = Counter(key for number in range(60) for keys in epoch(Batches(labels, 4, 2, 0), number) for key in keys)
    assert max(abs(times_drawn[key] - plain[key]) / 60 for key in labels if labels[key] % 6 != 4) < 0.35


def test_shards_are_dealt_anew_in_each_epoch():
    order = made(STORE, lanes=2)
    assert len({tuple(order.windows(number)[0][0].shards) for number in range(30)}) > 10


@pytest.mark.parametrize(("window", "sizes"), [(1, [1] * 6), (2, [2] * 3), (4, [3, 3]), (5, [3, 3]), (6, [6]), (99, [6])])
def test_windows_of_a_lane_are_nearly_equal(window, sizes):
    assert [len(w.shards) for w in made(STORE, window=window).windows(0)[0]] == sizes


def test_a_window_is_larger_where_few_shards_may_have_too_few_identities():
    """Six shards of two identities each; batches have five: three shards are sure to have them."""
    order = made(packed(*[4] * 12), P=5, window=1)
    assert [len(w.shards) for w in order.windows(0)[0]] == [3, 3]
    assert all(len(set(keys)) == 10 for keys in epoch(order))


def test_identities_are_drawn_more_often_where_there_are_too_few_groups():
    draw = np.random.default_rng(0)
    assert times(np.array([1, 1, 1, 1]), 3, 2, draw).tolist() in [[2, 2, 1, 1], [2, 1, 2, 1], [2, 1, 1, 2], [1, 2, 2, 1], [1, 2, 1, 2], [1, 1, 2, 2]]  # fmt: skip
    assert times(np.array([1, 9]), 3, 2, draw).tolist() == [3, 3]
    assert times(np.array([4, 4, 4]), 3, 2, draw).sum() == 6
    dealt = deal(np.array([3, 2, 1]), 3, 2, draw)
    assert all(len(set(row)) == 2 for row in dealt.tolist()) and np.bincount(dealt.ravel()).tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("store", "options", "message"),
    [
        (packed(4, 4, 4), {}, r"sampler\.identities=4: only 3 training identities"),
        (packed(*[4] * 12, shards=2), {"lanes": 4}, r"sampler\.lanes=4: only 2 shards have training tracklets"),
        (
            packed(*[4] * 12),
            {"lanes": 4},
            r"sampler\.lanes=4: a lane gets 1 of 6 shards, which may have fewer than P=4 training identities \(2 shards are sure to "
            r"have them\); set sampler\.lanes to 2 or less",
        ),
    ],
)
def test_refused(store, options, message):
    with pytest.raises(TrainError, match=message):
        made(store, **options)


def test_a_step_that_is_not_there():
    order = made(STORE)
    with pytest.raises(IndexError):
        order.batch(0, order.steps)


def test_a_store_of_the_size_of_mars():
    """625 identities, about 8,300 tracklets, 96 shards, a few long identities spread over many."""
    counts = np.random.default_rng(0).geometric(1 / 13.3, 625).tolist()
    store = packed(*counts, shards=96, spread=tuple(np.argsort(counts)[-5:].tolist()))
    order = made(store, P=8, K=4, window=8, lanes=4)
    for keys in epoch(order):
        assert sorted(Counter(store[0][key] for key in keys).values()) == [4] * 8
    assert all(6 <= len(window.shards) <= 8 for lane in order.windows(0) for window in lane)
