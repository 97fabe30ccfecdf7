"""Who asks, who answers, what is removed: by hand, and on the public MARS tables."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evaluate.distance import squared_distances
from evaluate.protocols import PROTOCOLS, Subjects, apply, first_entries, protocol_named
from evaluate.retrieval import Retrieval, retrieve, summarise
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng


def subjects(*rows: tuple[str, str, str, int, float]) -> Subjects:
    """Rows (role, identity, kind, camera, position on a line), named t00, t01, ..."""
    role, identity, kind, camera, position = zip(*rows, strict=True)
    names = [f"t{i:02d}" for i in range(len(rows))]
    vector = np.array(position, np.float32)[:, None]
    return Subjects(names, np.array(role), np.array(identity), np.array(kind), np.array(camera), vector)


SCENE = (
    ("query", "a", "person", 0, 0.0),
    ("query", "b", "person", 0, 10.0),
    ("gallery", "a", "person", 0, 0.1),  # a's own camera: removed for a
    ("junk", "00-1", "junk", 1, 0.2),  # junk: never ranked
    ("gallery", "0000", "distractor", 1, 0.3),
    ("gallery", "a", "person", 1, 0.5),
    ("gallery", "0000", "distractor", 0, 10.1),
    ("gallery", "b", "person", 0, 10.2),  # b is seen by its own camera only: no answer without the queries
)


def test_market_by_hand():
    outcome = apply(protocol_named("market"), subjects(*SCENE))
    summary = outcome.summary
    assert (outcome.gallery_size, summary.queries, summary.valid) == (5, 2, 1)
    assert outcome.per_query.first.tolist() == [2, 0]  # the distractor is nearer than a's answer, junk does not count
    assert summary.mean_ap == pytest.approx(1 / 2)
    listed = [(row, right) for row, _, right in first_entries(outcome, subjects(*SCENE), 0, 3)]
    assert listed == [(4, False), (5, True), (6, False)]


def test_mars_rules_differ_in_gallery_average_and_precision():
    """The same scene, with a query of b in another camera: only the official gallery holds b's answer."""
    scene = subjects(*SCENE[:2], ("query", "b", "person", 1, 10.4), *SCENE[2:5], SCENE[5], SCENE[6])
    reduced, official = apply(protocol_named("mars_torchreid"), scene), apply(protocol_named("mars_official"), scene)
    assert (reduced.gallery_size, reduced.summary.valid) == (4, 1)
    assert (official.gallery_size, official.summary.valid) == (8, 3)  # junk and queries are rows of it
    # official, query a: [distractor, a] -> AP (0/1 + 1/2) / 2; queries b: [distractor, b] each
    assert official.per_query.ap.tolist() == pytest.approx([0.25, 0.25, 0.25])
    assert reduced.summary.mean_ap == pytest.approx(0.5)


def test_pid_only_keeps_the_own_camera():
    outcome = apply(protocol_named("pid_only"), subjects(*SCENE))
    assert outcome.summary.valid == 2 and outcome.per_query.first.tolist() == [1, 2]


PAIRS = (
    ("query", "a", "person", 0, 0.0),
    ("query", "b", "person", 0, 5.0),
    ("gallery", "a", "person", 1, 4.0),
    ("gallery", "b", "person", 1, 5.5),
)


def test_two_cameras_map_is_mean_reciprocal_rank():
    outcome = apply(protocol_named("two_camera"), subjects(*PAIRS))
    assert outcome.per_query.first.tolist() == [1, 1] and outcome.summary.mean_ap == 1
    swapped = (PAIRS[0], PAIRS[1], ("gallery", "a", "person", 1, 6.5), ("gallery", "b", "person", 1, 3.0))
    # a at 0: b(3.0), a(6.5) -> rank 2; b at 5: a (1.5 away), b (2 away) -> rank 2
    assert apply(protocol_named("two_camera"), subjects(*swapped)).summary.mean_ap == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((*PAIRS, ("gallery", "c", "person", 2, 1.0)), "camera 0, the gallery from camera 1, 2"),
        ((*PAIRS, ("gallery", "b", "person", 1, 1.0)), "b has 2 tracklets among the gallery"),
        ((PAIRS[0], PAIRS[1], ("gallery", "a", "person", 0, 1.0)), "not the same"),
    ],
)
def test_two_cameras_refuses_other_sets(rows, message):
    with pytest.raises(ScoreError, match=message):
        apply(protocol_named("two_camera"), subjects(*rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (PAIRS[2:], "no tracklet has the role 'query'"),
        (PAIRS[:2], "gallery .* is empty"),
        ((PAIRS[0], PAIRS[3]), "none of 1 queries has a right answer"),
        ((("query", "0000", "distractor", 0, 0.0), *PAIRS[2:]), "t00 is a distractor"),
    ],
)
def test_sets_without_a_meaningful_score_are_refused(rows, message):
    with pytest.raises(ScoreError, match=message):
        apply(protocol_named("market"), subjects(*rows))


