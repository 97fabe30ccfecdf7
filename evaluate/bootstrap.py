"""Bootstrap intervals over queries: how far a mean might have come out elsewhere, had other queries of the same kind been asked.

In:      per split: what each query scored, and which queries are drawn together.   Out: percentiles of means over drawn queries.
Source:  Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval. Ours: what is drawn over
         several splits of one data set.

Queries are drawn with replacement, as many as there are; the networks, the gallery and the split stay as they are. Over several
trainings on one split a query is drawn with all its answers, so the interval says nothing about seeds: their spread stands beside it.

Splits of one data set share persons: of ten halves of iLIDS-VID each person is in about five. So queries are drawn from all splits
together, once, and each split takes those of its own; drawing anew for each split would count a person's luck five times as if it
were independent, and give intervals that hold the truth in 57 to 72 of 100 cases instead of 95 (simulated: 300 persons, ten random halves;
tests/evaluate/test_bootstrap.py has a smaller form).
The draws are seeded with the name of the test set and nothing else: the same queries meet the same draws under any network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.base.config import ScoringConfig
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng

SEED = 0
"""Of all draws."""
ALIKE = 1e-12
"""Means over draws that differ by no more than rounding does."""
_AT_ONCE = 1 << 21
"""Drawn numbers in memory at a time."""


@dataclass(frozen=True, slots=True)
class Part:
    """The queries of one split that a mean is over."""

    values: np.ndarray
    """float64 [queries, metrics]; NaN where a metric is not defined."""
    unit: Sequence[str]
    """Of each query: what it is drawn with, its own name or that of its identity. One name means the same in every split."""
    weight: float = 1
    """How much the split counts in the mean."""


def intervals(test_set: str, parts: Sequence[Part], how: ScoringConfig) -> list[tuple[float, float] | None]:
    """One interval per metric, for the weighted mean over parts of the mean over queries.

    Args:
        test_set: name of the data set that is tested.
        parts: one per split; each has the same metrics.
        how: resamples, confidence.

    Returns:
        (low, high) in the unit of the values; None where a value is not defined, no interval is wanted, or all that is drawn scores alike:
        a bootstrap would then call any number certain, be it of two queries.

    Raises:
        ScoreError: there is no part, a part has no query, or values and units do not fit.
    """
    if not parts:
        raise ScoreError(f"{test_set}: no split to make an interval of")
    for part in parts:
        if part.values.ndim != 2 or len(part.values) != len(part.unit) or not len(part.unit):
            raise ScoreError(
                f"{test_set}: values {part.values.shape} of {len(part.unit)} queries; expected one row for each, and at least one"
            )
    if not how.resamples:
        return [None] * parts[0].values.shape[1]
    means = _means(test_set, parts, how.resamples)
    low, high = np.quantile(means, [(1 - how.confidence) / 2, (1 + how.confidence) / 2], axis=0)
    told = np.ptp(means, axis=0) > ALIKE  # NaN is not
    return [(float(a), float(b)) if known else None for a, b, known in zip(low, high, told, strict=True)]


def _means(test_set: str, parts: Sequence[Part], resamples: int) -> np.ndarray:
    """float64 [resamples, metrics]: the mean over drawn queries, draw by draw."""
    names = {name: i for i, name in enumerate(sorted({name for part in parts for name in part.unit}))}
    units = [np.array([names[name] for name in part.unit]) for part in parts]
    size = [np.bincount(unit, minlength=len(names)) for unit in units]
    total = [[np.bincount(unit, column, len(names)) for column in part.values.T] for part, unit in zip(parts, units, strict=True)]
    weight = np.array([part.weight for part in parts], np.float64)
    draw = rng(SEED, "bootstrap", test_set)
    out = np.empty((resamples, parts[0].values.shape[1]))
    step = max(1, _AT_ONCE // len(names))
    for first in range(0, resamples, step):
        drawn = draw.integers(len(names), size=(min(step, resamples - first), len(names)))
        queries = np.stack([one[drawn].sum(axis=1) for one in size])
        share = weight[:, None] * (queries > 0)  # a split of few queries may have none in a draw
        share /= share.sum(axis=0)
        for metric in range(out.shape[1]):
            sums = np.stack([one[metric][drawn].sum(axis=1) for one in total])
            out[first : first + step, metric] = (share * (sums / np.maximum(queries, 1))).sum(axis=0)
    return out
