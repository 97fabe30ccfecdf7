"""Squared Euclidean distances between two sets of vectors, block by block.

In:      float32 [queries, D], float32 [gallery, D].   Out: blocks float32 [some queries, gallery].
Source:  specs/dubbernet.md section 7.1 (squared Euclidean, features as they are). Ours: where float32 is safe, and the memory.

|q|^2 + |g|^2 - 2 q.g is one fast matrix product, but loses digits where the distance is small against the norms. Three
measures keep every distance within a relative 1e-5 of float64 arithmetic (2e-7 is usual on random vectors):

* the mean of the gallery is taken off both sides first: a distance does not change, norms become small (an untrained network's
  vectors are nearly all the same);
* norms are summed in float64;
* an entry below NEAR times the sum of the two norms is computed again: from the difference itself, in float64, or where a
  tile has too many of them by a float64 product first, and from the difference what is below NEAREST.

So equal vectors are at distance 0 exactly (-0 and 0 are equal); and equal gallery vectors are computed once, so they tie exactly.

Nothing of the gallery's size is made but the block that is handed out and a few numbers for each row: centred copies are made of
TILE rows at a time, and equal rows are found by hashes, which only say what is to be compared. The products are cut by the sizes of
the two sets and never by `block`, so on one machine, with one number of threads, every block size gives the same bits. Another
processor may change the last ones: its matrix product adds in another order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.base.errors import ScoreError

BLOCK = 256
"""Queries per block at most: 9.5 MB of distances for 9,330 gallery entries."""
NEAR = 0.15
"""Part of |q|^2 + |g|^2 below which a float32 product is not trusted: its error is up to 8e-7 of that sum (seen for D up to 2048)."""
NEAREST = 1e-6
"""The same for a float64 product, whose error is below 1e-14 of that sum."""
MANY = 0.02
"""Part of a tile that is near from which a float64 product of the whole tile is faster than single differences."""
TILE = 4096
"""Gallery rows that are centred at once: 12 MB for D=768. Half of it is as fast on one thread; several threads meet less often."""
_BLOCK_BYTES = 1 << 26
"""Distances that are made at once, for a large gallery (at least _LEAST queries)."""
_LEAST = 16
_AGAIN = 1 << 16
"""Numbers of the differences computed at once: they stay in the cache."""
_HASH_ROWS = 1024


def require_finite(vectors: np.ndarray, what: str) -> None:
    """Refuse NaN and infinity: a NaN compares as neither near nor far, so every rank behind it would be arbitrary.

    Raises:
        ScoreError: names the first bad row of `vectors` [rows, D] and how many there are.
    """
    fine = np.empty(len(vectors), np.bool_)
    for first in range(0, len(vectors), TILE):
        fine[first : first + TILE] = np.isfinite(vectors[first : first + TILE]).all(axis=1)
    bad = np.flatnonzero(~fine)
    if len(bad):
        raise ScoreError(
            f"{what}: {len(bad)} of {len(vectors)} vectors hold NaN or infinity, the first is row {bad[0]}; the network diverged or was "
            "fed broken input, so there is no score"
        )


def squared_distances(queries: np.ndarray, gallery: np.ndarray, block: int = BLOCK) -> Iterator[np.ndarray]:
    """Distances of some queries at a time to the whole gallery.

    Args:
        queries: float32 [queries, D].
        gallery: float32 [gallery, D]; at least one row.
        block: queries per block at most; a large gallery has smaller blocks.

    Yields:
        float32 [at most block, gallery]; 0 or more.

    Raises:
        ScoreError: different D, no gallery, a block of no query, or a number that is not finite.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ScoreError(f"vectors of queries {queries.shape} and gallery {gallery.shape}: expected [rows, D] with one D")
    if not len(gallery) or block < 1:
        raise ScoreError(f"a gallery of {len(gallery)} vectors in blocks of {block} queries: expected at least 1 of each")
    require_finite(queries, "queries")
    require_finite(gallery, "gallery")
    first = first_equal(gallery)
    distinct, back = np.unique(first, return_inverse=True)
    repeats = len(distinct) < len(gallery)
    for out in _blocks(queries, gallery, distinct if repeats else None):
        whole = np.take(out, back, axis=1) if repeats else out
        for start in range(0, len(whole), block):
            yield whole[start : start + block]


