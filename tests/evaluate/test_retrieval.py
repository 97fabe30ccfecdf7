"""Ranks, CMC, AP and mINP: by hand, against exact golden values, and against a slow oracle with many ties."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from evaluate import retrieval
from evaluate.retrieval import NOBODY, positions, ranks, retrieve, same_identity, summarise
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng
from tests.evaluate.bad_evaluators import BROKEN_CODE, broken_code
from tests.evaluate.oracle import AVERAGES, agrees, random_case, run, slow

RULES = {  # definition of the golden file: AP, averaged over, remove junk and same camera
    "market_hit": ("hit", "valid", True),
    "mars_trapz": ("trapezoid", "all", True),
    "pid_only_hit": ("hit", "valid", False),
}


def test_e1_by_hand():
    """Ranking: own camera (removed), wrong, right, right. Hits at ranks 2 and 3 of 3 (specs/dubbernet.md, E1)."""
    case = ([[0.1, 0.2, 0.3, 0.4]], [1], [0], [1, 2, 1, 1], [0, 1, 1, 2])
    hit, trapezoid = run(*case), run(*case, ap="trapezoid")
    assert hit.ap[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert trapezoid.ap[0] == pytest.approx(((0 / 1 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert (hit.good[0], hit.removed[0], hit.kept[0], hit.first[0]) == (2, 1, 3, 2)
    assert hit.inp[0] == pytest.approx(2 / 3)
    assert summarise(hit, "valid", 4).cmc.tolist() == [0, 1, 1, 1]


def test_forgetting_the_camera_rule_changes_e1():
    """Negative control: without the removal the near same-camera entry counts as a hit at rank 1."""
    wrong = run([[0.1, 0.2, 0.3, 0.4]], [1], [0], [1, 2, 1, 1], [0, 1, 1, 2], same_camera=False)
    assert wrong.first[0] == 1 and wrong.ap[0] != pytest.approx(0.583333, abs=1e-3)


def cases(golden: Path):
    return json.loads((golden / "reid_metrics.json").read_text())["cases"]


@pytest.mark.parametrize("definition", RULES)
def test_golden_cases(golden: Path, definition: str):
    ap, averaged_over, removes = RULES[definition]
    assert len(cases(golden)) == 24
    for case in cases(golden):
        q_identity, q_camera, g_identity, g_camera = (np.array(case[k]) for k in ("q_pids", "q_camids", "g_pids", "g_camids"))
        stay = g_identity != -1 if removes else np.ones(len(g_identity), bool)
        code = np.where(g_identity > 0, g_identity, NOBODY)
        result = run(np.array(case["distmat"])[:, stay], q_identity, q_camera, code[stay], g_camera[stay], ap, removes)
        summary = summarise(result, averaged_over, case["max_rank"])
        expected = case["expected"][definition]
        assert (summary.queries, summary.valid) == (expected["num_queries"], expected["num_valid"]), case["name"]
        assert same(summary.mean_ap, expected["mAP"]), case["name"]
        assert same(summary.mean_inp, expected["mINP"]) if "mINP" in expected else definition == "mars_trapz", case["name"]
        golden_cmc = expected["cmc"] or [None] * case["max_rank"]
        assert all(same(a, b) for a, b in zip(summary.cmc, golden_cmc, strict=True)), case["name"]
        for i, line in enumerate(expected["per_query"]):
            found = (bool(result.valid[i]), int(result.good[i]), int(result.removed[i] + (~stay).sum()), int(result.first[i]) or None)
            assert found == (line["valid"], line["num_good"], line["num_removed"], line["first_hit_rank"]), case["name"]
            assert same(result.ap[i], line["ap"]), case["name"]
            assert same(result.inp[i], line.get("inp", None if math.isnan(result.inp[i]) else result.inp[i])), case["name"]


def same(found: float, expected: float | None) -> bool:
    return math.isnan(found) if expected is None else abs(found - expected) <= 1e-9


@pytest.mark.parametrize("ap", AVERAGES)
@pytest.mark.parametrize("count_up_to", [0, 3, 1000])
def test_against_a_slow_oracle_with_ties(monkeypatch, ap, count_up_to):
    """Few distinct distances, so ties are everywhere; both ways of ranking (count_up_to=0 always sorts)."""
    monkeypatch.setattr(retrieval, "COUNT_UP_TO", count_up_to)
    assert [number for number in range(60) if not agrees(random_case(number), ap)] == []


@pytest.mark.parametrize("name", BROKEN_CODE)
def test_the_oracle_sees_broken_code(name):
    """Negative control: each slip disagrees with the oracle on some case."""
    with broken_code(name):
        assert not all(agrees(random_case(number), ap) for number in range(60) for ap in AVERAGES)


def test_oracle_sees_an_unstable_sort():
    """Negative control: breaking ties towards the end of the gallery is noticed."""
    distance, labels = np.zeros((1, 3)), ([1], [0], [2, 1, 2], [1, 1, 1])
    assert run(distance, *labels).first[0] == 2 == slow(distance, *labels, ap="hit")[0][0]
    backwards = run(distance[:, ::-1], [1], [0], labels[2][::-1], labels[3])
    assert backwards.first[0] == 2  # in the middle either way
    assert run(np.zeros((1, 2)), [1], [0], [2, 1], [1, 1]).first[0] == 2
    assert run(np.zeros((1, 2)), [1], [0], [1, 2], [1, 1]).first[0] == 1


def test_positions_count_as_the_stable_sort_places():
    random = np.random.default_rng(0)
    row = random.integers(0, 4, 200).astype(np.float32)
    place = np.argsort(np.argsort(row, kind="stable"), kind="stable")
    entries = np.arange(0, 200, 5)
    assert positions(row, entries).tolist() == place[entries].tolist()


def test_distractors_match_nobody_not_even_each_other():
    result = run([[0.0, 1.0]], [NOBODY], [0], [NOBODY, 1], [1, 1])
    assert result.good[0] == 0 and not result.valid[0]


def test_blocks_give_the_same_as_one_matrix():
    random = np.random.default_rng(1)
    distance = random.integers(0, 9, (7, 20)).astype(float)
    labels = {
        "query_identity": random.integers(0, 3, 7),
        "gallery_identity": random.integers(-1, 3, 20),
        "query_camera": random.integers(0, 2, 7),
        "gallery_camera": random.integers(0, 2, 20),
        "remove_same_camera": True,
        "ap": "hit",
    }
    whole = retrieve([distance], **labels)
    blocks = retrieve([distance[:3], distance[3:4], distance[4:]], **labels)
    assert np.array_equal(whole.ap, blocks.ap, equal_nan=True) and np.array_equal(whole.first, blocks.first)


def test_averaging_over_all_queries_counts_the_unanswerable():
    """Two queries, one without an answer: R1 is 1 over the valid one, 1/2 over all, and mAP over all is undefined."""
    result = run([[0.0, 1.0], [0.0, 1.0]], [1, 5], [0, 0], [1, 2], [1, 1])
    over_valid, over_all = summarise(result, "valid", 2), summarise(result, "all", 2)
    assert (over_valid.valid, over_valid.cmc[0], over_valid.mean_ap) == (1, 1.0, 1.0)
    assert over_all.cmc[0] == 0.5 and math.isnan(over_all.mean_ap)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_distance_that_is_no_number_is_refused(bad):
    with pytest.raises(ScoreError, match="query 1 has a distance"):
        run([[0.0, 1.0], [bad, 1.0]], [1, 1], [0, 0], [1, 2], [1, 1])


@pytest.mark.parametrize(("shape", "message"), [((1, 2), "found 1 rows"), ((3, 2), "more than 2 rows"), ((2, 3), "shape")])
def test_wrong_shapes_are_refused(shape, message):
    with pytest.raises(ScoreError, match=message):
        run(np.zeros(shape), [1, 1], [0, 0], [1, 2], [1, 1])


class Noisy:
    """Distances of `exact`, handed out with relative errors up to `noise`, and a margin that says so."""

    def __init__(self, exact: np.ndarray, noise: float, margin: float, block: int) -> None:
        self.exactly, self.margin, self.block = exact, margin, block
        self.noisy = (exact * (1 + noise * rng(6, "noisy").uniform(-1, 1, exact.shape))).astype(np.float32)

    def blocks(self):
        for first in range(0, len(self.noisy), self.block):
            yield self.noisy[first : first + self.block]

    def margins(self, query, entries, distance):
        assert (self.noisy[query, entries] == distance).all()
        return self.margin * distance.astype(np.float64)

    def exact(self, query, entries):
        return self.exactly[query, entries]


def noisy_case(number: int):
    """Integers, some of them equal, and few persons, so that there are right answers everywhere; every third is a distractor."""
    draw = rng(6, "case", number)
    exact = draw.integers(900, 1000, (9, 150)).astype(np.float64)
    identity = draw.integers(0, 3, 150)
    identity[::3] = NOBODY
    return exact, same_identity(draw.integers(0, 3, 9), identity, draw.integers(0, 3, 9), draw.integers(0, 3, 150), True)


@pytest.mark.parametrize("block", [1, 4, 9])
@pytest.mark.parametrize("count_up_to", [0, 1000])
def test_rounded_distances_that_say_so_are_ranked_as_exact_ones(monkeypatch, block, count_up_to):
    monkeypatch.setattr(retrieval, "COUNT_UP_TO", count_up_to)
    for number in range(20):
        exact, pairs = noisy_case(number)
        assert (ranks(Noisy(exact, 1e-3, 2.1e-3, block), pairs)[1] == ranks([exact], pairs)[1]).all()


def test_a_margin_that_is_too_small_leaves_ranks_wrong():
    """Negative control: by blocks alone, and by margins below the error, exact ranks are not found."""
    exact, pairs = noisy_case(0)
    noisy = Noisy(exact, 1e-3, 1e-5, 9)
    expected = ranks([exact], pairs)[1]
    assert (ranks(noisy, pairs)[1] != expected).any() and (ranks(noisy.blocks(), pairs)[1] != expected).any()


def test_ranges_that_overlap_are_joined():
    row = np.array([0, 1, 2, 3, 4, 5, 6, 7], np.float32)
    least, most = np.array([4, 0.5, 1, 4], np.float32), np.array([5, 3, 2, 4], np.float32)
    assert np.flatnonzero(retrieval._in_any(row, least, most)).tolist() == [1, 2, 3, 4, 5]
    assert np.flatnonzero(retrieval._in_any(row, least[:1], most[:1])).tolist() == [4, 5]


LABELS = {
    "query_identity": np.array([1, 2]),
    "gallery_identity": np.array([2, 1, NOBODY]),
    "query_camera": np.array([0, 1]),
    "gallery_camera": np.array([1, 2, 3]),
}


def with_labels(same_camera=True, **changed):
    return retrieve([np.zeros((2, 3))], **{**LABELS, **changed}, remove_same_camera=same_camera, ap="hit")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query_camera": np.array([0])}, "queries: found 2 identities and 1 cameras, expected one of each"),
        ({"gallery_camera": np.arange(4)}, "gallery: found 3 identities and 4 cameras"),
        ({"gallery_identity": np.arange(2)}, "gallery: found 2 identities and 3 cameras"),
        ({"query_identity": np.array([1.0, 2.0])}, r"identities of queries: found float64 \[2\], expected integers"),
        ({"query_identity": np.array([1.0, np.nan])}, "identities of queries: found float64"),
        ({"gallery_identity": np.array(["a", "b", "c"])}, "identities of gallery: found <U1"),
        ({"gallery_camera": np.array([True, False, True])}, "cameras of gallery: found bool"),
        ({"query_camera": np.array([[0], [1]])}, r"cameras of queries: found int64 \[2, 1\]"),
        ({"gallery_camera": np.array([1, -1, -1])}, r"gallery: the camera of row 1 is unknown \(-1; 2 of 3 rows\)"),
        ({"query_camera": np.array([0, -7])}, r"queries: the camera of row 1 is unknown \(-7; 1 of 2 rows\)"),
    ],
)
def test_labels_that_make_no_score_are_refused(changed, message):
    with pytest.raises(ScoreError, match=message):
        with_labels(**changed)


def test_the_same_labels_in_order_are_scored_and_unknown_cameras_too_where_none_is_compared():
    """Negative control of the refusals above: one change away from each, there is a score."""
    assert with_labels().good.tolist() == [1, 0]
    assert with_labels(same_camera=False, gallery_camera=np.array([1, -1, -1]), query_camera=np.array([0, -7])).good.tolist() == [1, 1]
    assert with_labels(query_camera=np.array([0, 1], np.uint8)).good.tolist() == [1, 0]
