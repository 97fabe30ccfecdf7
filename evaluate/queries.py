"""What every single query came to: the table QUERIES, from which all scores of retrieval are means.

In:      :class:`evaluate.protocols.Outcome`, or the table.   Out: rows of the table; per query, what it adds to each mean; intervals.
Source:  specs/datasets.md section 8 for the metrics. Ours: one table per scored run, so that means over seeds and splits get an
         interval over queries, not only a spread over runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.bootstrap import Part, intervals
from evaluate.protocols import Outcome, Subjects
from pipeline.base import tables
from pipeline.base.config import ScoringConfig
from pipeline.base.errors import ScoreError
from pipeline.base.files import digest_file

RANKS = (1, 5, 10, 20)
METRICS = (*(f"R{k}" for k in RANKS), "mAP", "mINP")
DISTANCE, RERANKED = "distance", "reranked"
"""What a ranking is by."""

Interval = tuple[float, float] | None


def rows(ranking: str, outcome: Outcome, subjects: Subjects) -> Iterator[dict[str, Any]]:
    """QUERIES of one protocol."""
    result, inp = outcome.per_query, _inp(outcome)
    for i, row in enumerate(outcome.query.tolist()):
        yield {
            "ranking": ranking,
            "protocol": outcome.protocol.name,
            "query": subjects.tracklet[row],
            "identity": str(subjects.identity[row]),
            "camera": int(subjects.camera[row]),
            "good": int(result.good[i]),
            "removed": int(result.removed[i]),
            "first": int(result.first[i]),
            "ap": None if np.isnan(result.ap[i]) else float(result.ap[i]),
            "inp": None if np.isnan(inp[i]) else float(inp[i]),
        }


def _inp(outcome: Outcome) -> np.ndarray:
    """float64 [queries]; NaN for all where the protocol does not define it."""
    return outcome.per_query.inp if outcome.protocol.ap == "hit" else np.full(len(outcome.query), np.nan)


@dataclass(frozen=True, slots=True)
class Answers:
    """All queries of one run by one protocol, in the order of their names."""

    query: Sequence[str]
    identity: Sequence[str]
    good: np.ndarray
    """int64 [queries]; right answers left; 0: not valid."""
    values: np.ndarray
    """float64 [queries, metrics]; what each adds to the mean of each of `METRICS`; NaN where that is not defined."""

    def over(self, averaged_over: str) -> Answers:
        """Those that the protocol averages over: 'valid' or 'all'."""
        if averaged_over == "all":
            return self
        stay = np.flatnonzero(self.good > 0).tolist()
        return Answers([self.query[i] for i in stay], [self.identity[i] for i in stay], self.good[stay], self.values[stay])


def answers(outcome: Outcome, subjects: Subjects) -> Answers:
    """Of a protocol just applied."""
    result, row = outcome.per_query, outcome.query
    values = _values(result.first, result.ap, _inp(outcome))
    return Answers([subjects.tracklet[i] for i in row], [str(name) for name in subjects.identity[row]], result.good, values)


def _values(first: np.ndarray, ap: np.ndarray, inp: np.ndarray) -> np.ndarray:
    return np.stack([*((first > 0) & (first <= k) for k in RANKS), ap, inp], axis=1).astype(np.float64)


def read_answers(path: Path, digest: str) -> dict[tuple[str, str], Answers]:
    """By ranking and protocol.

    Args:
        path: QUERIES.
        digest: SHA-256 that the metrics.json beside it noted.

    Raises:
        ScoreError: it is not there, or another one than that of the metrics.
    """
    if not path.is_file():
        raise ScoreError(f"{path}: no such file; every metrics.json has one beside it, so score this run again")
    if digest_file(path) != digest:
        raise ScoreError(f"{path}: not the table that metrics.json beside it was written with; score this run again")
    table = tables.read(path, tables.QUERIES)
    kinds = list(zip(*(table.column(name).to_pylist() for name in ("ranking", "protocol")), strict=True))
    column = {name: table.column(name).to_numpy() for name in ("good", "first", "ap", "inp")}  # null becomes NaN
    values = _values(column["first"], column["ap"], column["inp"])
    names, identities = (np.array(table.column(name).to_pylist(), dtype=object) for name in ("query", "identity"))
    rows_of: dict[tuple[str, str], list[int]] = {}
    for i, kind in enumerate(kinds):
        rows_of.setdefault(kind, []).append(i)
    return {
        kind: Answers(names[here].tolist(), identities[here].tolist(), column["good"][here].astype(np.int64), values[here])
        for kind, here in rows_of.items()
    }


def over_runs(test_set: str, by_split: dict[str, list[Answers]], how: ScoringConfig) -> dict[str, Interval]:
    """By metric: the interval of a mean over runs.

    Args:
        test_set: name of the data set that is tested.
        by_split: its split -> what each run on it came to, all over the queries that are averaged over.

    Raises:
        ScoreError: runs on one split had other queries.
    """
    parts = []
    for split, runs in by_split.items():
        first = runs[0]
        if any(list(other.query) != list(first.query) for other in runs):
            raise ScoreError(
                f"{test_set}, split {split}: its runs were scored over other queries, so their mean would mean nothing; score them again"
            )
        unit = first.query if how.unit == "query" else first.identity
        parts.append(Part(np.mean([run.values for run in runs], axis=0), unit, len(runs)))
    return dict(zip(METRICS, intervals(test_set, parts, how), strict=True))
