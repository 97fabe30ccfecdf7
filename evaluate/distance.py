"""Squared Euclidean distances between two sets of vectors, block by block.

In:      float32 [queries, D], float32 [gallery, D].   Out: blocks float32 [some queries, gallery].
Source:  specs/dubbernet.md section 7.1 (squared Euclidean, features as they are). Ours: where float32 is safe.

|q|^2 + |g|^2 - 2 q.g is one fast matrix product, but loses digits where the distance is small against the norms. Three
measures keep every distance within a relative 1e-5 of float64 arithmetic (2e-7 seen on random vectors, tests/evaluate):
the mean of the gallery is taken off both sides first (a distance does not change, norms become small: an untrained
network's vectors are nearly all the same); norms are summed in float64; and every entry below NEAR times the sum of the two
norms is computed again in float64 from the difference itself. So equal vectors are at distance 0
exactly; and equal gallery vectors are computed once, so they tie exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.base.errors import ScoreError

BLOCK = 256
"""Queries per block: 9.5 MB of distances for 9,330 gallery entries."""
NEAR = 1e-2
"""Part of |q|^2 + |g|^2 below which a distance is computed again in float64."""
_AGAIN = 1 << 16
"""Pairs computed again at once: bounds the memory."""


def require_finite(vectors: np.ndarray, what: str) -> None:
    """Refuse NaN and infinity: a NaN compares as neither near nor far, so every rank behind it would be arbitrary.

    Raises:
        ScoreError: names the first bad row of `vectors` [rows, D] and how many there are.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
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
        block: queries per block.

    Yields:
        float32 [at most block, gallery]; 0 or more.

    Raises:
        ScoreError: different D, or a number that is not finite.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ScoreError(f"vectors of queries {queries.shape} and gallery {gallery.shape}: expected [rows, D] with one D")
    require_finite(queries, "queries")
    require_finite(gallery, "gallery")
    distinct, back = _distinct(gallery)
    for out in _blocks(queries, distinct, block):
        yield out if back is None else np.take(out, back, axis=1)


def _distinct(gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows of `gallery` without repeats, and for each row its place among them (None: there are no repeats).

    A matrix product may round equal columns differently, depending on where they stand in its tiles. Equal vectors must be
    equally near, else their order would not be the gallery's but the machine's.
    """
    rows = np.ascontiguousarray(gallery + np.float32(0))  # -0 becomes 0
    as_bytes = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, first, back = np.unique(as_bytes, return_index=True, return_inverse=True)
    return (gallery, None) if len(first) == len(gallery) else (gallery[first], back)


def _blocks(queries: np.ndarray, gallery: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """The three measures of the module's docstring, for checked input."""
    middle = gallery.mean(axis=0, dtype=np.float64)
    left = (queries - middle).astype(np.float32)
    right = (gallery - middle).astype(np.float32)
    left_norm = np.einsum("qd,qd->q", left, left, dtype=np.float64)
    right_norm = np.einsum("gd,gd->g", right, right, dtype=np.float64).astype(np.float32)
    doubled = np.ascontiguousarray(right.T) * np.float32(-2)
    for first in range(0, len(left), block):
        rows = slice(first, first + block)
        scale = left_norm[rows, None].astype(np.float32) + right_norm
        out = left[rows] @ doubled
        out += scale
        scale *= np.float32(NEAR)
        _again(out, np.nonzero(out < scale), queries[rows], gallery)
        yield out


def _again(out: np.ndarray, near: tuple[np.ndarray, ...], queries: np.ndarray, gallery: np.ndarray) -> None:
    """Overwrite the entries `near` of `out` with float64 sums of squared differences (rounded once, to float32)."""
    for first in range(0, len(near[0]), _AGAIN):
        q, g = near[0][first : first + _AGAIN], near[1][first : first + _AGAIN]
        difference = queries[q].astype(np.float64) - gallery[g]
        out[q, g] = np.einsum("nd,nd->n", difference, difference)
