"""k-reciprocal re-ranking of distances, without a matrix of all items against all.

In:      float32 [queries, D], float32 [gallery, D]; k1, k2, weight (RerankConfig).
Out:     blocks float32 [some queries, gallery] of new distances, for `evaluate.retrieval.retrieve`.
Source:  Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017 (arXiv 1701.08398),
         sections 3.2-3.5. Ours: the sparse form, exact neighbour lists, and what is said below where the paper leaves it open.

Items are queries and gallery together: every query shapes the distances of every other one.

* The original distance is squared Euclidean, of the vectors as they are given. Normalised, d(i, j) is divided by the largest
  original distance of item i to any item (0 where that is 0).
* N(i, k): the k + 1 nearest items of i. Item i itself is the first, whatever equals it; then by distance, and of equally near
  ones by index, queries before gallery. Distances of neighbours are computed from differences in float64, so the lists are those
  of a float64 matrix with a stable sort, on every machine.
* R(i, k): the items of N(i, k) that have i in their own N(j, k).
* R*(i): R(i, k1), and R(j, half) of each j in R(i, k1) of which more than two thirds lie in R(i, k1). Half is k1 / 2, rounded to
  the nearest integer and in the middle to the even one (20: 10, 5: 2, 7: 4), as the authors' code rounds.
* The encoding of i holds exp(-normalised d(i, j)) for j in R*(i), divided by its sum, and 0 elsewhere.
* If k2 > 1, it is replaced by the mean of the encodings of the first k2 of N(i, k1), i itself among them.
* Jaccard distance of a query and an entry: 1 - (sum of the smaller numbers) / (sum of the larger), over all items.
* New distance: (1 - weight) Jaccard + weight * normalised d(query, entry).

Held at once: the items, the lists, the encodings (some tens of numbers per item), and one block of distances. Equal gallery
vectors tie exactly in the original distances; in the new ones they may not, because each is its own first neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evaluate.distance import BLOCK, LOST, Rows, Vectors, first_equal, pair_distances, require_finite, squared_distances, together
from pipeline.base.errors import ScoreError

_UNSURE = 2.1
"""What float32 distances may have swapped, in their largest relative errors: that of either side, and some for rounding."""
_GROUPS = 512
"""Minima per row from which a bound of the neighbours' distance is taken, at least."""
_AT_ONCE = 1 << 22
"""Numbers per temporary array, roughly."""


