"""Sparse re-ranking against the method written down densely, step by step; each step broken; refusals; what scoring makes of it."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from evaluate import distance, rerank
from evaluate.rerank import reranked_distances
from evaluate.retrieval import retrieve, summarise
from pipeline.base.config import RerankConfig
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng

SETTINGS = [(1, 1, 0.3), (2, 2, 0.0), (3, 1, 0.5), (5, 2, 0.3), (6, 3, 0.1), (7, 7, 0.3), (9, 4, 1.0), (20, 6, 0.3)]
KINDS = ("clusters", "grid", "repeats", "crowd", "far")


def vectors(kind: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries and gallery of one small case: 8 and 34 items."""
    draw = rng(11, "rerank", kind, number)
    if kind == "grid":  # integers: equally near items everywhere
        made = draw.integers(0, 4, (42, 3))
    else:
        made = draw.normal(size=(9, 6))[draw.integers(0, 9, 42)] + 0.4 * draw.normal(size=(42, 6))
    if kind == "repeats":
        made[draw.integers(0, 42, 12)] = made[draw.integers(0, 42, 12)]
    if kind == "crowd":  # one vector so often that it fills every list
        made[draw.permutation(42)[:26]] = made[3]
    if kind == "far":
        made = 100 + 1e-2 * made
    made = made.astype(np.float32)
    return made[:8], made[8:]


def dense(
    queries,
    gallery,
    k1,
    k2,
    weight,
    *,
    half=round,
    threshold=2 / 3,
    reciprocal=True,
    expanded=True,
    normalised=True,
    kernel=lambda d: np.exp(-d),
    averaged=True,
    reverse_ties=False,
):
    """The method over full matrices, in float64; every argument behind the star breaks one step."""
    items = np.concatenate([queries, gallery]).astype(float)
    count = len(items)
    raw = ((items[:, None] - items[None]) ** 2).sum(-1)
    largest = raw.max(axis=1, keepdims=True)
    original = raw / np.where(largest > 0, largest, 1) if normalised else raw
    index = [-j if reverse_ties else j for j in range(count)]
    ranking = [sorted(range(count), key=lambda j, i=i: (j != i, raw[i, j], index[j])) for i in range(count)]

    def mutual(i, k):
        return {j for j in ranking[i][: k + 1] if not reciprocal or i in ranking[j][: k + 1]}

    encoding = np.zeros((count, count))
    for i in range(count):
        own = mutual(i, k1)
        joined = set(own)
        for j in own:
            theirs = mutual(j, half(k1 / 2))
            if expanded and len(theirs & own) > threshold * len(theirs):
                joined |= theirs
        chosen = sorted(joined)
        encoding[i, chosen] = kernel(original[i, chosen])
        encoding[i] /= encoding[i].sum()
    if averaged and k2 > 1:
        encoding = np.array([encoding[ranking[i][:k2]].mean(axis=0) for i in range(count)])
    out = np.empty((len(queries), len(gallery)))
    for q in range(len(queries)):
        for g in range(len(gallery)):
            a, b = encoding[q], encoding[len(queries) + g]
            out[q, g] = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
    return (1 - weight) * out + weight * original[: len(queries), len(queries) :]


