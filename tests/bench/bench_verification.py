"""Scoring of a list of trials as long as Vox1-E (cleaned): pairs of 192 values, EER, minDCF, intervals, each beside a plain way.

All ways give the same numbers (checked). The vectors are drawn: 1,251 identities with 123 items each, as many as Vox1 has utterances. One core, CPU time,
interleaved, median; loops in Python are measured on a part of the trials and scaled, where the row says so. A row in MB: most memory that
one call held at once.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from evaluate.score import TRAINING_OF
from evaluate.score_trials import Wanted, metrics, trial_scores, unit
from evaluate.verification import Trials
from pipeline.base import tables
from pipeline.base.config import MethodConfig, RunConfig, ScoringConfig, StageConfig
from pipeline.base.seeds import rng
from tests.bench.timing import interleaved, row

TRIALS, IDENTITIES, ITEMS, WIDTH = 579_818, 1251, 123, 192
P_TARGETS = (0.05, 0.01)
ALLOWED = 3.0
"""Seconds from checked tables to EER and minDCF."""
ROUNDS, PART, SAMPLES = 3, 20, 10
"""PART: one in so many trials goes through the loop; SAMPLES: bootstrap samples."""


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Seconds and MB; `scale` shrinks the list and the number of identities."""
    identities = max(8, round(IDENTITIES * scale))
    vectors, left, right = _problem(identities, max(200, round(TRIALS * scale)))
    same = left // ITEMS == right // ITEMS
    size = f"{len(left):,} trials x {WIDTH}"
    return [
        *_scores(vectors, left, right, size),
        *_numbers(trial_scores(unit(vectors), left, right), same, (left // ITEMS, right // ITEMS)),
        _step(vectors, left, right, same, size),
    ]


def _problem(identities: int, trials: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 vectors, not of length 1; rows of both sides, half of them of one identity; no pair twice."""
    random = rng(0, "bench", "verification")
    middle = random.normal(size=(identities, 1, WIDTH)).astype(np.float32)
    vectors = (middle + np.float32(2.5) * random.standard_normal((identities, ITEMS, WIDTH), np.float32)).reshape(-1, WIDTH)
    left = random.integers(0, len(vectors), 2 * trials)
    within = left // ITEMS * ITEMS + random.integers(0, ITEMS, 2 * trials)
    right = np.where(np.arange(2 * trials) % 2 == 0, within, random.integers(0, len(vectors), 2 * trials))
    _, first = np.unique(np.minimum(left, right) * len(vectors) + np.maximum(left, right), return_index=True)
    chosen = np.sort(first[left[first] != right[first]])[:trials]
    return vectors, left[chosen], right[chosen]


def _scores(vectors: np.ndarray, left: np.ndarray, right: np.ndarray, size: str) -> list[dict[str, Any]]:
    """Vectors to cosines: ours, one trial at a time, and all at once."""
    part = slice(0, len(left), PART)

    def ours() -> np.ndarray:
        return trial_scores(unit(vectors), left, right)

    def loop() -> list[float]:
        names = {f"item{k}": vector for k, vector in enumerate(unit(vectors))}
        return [float(names[f"item{a}"] @ names[f"item{b}"]) for a, b in zip(left[part].tolist(), right[part].tolist(), strict=True)]

    def at_once() -> np.ndarray:
        length = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return (length[left] * length[right]).sum(axis=1)

    exact = ours()
    for other, those in ((loop(), exact[part]), (at_once(), exact)):
        if np.abs(np.array(other) - those).max() > 1e-6:
            raise AssertionError("the rivals disagree on scores")
    mine, normalised, looped, gathered = interleaved(ROUNDS, ours, lambda: unit(vectors), loop, at_once)
    loop_cpu = normalised.cpu + (looped.cpu - normalised.cpu) * PART
    return [
        row(f"scores of {size}", mine.cpu, loop_cpu, "s", f"a Python loop over names, on 1 of {PART} trials, scaled"),
        row(f"scores of {size}", mine.cpu, gathered.cpu, "s", "both sides gathered at once, in float32"),
        row("the same, memory", _most(ours), _most(at_once), "MB", "both sides gathered at once, in float32"),
    ]


def _most(work: Callable[[], object]) -> float:
    """MB that were allocated at once while `work` ran, its result included."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


def _numbers(scores: np.ndarray, same: np.ndarray, sides: tuple[np.ndarray, np.ndarray]) -> list[dict[str, Any]]:
    """Scores to EER and minDCF by two P_target in the reference form, and bootstrap samples in ours."""
    found: dict[str, np.ndarray] = {}

    def by(name: str, work: Callable[[], object]) -> Callable[[], None]:
        return lambda: found.update({name: np.array(work())})

    def ours() -> list[float]:
        trials = Trials(scores, same)
        return [trials.equal_error_rate("reference"), *(trials.min_detection_cost(p, "reference") for p in P_TARGETS)]

    def lists() -> list[float]:
        return [_eer_by_sorting(scores, same), *(_cost_by_lists(scores.tolist(), same.tolist(), p) for p in P_TARGETS)]

    def sorts() -> list[float]:
        return [_eer_by_sorting(scores, same), *(_cost_by_sorting(scores, same, p) for p in P_TARGETS)]

    mine, listed, sorted_each = interleaved(1, by("ours", ours), by("lists", lists), by("sorts", sorts), warm=False)
    if not (np.array_equal(found["ours"], found["sorts"]) and np.abs(found["ours"] - found["lists"]).max() < 1e-12):
        raise AssertionError(f"the rivals disagree on EER and minDCF: {found}")

    def resorted() -> np.ndarray:
        trials, rising = Trials(scores, same), np.argsort(scores, kind="stable")
        answer, out = same[rising], []
        for within, between in trials._by_identity(SAMPLES, 0, *sides):
            weights = np.empty(len(same), np.int64)
            weights[answer], weights[~answer] = within, between
            again = Trials(np.repeat(scores[rising], weights), np.repeat(answer, weights))
            out.append([again.equal_error_rate(), *(again.min_detection_cost(p) for p in P_TARGETS)])
        return np.array(out)

    weighed, repeated = interleaved(
        1, by("weights", lambda: Trials(scores, same).resampled(P_TARGETS, SAMPLES, 0, sides)), by("repeats", resorted), warm=False
    )
    if np.abs(found["weights"] - found["repeats"]).max() > 1e-12:
        raise AssertionError("the rivals disagree on bootstrap samples")
    size, samples = f"{len(same):,} scores", f"{SAMPLES} bootstrap samples over identities"
    return [
        row(f"EER and two minDCF of {size}", mine.cpu, listed.cpu, "s", "full sorts, costs by lists in Python, trial by trial"),
        row(f"EER and two minDCF of {size}", mine.cpu, sorted_each.cpu, "s", "one full sort in NumPy per number"),
        row(samples, weighed.cpu, repeated.cpu, "s", "repeat the drawn trials and sort them"),
    ]


def _eer_by_sorting(scores: np.ndarray, same: np.ndarray) -> float:
    """A ROC as libraries make it: falling scores, last trial of each distinct one, points on straight lines dropped."""
    order = np.argsort(scores, kind="stable")[::-1]
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    accepted = np.cumsum(same[order].astype(np.float64))[last]
    passed = 1 + last - accepted
    kept = np.concatenate([[True], (np.diff(accepted, 2) != 0) | (np.diff(passed, 2) != 0), [True]])
    fpr, fnr = (np.append(0.0, points[kept]) / points[-1] for points in (passed, accepted))
    fnr = 1 - fnr
    at = np.argmin(np.abs(fnr - fpr))
    return float(max(fnr[at], fpr[at]))


def _cost_by_lists(scores: list[float], same: list[bool], p_target: float) -> float:
    """One trial after the other is rejected, from the lowest score."""
    positives = sum(same)
    negatives, missed, rejected, lowest = len(same) - positives, 0, 0, 1.0
    for _, answer in sorted(zip(scores, same, strict=True), key=itemgetter(0)):
        missed, rejected = missed + answer, rejected + 1 - answer
        lowest = min(lowest, p_target * (missed / positives) + (1 - p_target) * (1 - rejected / negatives))
    return lowest / min(p_target, 1 - p_target)


def _cost_by_sorting(scores: np.ndarray, same: np.ndarray, p_target: float) -> float:
    answer = same[np.argsort(scores, kind="stable")]
    fnr, fpr = np.cumsum(answer) / answer.sum(), 1 - np.cumsum(~answer) / (~answer).sum()
    return float((p_target * fnr + (1 - p_target) * fpr).min() / min(p_target, 1 - p_target))


def _step(vectors: np.ndarray, left: np.ndarray, right: np.ndarray, same: np.ndarray, size: str) -> dict[str, Any]:
    """From tables in memory, names and all checks, to EER and minDCF in both forms."""
    count = len(vectors)
    names = np.array([f"id{k // ITEMS + 10001}_{k:06d}" for k in range(count)])
    embeddings = pa.table(
        {
            "tracklet": names,
            "modality": ["frames"] * count,
            "role": ["trial"] * count,
            "identity": [f"id{k // ITEMS + 10001}" for k in range(count)],
            "kind": ["person"] * count,
            "camera": np.zeros(count, np.int16),
            "clips": np.ones(count, np.int32),
            "vector": pa.ListArray.from_arrays(
                pa.array(np.arange(count + 1, dtype=np.int32) * WIDTH),
                pa.array(vectors.ravel()),
                tables.EMBEDDINGS.arrow.field("vector").type,
            ),
        },
        schema=tables.EMBEDDINGS.arrow,
    )
    trials = pa.table({"left": names[left], "right": names[right], "same": same}, schema=tables.TRIALS.arrow)
    stage = StageConfig(network="dubbernet_student")
    run = RunConfig(
        method="m", dataset="d", split="0", seed=0, stage="student", companion="none", test_companion="none", kind="", bands=0, item_frames=0,
        height=32, width=16, this=stage, settings=MethodConfig(stages={"student": stage}, companion="none"),
    )  # fmt: skip
    wanted = Wanted(name="bench", p_targets=P_TARGETS, scoring=ScoringConfig(resamples=0))
    meta = {name: getattr(run, name) for name in TRAINING_OF}
    (spent,) = interleaved(ROUNDS, lambda: metrics(embeddings, meta, run, trials, wanted), warm=False)
    return row(f"{size} from tables to EER and minDCF", spent.cpu, ALLOWED, "s", f"what is allowed; {count:,} embeddings, all checks")
