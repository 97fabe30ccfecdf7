"""Bootstrap intervals over queries: how far a mean might have come out elsewhere, had other queries of the same kind been asked.

In:      per query: what it scored, and which queries are drawn together.   Out: percentiles of means over drawn queries.
Source:  Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval. Ours: which draws are shared.

Queries are drawn with replacement, as many as there are; the networks, the gallery and the split stay as they are. Over several
trainings on one split a query is drawn with all its answers, so the interval says nothing about seeds: their spread stands beside it.
Over several splits each split draws its own queries. The draws depend on the test set and its split alone: two protocols, two networks
or two lists of the same queries meet the same draws.
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
_AT_ONCE = 1 << 21
"""Drawn numbers in memory at a time."""


@dataclass(frozen=True, slots=True)
class Part:
    """The queries of one split that a mean is over."""

    name: str
    """Test set and split: what the draws are seeded with."""
    values: np.ndarray
    """float64 [queries, metrics], in the order of the queries' names; NaN where a metric is not defined."""
    unit: np.ndarray
    """int64 [queries]; queries of one number are drawn together."""


def units(identity: Sequence[str], unit: str) -> np.ndarray:
    """Numbers of what is drawn.

    Args:
        identity: of each query.
        unit: 'query': each by itself; 'identity': all queries of a person at once.

    Returns:
        int64 [queries], from 0.
    """
    if unit == "query":
        return np.arange(len(identity))
    return np.unique(np.array(identity, dtype=str), return_inverse=True)[1].astype(np.int64)


def intervals(parts: Sequence[Part], how: ScoringConfig) -> list[tuple[float, float] | None]:
    """One interval per metric, for the mean over parts of the mean over queries.

    Args:
        parts: one per split; each has the same metrics.
        how: resamples, confidence.

    Returns:
        (low, high) in the unit of the values; None where a value is not defined, no interval is wanted, or all that is drawn scores alike:
        a bootstrap would then call any number certain, be it of two queries.

    Raises:
        ScoreError: a part has no query, or values and units do not fit.
    """
    for part in parts:
        if part.values.ndim != 2 or len(part.values) != len(part.unit) or not len(part.unit):
            raise ScoreError(
                f"{part.name}: values {part.values.shape} of {len(part.unit)} queries; expected one row for each, and at least one"
            )
    if not parts or not how.resamples:
        return [None] * (parts[0].values.shape[1] if parts else 0)
    means = np.mean([_means(part, how.resamples) for part in parts], axis=0)
    low, high = np.quantile(means, [(1 - how.confidence) / 2, (1 + how.confidence) / 2], axis=0)
    told = ~np.isnan(low) & (means.min(axis=0) < means.max(axis=0))
    return [(float(a), float(b)) if known else None for a, b, known in zip(low, high, told, strict=True)]


def _means(part: Part, resamples: int) -> np.ndarray:
    """float64 [resamples, metrics]: the mean over drawn queries, draw by draw."""
    number = int(part.unit.max()) + 1
    size = np.bincount(part.unit, minlength=number)
    total = np.stack([np.bincount(part.unit, column, minlength=number) for column in part.values.T], axis=1)
    draw = rng(SEED, "bootstrap", part.name)
    out = np.empty((resamples, total.shape[1]))
    step = max(1, _AT_ONCE // number)
    for first in range(0, resamples, step):
        drawn = draw.integers(number, size=(min(step, resamples - first), number))
        queries = size[drawn].sum(axis=1)
        for metric, sums in enumerate(total.T):
            out[first : first + step, metric] = sums[drawn].sum(axis=1) / queries
    return out