def sparse(queries, gallery, *settings, block=256):
    return np.concatenate(list(reranked_distances(queries, gallery, *settings, block)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_as_the_dense_form(kind, settings):
    for number in range(4):
        case = vectors(kind, number)
        found = sparse(*case, *settings)
        assert found.dtype == np.float32 and found.shape == (8, 34)
        assert np.abs(found - dense(*case, *settings)).max() <= 1e-6


BROKEN = {
    "half rounded up": {"half": lambda k: int(np.ceil(k))},
    "expansion at one half": {"threshold": 0.5},
    "expansion of equal share": {"threshold": 2 / 3 - 1e-9},
    "neighbours not reciprocal": {"reciprocal": False},
    "no expansion": {"expanded": False},
    "distances not normalised": {"normalised": False},
    "no kernel": {"kernel": np.ones_like},
    "kernel of the root": {"kernel": lambda d: np.exp(-np.sqrt(d))},
    "no local query expansion": {"averaged": False},
    "equally near items backwards": {"reverse_ties": True},
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_dense_form_sees_each_broken_step(name):
    """Negative control: with one step changed, some case is off by far more than the tolerance."""
    cases = [(vectors(kind, number), settings) for kind in KINDS for number in range(2) for settings in ((5, 2, 0.3), (9, 4, 0.3))]
    assert max(np.abs(sparse(*case, *settings) - dense(*case, *settings, **BROKEN[name])).max() for case, settings in cases) > 1e-3


def test_by_hand():
    """Items at 0, 1 (queries), 0.5, 3, 3.5 on a line, k1=1: mutual nearest are (0, 0.5) and (3, 3.5); nobody has 1 as nearest."""
    queries, gallery = np.array([[0.0], [1.0]], np.float32), np.array([[0.5], [3.0], [3.5]], np.float32)
    near = np.exp(-0.25 / 12.25)  # of item 0 for 0.5: farthest is 3.5
    back = np.exp(-0.25 / 9)  # of 0.5 for 0: farthest is 3.5, at distance 3
    own, other = min(1 / (1 + near), back / (1 + back)), min(near / (1 + near), 1 / (1 + back))
    expected = [1 - (own + other) / (2 - own - other), 1, 1]
    found = sparse(queries, gallery, 1, 1, 0.0)
    assert found[0] == pytest.approx(expected, abs=1e-7)
    assert found[1].tolist() == [1, 1, 1]
    assert sparse(queries, gallery, 1, 1, 1.0)[1] == pytest.approx(np.array([0.25, 4, 6.25]) / 6.25, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_one_keeps_the_first_ranking(kind):
    queries, gallery = vectors(kind, 0)
    raw = ((queries[:, None].astype(float) - gallery) ** 2).sum(-1)
    assert sparse(queries, gallery, 5, 2, 1.0) * sparse_largest(queries, gallery) == pytest.approx(raw, rel=1e-5)


def sparse_largest(queries, gallery):
    items = np.concatenate([queries, gallery]).astype(float)
    return ((queries[:, None] - items) ** 2).sum(-1).max(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 3, 8])
def test_block_sizes_change_no_bit(monkeypatch, kind, block):
    """And no size of the temporary arrays does."""
    case = vectors(kind, 1)
    whole = sparse(*case, 6, 3, 0.3)
    assert len(next(reranked_distances(*case, 6, 3, 0.3, block))) == block
    assert sparse(*case, 6, 3, 0.3, block=block).tobytes() == whole.tobytes()
    monkeypatch.setattr(rerank, "_AT_ONCE", 100)
    assert sparse(*case, 6, 3, 0.3, block=block).tobytes() == whole.tobytes()


def test_queries_scored_in_parts_are_scored_otherwise():
    """Negative control: bits can differ; a query is an item like all others, so leaving queries out changes distances."""
    queries, gallery = vectors("clusters", 1)
    assert sparse(queries[:3], gallery, 6, 3, 0.3).tobytes() != sparse(queries, gallery, 6, 3, 0.3)[:3].tobytes()


@pytest.mark.parametrize("kind", ["clusters", "grid", "crowd"])
def test_neighbour_lists_of_many_items_are_those_of_a_stable_float64_sort(monkeypatch, kind):
    """Enough items that the bound comes from minima of groups."""
    monkeypatch.setattr(rerank, "_GROUPS", 16)
    draw = rng(11, "many", kind)
    items = (draw.integers(0, 4, (900, 3)) if kind == "grid" else draw.normal(size=(900, 8))).astype(np.float32)
    if kind == "crowd":
        items[draw.permutation(900)[:500]] = items[7]
    found, farthest = rerank._nearest(items, 4)
    raw = ((items[:, None].astype(float) - items) ** 2).sum(-1)
    assert farthest == pytest.approx(raw.max(axis=1), rel=1e-5)
    np.fill_diagonal(raw, -1)
    assert (found == np.argsort(raw, axis=1, kind="stable")[:, :5]).all()


def test_float32_lists_would_break_ties_by_rounding(monkeypatch):
    """Negative control: with the distances of the matrix product, equally near integers are no longer in order."""
    items = rng(11, "ties").integers(0, 9, (300, 5)).astype(np.float32)
    raw = ((items[:, None].astype(float) - items) ** 2).sum(-1)
    np.fill_diagonal(raw, -1)
    expected = np.argsort(raw, axis=1, kind="stable")[:, :6]
    assert (rerank._nearest(items, 5)[0] == expected).all()
    shift = items.mean(axis=0, dtype=np.float64).astype(np.float32)
    monkeypatch.setattr(rerank, "pair_distances", lambda left, i, right, j: (((left - shift)[i] - (right - shift)[j]) ** 2).sum(1))
    assert (rerank._nearest(items, 5)[0] != expected).any()


def test_a_bound_without_its_margin_would_lose_neighbours(monkeypatch):
    """Negative control: float32 swaps entries at the border of the list."""
    items = rng(11, "margin").integers(0, 9, (300, 5)).astype(np.float32)
    expected = rerank._nearest(items, 5)[0]

    class Noisier(distance.SquaredDistances):
        def blocks(self):
            for number, rows in enumerate(super().blocks()):
                yield rows * (1 + self.relative * rng(11, "noise", number).uniform(-1, 1, rows.shape)).astype(np.float32)

    monkeypatch.setattr(rerank, "squared_distances", Noisier)
    assert (rerank._nearest(items, 5)[0] == expected).all()
    monkeypatch.setattr(rerank, "_UNSURE", 0.0)
    assert (rerank._nearest(items, 5)[0] != expected).any()


def test_all_vectors_equal():
    """What a network without a signal gives; no distance is left, and each item's first neighbour is itself."""
    same = np.ones((30, 4), np.float32)
    found = sparse(same[:5], same[5:], 6, 3, 0.3)
    assert np.isfinite(found).all() and np.abs(found - dense(same[:5], same[5:], 6, 3, 0.3)).max() <= 1e-6


def test_the_ranking_gets_better_where_neighbours_agree():
    """Queries are noisier than the gallery: the first ranking misses, the re-ranked one follows the neighbours of neighbours."""
    draw = rng(11, "noisy queries")
    gallery = np.concatenate([draw.normal(size=(12, 8)) * 0.5 + 4 * np.eye(8)[g] for g in range(6)]).astype(np.float32)
    identity = np.repeat(np.arange(6), 12)
    queries = (gallery[::3] + 1.2 * draw.normal(size=(24, 8))).astype(np.float32)
    labels = {
        "query_identity": identity[::3],
        "gallery_identity": identity,
        "query_camera": np.zeros(24, np.int64),
        "gallery_camera": np.ones(72, np.int64),
    }

    def mean_ap(weight):
        distances = reranked_distances(queries, gallery, 10, 4, weight)
        return summarise(retrieve(distances, **labels, remove_same_camera=True, ap="hit"), "valid").mean_ap

    assert mean_ap(0.3) > mean_ap(1.0) + 0.02


GOOD = (np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(40, dtype=np.float32).reshape(20, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((26, 6, 0.3), "k1=26: 6 queries and 20 gallery vectors are too few to have 26 neighbours each; set k1 to 25 or less"),
        ((5, 6, 0.3), "k1=5, k2=6, weight=0.3: need 1 <= k2 <= k1"),
        ((5, 0, 0.3), "k2=0"),
        ((5, 2, 1.5), "weight=1.5"),
        ((5, 2, float("nan")), "weight=nan"),
    ],
)
def test_settings_that_fit_no_set_are_refused(settings, message):
    with pytest.raises(ScoreError, match=re.escape(message)):
        sparse(*GOOD, *settings)


def test_the_largest_k1_that_fits_is_not_refused():
    """Negative control: one below the refused one."""
    assert np.abs(sparse(*GOOD, 25, 6, 0.3) - dense(*GOOD, 25, 6, 0.3)).max() <= 1e-6


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(side, bad):
    both = [GOOD[0].copy(), GOOD[1].copy()]
    both[side][2, 1] = bad
    with pytest.raises(ScoreError, match=rf"{('queries', 'gallery')[side]}: 1 of {len(both[side])} vectors .* row 2"):
        sparse(*both, 5, 2, 0.3)


@pytest.mark.parametrize("power", [-100, -75, -30, 30, 75, 110])
@pytest.mark.parametrize("kind", ["clusters", "repeats"])
def test_vectors_of_any_length_are_re_ranked_alike(kind, power):
    """A power of two changes no digit of a vector; squared distances of most of these do not fit float32."""
    queries, gallery = vectors(kind, 2)
    queries, gallery = queries.astype(np.float16).astype(np.float32), gallery.astype(np.float16).astype(np.float32)
    found = sparse(np.ldexp(queries, power), np.ldexp(gallery, power), 6, 3, 0.3)
    assert found.tobytes() == sparse(queries, gallery, 6, 3, 0.3).tobytes()
    assert found.tobytes() != sparse(np.ldexp(queries, power), np.ldexp(gallery, power) * np.float32(1.5), 6, 3, 0.3).tobytes()


def test_numbers_next_to_the_largest_are_refused():
    with pytest.raises(ScoreError, match=r"queries: 1 of 6 vectors hold a number beyond 9e\+37 .* row 0"):
        sparse(GOOD[0] + np.float32(1e38) * (np.arange(12).reshape(6, 2) == 0), GOOD[1], 5, 2, 0.3)
    assert np.isfinite(sparse(GOOD[0] + np.float32(8e37) * (np.arange(12).reshape(6, 2) == 0), GOOD[1], 5, 2, 0.3)).all()


@pytest.mark.parametrize("gallery", [np.zeros((20, 3), np.float32), np.zeros(20, np.float32), np.zeros((0, 2), np.float32)])
def test_other_shapes_are_refused(gallery):
    with pytest.raises(ScoreError, match="expected \\[rows, D\\] with one D, and a gallery"):
        sparse(GOOD[0], gallery, 5, 2, 0.3)


def test_the_default_settings_are_those_of_the_paper():
    default = RerankConfig()
    assert (default.k1, default.k2, default.weight) == (20, 6, 0.3)


def test_it_needs_neither_scipy_nor_torch():
    code = "import sys, evaluate.rerank; print([name for name in ('scipy', 'torch', 'polars') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
