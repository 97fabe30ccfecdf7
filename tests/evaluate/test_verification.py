"""Equal error rate and minDCF against the values of specs/avcleanse.md section 6.2."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.verification import equal_error_rate, error_rates, min_detection_cost
from pipeline.base.errors import ScoreError


def trials(positives, negatives):
    return np.array([*positives, *negatives], float), np.arange(len(positives) + len(negatives)) < len(positives)


def test_ten_trials_by_hand():
    scores, same = trials([0.9, 0.8, 0.55, 0.3], [0.6, 0.5, 0.4, 0.2, 0.1, 0.05])
    assert equal_error_rate(scores, same) == pytest.approx(0.25)
    assert min_detection_cost(scores, same, 0.05) == pytest.approx(0.5)
    assert min_detection_cost(scores, same, 0.01) == pytest.approx(0.5)


def test_two_normal_clouds():
    random = np.random.RandomState(0)
    scores, same = trials(random.normal(2, 1, 500), random.normal(0, 1, 5000))
    assert equal_error_rate(scores, same) == pytest.approx(0.16, abs=5e-5)
    assert min_detection_cost(scores, same, 0.05) == pytest.approx(0.7918, abs=5e-5)
    assert min_detection_cost(scores, same, 0.01) == pytest.approx(0.9338, abs=5e-5)


@pytest.mark.parametrize(
    ("positives", "negatives", "eer", "cost"),
    [([3, 4], [1, 2], 0.0, 0.0), ([1, 2], [3, 4], 1.0, 1.0), ([1, 1], [1, 1], 0.5, 1.0)],
    ids=["perfect", "inverted", "constant"],
)
def test_extremes(positives, negatives, eer, cost):
    scores, same = trials(positives, negatives)
    assert equal_error_rate(scores, same) == pytest.approx(eer)
    assert min_detection_cost(scores, same) == pytest.approx(cost)


def test_equal_scores_are_one_threshold_whatever_their_order():
    scores, same = trials([1, 1, 2], [1, 0, 0])
    assert [rate.tolist() for rate in error_rates(scores, same)] == [[1, pytest.approx(2 / 3), 0, 0], [0, 0, pytest.approx(1 / 3), 1]]
    assert equal_error_rate(scores[::-1], same[::-1]) == pytest.approx(equal_error_rate(scores, same))


@pytest.mark.parametrize(("scores", "same"), [([1, 2], [True, True]), ([1, np.nan], [True, False]), ([1], [True, False])])
def test_bad_trials_are_refused(scores, same):
    with pytest.raises(ScoreError):
        equal_error_rate(np.array(scores, float), np.array(same))
