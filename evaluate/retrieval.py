"""Ranks of the right answers, and the scores made of them: CMC, average precision (two definitions), mINP.

In:      distances [queries, gallery] (smaller is nearer), integer identities and cameras.
Out:     per query: how many right answers are left, the rank of the first, average precision, inverse negative penalty.
Source:  specs/datasets.md section 8; specs/dubbernet.md section 7.1. Ours: the ranks are counted, not sorted. Only the
         right answers' places are needed, and the place of one is the number of entries that a stable sort puts before it:
         a nearer one anywhere, or an equally near one earlier in the gallery. Two SIMD comparisons per right answer replace
         the sort of a whole row; a query with very many right answers is sorted all the same. Where distances are rounded and
         say so (:class:`Rounded`), entries whose order the rounding could have changed are put in order by their exact distances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from pipeline.base.errors import ScoreError

NOBODY = -1
"""Identity code that matches nothing, not even itself: distractors."""

COUNT_UP_TO = 96
"""Right answers of one query up to which counting beats a stable argsort (measured at 9,330 gallery entries)."""

AveragePrecision = Literal["hit", "trapezoid"]


@runtime_checkable
class Rounded(Protocol):
    """Distances that are made in rounded numbers, and exactly for the few entries whose order the rounding could change."""

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 [some queries, gallery], all queries in order; in any unit."""

    def margins(self, query: np.ndarray, entries: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """float64 [n]; by how much another entry's number has to differ from `distance`, that of the pair, to tell the order."""

    def exact(self, query: int, entries: np.ndarray) -> np.ndarray:
        """float64 [n]; distances of `entries`, in a unit of their own."""


Distances = Iterable[np.ndarray] | Rounded
"""Blocks float [some queries, gallery] that together cover all queries in order, so that the whole matrix never has to exist; taken as
they are, or with their rounding."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Every (query, gallery entry) of one identity: the only pairs that a score looks at. Sorted by query, then gallery."""

    query: np.ndarray
    """int64 [pairs]; row of the query."""
    gallery: np.ndarray
    """int64 [pairs]; row of the gallery entry."""
    removed: np.ndarray
    """bool [pairs]; the protocol takes this entry out of this query's ranking (same camera)."""
    queries: int
    entries: int
    """Gallery rows."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What one query's ranking comes to; every array has one entry per query."""

    good: np.ndarray
    """int64; right answers left after removal. A query with none is not valid."""
    removed: np.ndarray
    """int64; gallery entries removed for this query (same identity and camera)."""
    kept: np.ndarray
    """int64; gallery entries left."""
    first: np.ndarray
    """int64; rank of the first right answer, from 1; 0 where there is none."""
    ap: np.ndarray
    """float64; average precision. No right answer left: NaN, but 0 if nothing at all is left (trapezoid only)."""
    inp: np.ndarray
    """float64; right answers over the rank of the last one; NaN where there is none."""

    @property
    def valid(self) -> np.ndarray:
        """bool; whether any right answer is left."""
        return self.good > 0


def same_identity(
    query_identity: np.ndarray,
    gallery_identity: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
    remove_same_camera: bool,
) -> Pairs:
    """Find the pairs of one identity without making a [queries, gallery] mask.

    Args:
        query_identity, gallery_identity: integer codes [queries], [gallery]; a code below 0 matches nothing.
        query_camera, gallery_camera: integers [queries], [gallery].
        remove_same_camera: whether pairs that share the camera are marked as removed.
    """
    order = np.argsort(gallery_identity, kind="stable")
    ascending = gallery_identity[order]
    start = np.searchsorted(ascending, query_identity, side="left")
    count = np.where(query_identity < 0, 0, np.searchsorted(ascending, query_identity, side="right") - start)
    query = np.repeat(np.arange(len(query_identity)), count)
    within = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
    gallery = order[np.repeat(start, count) + within]
    removed = (query_camera[query] == gallery_camera[gallery]) & remove_same_camera
    return Pairs(query, gallery, removed, len(query_identity), len(gallery_identity))


def positions(row: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Places (from 0) of some entries in the stable ascending sort of one row.

    Args:
        row: float [gallery]; no NaN.
        entries: int [n], columns of `row`.

    Returns:
        int64 [n]; what ``np.argsort(row, kind="stable")`` inverted would give at `entries`, ties included.
    """
    if len(entries) > COUNT_UP_TO:
        place = np.empty(len(row), np.int64)
        place[np.argsort(row, kind="stable")] = np.arange(len(row))
        return place[entries]
    before = np.empty(len(row), np.bool_)
    out = np.empty(len(entries), np.int64)
    for i, (entry, distance) in enumerate(zip(entries.tolist(), row[entries], strict=True)):
        np.less_equal(row[:entry], distance, out=before[:entry])
        np.less(row[entry:], distance, out=before[entry:])
        out[i] = np.count_nonzero(before)
    return out


def corrections(block: np.ndarray, first: int, query: np.ndarray, entries: np.ndarray, rounded: Rounded) -> np.ndarray:
    """What to add to :func:`positions` of rounded rows so that they are those of the exact ones.

    Args:
        block: float32 [some queries, gallery]; of `rounded`.
        first: query of its first row.
        query, entries: int [n]; queries of the block, ascending, and columns of it.

    Returns:
        int64 [n].
    """
    distance = block[query - first, entries]
    margin = rounded.margins(query, entries, distance)
    least = np.nextafter((distance - margin).astype(np.float32), np.float32(-np.inf))
    most = np.nextafter((distance + margin).astype(np.float32), np.float32(np.inf))
    out = np.zeros(len(entries), np.int64)
    bounds = np.searchsorted(query, np.arange(first, first + len(block) + 1)).tolist()
    ordered = np.empty(block.shape[1], np.float32)
    for i, (left, right) in enumerate(pairwise(bounds)):
        if left == right:
            continue
        ordered[:] = block[i]
        ordered.sort()
        within = ordered.searchsorted(most[left:right], side="right") - ordered.searchsorted(least[left:right])
        if within.max() == 1:  # the entry itself
            continue
        close = left + np.flatnonzero(within > 1)
        some = np.flatnonzero(_in_any(block[i], least[close], most[close]))
        exact = rounded.exact(first + i, some)
        # outside of `some` both orders are the same, so that places among them differ as places in the whole row do
        place = np.searchsorted(some, entries[close])
        out[close] = positions(exact, place) - positions(block[i, some], place)
    return out


def _in_any(row: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """bool, of the shape of `row`: whether a number lies in one of the ranges, both ends included."""
    order = np.argsort(least)
    least, most = least[order], np.maximum.accumulate(most[order])
    begins = np.concatenate([[True], least[1:] > most[:-1]])  # ranges that overlap are one
    inside, above = np.zeros(len(row), np.bool_), np.empty(len(row), np.bool_)
    for low, high in zip(least[begins], most[np.append(begins[1:], True)], strict=True):
        inside |= np.greater_equal(row, low, out=above) & (row <= high)
    return inside


def ranks(distance: Distances, pairs: Pairs) -> tuple[Pairs, np.ndarray]:
    """Rank of every right answer among the entries that are left for its query.

    Args:
        distance: of all queries to the whole gallery.
        pairs: of :func:`same_identity`.

    Returns:
        The pairs that are not removed, sorted by query, then rank; and their ranks, int64 from 1.

    Raises:
        ScoreError: a distance is not a finite number, or the blocks do not have the pairs' shape.
    """
    place = np.empty(len(pairs.query), np.int64)
    bounds = np.searchsorted(pairs.query, np.arange(pairs.queries + 1))
    row_number = 0
    rounded, blocks = (distance, distance.blocks()) if isinstance(distance, Rounded) else (None, distance)
    for block in blocks:
        _check(block, pairs, row_number)
        for row in block:
            left, right = bounds[row_number], bounds[row_number + 1]
            if right > left:
                place[left:right] = positions(row, pairs.gallery[left:right])
            row_number += 1
        if rounded:
            of_block = slice(bounds[row_number - len(block)], bounds[row_number])
            place[of_block] += corrections(block, row_number - len(block), pairs.query[of_block], pairs.gallery[of_block], rounded)
    if row_number != pairs.queries:
        raise ScoreError(f"distances: found {row_number} rows, expected one for each of {pairs.queries} queries")
    order = np.lexsort((place, pairs.query))  # places within a query differ, so this is by query, then rank
    query, removed = pairs.query[order], pairs.removed[order]
    gone = np.cumsum(removed)
    gone -= np.concatenate([[0], gone])[bounds[query]]  # removed entries of this query up to here
    rank = place[order] + 1 - gone
    stay = ~removed
    left_pairs = Pairs(query[stay], pairs.gallery[order][stay], removed[stay], pairs.queries, pairs.entries)
    return left_pairs, rank[stay]


def _check(block: np.ndarray, pairs: Pairs, row_number: int) -> None:
    if block.ndim != 2 or block.shape[1] != pairs.entries:
        raise ScoreError(f"distances: found a block of shape {block.shape}, expected [queries, {pairs.entries}]")
    if row_number + len(block) > pairs.queries:
        raise ScoreError(f"distances: found more than {pairs.queries} rows, expected one for each query")
    if not np.isfinite(block).all():
        bad = row_number + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
        raise ScoreError(f"distances: query {bad} has a distance that is not a finite number; look at the embeddings")


def _check_labels(whose: str, identity: np.ndarray, camera: np.ndarray, cameras_compared: bool) -> None:
    for what, codes in (("identities", identity), ("cameras", camera)):
        if codes.ndim != 1 or codes.dtype.kind not in "iu":
            raise ScoreError(f"{what} of {whose}: found {codes.dtype} {list(codes.shape)}, expected integers [{whose}]; code names first")
    if len(identity) != len(camera):
        raise ScoreError(f"{whose}: found {len(identity)} identities and {len(camera)} cameras, expected one of each for every row")
    if cameras_compared and len(camera) and camera.min() < 0:
        unknown = np.flatnonzero(camera < 0)
        raise ScoreError(
            f"{whose}: the camera of row {unknown[0]} is unknown ({camera[unknown[0]]}; {len(unknown)} of {len(camera)} rows), but entries of "
            "the query's camera are to be removed; give cameras from 0, or score by identity alone"
        )


def retrieve(
    distance: Distances,
    *,
    query_identity: np.ndarray,
    gallery_identity: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
    remove_same_camera: bool,
    ap: AveragePrecision,
) -> Retrieval:
    """Rank and score each query.

    Args:
        distance: of all queries to the whole gallery.
        query_identity, gallery_identity: integer codes; :data:`NOBODY` (below 0) matches nothing but is a wrong answer.
        query_camera, gallery_camera: integers; below 0 where the camera is not known, which is refused if cameras are compared.
        remove_same_camera: remove entries of the query's identity that its own camera saw.
        ap: 'hit': mean over right answers k (at rank r_k) of k / r_k. 'trapezoid': mean of the same and the precision just
            before it, (k - 1) / (r_k - 1), which is 1 at rank 1.

    Junk (neither right nor wrong for any query) is no part of the gallery here: leave it out before distances are made.
    Equal distances keep the order of the gallery, as a stable sort would.

    Raises:
        ScoreError: labels that are no integers or not one for each row, an unknown camera that would be compared, distances that
            are not finite or not of that shape.
    """
    _check_labels("queries", query_identity, query_camera, remove_same_camera)
    _check_labels("gallery", gallery_identity, gallery_camera, remove_same_camera)
    pairs = same_identity(query_identity, gallery_identity, query_camera, gallery_camera, remove_same_camera)
    removed = np.bincount(pairs.query, pairs.removed, minlength=pairs.queries).astype(np.int64)
    right, rank = ranks(distance, pairs)
    return _per_query(right, rank, removed, ap)


def _per_query(right: Pairs, rank: np.ndarray, removed: np.ndarray, ap: AveragePrecision) -> Retrieval:
    """Reduce the ranks of the right answers (sorted by query, then rank) to one line per query."""
    queries, query = right.queries, right.query
    good = np.bincount(query, minlength=queries)
    start = np.cumsum(good) - good
    k = np.arange(len(query)) - start[query] + 1  # the how-manieth right answer of its query
    precision = k / rank
    if ap == "trapezoid":
        before = np.where(rank > 1, (k - 1) / np.maximum(rank - 1, 1), 1.0)
        precision = (before + precision) / 2
    has = good > 0
    mean = np.full(queries, np.nan)
    mean[has] = np.bincount(query, precision, minlength=queries)[has] / good[has]
    kept = right.entries - removed
    if ap == "trapezoid":
        mean[~has & (kept == 0)] = 0.0  # so the original scorer has it: an empty ranking is wrong, an unanswerable one undefined
    first, inp = np.zeros(queries, np.int64), np.full(queries, np.nan)
    first[has] = rank[start[has]]
    inp[has] = good[has] / rank[start[has] + good[has] - 1]
    return Retrieval(good, removed, kept, first, mean, inp)


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over queries, as fractions. NaN: not defined (no valid query, or a query without an answer that counts)."""

    queries: int
    valid: int
    cmc: np.ndarray
    """float64 [max_rank]; part of the queries with a right answer among the first 1, 2, ... entries."""
    mean_ap: float
    mean_inp: float


def summarise(result: Retrieval, averaged_over: Literal["valid", "all"], max_rank: int = 50) -> Summary:
    """Mean over the valid queries, or over all of them.

    'all' is the rule of the original MARS scorer: a query without an answer adds a zero row to the CMC, and its undefined
    AP makes the mean undefined, which we keep: a number over queries that nobody could answer would be no number.
    A ranking shorter than `max_rank` extends the CMC with its last value. mINP is defined over valid queries only.
    """
    valid = result.valid
    over = valid if averaged_over == "valid" else np.ones(len(valid), np.bool_)
    if not over.any():
        return Summary(len(valid), 0, np.full(max_rank, np.nan), float("nan"), float("nan"))
    first = result.first[over & valid]
    hits = np.bincount(np.minimum(first, max_rank + 1), minlength=max_rank + 2)[1 : max_rank + 1]
    mean_inp = float(result.inp[valid].mean()) if valid.any() else float("nan")
    return Summary(len(valid), int(valid.sum()), np.cumsum(hits) / over.sum(), float(result.ap[over].mean()), mean_inp)
