"""Known ways to score wrongly, and what tells them: each is refused, or gives another number on the same scene.

A change of the evaluator that falls into one of these would therefore be noticed by a test or by the golden cases. The list follows
what released code was found to do (specs/dubbernet.md section 7.3, specs/datasets.md sections 1.4 and 8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from evaluate import retrieval
from evaluate.protocols import Outcome, Subjects, apply, protocol_named
from evaluate.retrieval import Pairs
from pipeline.base.errors import ScoreError


def scene() -> Subjects:
    """Twelve persons in three cameras, with distractors and junk; the camera pulls vectors together more than the person does."""
    random = np.random.default_rng(5)
    rows = []
    for person in range(12):
        for camera in range(3):
            for turn in range(2):
                role = "query" if turn == 0 and camera < 2 else "gallery"
                rows.append((f"p{person:02d}c{camera}t{turn}", role, f"{person:04d}", "person", camera, person))
    rows += [(f"zd{i:02d}", "gallery", "dist", "distractor", i % 3, 20 + i) for i in range(12)]
    rows += [(f"zj{i:02d}", "junk", "junk", "junk", i % 3, i) for i in range(8)]
    centre = random.normal(size=(40, 8))
    view = 2.0 * random.normal(size=(3, 8))
    vector = np.array([centre[r[5]] + view[r[4]] + 0.6 * random.normal(size=8) for r in rows], np.float32)
    columns = [np.array([r[i] for r in rows]) for i in (1, 2, 3, 4)]
    return Subjects([r[0] for r in rows], *columns, vector)


RIGHT = protocol_named("market")


def numbers(outcome: Outcome) -> tuple[float, ...]:
    """What a report would print."""
    s = outcome.summary
    return (s.queries, s.valid, outcome.gallery_size, *(round(float(v), 9) for v in (*s.cmc[:20], s.mean_ap, s.mean_inp)))


def per_frame_cameras(s: Subjects) -> Outcome:
    """Camera labels once per frame, but indexed per tracklet: the first tracklets' cameras stand for all."""
    return apply(RIGHT, replace(s, camera=np.repeat(s.camera, 9)[: len(s.camera)]))


def no_camera_rule(s: Subjects) -> Outcome:
    return apply(replace(RIGHT, removes_same_camera=False), s)


def cameras_relabelled_on_one_side(s: Subjects) -> Outcome:
    return apply(RIGHT, replace(s, camera=np.where(s.role == "query", s.camera + 10, s.camera)))


def cameras_shifted_by_one(s: Subjects) -> Outcome:
    return apply(RIGHT, replace(s, camera=np.where(s.role == "query", (s.camera + 1) % 3, s.camera)))


def junk_is_ranked(s: Subjects) -> Outcome:
    rows = s.kind == "junk"
    return apply(RIGHT, replace(s, kind=np.where(rows, "distractor", s.kind), role=np.where(rows, "gallery", s.role)))


def distractors_left_out(s: Subjects) -> Outcome:
    return apply(RIGHT, replace(s, role=np.where(s.kind == "distractor", "unused", s.role)))


def distractor_as_query(s: Subjects) -> Outcome:
    return apply(RIGHT, replace(s, role=np.where(np.array(s.tracklet) == "zd00", "query", s.role)))


def queries_in_the_gallery(s: Subjects) -> Outcome:
    """Each query then finds itself, at distance 0, unless the camera rule takes it out."""
    return apply(replace(RIGHT, gallery_roles=("query", "gallery"), removes_same_camera=False), s)


def trapezoid_for_hits(s: Subjects) -> Outcome:
    return apply(replace(RIGHT, ap="trapezoid"), s)


def only_answerable_identities(s: Subjects) -> Outcome:
    """Gallery cut down to persons that are asked for, and one camera less."""
    return apply(RIGHT, replace(s, role=np.where((s.camera == 2) & (s.role == "gallery"), "unused", s.role)))


def similarity_taken_for_distance(s: Subjects) -> Outcome:
    """Far and near swapped: the ranking of negated vectors."""
    return apply(RIGHT, replace(s, vector=np.where((s.role == "query")[:, None], -s.vector, s.vector)))


def broken_feature(s: Subjects) -> Outcome:
    vector = s.vector.copy()
    vector[-30, 0] = np.nan
    return apply(RIGHT, replace(s, vector=vector))


def labels_out_of_step(s: Subjects) -> Outcome:
    """Vectors in another order than names, as when batches come back unordered."""
    return apply(RIGHT, replace(s, vector=np.roll(s.vector, 1, axis=0)))


