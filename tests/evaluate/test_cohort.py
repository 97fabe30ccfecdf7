"""Adaptive s-norm: the golden trial of specs/avcleanse.md section 6.3, plain loops, refusals."""

from __future__ import annotations

import statistics as plain

import numpy as np
import pytest

from evaluate import cohort
from evaluate.cohort import identity_means, normalise, statistics
from evaluate.score_trials import trial_scores, unit
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng

FOUR = np.array([(1, 0), (0.8, 0.6), (0, 1), (-1, 0)])
TWO = np.array([(1, 0), (0.6, 0.8)], np.float32)


def test_the_golden_trial():
    mean, deviation = statistics(TWO, FOUR, 3)
    assert normalise(np.array([0.6], np.float32), np.array([0]), np.array([1]), mean, deviation)[0] == pytest.approx(-0.5174549, abs=1e-6)
    assert normalise(np.array([0.6], np.float32), np.array([0]), np.array([0]), mean, deviation)[0] == pytest.approx(0, abs=1e-6)
    whole = statistics(TWO, FOUR, 4)  # control: another top
    assert abs(normalise(np.array([0.6], np.float32), np.array([0]), np.array([1]), *whole)[0] + 0.5174549) > 0.1


@pytest.mark.parametrize("block", [1, 1 << 21])
def test_against_plain_loops(monkeypatch, block):
    monkeypatch.setattr(cohort, "BLOCK", block)
    random = rng(0, "cohort")
    items, others, code = (
        unit(random.normal(size=(9, 6)).astype(np.float32)),
        random.normal(size=(40, 6)),
        random.permutation(np.arange(40) % 13),
    )
    others = unit(others.astype(np.float32))
    left, right = random.integers(0, 9, 50), random.integers(0, 9, 50)
    found = normalise(trial_scores(items, left, right), left, right, *statistics(items, identity_means(others, code), 5))
    means = []
    for identity in range(13):
        total = np.sum([others[k].astype(float) for k in range(40) if code[k] == identity], axis=0)
        means.append(total / np.linalg.norm(total))
    for score, a, b in zip(found, left, right, strict=True):
        parts = []
        for side in (a, b):
            top = sorted((float(items[side].astype(float) @ mean) for mean in means), reverse=True)[:5]
            parts.append((float(items[a].astype(float) @ items[b].astype(float)) - plain.mean(top)) / plain.stdev(top))
        assert score == pytest.approx(sum(parts) / 2, abs=1e-5)
        assert (
            score != pytest.approx(parts[0], abs=1e-5) or a == b or parts[0] == pytest.approx(parts[1])
        )  # control: one side is not enough


def test_lengths_within_the_cohort_do_not_matter_but_identities_do():
    vectors = unit(rng(1, "cohort").normal(size=(6, 3)).astype(np.float32))
    once = identity_means(vectors, np.arange(6))
    assert identity_means(np.repeat(vectors, 3, axis=0), np.repeat(np.arange(6), 3)) == pytest.approx(once)
    assert np.linalg.norm(identity_means(vectors, np.array([1, 0, 0, 1, 2, 2])), axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("vectors", "others", "top", "message"),
    [
        (TWO, FOUR, 1, "its 1 nearest of 4 identities were asked for; expected 2..4"),
        (TWO, FOUR, 5, "expected 2..4"),
        (TWO, np.eye(3), 2, "vectors of 3 values, the trials' have 2"),
        (TWO, FOUR[[0, 0, 0, 3]], 3, "3 nearest identities are equally near to 2 items"),
    ],
)
def test_what_measures_nothing_is_refused(vectors, others, top, message):
    with pytest.raises(ScoreError, match=message):
        statistics(vectors, others, top)
    statistics(TWO, FOUR, 3)


def test_an_identity_without_direction_is_refused():
    with pytest.raises(ScoreError, match="vectors of 1 identities cancel out"):
        identity_means(np.array([(1, 0), (-1, 0), (0, 1)], np.float32), np.array([0, 0, 1]))