def test_unknown_name_gets_a_hint():
    with pytest.raises(ScoreError, match="did you mean 'mars_official'"):
        protocol_named("mars_oficial")
    assert all(name == protocol.name and protocol.description for name, protocol in PROTOCOLS.items())


# --- as a float64 matrix would rank -----------------------------------------------------------------------------------


def tied(width: int, scale: float = 1.0, offset: float = 0.0) -> Subjects:
    """40 queries and 400 entries of 30 persons and 12 distractors, of small integers: different vectors tie everywhere."""
    draw = rng(4, "tied", width)
    count = 440
    identity = draw.integers(0, 42, count)
    kind = np.where(identity < 30, "person", "distractor")
    role = np.where((np.arange(count) % 11 == 0) & (kind == "person"), "query", "gallery")
    vector = (offset + scale * draw.integers(0, 4, (count, width))).astype(np.float32)
    return Subjects([f"t{i:03d}" for i in range(count)], role, identity.astype(str), kind, draw.integers(0, 4, count), vector)


def in_float64(outcome, subjects):
    """Ranks by hand: per query the stable order of what is left, and whether each is a right answer."""
    vector = subjects.vector.astype(np.float64)
    for row in outcome.query:
        distance = ((vector[outcome.gallery] - vector[row]) ** 2).sum(axis=1)
        same = (subjects.identity[outcome.gallery] == subjects.identity[row]) & (subjects.kind[outcome.gallery] == "person")
        order = np.argsort(distance, kind="stable")
        order = order[~(same & (subjects.camera[outcome.gallery] == subjects.camera[row]))[order]]
        yield outcome.gallery[order], same[order]


def as_float64(outcome, subjects) -> bool:
    """Whether first ranks, AP (hit) and mINP of all queries are exactly those of the float64 order."""
    for q, (_, right) in enumerate(in_float64(outcome, subjects)):
        rank = np.flatnonzero(right) + 1
        found, k = outcome.per_query, np.arange(1, len(rank) + 1)
        if found.good[q] != len(rank) or found.first[q] != (rank[0] if len(rank) else 0):
            return False
        if len(rank) and (abs(found.ap[q] - (k / rank).mean()) > 1e-12 or found.inp[q] != len(rank) / rank[-1]):
            return False
    return True


@pytest.mark.parametrize("width", [4, 16, 64, 256, 700])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.125, 300.0), (2.0**-90, 0.0), (2.0**100, 0.0)])
def test_tied_vectors_are_ranked_as_a_float64_matrix_ranks(width, scale, offset):
    made = tied(width, scale, offset)
    found = apply(protocol_named("market"), made)
    assert found.summary.valid > 20 and as_float64(found, made)
    for block in (1, 7):
        other = apply(protocol_named("market"), made, lambda q, g, block=block: squared_distances(q, g, block))
        assert all(np.array_equal(getattr(other.per_query, n), getattr(found.per_query, n), equal_nan=True) for n in Retrieval.__slots__)


@pytest.mark.parametrize("scale", [1e-24, 1e-22, 1.0, 1e20, 1e30])
def test_vectors_of_any_length_are_ranked_as_a_float64_matrix_ranks(scale):
    """And one that is far from all others changes no other's order."""
    made = tied(96)
    made.vector[:] = scale * rng(4, "normal").normal(size=made.vector.shape)
    assert as_float64(apply(protocol_named("market"), made), made)
    made.vector[-1, 3] = 1e6 * scale
    assert as_float64(apply(protocol_named("market"), made), made)


def test_short_vectors_in_plain_float32_would_not_be():
    """Negative control: squares of 1e-22 have lost most digits."""
    made = tied(96)
    made.vector[:] = 1e-22 * rng(4, "normal").normal(size=made.vector.shape)

    def plain(queries, gallery):
        yield ((queries[:][:, None] - gallery[:]) ** 2).sum(axis=2)

    assert not as_float64(apply(protocol_named("market"), made, plain), made)


@pytest.mark.parametrize("width", [16, 64, 256])
def test_rounded_distances_alone_would_rank_otherwise(width):
    """Negative control: the same blocks, taken as they are."""
    made = tied(width)
    assert not as_float64(apply(protocol_named("market"), made, lambda q, g: squared_distances(q, g).blocks()), made)


@pytest.mark.parametrize("width", [4, 16, 64])
def test_ranked_lists_of_tied_vectors_are_those_of_float64(width):
    made = tied(width)
    outcome = apply(protocol_named("market"), made)
    for q, (order, right) in enumerate(in_float64(outcome, made)):
        listed = first_entries(outcome, made, q, 10)
        assert [row for row, _, _ in listed] == order[:10].tolist() and [same for _, _, same in listed] == right[:10].tolist()
        assert [d for _, d, _ in listed] == [((made.vector[row] - made.vector[outcome.query[q]]) ** 2).sum() for row in order[:10]]


# --- the public MARS tables -------------------------------------------------------------------------------------------


