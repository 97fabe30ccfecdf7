"""The example that docs/protocols.md works out by hand, and what the product makes of it.

In:      nothing: the tracklets and trials stand here.   Out: :class:`Truth` per way to score, from evaluate/*.
Source:  ours. Positions are whole numbers on a line, so that every distance is exact; t02 and t10 stand at one place, the only tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evaluate import legacy_eval
from evaluate.distance import squared_distances
from evaluate.protocols import Subjects, apply, protocol_named
from evaluate.retrieval import Retrieval, Summary
from tests.evaluate.four_results import ranked


class Tracklet(NamedTuple):
    """One row of the example."""

    name: str
    role: str
    identity: str
    kind: str
    camera: int
    position: int
    frames: int


EXAMPLE = (
    Tracklet("t01", "junk", "00-1", "junk", 1, 1, 4),
    Tracklet("t02", "gallery", "0000", "distractor", 2, 12, 5),
    Tracklet("t03", "gallery", "0000", "distractor", 1, 5, 14),
    Tracklet("t04", "query", "0001", "person", 1, 0, 8),
    Tracklet("t05", "gallery", "0001", "person", 1, 3, 6),
    Tracklet("t06", "gallery", "0001", "person", 2, 10, 9),
    Tracklet("t07", "gallery", "0001", "person", 3, 17, 3),
    Tracklet("t08", "query", "0002", "person", 1, 16, 12),
    Tracklet("t09", "gallery", "0002", "person", 1, 18, 7),
    Tracklet("t10", "gallery", "0002", "person", 1, 12, 2),
    Tracklet("t11", "query", "0002", "person", 2, 24, 20),
)
TWO_CAMERAS = (
    Tracklet("a1", "query", "a", "person", 1, 0, 1),
    Tracklet("a2", "gallery", "a", "person", 2, 1, 1),
    Tracklet("b1", "query", "b", "person", 1, 4, 1),
    Tracklet("b2", "gallery", "b", "person", 2, 8, 1),
    Tracklet("c1", "query", "c", "person", 1, 9, 1),
    Tracklet("c2", "gallery", "c", "person", 2, -3, 1),
)
PROTOCOLS = ("market", "mars_torchreid", "mars_merged", "mars_official", "pid_only")
"""Those that EXAMPLE is scored by; `two_camera` scores TWO_CAMERAS."""
SAME, DIFFERENT = (0.9, 0.6, 0.4), (0.8, 0.5, 0.3, 0.2, 0.1)
"""Scores of trials."""


def subjects(tracklets: Sequence[Tracklet]) -> Subjects:
    name, role, identity, kind, camera, position, _ = zip(*tracklets, strict=True)
    columns = (np.array(column) for column in (role, identity, kind, camera))
    return Subjects(list(name), *columns, np.array(position, np.float32)[:, None])


def frames(tracklets: Sequence[Tracklet]) -> np.ndarray:
    """int64 [tracklets]."""
    return np.array([one.frames for one in tracklets], np.int64)


def trials() -> tuple[np.ndarray, np.ndarray]:
    """Scores, and whether each is of one identity."""
    return np.array([*SAME, *DIFFERENT]), np.arange(len(SAME) + len(DIFFERENT)) < len(SAME)


@dataclass(frozen=True, slots=True)
class Query:
    """What one query's ranking is."""

    name: str
    removed: tuple[str, ...]
    """In the order of their names."""
    ranking: tuple[tuple[str, bool], ...]
    """Nearest first; whether it is a right answer."""
    ap: float
    inp: float | None


@dataclass(frozen=True, slots=True)
class Truth:
    """One way to score the example."""

    gallery: int
    queries: tuple[Query, ...]
    summary: Summary


def by_protocol(name: str) -> Truth:
    """The example by one protocol."""
    made = subjects(TWO_CAMERAS if name == "two_camera" else EXAMPLE)
    outcome = apply(protocol_named(name), made)
    rule = outcome.protocol
    entries = np.flatnonzero(np.isin(made.role, rule.gallery_roles))
    compared = legacy_eval.Lists(outcome.query, outcome.gallery, made.camera[outcome.query], made.camera[outcome.gallery])
    queries = listed(made, entries, compared, rule.removes_same_camera, outcome.per_query, with_inp=rule.ap == "hit")
    return Truth(outcome.gallery_size, queries, outcome.summary)


def released() -> Truth:
    """The example by the released evaluator."""
    made = subjects(EXAMPLE)
    compared = legacy_eval.lists(made, frames(EXAMPLE))
    queries = listed(made, compared.gallery, compared, True, ranked(made, compared), with_inp=True)
    return Truth(len(compared.gallery), queries, legacy_eval.summary(made, compared))


def listed(
    made: Subjects, entries: np.ndarray, compared: legacy_eval.Lists, removes: bool, found: Retrieval, with_inp: bool
) -> tuple[Query, ...]:
    """Every ranking written out by a plain sort, and checked against the ranks that the product counted.

    Args:
        entries: rows of the gallery, junk included.
        removes: whether entries of the query's identity and compared camera go.
    """
    out = []
    distances = np.concatenate(list(squared_distances(made.vector[compared.query], made.vector[compared.gallery])))
    for i, query in enumerate(compared.query.tolist()):
        gone, kept = [made.tracklet[row] for row in entries.tolist() if made.kind[row] == "junk"], []
        for j, row in enumerate(compared.gallery.tolist()):
            right = made.identity[row] == made.identity[query] and made.kind[row] == "person"
            if removes and right and compared.gallery_camera[j] == compared.query_camera[i]:
                gone.append(made.tracklet[row])
            else:
                kept.append((float(distances[i, j]), made.tracklet[row], bool(right)))
        ranking = tuple((name, right) for _, name, right in sorted(kept))
        places = [place for place, (_, right) in enumerate(ranking, 1) if right]
        if (len(places), places[0] if places else 0) != (found.good[i], found.first[i]):
            raise ValueError(
                f"{made.tracklet[query]}: a plain sort finds right answers at {places}, the product the first at {found.first[i]}"
            )
        inp = float(found.inp[i]) if with_inp else None
        out.append(Query(made.tracklet[query], tuple(sorted(gone)), ranking, float(found.ap[i]), inp))
    return tuple(out)