@dataclass(frozen=True, slots=True)
class Encodings:
    """One sparse row per item."""

    start: np.ndarray
    """int64 [items + 1]; row i is start[i] up to start[i + 1]."""
    item: np.ndarray
    """int32 [numbers]; ascending within a row."""
    value: np.ndarray
    """float64 [numbers]; above 0, the sum of a row is 1."""

    def rows(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of the numbers of the rows `wanted`, one row after the other; and how many each has."""
        return _ranges(self.start[wanted], self.start[wanted + 1])


def reranked_distances(queries: Vectors, gallery: Vectors, k1: int, k2: int, weight: float, block: int = BLOCK) -> Iterator[np.ndarray]:
    """New distances of some queries at a time to the whole gallery.

    Args:
        queries: float32 [queries, D]; all of them, not a part.
        gallery: float32 [gallery, D]; what is no part of the ranking (junk) is left out before.
        k1: neighbours among which reciprocal ones are looked for; fewer than queries and gallery together.
        k2: neighbours whose encodings are averaged, 1..k1; 1: none.
        weight: part of the original distance in the new one, 0..1.
        block: queries per block at most; changes no bit.

    Yields:
        float32 [at most block, gallery], all in 0..1 but for rounding; 0 or more.

    Raises:
        ScoreError: a setting out of its range, k1 not below the number of items, different D, or a number that is not finite.
    """
    if not (1 <= k2 <= k1 and 0 <= weight <= 1):
        raise ScoreError(f"re-ranking with k1={k1}, k2={k2}, weight={weight}: need 1 <= k2 <= k1 and a weight in 0..1")
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1] or not len(gallery):
        raise ScoreError(f"vectors of queries {queries.shape} and gallery {gallery.shape}: expected [rows, D] with one D, and a gallery")
    require_finite(queries, "queries")
    require_finite(gallery, "gallery")
    items = together(queries, gallery)
    if len(items) <= k1:
        raise ScoreError(
            f"re-ranking with k1={k1}: {len(queries)} queries and {len(gallery)} gallery vectors are too few to have {k1} neighbours each; "
            f"set k1 to {len(items) - 1} or less, or leave re-ranking off"
        )
    neighbours, farthest = _nearest(items, k1)
    encodings = _encodings(items, neighbours, farthest, round(k1 / 2))
    if k2 > 1:
        encodings = _mean_of_nearest(encodings, neighbours[:, :k2])
    yield from _new_distances(queries, gallery, encodings, farthest, weight, block)


def _nearest(items: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
    """N(i, k) of every item, int32 [items, k + 1], and the largest distance of each, float64 [items].

    Of more than k + 1 equal items only the first k + 1 can be anyone's neighbours, so that no more are looked at.
    """
    first = first_equal(items)
    order = np.argsort(first, kind="stable")
    begins = np.searchsorted(first[order], first[order])
    columns = np.sort(order[np.arange(len(items)) - begins <= k])
    made = squared_distances(items, items if len(columns) == len(items) else Rows(items, columns))
    out = np.empty((len(items), k + 1), np.int32)
    out[:, 0] = np.arange(len(items))
    farthest = np.empty(len(items))
    row = 0
    for distance in made.blocks():
        rows = slice(row, row + len(distance))
        farthest[rows] = distance.max(axis=1).astype(np.float64) * made.unit
        limit = _bound(distance, k) * np.float32(1 + _UNSURE * made.relative) + np.float32(LOST)
        place = np.flatnonzero((distance <= limit[:, None]).ravel())
        i, j = place // len(columns) + row, columns[place % len(columns)]
        i, j = i[i != j], j[i != j]
        order = np.lexsort((j, pair_distances(items, i, items, j), i))
        begins = np.searchsorted(i, np.arange(rows.start, rows.stop))  # i is ascending, before and after the sort
        out[rows, 1:] = j[order[begins[:, None] + np.arange(k)]]
        row = rows.stop
    return out, farthest


def _bound(distance: np.ndarray, k: int) -> np.ndarray:
    """For each row a number that at least k + 1 entries do not exceed, and few more: taken from minima of interleaved groups."""
    groups = max(_GROUPS, 8 * (k + 1))
    whole = distance.shape[1] // groups
    if whole < 4:
        return np.partition(distance, k, axis=1)[:, k]
    minima = distance[:, : whole * groups].reshape(len(distance), whole, groups).min(axis=1)
    return np.partition(minima, k, axis=1)[:, k]


def _reciprocal(neighbours: np.ndarray) -> np.ndarray:
    """bool, of the shape of `neighbours` [items, k + 1]: whether the neighbour has the item among its own."""
    items, k = neighbours.shape
    out = np.empty((items, k), np.bool_)
    for rows in _slices(items, k * k):
        own = np.arange(rows.start, rows.stop)[:, None, None]
        out[rows] = (neighbours[neighbours[rows]] == own).any(axis=2)
    return out


def _encodings(items: Vectors, neighbours: np.ndarray, farthest: np.ndarray, half: int) -> Encodings:
    """Gaussian weights over R*(i), for every item i."""
    count, k = neighbours.shape
    near = np.ascontiguousarray(neighbours[:, : half + 1])
    reciprocal, reciprocal_near = _reciprocal(neighbours), _reciprocal(near)
    rows_at_once = max(1, min(_AT_ONCE // count, _AT_ONCE // (k * (half + 1))))
    inside = np.zeros((rows_at_once, count), np.bool_)  # [rows, items]; whether in R(i, k1)
    keys = []
    for first in range(0, count, rows_at_once):
        mine, listed = reciprocal[first : first + rows_at_once], neighbours[first : first + rows_at_once]
        row = np.arange(len(mine))[:, None]
        own = np.broadcast_to(row, mine.shape)[mine], listed[mine]
        inside[own] = True
        theirs = reciprocal_near[listed] & mine[:, :, None]  # [rows, k + 1, half + 1]
        common = theirs & inside[row[:, :, None], near[listed]]
        inside[own] = False
        theirs &= (3 * common.sum(axis=2) > 2 * theirs.sum(axis=2))[:, :, None]
        joined = np.broadcast_to(row[:, :, None], theirs.shape)[theirs], near[listed][theirs]
        keys.append(np.unique((np.concatenate([own[0], joined[0]]) + first) * count + np.concatenate([own[1], joined[1]])))
    row, item = np.divmod(np.concatenate(keys), count)
    largest = farthest[row]
    distance = np.divide(pair_distances(items, row, items, item), largest, out=np.zeros(len(row)), where=largest > 0)
    value = np.exp(-distance)
    value /= np.bincount(row, value, minlength=count)[row]
    return Encodings(np.searchsorted(row, np.arange(count + 1)), item.astype(np.int32), value)


def _mean_of_nearest(encodings: Encodings, neighbours: np.ndarray) -> Encodings:
    """The mean of the encodings of `neighbours` [items, k2], for every item."""
    items, k = neighbours.shape
    usual = max(1, len(encodings.item) // items)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for rows in _slices(items, k * usual):
        wanted = neighbours[rows]
        place, numbers = encodings.rows(wanted.ravel())
        row = np.repeat(np.repeat(np.arange(rows.start, rows.stop), k), numbers)
        key, back = np.unique(row * items + encodings.item[place], return_inverse=True)
        parts.append((key, np.bincount(back, encodings.value[place]) / k))
    row, item = np.divmod(np.concatenate([key for key, _ in parts]), items)
    value = np.concatenate([value for _, value in parts])
    return Encodings(np.searchsorted(row, np.arange(items + 1)), item.astype(np.int32), value)


def _new_distances(
    queries: Vectors, gallery: Vectors, encodings: Encodings, farthest: np.ndarray, weight: float, block: int
) -> Iterator[np.ndarray]:
    """Jaccard distances of the encodings, and the original ones, in parts."""
    of_gallery = slice(encodings.start[len(queries)], None)
    item = encodings.item[of_gallery]
    entry = np.repeat(np.arange(len(gallery), dtype=np.int32), np.diff(encodings.start[len(queries) :]))
    by_item = np.argsort(item, kind="stable")
    start = np.searchsorted(item[by_item], np.arange(len(queries) + len(gallery) + 1))
    entry, value = entry[by_item], encodings.value[of_gallery][by_item]
    made = squared_distances(queries, gallery, block)
    row = 0
    for original in made.blocks():
        out = np.empty_like(original)
        for distance, new in zip(original, out, strict=True):
            mine = slice(encodings.start[row], encodings.start[row + 1])
            place, numbers = _ranges(start[encodings.item[mine]], start[encodings.item[mine] + 1])
            smaller = np.minimum(np.repeat(encodings.value[mine], numbers), value[place])
            shared = np.bincount(entry[place], smaller, minlength=len(gallery))
            new[:] = (1 - weight) * (1 - shared / (2 - shared))  # both sum to 1: the larger ones are what the smaller leave of 2
            new += np.float32(weight * made.unit / farthest[row] if farthest[row] > 0 else 0.0) * distance
            row += 1
        yield out


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers of all ranges, one range after the other; and how many each has."""
    numbers = stop - start
    return np.repeat(stop - np.cumsum(numbers), numbers) + np.arange(numbers.sum()), numbers


def _slices(rows: int, numbers_each: int) -> Iterator[slice]:
    """All rows, so many at once that they make _AT_ONCE numbers."""
    step = max(1, _AT_ONCE // numbers_each)
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))
