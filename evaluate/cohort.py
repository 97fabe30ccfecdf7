"""Adaptive score normalisation of trials (s-norm): how far a score is from what either side gets against identities that are neither.

In:      vectors of length 1 of the items and of other identities (the cohort), scores of trials.   Out: scores, in standard deviations.
Source:  specs/avcleanse.md section 6.3. The method's author: cohort of training utterances, 400 nearest. Here one vector per identity
         (of single utterances the nearest 400 are a few identities), all of length 1, and standard deviations with n - 1.
"""

from __future__ import annotations

import numpy as np

from pipeline.base.errors import ScoreError

BLOCK = 1 << 21
"""Cosines that are held at once: 16 MB in float64."""


def identity_means(vectors: np.ndarray, code: np.ndarray) -> np.ndarray:
    """One vector per identity: the mean of its items, scaled to length 1.

    Args:
        vectors: float32 [items, D], of length 1.
        code: integers [items]; codes from 0 of the identities, none left out.

    Returns:
        float64 [identities, D].

    Raises:
        ScoreError: the items of an identity cancel out.
    """
    order = np.argsort(code, kind="stable")
    total = np.add.reduceat(vectors[order].astype(np.float64), np.searchsorted(code[order], np.arange(int(code.max()) + 1)))
    mean = total / np.bincount(code)[:, None]
    length = np.sqrt(np.einsum("nd,nd->n", mean, mean))
    if (length < 1e-6).any():
        raise ScoreError(
            f"cohort: the vectors of {int((length < 1e-6).sum())} identities cancel out, so these have no direction; leave them out"
        )
    return mean / length[:, None]


def statistics(vectors: np.ndarray, cohort: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1) of each item's highest cosines to the cohort.

    Args:
        vectors: float32 [items, D], of length 1.
        cohort: float64 [identities, D], of length 1.
        top: how many of the highest count; 2..identities.

    Returns:
        (mean, deviation): float64 [items].

    Raises:
        ScoreError: a `top` that the cohort does not have, other widths, or cosines that do not differ.
    """
    if vectors.shape[1] != cohort.shape[1]:
        raise ScoreError(f"cohort: vectors of {cohort.shape[1]} values, the trials' have {vectors.shape[1]}; take both from one network")
    if not 2 <= top <= len(cohort):
        raise ScoreError(f"cohort: its {top} nearest of {len(cohort)} identities were asked for; expected 2..{len(cohort)}")
    mean, deviation = np.empty((2, len(vectors)))
    step = max(BLOCK // len(cohort), 1)
    for first in range(0, len(vectors), step):
        cosines = vectors[first : first + step].astype(np.float64) @ cohort.T
        nearest = np.partition(cosines, len(cohort) - top, axis=1)[:, len(cohort) - top :]
        mean[first : first + step] = nearest.mean(axis=1)
        deviation[first : first + step] = nearest.std(axis=1, ddof=1)
    if (deviation < 1e-9).any():
        raise ScoreError(
            f"cohort: the {top} nearest identities are equally near to {int((deviation < 1e-9).sum())} items, so there is nothing to measure by; "
            "take other identities, or more"
        )
    return mean, deviation


def normalise(scores: np.ndarray, left: np.ndarray, right: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Mean over both sides of (score - mean) / deviation.

    Args:
        scores: float32 [trials].
        left, right: integers [trials], rows of `mean` and `deviation`, which are those of :func:`statistics`.

    Returns:
        float32 [trials].
    """
    exact = scores.astype(np.float64)
    return (((exact - mean[left]) / deviation[left] + (exact - mean[right]) / deviation[right]) / 2).astype(np.float32)
