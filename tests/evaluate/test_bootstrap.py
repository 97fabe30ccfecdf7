"""Bootstrap intervals: they cover what they say, the same draws for everybody, and nothing is made up where nothing is defined."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.bootstrap import Part, intervals
from pipeline.base.config import ScoringConfig
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng


def part(values, unit=None, weight=1):
    values = np.array(values, np.float64).reshape(len(values), -1)
    return Part(values, [f"{i:04d}" for i in range(len(values))] if unit is None else [str(one) for one in unit], weight)


def only(parts, name="set", **how):
    return intervals(name, parts, ScoringConfig(**how))[0]


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
            low, high = only([part(values)], str(number), resamples=300, confidence=confidence)
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


def test_persons_with_more_queries_weigh_more():
    """The mean stays one over queries: a person with 9 of 10 queries carries nine tenths of a draw that has both."""
    low, high = only([part([1.0] * 9 + [0.0], [0] * 9 + [1])], resamples=500)
    assert (low, high) == (0.0, 1.0)
    middle = only([part([1.0] * 9 + [0.0], [0] * 9 + [1])], resamples=500, confidence=0.5)
    assert 0.9 in middle


def halves(number, likeness):
    """Ten random halves of 60 persons, as the splits of iLIDS-VID are; a person is as easy in one split as in another by `likeness`."""
    draw = rng(1, "halves", number)
    person, out = draw.normal(size=60), []
    for _ in range(10):
        chosen = draw.permutation(60)[:30]
        luck = np.sqrt(likeness) * person[chosen] + np.sqrt(1 - likeness) * draw.normal(size=30)
        out.append(part((luck > 0).astype(float), chosen))
    return out


@pytest.mark.parametrize("likeness", [0.5, 1.0])
def test_splits_that_share_persons_are_drawn_together(likeness):
    """The truth is 0.5. Drawn together, 95 % intervals hold it about as often as they say."""

    def covered(apart):
        held = 0
        for number in range(150):
            parts = halves(number, likeness)
            if apart:  # the same persons under other names in each split: as if each had persons of its own
                parts = [part(one.values, [f"{i}-{name}" for name in one.unit]) for i, one in enumerate(parts)]
            low, high = only(parts, str(number), resamples=200)
            held += low <= 0.5 <= high
        return held / 150

    assert 0.88 <= covered(apart=False) <= 0.99
    assert covered(apart=True) < 0.85  # negative control


def test_splits_with_persons_of_their_own_narrow_the_interval():
    one, two = part([0.0, 1.0] * 50), part([0.0, 1.0] * 50, range(1000, 1100))
    wide, both, same = only([one]), only([one, two]), only([one, one])
    assert same == wide  # the same queries twice narrow nothing
    assert (both[1] - both[0]) / (wide[1] - wide[0]) == pytest.approx(1 / np.sqrt(2), abs=0.1)


def test_a_split_counts_as_often_as_it_was_run():
    """Three runs on one split, one on the other: the mean over runs is (3 x 0.9 + 0.3) / 4 = 0.75, and the interval lies around it."""
    easy, hard = [1.0] * 90 + [0.0] * 10, [1.0] * 30 + [0.0] * 70
    low, high = only([part(easy, weight=3), part(hard, range(500, 600))])
    assert low < 0.75 < high and high - low < 0.2
    equal = only([part(easy), part(hard, range(500, 600))])
    assert equal[1] < 0.7  # negative control


def test_a_draw_may_miss_a_split_of_few_queries():
    low, high = only([part([1.0], ["a"]), part([0.0] * 5, "bcdef")])
    assert 0 <= low < high <= 1


def test_the_same_queries_meet_the_same_draws():
    values = rng(0, "x").random(40)
    assert only([part(values)]) == only([part(values)])
    assert only([part(values)]) != only([part(values)], "another set")
    order = rng(0, "z").permutation(40)
    shuffled = Part(values[order][:, None], [f"{i:04d}" for i in order])
    assert only([shuffled]) == pytest.approx(only([part(values)]), abs=1e-12)
    a, b = intervals("set", [part(np.stack([values, values + 0.5], axis=1))], ScoringConfig())
    assert b == pytest.approx((a[0] + 0.5, a[1] + 0.5))


def test_many_queries_are_drawn_in_pieces(monkeypatch):
    values = rng(0, "y").random(300)
    whole = only([part(values)], resamples=200)
    monkeypatch.setattr("evaluate.bootstrap._AT_ONCE", 300 * 7)
    assert only([part(values)], resamples=200) == whole


def test_no_certainty_where_all_queries_score_alike():
    """Three of three right is not certain to be all; no interval is better than one of no width."""
    assert only([part([1.0, 1.0, 1.0])]) is None and only([part([0.5])]) is None
    assert only([part([1.0, 1.0, 0.0])]) is not None
    assert only([part([1 / 3] * 10, list("aabbbccccc"))]) is None  # nor one of the width of rounding


def test_nothing_where_nothing_is_defined_or_wanted():
    assert intervals("set", [part([[1.0, np.nan], [0.0, 1.0]])], ScoringConfig())[1] is None
    assert intervals("set", [part([[1.0, 0.0], [0.0, 1.0]])], ScoringConfig(resamples=0)) == [None, None]


@pytest.mark.parametrize("bad", [[Part(np.zeros((0, 1)), [])], [Part(np.zeros((3, 1)), ["a", "b"])], []])
def test_no_query_or_the_wrong_number_is_refused(bad):
    with pytest.raises(ScoreError, match=r"set: (values|no split)"):
        intervals("set", bad, ScoringConfig())
