"""Squared Euclidean distances between two sets of vectors, block by block; and exactly, for single pairs.

In:      float32 [queries, D], float32 [gallery, D].   Out: blocks float32 [some queries, gallery]; float64 [pairs].
Source:  specs/dubbernet.md section 7.1 (squared Euclidean, features as they are). Ours: where float32 is safe, and the memory.

|q|^2 + |g|^2 - 2 q.g is one fast matrix product, but loses digits where the distance is small against the norms. Measures:

* the mean of the gallery is taken off both sides first: a distance does not change, norms become small (an untrained network's
  vectors are nearly all the same);
* norms are summed in float64;
* products are cut into pieces of at most PIECE numbers of the vectors, so that the rounding errors of one sum stay few;
* an entry below NEAR times the sum of the two norms is computed again: from the difference itself, in float64, or where a
  tile has too many of them by a float64 product first, and from the difference what is below NEAREST;
* vectors that are very long or very short are scaled by a power of two, which changes no digit (`SquaredDistances.unit`).

What is handed out is so off by no more than `SquaredDistances.error` times the sum of the two norms: a bound, not what was seen (2e-5 at
most, of which random vectors use a hundredth). Near entries have all digits of float32, equal vectors are at distance 0 exactly (-0
and 0 are equal), and equal gallery vectors are computed once, so they tie exactly.

Distances of different vectors may tie, too (integers, quantised features), and rounding would break such a tie. `margins` says below
which difference it could, and `exact` what the distances are: with both, `evaluate.retrieval` has the ranks of a float64 matrix.

Nothing of the gallery's size is made but the block that is handed out and a few numbers for each row: rows are gathered and centred
TILE at a time, and equal rows are found by hashes, which only say what is to be compared. The products are cut by the sizes of
the two sets and never by `block`, so on one machine, with one number of threads, every block size gives the same bits. Another
processor may change the last ones: its matrix product adds in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pipeline.base.errors import ScoreError

BLOCK = 256
"""Queries per block at most: 9.5 MB of distances for 9,330 gallery entries."""
PIECE = 256
"""Numbers of the vectors that one product adds up: a longer sum has a larger bound of its error, and is no faster."""
NEAR = 0.15
"""Part of |q|^2 + |g|^2 below which a float32 product is not trusted: its digits are those of that sum."""
NEAREST = 1e-6
"""The same for a float64 product, whose error is below 1e-12 of that sum (for D up to 4096)."""
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
_SHORT, _LONG = 2.0**-40, 2.0**100
"""Largest squared norm for which vectors are taken as they are."""
_FLOOR = 2.0**-100
"""In units of `SquaredDistances.unit`, what a float32 product could lose below its range: such an entry is near."""
LOST = 2.0**-125
"""The same of one number: smaller ones have fewer digits in float32."""
_LARGEST = 2.0**126
"""Numbers from which a difference could leave the range of float32."""


class Rows:
    """Some rows of an array, gathered where and when they are asked for: a copy of most of a large set would be a second large set.

    Args:
        vectors: float32 [any, D].
        rows: int [rows]; rows of `vectors`.
    """

    def __init__(self, vectors: Vectors, rows: np.ndarray) -> None:
        self.vectors, self.rows, self.ndim = vectors, rows, 2
        self.shape: tuple[int, ...] = (len(rows), *vectors.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice | np.ndarray) -> np.ndarray:
        return self.vectors[self.rows[some]]


Vectors = np.ndarray | Rows
"""float32 [rows, D]; taken by slices and by arrays of rows."""


def together(first: Vectors, second: Vectors) -> Vectors:
    """The rows of both, one after the other; no copy where both are rows of one array."""
    if isinstance(first, Rows) and isinstance(second, Rows) and first.vectors is second.vectors:
        return Rows(first.vectors, np.concatenate([first.rows, second.rows]))
    return np.concatenate([first[:], second[:]])


def require_finite(vectors: Vectors, what: str) -> None:
    """Refuse NaN, infinity, and what is next to it: a NaN compares as neither near nor far, so every rank behind it would be arbitrary.

    Raises:
        ScoreError: names the first bad row of `vectors` [rows, D] and how many there are.
    """
    bad: list[np.ndarray] = []
    for first in range(0, len(vectors), TILE):
        some = vectors[first : first + TILE]
        if some.size and not (some.max() < _LARGEST and some.min() > -_LARGEST):  # NaN is neither
            bad.append(first + np.flatnonzero(~(np.abs(some) < _LARGEST).all(axis=1)))
    if bad:
        rows = np.concatenate(bad)
        found = vectors[rows[:1]][0]
        kind = "NaN or infinity" if not np.isfinite(found).all() else f"a number beyond {_LARGEST:.0e} (the largest of float32 is 3e+38)"
        raise ScoreError(
            f"{what}: {len(rows)} of {len(vectors)} vectors hold {kind}, the first is row {rows[0]}; the network diverged or was "
            "fed broken input, so there is no score"
        )


def squared_distances(queries: Vectors, gallery: Vectors, block: int = BLOCK) -> SquaredDistances:
    """Distances of some queries at a time to the whole gallery.

    Args:
        queries: float32 [queries, D].
        gallery: float32 [gallery, D]; at least one row.
        block: queries per block at most; a large gallery has smaller blocks.

    Returns:
        To iterate over: float32 [at most block, gallery]; 0 or more. To rank by: `evaluate.retrieval.retrieve` takes it as it is.

    Raises:
        ScoreError: different D, no gallery, a block of no query, or a number that is not finite.
    """
    return SquaredDistances(queries, gallery, block)


class SquaredDistances:
    """All distances between two sets, made block by block; arguments and errors as for :func:`squared_distances`."""

    def __init__(self, queries: Vectors, gallery: Vectors, block: int = BLOCK) -> None:
        if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
            raise ScoreError(f"vectors of queries {queries.shape} and gallery {gallery.shape}: expected [rows, D] with one D")
        if not len(gallery) or block < 1:
            raise ScoreError(f"a gallery of {len(gallery)} vectors in blocks of {block} queries: expected at least 1 of each")
        require_finite(queries, "queries")
        require_finite(gallery, "gallery")
        self._queries, self._block = queries, block
        distinct, back = np.unique(first_equal(gallery), return_inverse=True)
        self._back = back if len(distinct) < len(gallery) else None
        """int64 [gallery]; column of `_columns`."""
        self._columns = gallery if self._back is None else Rows(gallery, distinct)
        """float32 [distinct, D]; every vector of the gallery once."""
        self._middle = _mean(gallery)
        own, norm = _centred_norms(queries, self._middle), _centred_norms(self._columns, self._middle)
        largest = max(own.max(initial=0.0), norm.max())
        self._exponent = 0 if largest == 0 or _SHORT <= largest <= _LONG else (math.frexp(largest)[1] - 1) // 2
        """Vectors are divided by 2 to this power."""
        self.unit = 4.0**self._exponent
        """What the numbers of :meth:`blocks` are to be multiplied by: a power of two, and 1 unless the vectors are very long or very short."""
        self._own, self._norm = own / self.unit, norm / self.unit
        numbers = gallery.shape[1]
        # one product: its pieces' sums, in any order, and their sum; 12 for centring, norms, and the sum of the three
        self.error = (min(numbers, PIECE) + math.ceil(numbers / PIECE) + 12) * 2.0**-24
        """Bound of the error of an entry, as a part of the two norms' sum."""
        self.relative = self.error / NEAR
        """The same as a part of the entry: what is not near is at least NEAR of that sum."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """The distances themselves.

        Raises:
            ScoreError: the vectors are so long or short that float32 does not hold their distances (ranks have no such limit).
        """
        if self._exponent:
            side, norms = max((("queries", self._own), ("gallery", self._norm)), key=lambda each: each[1].max(initial=0.0))
            row = norms.argmax() if side == "queries" or self._back is None else np.flatnonzero(self._back == norms.argmax())[0]
            raise ScoreError(
                f"{side}: row {row} is {math.sqrt(norms.max()) * 2.0**self._exponent:.3g} from the mean of the gallery, farther than all others; "
                "squared distances of that size do not fit float32; scale the vectors (scoring.normalise makes their length 1)"
            )
        return self.blocks()

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 [at most block, gallery], one after the other, in units of :attr:`unit`."""
        for out in self._made():
            whole = out if self._back is None else np.take(out, self._back, axis=1)
            for start in range(0, len(whole), self._block):
                yield whole[start : start + self._block]

    def margins(self, query: np.ndarray, entries: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """How far another entry's number has to be from an entry's own so that their order is certain.

        Args:
            query, entries: int [n]; rows of the queries and of the gallery.
            distance: float32 [n]; what :meth:`blocks` says of these pairs.

        Returns:
            float64 [n], in units of :attr:`unit`.
        """
        norm = self._norm[entries if self._back is None else self._back[entries]]
        absolute = self.error * (2 * self._own[query] + norm + self._norm.max())
        return np.minimum(absolute, 2.1 * self.relative * distance.astype(np.float64)) + LOST

    def exact(self, query: int, entries: np.ndarray) -> np.ndarray:
        """float64 [n]; distances of one query to some rows of the gallery, as :func:`pair_distances` has them."""
        wanted, back = (entries, None) if self._back is None else np.unique(self._back[entries], return_inverse=True)
        found = pair_distances(self._queries, np.full(len(wanted), query), self._columns, wanted)
        return found if back is None else found[back]

    def _made(self) -> Iterator[np.ndarray]:
        """The measures of the module's docstring; to every different row of the gallery."""
        columns, middle = len(self._columns), self._middle
        tiles = [slice(first, min(first + TILE, columns)) for first in range(0, columns, TILE)]
        rows = min(BLOCK, max(_LEAST, _BLOCK_BYTES // (4 * columns) // _LEAST * _LEAST))
        own_norm, norm = self._own.astype(np.float32), self._norm.astype(np.float32)
        # made once: fresh memory for each tile costs as much as what is done with it
        shifted = np.empty((min(TILE, columns), len(middle)), np.float32)
        scales, nears = np.empty((rows, len(shifted)), np.float32), np.empty((rows, len(shifted)), bool)
        for first in range(0, len(self._queries), rows):
            some, own = self._queries[first : first + rows], own_norm[first : first + rows, None]
            centred = np.ldexp(middle - some, 1 - self._exponent)  # -2 (some - middle), exactly
            out = np.empty((len(some), columns), np.float32)
            for tile in tiles:
                entries, width = self._columns[tile], tile.stop - tile.start
                part, scale, near, right = out[:, tile], scales[: len(some), :width], nears[: len(some), :width], shifted[:width]
                np.subtract(entries, middle, out=right)
                if self._exponent:
                    np.ldexp(right, -self._exponent, out=right)
                _product(centred, right, part, scale)
                part += np.add(own, norm[tile], out=scale)
                scale *= np.float32(NEAR)
                scale += np.float32(_FLOOR)
                count = np.count_nonzero(np.less(part, scale, out=near))
                if count > MANY * near.size:
                    near = self._in_float64(part, some, entries)
                if count:
                    q, g = np.divmod(np.flatnonzero(near), width)
                    part[q, g] = pair_distances(some, q, entries, g) / self.unit
            yield out

    def _in_float64(self, part: np.ndarray, queries: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """Overwrite `part` by a float64 product; returns where that is not good enough either, bool."""
        left, right = queries - self._middle.astype(np.float64), entries - self._middle.astype(np.float64)
        scale = np.add.outer(_norms(left), _norms(right))
        made = scale - 2 * (left @ right.T)
        part[:] = made / self.unit
        return made < NEAREST * scale


def pair_distances(left: Vectors, i: np.ndarray, right: Vectors, j: np.ndarray) -> np.ndarray:
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


def first_equal(vectors: Vectors) -> np.ndarray:
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


def _hashes(vectors: Vectors) -> np.ndarray:
    """uint64 [rows]; equal rows have equal ones. The multipliers are odd and fixed (steps of the golden ratio, mixed)."""
    step = np.arange(1, vectors.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    factor = (step ^ (step >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) | np.uint64(1)
    out = np.empty(len(vectors), np.uint64)
    for first in range(0, len(vectors), _HASH_ROWS):
        some = vectors[first : first + _HASH_ROWS].astype(np.float32) + np.float32(0)  # -0 becomes 0
        out[first : first + _HASH_ROWS] = np.einsum("nd,d->n", some.view(np.uint32).astype(np.uint64), factor)
    return out


def _equal(vectors: Vectors, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool [pairs]; whether rows `a` and `b` are equal, in every number."""
    out = np.empty(len(a), np.bool_)
    for first in range(0, len(a), TILE):
        some = slice(first, first + TILE)
        out[some] = (vectors[a[some]] == vectors[b[some]]).all(axis=1)
    return out


def _product(left: np.ndarray, right: np.ndarray, out: np.ndarray, spare: np.ndarray) -> None:
    """`left` [n, D] times `right` [m, D], transposed, into `out` [n, m], PIECE columns at a time; `spare` is of the shape of `out`."""
    np.matmul(left[:, :PIECE], right[:, :PIECE].T, out=out)
    for first in range(PIECE, left.shape[1], PIECE):
        piece = slice(first, first + PIECE)
        out += np.matmul(left[:, piece], right[:, piece].T, out=spare)


def _mean(vectors: Vectors) -> np.ndarray:
    """float32 [D], summed in float64."""
    total = np.zeros(vectors.shape[1])
    for first in range(0, len(vectors), TILE):
        total += vectors[first : first + TILE].sum(axis=0, dtype=np.float64)
    return (total / len(vectors)).astype(np.float32)


def _centred_norms(vectors: Vectors, middle: np.ndarray) -> np.ndarray:
    """float64 [rows]; squared."""
    out = np.empty(len(vectors))
    for first in range(0, len(vectors), TILE):
        out[first : first + TILE] = _norms(vectors[first : first + TILE] - middle)
    return out


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
