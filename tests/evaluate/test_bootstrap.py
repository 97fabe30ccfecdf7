"""Bootstrap intervals: they cover what they say, the same draws for everybody, and nothing is made up where nothing is defined."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.bootstrap import Part, intervals, units
from pipeline.base.config import ScoringConfig
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng


def part(values, unit=None, name="set-0"):
    values = np.array(values, np.float64).reshape(len(values), -1)
    return Part(name, values, np.arange(len(values)) if unit is None else np.array(unit))


def only(parts, **how):
    return intervals(parts, ScoringConfig(**how))[0]


def test_of_a_mean_as_theory_has_it():
    """400 queries, half answered: the mean scatters with a standard deviation of 1/40, so 95 % lie within 0.049."""
    low, high = only([part([0.0, 1.0] * 200)])
    assert (low, high) == (pytest.approx(0.451, abs=0.006), pytest.approx(0.549, abs=0.006))
    narrow = only([part([0.0, 1.0] * 200)], confidence=0.5)
    assert low < narrow[0] < 0.5 < narrow[1] < high


def test_small_case_by_hand():
    """Two queries, 0 and 1: a draw of two has mean 0, 1/2, 1 with chances 1/4, 1/2, 1/4; so the middle half is [0 or 1/2, 1/2 or 1]."""
    assert only([part([0.0, 1.0])], confidence=0.9) == (0.0, 1.0)
    assert only([part([0.0, 1.0])], resamples=5000, confidence=0.5)[0] in (0.0, 0.5)


def test_it_covers_the_truth_about_as_often_as_it_says():
    """200 test sets of 60 queries from one source: 95 % intervals hold the truth in most; those said to be of 50 % in about half."""

    def covered(confidence):
        held = 0
        for number in range(200):
            values = rng(0, "coverage", number).random((60, 1)) < 0.7
            low, high = only([part(values, name=str(number))], resamples=300, confidence=confidence)
            held += low <= 0.7 <= high
        return held / 200

    assert 0.88 <= covered(0.95) <= 0.99
    assert 0.38 <= covered(0.5) <= 0.65


def test_queries_of_one_person_are_drawn_together():
    """Ten persons whose five queries agree: by query the interval is too narrow by about the square root of 5."""
    values, person = np.repeat([0.0, 1.0] * 5, 5), np.repeat(np.arange(10), 5)
    by_query, by_person = only([part(values)]), only([part(values, person)])
    ratio = (by_person[1] - by_person[0]) / (by_query[1] - by_query[0])
    assert 1.7 < ratio < 2.9
    assert units(["b", "a", "b"], "identity").tolist() == [1, 0, 1] and units(["b", "a", "b"], "query").tolist() == [0, 1, 2]


def test_persons_with_more_queries_weigh_more():
    """The mean stays one over queries: a person with 9 of 10 queries carries nine tenths of a draw that has both."""
    low, high = only([part([1.0] * 9 + [0.0], [0] * 9 + [1])], resamples=500)
    assert (low, high) == (0.0, 1.0)
    middle = only([part([1.0] * 9 + [0.0], [0] * 9 + [1])], resamples=500, confidence=0.5)
    assert 0.9 in middle


def test_splits_are_drawn_apart_and_then_averaged():
    one, two = part([0.0, 1.0] * 50, name="set-0"), part([0.0, 1.0] * 50, name="set-1")
    wide, both, same = only([one]), only([one, two]), only([one, one])
    assert same == wide  # negative control: the same draws twice narrow nothing
    assert (both[1] - both[0]) / (wide[1] - wide[0]) == pytest.approx(1 / np.sqrt(2), abs=0.1)


def test_the_same_queries_meet_the_same_draws():
    values = rng(0, "x").random(40)
    assert only([part(values)]) == only([part(values)])
    assert only([part(values)]) != only([part(values, name="set-1")])
    a, b = intervals([part(np.stack([values, values + 0.5], axis=1))], ScoringConfig())
    assert b == pytest.approx((a[0] + 0.5, a[1] + 0.5))


def test_many_queries_are_drawn_in_pieces(monkeypatch):
    values = rng(0, "y").random(300)
    whole = only([part(values)], resamples=200)
    monkeypatch.setattr("evaluate.bootstrap._AT_ONCE", 300 * 7)
    assert only([part(values)], resamples=200) == pytest.approx(whole, abs=0.02)


def test_no_certainty_where_all_queries_score_alike():
    """Three of three right is not certain to be all; no interval is better than one of no width."""
    assert only([part([1.0, 1.0, 1.0])]) is None and only([part([0.5])]) is None
    assert only([part([1.0, 1.0, 0.0])]) is not None


def test_nothing_where_nothing_is_defined_or_wanted():
    assert intervals([part([[1.0, np.nan], [0.0, 1.0]])], ScoringConfig())[1] is None
    assert intervals([part([[1.0, 0.0], [0.0, 1.0]])], ScoringConfig(resamples=0)) == [None, None]


@pytest.mark.parametrize("bad", [Part("set-0", np.zeros((0, 1)), np.zeros(0, int)), Part("set-0", np.zeros((3, 1)), np.zeros(2, int))])
def test_no_query_or_the_wrong_number_is_refused(bad):
    with pytest.raises(ScoreError, match="set-0: values"):
        intervals([bad], ScoringConfig())