def hard_queries_left_out(s: Subjects) -> Outcome:
    """Queries whose answer is not among the first are taken for mistakes of the data."""
    right = apply(RIGHT, s)
    hard = np.isin(np.arange(len(s.role)), right.query[right.per_query.first > 1])
    return apply(RIGHT, replace(s, role=np.where(hard, "unused", s.role)))


def identities_cut_short(s: Subjects) -> Outcome:
    """'0010' and '0011' become one person."""
    return apply(RIGHT, replace(s, identity=s.identity.astype("U3")))


def _ranks_from_zero(distance, pairs: Pairs) -> tuple[Pairs, np.ndarray]:
    right, rank = REAL_RANKS(distance, pairs)
    return right, np.maximum(rank - 1, 1)


def _removed_hold_a_place(distance, pairs: Pairs) -> tuple[Pairs, np.ndarray]:
    """Entries that the protocol removes still push the others down."""
    right, rank = REAL_RANKS(distance, replace(pairs, removed=np.zeros_like(pairs.removed)))
    stay = ~(np.isin(right.query * pairs.entries + right.gallery, (pairs.query * pairs.entries + pairs.gallery)[pairs.removed]))
    return replace(right, query=right.query[stay], gallery=right.gallery[stay], removed=right.removed[stay]), rank[stay]


def _ties_go_backwards(row: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Of equal distances the later entry comes first."""
    return REAL_POSITIONS(row[::-1].copy(), len(row) - 1 - entries)


def _nobody_is_somebody(query_identity, gallery_identity, *others) -> Pairs:
    """Distractors, whose code is below 0, match each other."""
    return REAL_SAME(query_identity + 1, gallery_identity + 1, *others)


def _unanswerable_count_as_nothing(right: Pairs, rank, removed, ap):
    made = REAL_PER_QUERY(right, rank, removed, ap)
    return replace(made, ap=np.nan_to_num(made.ap))


REAL_RANKS, REAL_POSITIONS, REAL_SAME, REAL_PER_QUERY = retrieval.ranks, retrieval.positions, retrieval.same_identity, retrieval._per_query

BROKEN_CODE: dict[str, tuple[str, Callable]] = {
    "ranks from zero": ("ranks", _ranks_from_zero),
    "removed entries hold a place": ("ranks", _removed_hold_a_place),
    "equal distances backwards": ("positions", _ties_go_backwards),
    "distractors match each other": ("same_identity", _nobody_is_somebody),
    "unanswerable queries count as 0": ("_per_query", _unanswerable_count_as_nothing),
}
"""Slips inside evaluate.retrieval: the function that is replaced, and by what."""


def broken_code(name: str):
    """The product with one slip, as a context."""
    return patch.object(retrieval, *BROKEN_CODE[name])


def rank_off_by_one(s: Subjects) -> Outcome:
    with broken_code("ranks from zero"):
        return apply(RIGHT, s)


def removed_entries_hold_a_place(s: Subjects) -> Outcome:
    with broken_code("removed entries hold a place"):
        return apply(RIGHT, s)


BAD: list[Callable[[Subjects], Outcome]] = [
    per_frame_cameras,
    no_camera_rule,
    cameras_relabelled_on_one_side,
    cameras_shifted_by_one,
    junk_is_ranked,
    distractors_left_out,
    distractor_as_query,
    queries_in_the_gallery,
    trapezoid_for_hits,
    only_answerable_identities,
    similarity_taken_for_distance,
    broken_feature,
    labels_out_of_step,
    hard_queries_left_out,
    identities_cut_short,
    rank_off_by_one,
    removed_entries_hold_a_place,
]


def renamed(s: Subjects) -> Subjects:
    """The same scene: cameras and identities have other names on both sides."""
    return replace(s, camera=s.camera + 4, identity=np.char.add("x", s.identity))


def mirrored(s: Subjects) -> Subjects:
    """The same scene: all vectors point the other way."""
    return replace(s, vector=-s.vector)


def moved(s: Subjects) -> Subjects:
    """The same scene: all vectors are twice as long (exactly, in binary)."""
    return replace(s, vector=2 * s.vector)


HARMLESS: list[Callable[[Subjects], Subjects]] = [renamed, mirrored, moved]
"""What changes no rule, and so must change no number."""


def flagged(bad: Callable[[Subjects], Outcome]) -> bool:
    """Whether a way to score is refused or gives another number than the right one."""
    right = numbers(apply(RIGHT, scene()))
    try:
        return numbers(bad(scene())) != right
    except ScoreError:
        return True