def pair_distances(left: np.ndarray, i: np.ndarray, right: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Squared distances of single pairs in float64, from the differences: the same on every machine, and exact for small integers.

    Args:
        left, right: float32 [rows, D].
        i, j: int [pairs]; rows of `left` and of `right`.

    Returns:
        float64 [pairs].
    """
    out = np.empty(len(i))
    step = max(1, _AGAIN // max(1, left.shape[1]))
    for first in range(0, len(i), step):
        some = slice(first, first + step)
        difference = left[i[some]].astype(np.float64) - right[j[some]]
        out[some] = np.einsum("nd,nd->n", difference, difference)
    return out


def first_equal(vectors: np.ndarray) -> np.ndarray:
    """For each row the first row that equals it, which may be itself.

    A matrix product may round equal columns differently, depending on where they stand in its tiles. Equal vectors must be
    equally near, else their order would not be the gallery's but the machine's.

    Args:
        vectors: float32 [rows, D]; finite.

    Returns:
        int64 [rows].
    """
    hashes = _hashes(vectors)
    first = np.arange(len(vectors))
    left = np.argsort(hashes, kind="stable")
    while len(left):  # once, unless different rows share a hash
        begins = np.flatnonzero(np.concatenate([[True], hashes[left[1:]] != hashes[left[:-1]]]))
        leader = np.repeat(left[begins], np.diff(begins, append=len(left)))
        left, leader = left[left != leader], leader[left != leader]
        equal = _equal(vectors, left, leader)
        first[left[equal]] = leader[equal]
        left = left[~equal]
    return first


def _hashes(vectors: np.ndarray) -> np.ndarray:
    """uint64 [rows]; equal rows have equal ones. The multipliers are odd and fixed (steps of the golden ratio, mixed)."""
    step = np.arange(1, vectors.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    factor = (step ^ (step >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) | np.uint64(1)
    out = np.empty(len(vectors), np.uint64)
    for first in range(0, len(vectors), _HASH_ROWS):
        some = vectors[first : first + _HASH_ROWS].astype(np.float32) + np.float32(0)  # -0 becomes 0
        out[first : first + _HASH_ROWS] = np.einsum("nd,d->n", some.view(np.uint32).astype(np.uint64), factor)
    return out


def _equal(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool [pairs]; whether rows `a` and `b` are equal, in every number."""
    out = np.empty(len(a), np.bool_)
    for first in range(0, len(a), TILE):
        some = slice(first, first + TILE)
        out[some] = (vectors[a[some]] == vectors[b[some]]).all(axis=1)
    return out


def _blocks(queries: np.ndarray, gallery: np.ndarray, distinct: np.ndarray | None) -> Iterator[np.ndarray]:
    """The three measures of the module's docstring, for checked input; to the rows `distinct` of the gallery (None: to all)."""
    columns = len(gallery) if distinct is None else len(distinct)
    middle = gallery.mean(axis=0, dtype=np.float64).astype(np.float32)
    tiles = [slice(first, min(first + TILE, columns)) for first in range(0, columns, TILE)]
    norm = np.concatenate([_norms(_rows(gallery, distinct, tile) - middle) for tile in tiles]).astype(np.float32)
    rows = min(BLOCK, max(_LEAST, _BLOCK_BYTES // (4 * columns) // _LEAST * _LEAST))
    # made once: fresh memory for each tile costs as much as what is done with it
    shifted, scales, nears = (
        np.empty((TILE, gallery.shape[1]), np.float32),
        np.empty((rows, TILE), np.float32),
        np.empty((rows, TILE), bool),
    )
    for first in range(0, len(queries), rows):
        some = queries[first : first + rows]
        centred = some - middle
        own_norm = _norms(centred).astype(np.float32)
        centred *= np.float32(-2)  # exact
        out = np.empty((len(some), columns), np.float32)
        for tile in tiles:
            entries, width = _rows(gallery, distinct, tile), tile.stop - tile.start
            part, scale, near = out[:, tile], scales[: len(some), :width], nears[: len(some), :width]
            np.matmul(centred, np.subtract(entries, middle, out=shifted[:width]).T, out=part)
            part += np.add(own_norm[:, None], norm[tile], out=scale)
            scale *= np.float32(NEAR)
            count = np.count_nonzero(np.less(part, scale, out=near))
            if count > MANY * near.size:
                near = _in_float64(part, some, entries, middle)
            if count:
                q, g = np.divmod(np.flatnonzero(near), width)
                part[q, g] = pair_distances(some, q, entries, g)
        yield out


def _rows(gallery: np.ndarray, distinct: np.ndarray | None, tile: slice) -> np.ndarray:
    return gallery[tile] if distinct is None else gallery[distinct[tile]]


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)


def _in_float64(part: np.ndarray, queries: np.ndarray, entries: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Overwrite `part` by a float64 product; returns where that is not good enough either, bool."""
    left, right = queries - middle.astype(np.float64), entries - middle.astype(np.float64)
    scale = np.add.outer(_norms(left), _norms(right))
    made = scale - 2 * (left @ right.T)
    part[:] = made
    return made < NEAREST * scale
