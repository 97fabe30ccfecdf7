"""Named rules of retrieval: who asks, who answers, what is removed, how precision is averaged, what no answer means.

In:      EMBEDDINGS as arrays (:class:`Subjects`) and the name of a protocol.   Out: :class:`Outcome`.
Source:  specs/datasets.md sections 1.3 and 8; specs/dubbernet.md section 7.1. Two different rules are both called "MARS"
         in the literature; their numbers are not comparable, so each has its own name here and says what it is.

Common to all: a distractor is a wrong answer for everyone and the right answer for nobody, other distractors included;
junk is neither, and is taken out of every ranking; equal distances keep the order of the tracklet names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluate.distance import Rows, Vectors, pair_distances, squared_distances
from evaluate.retrieval import NOBODY, AveragePrecision, Distances, Retrieval, Summary, retrieve, summarise
from pipeline.base.errors import ScoreError, did_you_mean

CMC_RANKS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One rule; everything a reader needs to know before comparing a number with another."""

    name: str
    description: str
    gallery_roles: tuple[str, ...]
    """Roles of SPLIT whose tracklets are the gallery."""
    gallery_definition: str
    removes_same_camera: bool = True
    """Take entries of the query's identity that its own camera saw out of its ranking."""
    ap: AveragePrecision = "hit"
    averaged_over: Literal["valid", "all"] = "valid"
    one_camera_each: bool = False
    """All queries are from one camera, the gallery is from another, and each query has at most one right answer."""


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="market",
            description="Queries against the gallery; entries of the query's identity and camera removed; queries with no right answer "
            "left are skipped and counted.",
            gallery_roles=("gallery",),
            gallery_definition="gallery tracklets with distractors, without queries and junk",
        ),
        Protocol(
            name="mars_torchreid",
            description="MARS as most PyTorch code scores it: gallery without queries and junk (9,330 of the full set); entries of the "
            "query's identity and camera removed; the queries that then have no right answer (140 of 1,980) are skipped.",
            gallery_roles=("gallery",),
            gallery_definition="test tracklets with distractors, without queries and junk",
        ),
        Protocol(
            name="mars_official",
            description="MARS as its authors' MATLAB code scores it: all test rows are the gallery, queries and junk included (12,180 of "
            "the full set); junk and entries of the query's identity and camera are removed per query; trapezoid AP; mean over all "
            "queries.",
            gallery_roles=("query", "gallery", "junk"),
            gallery_definition="all test tracklets, queries and junk included; junk is removed from every ranking",
            ap="trapezoid",
            averaged_over="all",
        ),
        Protocol(
            name="mars_merged",
            description="MARS with its queries in the gallery, as its authors have it, but scored like mars_torchreid: 11,310 entries of the "
            "full set (no junk), entries of the query's identity and camera removed, the query itself among them; AP at hits; every query of "
            "the full set has a right answer.",
            gallery_roles=("query", "gallery"),
            gallery_definition="all test tracklets but junk, queries included",
        ),
        Protocol(
            name="two_camera",
            description="One camera asks, the other answers, one right answer each (iLIDS-VID, PRID-2011); mAP is then the mean of "
            "one over the rank.",
            gallery_roles=("gallery",),
            gallery_definition="test tracklets of the other camera",
            one_camera_each=True,
        ),
        Protocol(
            name="pid_only",
            description="Queries against the gallery by identity alone; nothing is removed, whichever camera saw it; queries without a "
            "right answer are skipped and counted.",
            gallery_roles=("gallery",),
            gallery_definition="gallery tracklets; same-camera entries stay",
            removes_same_camera=False,
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ScoreError: no such protocol; names the nearest.
    """
    if name not in PROTOCOLS:
        raise ScoreError(f"protocol '{name}': no such protocol{did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True, slots=True)
class Subjects:
    """Embedded tracklets as arrays of one length, in the order of the tracklet names."""

    tracklet: Sequence[str]
    role: np.ndarray
    """str; role of SPLIT."""
    identity: np.ndarray
    """str; as shipped."""
    kind: np.ndarray
    """str; 'person', 'distractor' or 'junk'."""
    camera: np.ndarray
    """int; from 0."""
    vector: np.ndarray
    """float32 [rows, D]."""

    def codes(self) -> np.ndarray:
        """int64 identity codes from 0 in sorted order; NOBODY for what can match nothing."""
        codes = np.unique(self.identity, return_inverse=True)[1].astype(np.int64)
        return np.where(self.kind == "person", codes, NOBODY)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A protocol applied."""

    protocol: Protocol
    query: np.ndarray
    """int64; rows of the queries in Subjects."""
    gallery: np.ndarray
    """int64; rows of the ranked gallery in Subjects (junk already left out)."""
    gallery_size: int
    """Rows of the gallery as the protocol defines it (junk included where its roles include it)."""
    per_query: Retrieval
    summary: Summary


Measure = Callable[[Vectors, Vectors], Distances]
"""Vectors of queries, vectors of the gallery -> distances of all queries."""


def apply(protocol: Protocol, subjects: Subjects, distances: Measure = squared_distances) -> Outcome:
    """Rank and score all queries of `subjects` by one protocol.

    Args:
        distances: what is ranked by; only re-ranking replaces it.

    Raises:
        ScoreError: no query, no gallery, no query that has an answer, or a set that is not what the protocol is for.
    """
    query = np.flatnonzero(subjects.role == "query")
    entries = np.flatnonzero(np.isin(subjects.role, protocol.gallery_roles))
    gallery = entries[subjects.kind[entries] != "junk"]
    if not len(query):
        raise ScoreError(f"{protocol.name}: no tracklet has the role 'query'; check the split")
    if not len(gallery):
        raise ScoreError(f"{protocol.name}: the gallery ({protocol.gallery_definition}) is empty; check the split")
    strangers = query[subjects.kind[query] != "person"]
    if len(strangers):
        name = subjects.tracklet[strangers[0]]
        raise ScoreError(f"{protocol.name}: query {name} is a {subjects.kind[strangers[0]]}, which nothing can match; check the split")
    nowhere = np.flatnonzero(subjects.camera < 0)
    if protocol.removes_same_camera and len(nowhere):
        raise ScoreError(
            f"{protocol.name}: {len(nowhere)} of {len(subjects.camera)} tracklets have no known camera (below 0), the first is "
            f"{subjects.tracklet[nowhere[0]]}; entries of the query's own camera have to leave its ranking, so name the cameras in the source, "
            "or score by pid_only, which compares none"
        )
    if protocol.one_camera_each:
        _require_two_cameras(protocol, subjects, query, gallery)
    codes = subjects.codes()
    result = retrieve(
        distances(Rows(subjects.vector, query), Rows(subjects.vector, gallery)),
        query_identity=codes[query],
        gallery_identity=codes[gallery],
        query_camera=subjects.camera[query],
        gallery_camera=subjects.camera[gallery],
        remove_same_camera=protocol.removes_same_camera,
        ap=protocol.ap,
    )
    summary = summarise(result, protocol.averaged_over, CMC_RANKS)
    if not summary.valid:
        raise ScoreError(
            f"{protocol.name}: none of {summary.queries} queries has a right answer in the gallery ({protocol.gallery_definition}); "
            "check identities and cameras of the split"
        )
    return Outcome(protocol, query, gallery, len(entries), result, summary)


def _require_two_cameras(protocol: Protocol, subjects: Subjects, query: np.ndarray, gallery: np.ndarray) -> None:
    asks, answers = np.unique(subjects.camera[query]), np.unique(subjects.camera[gallery])
    if len(asks) != 1 or len(answers) != 1 or asks[0] == answers[0]:
        raise ScoreError(
            f"{protocol.name}: queries are from camera {_listed(asks)}, the gallery from camera {_listed(answers)}; expected one each and "
            "not the same; use the protocol 'market' for more cameras"
        )
    for rows, what in ((query, "queries"), (gallery, "gallery")):
        names, count = np.unique(subjects.identity[rows][subjects.kind[rows] == "person"], return_counts=True)
        if len(names) and count.max() > 1:
            raise ScoreError(f"{protocol.name}: {names[count.argmax()]} has {count.max()} tracklets among the {what}, expected one")


def _listed(cameras: np.ndarray) -> str:
    return ", ".join(map(str, cameras.tolist()))


def first_entries(outcome: Outcome, subjects: Subjects, query: int, count: int) -> list[tuple[int, float, bool]]:
    """The nearest entries that are left for one query; by exact distances, so that they stand where the ranks say.

    Args:
        outcome: of :func:`apply` on the same subjects.
        query: position in ``outcome.query``.
        count: how many at most.

    Returns:
        (row in `subjects`, squared distance, whether it is a right answer), nearest first.
    """
    row = outcome.query[query]
    distance = pair_distances(subjects.vector, np.full(len(outcome.gallery), row), subjects.vector, outcome.gallery)
    person = subjects.kind[outcome.gallery] == "person"
    same = (subjects.identity[outcome.gallery] == subjects.identity[row]) & person
    gone = same & (subjects.camera[outcome.gallery] == subjects.camera[row]) & outcome.protocol.removes_same_camera
    order = np.argsort(distance, kind="stable")
    order = order[~gone[order]][:count]
    return [(int(outcome.gallery[i]), float(distance[i]), bool(same[i])) for i in order]
