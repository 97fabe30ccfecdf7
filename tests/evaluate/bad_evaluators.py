"""Known ways to score wrongly, and what tells them: each is refused, or gives another number on the same scene.

A change of the evaluator that falls into one of these would therefore be noticed by a test or by the golden cases. The ways are those
of `evaluate.variants`, which a plain evaluator goes, and some that are done to the product: damaged input that it has to refuse
(REFUSED), and slips inside its own code (BROKEN_CODE), which the oracle has to see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from evaluate import retrieval
from evaluate.protocols import Outcome, Subjects, apply, protocol_named
from evaluate.retrieval import Pairs
from evaluate.variants import VARIANTS, Printed, Variant, case_of, ours
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng

PERSONS, ALONE, UNASKED, CAMERAS, DISTRACTORS, JUNK, WIDTH = 40, 4, 6, 3, 24, 12, 24
"""Persons whom all cameras saw, whom one saw, who are in the gallery only; the rest of the scene; numbers in a vector."""
RIGHT = protocol_named("market")


def scene() -> Subjects:
    """50 persons and three cameras, with distractors and junk; the camera pulls vectors together, too.

    40 persons have a query and a gallery tracklet in each camera, 4 in one camera only (a query that nobody can answer), 6 no query.
    Some vectors are there twice: of a right answer and a distractor, and of right answers of two persons. Distractors are the
    first of the gallery, as in MARS.
    """
    rows = [(f"00-1C{i % 3}T{i:02d}", "junk", "00-1", "junk", i % CAMERAS, i) for i in range(JUNK)]
    rows += [(f"0000C{1 + i // 8}T{i:02d}", "gallery", "0000", "distractor", (1 + i // 8) % CAMERAS, i) for i in range(DISTRACTORS)]
    everybody = PERSONS + ALONE + UNASKED
    for person in range(everybody):
        for camera in range(CAMERAS if person < PERSONS else 1):
            for turn, role in enumerate(("query", "gallery")):
                if role == "gallery" or person < PERSONS + ALONE:
                    rows.append((f"{100 + person:04d}C{camera}T{turn}", role, f"{100 + person:04d}", "person", camera, person))
    rows.sort()  # names in order, as Subjects has them
    draw = rng(0, "bad evaluators")
    centre, view = draw.normal(size=(everybody, WIDTH)), 0.6 * draw.normal(size=(CAMERAS, WIDTH))
    vector = np.array([centre[r[5]] + view[r[4]] + 0.5 * draw.normal(size=WIDTH) for r in rows], np.float32)
    answers = [i for i, r in enumerate(rows) if r[1] == "gallery" and r[3] == "person"]
    for distractor, answer in zip(range(JUNK, JUNK + DISTRACTORS, 2), answers[::9], strict=False):
        vector[distractor] = vector[answer]
    for answer, other in zip(answers[4::20], answers[11::20], strict=False):
        vector[other] = vector[answer]
    columns = [np.array([r[i] for r in rows]) for i in (1, 2, 3, 4)]
    return Subjects([r[0] for r in rows], *columns, vector)


def frames(subjects: Subjects) -> np.ndarray:
    """Lengths of the tracklets, 8 to 47 frames."""
    return 8 + (7 * np.arange(len(subjects.tracklet))) % 40


def printed(made: Outcome | Printed) -> Printed:
    """What a report would print."""
    return made if isinstance(made, Printed) else ours(made)


# --- input that the product has to refuse ------------------------------------------------------------------------------


def distractor_as_query(s: Subjects) -> Outcome:
    return apply(RIGHT, replace(s, role=np.where(np.array(s.tracklet) == s.tracklet[JUNK], "query", s.role)))


def junk_as_query(s: Subjects) -> Outcome:
    return apply(RIGHT, replace(s, role=np.where(s.kind == "junk", "query", s.role)))


def broken_feature(s: Subjects) -> Outcome:
    vector = s.vector.copy()
    vector[-30, 0] = np.nan
    return apply(RIGHT, replace(s, vector=vector))


def one_camera_for_all(s: Subjects) -> Outcome:
    """A set without cameras, all entered as 0: every right answer is removed."""
    return apply(RIGHT, replace(s, camera=np.zeros_like(s.camera)))


def no_query(s: Subjects) -> Outcome:
    return apply(RIGHT, replace(s, role=np.where(s.role == "query", "gallery", s.role)))


def no_gallery(s: Subjects) -> Outcome:
    return apply(RIGHT, replace(s, role=np.where(s.role == "gallery", "unused", s.role)))


REFUSED: list[Callable[[Subjects], Outcome]] = [
    distractor_as_query,
    junk_as_query,
    broken_feature,
    one_camera_for_all,
    no_query,
    no_gallery,
]


# --- slips inside the product -----------------------------------------------------------------------------------------


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


def _farthest_first(row: np.ndarray, entries: np.ndarray) -> np.ndarray:
    return REAL_POSITIONS(-row, entries)


def _nobody_is_somebody(query_identity, gallery_identity, *others) -> Pairs:
    """Distractors, whose code is below 0, match each other."""
    return REAL_SAME(query_identity + 1, gallery_identity + 1, *others)


def _own_camera_stays(query_identity, gallery_identity, query_camera, gallery_camera, remove_same_camera) -> Pairs:
    return REAL_SAME(query_identity, gallery_identity, query_camera, gallery_camera, False)


def _cameras_shifted(query_identity, gallery_identity, query_camera, gallery_camera, remove_same_camera) -> Pairs:
    return REAL_SAME(query_identity, gallery_identity, query_camera + 1, gallery_camera, remove_same_camera)


def _unanswerable_count_as_nothing(right: Pairs, rank, removed, ap):
    made = REAL_PER_QUERY(right, rank, removed, ap)
    return replace(made, ap=np.nan_to_num(made.ap))


def _one_ap_for_both(right: Pairs, rank, removed, ap):
    return REAL_PER_QUERY(right, rank, removed, "trapezoid")


REAL_RANKS, REAL_POSITIONS, REAL_SAME, REAL_PER_QUERY = retrieval.ranks, retrieval.positions, retrieval.same_identity, retrieval._per_query

BROKEN_CODE: dict[str, tuple[str, Callable]] = {
    "ranks from zero": ("ranks", _ranks_from_zero),
    "removed entries hold a place": ("ranks", _removed_hold_a_place),
    "equal distances backwards": ("positions", _ties_go_backwards),
    "farthest first": ("positions", _farthest_first),
    "distractors match each other": ("same_identity", _nobody_is_somebody),
    "own camera stays": ("same_identity", _own_camera_stays),
    "cameras shifted by one": ("same_identity", _cameras_shifted),
    "unanswerable queries count as 0": ("_per_query", _unanswerable_count_as_nothing),
    "trapezoid AP for both": ("_per_query", _one_ap_for_both),
}
"""Slips inside evaluate.retrieval: the function that is replaced, and by what."""


def broken_code(name: str):
    """The product with one slip, as a context."""
    return patch.object(retrieval, *BROKEN_CODE[name])


# --- all of them ------------------------------------------------------------------------------------------------------


def plain(s: Subjects, of: Variant | None = None) -> Printed:
    """The plain evaluator, with one variant or none."""
    case = case_of(RIGHT, s, frames(s))
    return of.prints(case) if of else case.prints()


def _by(of: Variant) -> Callable[[Subjects], Printed]:
    def score(s: Subjects) -> Printed:
        return plain(s, of)

    score.__name__ = of.name
    return score


def _slipped(name: str) -> Callable[[Subjects], Outcome]:
    def score(s: Subjects) -> Outcome:
        with broken_code(name):
            return apply(RIGHT, s)

    score.__name__ = "product, " + name
    return score


SEEN_BY_ORACLE_ONLY = ("distractors match each other", "unanswerable queries count as 0")
"""Slips that change no printed number of this scene: no distractor asks, and what nobody can answer is skipped all the same."""

BAD: list[Callable[[Subjects], Outcome | Printed]] = [
    *map(_by, VARIANTS.values()),
    *REFUSED,
    *(_slipped(name) for name in BROKEN_CODE if name not in SEEN_BY_ORACLE_ONLY),
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


def flagged(bad: Callable[[Subjects], Outcome | Printed]) -> bool:
    """Whether a way to score is refused or gives another number than the right one."""
    right = ours(apply(RIGHT, scene()))
    try:
        return printed(bad(scene())).differs(right)
    except ScoreError:
        return True