def mars_subjects(mars, vector) -> Subjects:
    identity, camera, query, _ = mars
    role = np.where(identity == -1, "junk", "gallery")
    role[query] = "query"
    kind = np.select([identity == -1, identity == 0], ["junk", "distractor"], "person")
    return Subjects([f"{i:05d}" for i in range(len(identity))], role, identity.astype(str), kind, camera, vector)


def test_e2_counts_on_the_real_tables(mars):
    """Gallery sizes and valid queries need no pictures (specs/dubbernet.md, E2): any vector will do."""
    made = mars_subjects(mars, np.random.default_rng(0).normal(size=(len(mars[0]), 2)).astype(np.float32))
    reduced, official = apply(protocol_named("mars_torchreid"), made), apply(protocol_named("mars_official"), made)
    assert (reduced.gallery_size, reduced.summary.queries, reduced.summary.valid) == (9330, 1980, 1840)
    assert (official.gallery_size, official.summary.queries, official.summary.valid) == (12180, 1980, 1980)
    assert len(official.gallery) == 11310
    assert official.per_query.good.sum() - reduced.per_query.good.sum() == 5052


@pytest.mark.parametrize("gallery", ["full_gallery", "queries_and_junk_removed"])
def test_full_size_golden(golden, mars, gallery):
    identity, camera, query, _ = mars
    expected = json.loads((golden / "mars_info" / "protocol_golden.json").read_text())[gallery]
    made = mars_subjects(mars, np.zeros((len(identity), 1), np.float32))
    roles = protocol_named("mars_official" if gallery == "full_gallery" else "mars_torchreid").gallery_roles
    entries = np.flatnonzero(np.isin(made.role, roles))
    assert len(entries) == expected["gallery"]
    entries = entries[made.kind[entries] != "junk"]

    def distances():
        for rows in np.array_split(query, 8):
            i, j = rows[:, None], entries[None]
            h = (7919 * i + j * (104729 + 31 * i)) % 1000003
            yield np.where(identity[j] == identity[i], h + 0.5, 512.0 * h)

    codes = made.codes()
    labels = {
        "query_identity": codes[query],
        "gallery_identity": codes[entries],
        "query_camera": camera[query],
        "gallery_camera": camera[entries],
        "remove_same_camera": True,
    }
    hit, trapezoid = retrieve(distances(), ap="hit", **labels), retrieve(distances(), ap="trapezoid", **labels)
    summary = summarise(hit, "valid")
    assert (summary.queries, summary.valid) == (expected["queries"], expected["valid"])
    for k in (1, 5, 10, 20):
        assert summary.cmc[k - 1] == pytest.approx(expected[f"rank{k}"], abs=1e-9)
    assert summary.mean_ap == pytest.approx(expected["mAP_hit"], abs=1e-9)
    assert summary.mean_inp == pytest.approx(expected["mINP"], abs=1e-9)
    assert summarise(trapezoid, "valid").mean_ap == pytest.approx(expected["mAP_trapz"], abs=1e-9)
    for number, line in expected["per_query"].items():
        q = int(number)
        assert (query[q], hit.good[q], hit.first[q]) == (line["row"], line["good"], line["first"])
        assert (hit.ap[q], trapezoid.ap[q]) == (pytest.approx(line["ap_hit"], abs=1e-9), pytest.approx(line["ap_trapz"], abs=1e-9))


@pytest.mark.parametrize(
    ("name", "gallery", "of_golden", "mean_ap", "defines_inp"),
    [
        ("mars_torchreid", 9330, "queries_and_junk_removed", "mAP_hit", True),
        ("mars_merged", 11310, "full_gallery", "mAP_hit", True),
        ("mars_official", 12180, "full_gallery", "mAP_trapz", False),
    ],
)
def test_full_size_golden_by_protocol(golden, mars, name, gallery, of_golden, mean_ap, defines_inp):
    """The named protocols as users run them, with the golden file's distances in the place of vectors (which carry row numbers)."""
    identity, query = mars.identity, mars.query
    expected = json.loads((golden / "mars_info" / "protocol_golden.json").read_text())[of_golden]

    def distances(queries, entries):
        j = entries[:][:, 0].astype(np.int64)[None]
        for rows in np.array_split(queries[:][:, 0].astype(np.int64), 8):
            i = rows[:, None]
            h = (7919 * i + j * (104729 + 31 * i)) % 1000003
            yield np.where(identity[j] == identity[i], h + 0.5, 512.0 * h)

    made = mars_subjects(mars, np.arange(len(identity), dtype=np.float32)[:, None])
    outcome = apply(protocol_named(name), made, distances)
    summary = outcome.summary
    assert (outcome.gallery_size, summary.queries, summary.valid) == (gallery, expected["queries"], expected["valid"])
    found = {f"rank{k}": summary.cmc[k - 1] for k in (1, 5, 10, 20)} | {mean_ap: summary.mean_ap}
    found |= {"mINP": summary.mean_inp} if defines_inp else {}
    assert found == {key: pytest.approx(expected[key], abs=1e-9) for key in found}
    assert np.array_equal(outcome.query, query)
