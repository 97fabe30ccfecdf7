"""Equal error rate and minDCF in both forms: values of specs/avcleanse.md section 6.2, slow oracles, scikit-learn; the bootstrap."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

from evaluate import verification
from evaluate.verification import Trials, equal_error_rate, interval, min_detection_cost
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng
from tests.evaluate import coverage, scikit_learn

FORMS = ("toolkit", "reference")


def trials(positives, negatives):
    return np.array([*positives, *negatives], float), np.arange(len(positives) + len(negatives)) < len(positives)


TEN = trials([0.9, 0.8, 0.55, 0.3], [0.6, 0.5, 0.4, 0.2, 0.1, 0.05])
CONSTANT = np.ones(4), np.array([True, False, True, False])


def clouds():
    random = np.random.RandomState(0)
    return trials(random.normal(2, 1, 500), random.normal(0, 1, 5000))


@pytest.mark.parametrize(
    ("case", "eer", "cost_5", "cost_1"),
    [
        (TEN, {"toolkit": 0.25, "reference": 0.25}, 0.5, 0.5),
        (clouds(), {"toolkit": 0.16, "reference": 0.1608}, 0.7918, 0.9338),
        (CONSTANT, {"toolkit": 0.5, "reference": 1.0}, 1.0, 1.0),
        (trials([3, 4], [1, 2]), {"toolkit": 0.0, "reference": 0.0}, 0.0, 0.0),
        (trials([1, 2], [3, 4]), {"toolkit": 1.0, "reference": 1.0}, 1.0, 1.0),
    ],
    ids=["ten by hand", "two normal clouds", "constant", "perfect", "inverted"],
)
@pytest.mark.parametrize("form", FORMS)
def test_values_of_the_specification(case, eer, cost_5, cost_1, form):
    assert equal_error_rate(*case, form) == pytest.approx(eer[form], abs=1e-12)
    assert min_detection_cost(*case, 0.05, form) == pytest.approx(cost_5, abs=1e-12)
    assert min_detection_cost(*case, 0.01, form) == pytest.approx(cost_1, abs=1e-12)


def test_the_reference_depends_on_the_points_that_it_drops():
    """Of the ten trials, with all points: 33.33 %, since two points are equally near and rounding prefers the other."""
    fnr, fpr = Trials(*TEN).error_rates()
    fnr = 1 - (1 - fnr)
    at = int(np.argmin(np.abs(fnr - fpr)))
    assert max(fnr[at], fpr[at]) == pytest.approx(1 / 3)


def test_equal_scores_are_one_threshold_whatever_their_order():
    scores, same = trials([1, 1, 2], [1, 0, 0])
    assert [rate.tolist() for rate in Trials(scores, same).error_rates()] == [
        [1, pytest.approx(2 / 3), 0, 0],
        [0, 0, pytest.approx(1 / 3), 1],
    ]
    for p_target in (0.05, 0.5):
        assert min_detection_cost(scores[::-1], same[::-1], p_target) == min_detection_cost(scores, same, p_target)
    assert equal_error_rate(scores[::-1], same[::-1]) == equal_error_rate(scores, same)


def test_the_reference_cost_of_equal_scores_is_the_order_of_the_list():
    """Scores that tell nothing are perfect if the list begins with all different identities: why it is not our form."""
    scores = np.zeros(4)
    assert min_detection_cost(scores, np.array([False, False, True, True]), 0.05, "reference") == 0.0
    assert min_detection_cost(scores, np.array([True, True, False, False]), 0.05, "reference") == 1.0
    assert min_detection_cost(scores, np.array([False, False, True, True]), 0.05) == 1.0


# --- plain loops ------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    scores: list[int]
    same: list[bool]


def random_case(number: int) -> Case:
    """2 to 14 trials with 1 to 6 distinct scores, so that ties are everywhere."""
    random = rng(7, "verification", "case", number)
    count, distinct = int(random.integers(2, 15)), int(random.integers(1, 7))
    same = (random.random(count) < random.choice([0.2, 0.5, 0.8])).tolist()
    same[:2] = [True, False] if random.random() < 0.5 else [False, True]
    return Case(random.integers(0, distinct, count).tolist(), same)


def points(case: Case) -> list[tuple[Fraction, Fraction]]:
    """(FNR, FPR) of every rule 'accept from this score on', from accepting none."""
    positives, negatives = case.same.count(True), case.same.count(False)
    out = []
    for threshold in [max(case.scores) + 1, *sorted(set(case.scores), reverse=True)]:
        missed = sum(1 for score, same in zip(*case, strict=True) if same and score < threshold)
        passed = sum(1 for score, same in zip(*case, strict=True) if not same and score >= threshold)
        out.append((Fraction(missed, positives), Fraction(passed, negatives)))
    return out


def slow_eer(case: Case) -> Fraction:
    """Walk along the curve to the edge on which FNR = FPR, and solve for the point."""
    curve = points(case)
    for (fnr, fpr), (next_fnr, next_fpr) in pairwise(curve):
        if next_fpr >= next_fnr:
            t = (fnr - fpr) / ((fnr - fpr) + (next_fpr - next_fnr))
            return fpr + t * (next_fpr - fpr)
    raise AssertionError("the last point accepts all")


def slow_cost(case: Case, p_target: Fraction) -> Fraction:
    return min(p_target * fnr + (1 - p_target) * fpr for fnr, fpr in points(case)) / min(p_target, 1 - p_target)


def slow_reference_eer(case: Case) -> float:
    """Counts of accepted trials; a point goes if the steps before and behind it are equal; rates in the reference's divisions."""
    positives, negatives = case.same.count(True), case.same.count(False)
    counts = [((1 - fnr) * positives, fpr * negatives) for fnr, fpr in points(case)][1:]
    kept = []
    for k, here in enumerate(counts):
        if 0 < k < len(counts) - 1:
            before = (here[0] - counts[k - 1][0], here[1] - counts[k - 1][1])
            if before == (counts[k + 1][0] - here[0], counts[k + 1][1] - here[1]):
                continue
        kept.append(here)
    nearest, found = math.inf, math.nan
    for accepted, passed in [(0, 0), *kept]:
        fnr, fpr = 1 - float(accepted) / positives, float(passed) / negatives
        if abs(fnr - fpr) < nearest:
            nearest, found = abs(fnr - fpr), max(fnr, fpr)
    return found


def slow_reference_cost(case: Case, p_target: float) -> float:
    """Reject one trial after the other, from the lowest score and from the head of the list."""
    positives, negatives = case.same.count(True), case.same.count(False)
    missed = rejected = 0
    lowest = math.inf
    for _, same in sorted(zip(*case, strict=True), key=lambda trial: trial[0]):
        missed, rejected = missed + same, rejected + (not same)
        lowest = min(lowest, missed / positives * p_target + (1 - rejected / negatives) * (1 - p_target))
    return lowest / min(p_target, 1 - p_target)


P_TARGETS = (Fraction(1, 100), Fraction(1, 20), Fraction(1, 2), Fraction(9, 10))
"""The last: the reference, which never accepts all, differs even without ties."""


def disagreements(module: ModuleType) -> set[str]:
    """In which of the four numbers `module` and the plain loops differ on any of 400 small cases."""
    out = set()
    for number in range(400):
        case = random_case(number)
        scores, same = np.array(case.scores, float) / 7, np.array(case.same)
        found = module.Trials(scores, same)
        pairs = {
            "eer": (found.equal_error_rate(), float(slow_eer(case))),
            "reference eer": (found.equal_error_rate("reference"), slow_reference_eer(case)),
        }
        for p_target in P_TARGETS:
            pairs[f"cost {p_target}"] = found.min_detection_cost(float(p_target)), float(slow_cost(case, p_target))
            pairs[f"reference cost {p_target}"] = (
                found.min_detection_cost(float(p_target), "reference"),
                slow_reference_cost(case, float(p_target)),
            )
        out |= {what.rpartition(" ")[0] if "/" in what else what for what, (ours, slow) in pairs.items() if abs(ours - slow) > 1e-12}
    return out


def test_against_plain_loops_with_many_ties():
    assert disagreements(verification) == set()


@pytest.mark.parametrize(
    ("rule", "broken", "noticed"),
    [
        ("np.flatnonzero(rising[1:] != rising[:-1]) + 1", "np.arange(1, len(rising))", {"eer", "reference eer", "cost"}),
        ("*self.error_rates()", "*(rate[:-1] for rate in self.error_rates())", {"cost"}),
        ("*self.error_rates()", "*(rate[1:] for rate in self.error_rates())", {"cost"}),
        ("self.different - below + ", "self.different - 1 - below + ", {"cost"}),
        ("before / (before + after)", "1", {"eer"}),
        ("kept[2:-1] = ", "_ = ", {"reference eer"}),
        ("(np.diff(accepted[1:], 2) != 0) |", "(np.diff(accepted[1:], 2) != 0) &", {"reference eer"}),
        ("float(max(fnr[nearest], fpr[nearest]))", "float((fnr[nearest] + fpr[nearest]) / 2)", {"reference eer"}),
        (
            "nearest = int(np.argmin(np.abs(fnr - fpr)))",
            "nearest = len(fnr) - 1 - int(np.argmin(np.abs(fnr - fpr)[::-1]))",
            {"reference eer"},
        ),
        ("1 - accepted[kept] / self.same", "self.missed[kept] / self.same", {"reference eer"}),
        ("self._rejected_same[1:]", "self._rejected_same[:-1]", {"reference cost"}),
        ('np.argsort(scores, kind="stable")', "np.lexsort((-np.arange(len(scores)), scores))", {"reference cost"}),
        (".min() / min(p_target, 1 - p_target)", ".min() / p_target", {"cost", "reference cost"}),
        ("(p_target * fnr + (1 - p_target) * fpr)", "((1 - p_target) * fnr + p_target * fpr)", {"cost", "reference cost"}),
    ],
)
def test_the_plain_loops_notice_a_broken_rule(rule, broken, noticed):
    """Negative control: the module's own source with one rule broken."""
    source = Path(verification.__file__).read_text()
    assert source.count(rule) == 1
    module = ModuleType("broken")
    exec(compile(source.replace(rule, broken), "broken", "exec"), module.__dict__)
    assert noticed <= disagreements(module)
    assert unlike_scikit_learn(module) > 0 or "reference eer" not in noticed


def unlike_scikit_learn(module: ModuleType) -> int:
    """On how many of the stored cases the reference form is not what scikit-learn gave, to the last bit."""
    stored = json.loads(scikit_learn.FILE.read_text())
    assert stored["scikit-learn"] == "1.9.1" and len(stored["cases"]) == scikit_learn.CASES
    found = [
        module.equal_error_rate(np.array(case["ninths"]) / 9, np.array(list(case["same"])) == "1", "reference") for case in stored["cases"]
    ]
    return sum(ours != float.fromhex(case["eer"]) for ours, case in zip(found, stored["cases"], strict=True))


def test_against_scikit_learn():
    """The reference form is its ROC; what it gave is stored, see `tests.evaluate.scikit_learn`."""
    assert unlike_scikit_learn(verification) == 0


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([1, 2], [True, True], "2 of 2 are of the same identity"),
        ([1, 2], [False, False], "0 of 2 are of the same identity"),
        ([], [], "0 of 0"),
        ([1, np.nan], [True, False], "1 of 2 scores are NaN"),
        ([np.inf, 1], [True, False], "1 of 2 scores are NaN or infinite"),
        ([1], [True, False], "one number and one bool per trial"),
    ],
)
def test_bad_trials_are_refused(scores, same, message):
    with pytest.raises(ScoreError, match=message):
        equal_error_rate(np.array(scores, float), np.array(same, bool))


def test_answers_that_are_no_bools_are_refused():
    with pytest.raises(ScoreError, match="type int64"):
        Trials(np.array([1.0, 2.0]), np.array([1, 2]))


@pytest.mark.parametrize("p_target", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_a_p_target_that_is_no_part_is_refused(p_target):
    for call in (lambda: min_detection_cost(*TEN, p_target), lambda: Trials(*TEN).resampled([p_target], 1, 0)):
        with pytest.raises(ScoreError, match=r"p_target=.*: must be above 0 and below 1"):
            call()


# --- bootstrap --------------------------------------------------------------------------------------------------------


def voices(number: int, speakers: int, clips: int, spread: float = 0.0):
    """Scores of all pairs of clips, with ties, and the codes of both sides; `spread`: how unlike the speakers are."""
    random = rng(number, "voices")
    left, right = np.triu_indices(speakers * clips, 1)
    one, other = left // clips, right // clips
    ease, twin = random.normal(0, spread, speakers), random.normal(0, spread, (speakers, speakers))
    same = one == other
    scores = random.normal(0, 1, len(left)) + np.where(same, 2 + ease[one], (twin + twin.T)[one, other] / math.sqrt(2))
    return np.round(scores, 2), same, (one, other)


@pytest.mark.parametrize("draw", ["trials", "identities"])
def test_weights_are_repeated_trials(draw):
    """Each sample's numbers are those of a list that repeats every trial as often as it was drawn."""
    scores, same, sides = voices(1, 8, 4)
    scores = np.round(scores)
    ours = Trials(scores, same)
    drawn = ours.resampled([0.05, 0.3], 20, 3, sides if draw == "identities" else None)
    rising = np.sort(scores, kind="stable"), same[np.argsort(scores, kind="stable")]
    for number, (w_same, w_different) in enumerate(ours._by_identity(20, 3, *sides) if draw == "identities" else ours._by_trial(20, 3)):
        weights = np.empty(len(same), int)
        weights[rising[1]], weights[~rising[1]] = w_same, w_different
        again = Trials(np.repeat(rising[0], weights), np.repeat(rising[1], weights))
        expected = [again.equal_error_rate(), again.min_detection_cost(0.05), again.min_detection_cost(0.3)]
        assert drawn[number] == pytest.approx(expected, abs=1e-12)
    assert len(set(drawn[:, 0])) > 10


def test_a_trial_counts_as_often_as_both_its_sides():
    """By hand: identities 0, 1, 2 drawn c times each; a trial within one identity counts c times, one of two identities their product."""
    left, right = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])
    scores = np.arange(6)[::-1].astype(float)  # falling, so that the module's order is the reverse
    ours = Trials(scores, left == right)
    for number, (within, between) in enumerate(ours._by_identity(5, 11, left, right)):
        c = np.bincount(rng(11, "verification", "identities", number).integers(3, size=3), minlength=3)
        assert c.sum() == 3
        assert within.tolist() == [c[2], c[1], c[0]] and between.tolist() == [c[1] * c[2], c[0] * c[2], c[0] * c[1]]


def test_trials_are_drawn_within_their_kind():
    for same, different in Trials(*TEN)._by_trial(10, 0):
        assert (len(same), same.sum(), len(different), different.sum()) == (4, 4, 6, 6)


def test_only_points_on_straight_lines_are_left_out():
    """Runs of one kind, a tie of both kinds, a run again: 1 for none, 2 runs, the tie, 2 runs."""
    ours = Trials(*trials([9, 8, 5, 5, 2, 1], [7, 6, 5, 0.5]))
    rejected_trials = ours.missed + ours.different - ours.passed
    assert rejected_trials[ours._corners()].tolist() == [10, 8, 6, 3, 1, 0]


def test_samples_depend_on_the_seed_and_their_number_alone():
    scores, same, sides = voices(2, 10, 3)
    ours = Trials(scores, same)
    for given in (None, sides):
        first = ours.resampled([0.05], 6, 0, given)
        assert np.array_equal(first, ours.resampled([0.05], 6, 0, given))
        assert np.array_equal(first, ours.resampled([0.05], 9, 0, given)[:6])
        assert not np.array_equal(first, ours.resampled([0.05], 6, 1, given))


def test_constant_scores_have_no_spread():
    _, same, sides = voices(3, 6, 3)
    for given in (None, sides):
        low, high = interval(Trials(np.zeros(len(same)), same).resampled([0.05], 30, 0, given), 0.95)
        assert low.tolist() == high.tolist() == [0.5, 1.0]


def test_percentiles_leave_out_as_many_on_either_side():
    low, high = interval(np.arange(101)[:, None] * np.array([1.0, -1.0]), 0.9)
    assert low == pytest.approx([5, -95]) and high == pytest.approx([95, -5])


def test_identities_that_contradict_the_trials_are_refused():
    scores, same, (left, right) = voices(4, 4, 2)
    with pytest.raises(ScoreError, match="in 1 of 28 trials the two sides are of one identity and the answer is not"):
        Trials(scores, same ^ (np.arange(len(same)) == 5)).resampled([0.05], 1, 0, (left, right))
    with pytest.raises(ScoreError, match="expected one each for 28 trials"):
        Trials(scores, same).resampled([0.05], 1, 0, (left[1:], right[1:]))


def test_too_few_identities_are_refused():
    scores, same, sides = voices(5, 2, 3)
    with pytest.raises(ScoreError, match="without trials of different identities: too few identities"):
        Trials(scores, same).resampled([0.05], 50, 0, sides)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """Independent trials: 95 % intervals of both draws hold it. Trials that share speakers: those of single trials do not, by far."""
    truth = 0.5 * math.erfc(1 / math.sqrt(2))  # clouds at 0 and 2: half way
    held = {"independent": 0, "half as wide": 0}
    rounds = 300
    for number in range(rounds):
        random = rng(number, "coverage")
        case = trials(random.normal(2, 1, 300), random.normal(0, 1, 600))
        low, high = (bound[0] for bound in interval(Trials(*case).resampled([], 300, number), 0.95))
        middle, quarter = (low + high) / 2, (high - low) / 4
        held["independent"] += low <= truth <= high
        held["half as wide"] += middle - quarter <= truth <= middle + quarter
    assert 0.91 <= held["independent"] / rounds <= 0.98 and held["half as wide"] / rounds < 0.8

    truth = float(np.mean([equal_error_rate(*voices(number, 120, 4, 1.0)[:2]) for number in range(1000, 1040)]))
    held, rounds = {"trials": 0, "identities": 0}, 150
    for number in range(rounds):
        scores, same, sides = voices(number, 30, 4, 1.0)
        for draw, given in (("trials", None), ("identities", sides)):
            low, high = (bound[0] for bound in interval(Trials(scores, same).resampled([], 300, number, given), 0.95))
            held[draw] += low <= truth <= high
    assert held["identities"] / rounds >= 0.88 and held["trials"] / rounds < held["identities"] / rounds - 0.15


def documented() -> dict[tuple[int, int], list[int]]:
    """Identities and pairs -> the figures behind them, of the table in docs/protocols.md."""
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
    assert f"percent of {coverage.ROUNDS} lists" in page and f"{coverage.SAMPLES}\nsamples of identities" in page
    table = page.partition("<!-- coverage -->")[2].partition("<!-- /coverage -->")[0].strip().splitlines()[2:]
    lines = [[int(number.replace(",", "")) for number in re.findall(r"[\d,]+", row)] for row in table]
    return {(line[0], line[1]): line[2:] for line in lines}


def test_the_page_lists_what_is_measured():
    assert list(documented()) == [(n, coverage.pairs(n, different)) for n, different in coverage.LISTS]


@pytest.mark.slow
def test_intervals_of_mindcf_are_too_low_where_different_trials_are_few():
    """The table of docs/protocols.md without its longest list; a rounding may fall otherwise on another processor."""
    true, page = coverage.truth(), documented()
    for identities, different in coverage.LISTS[1:]:
        found = np.ravel(coverage.percent(identities, different, true))
        assert np.abs(found - page[identities, coverage.pairs(identities, different)]).max() <= 1
    assert page[100, 1000][4] < page[100, 5000][4] - 20 < page[100, 1000][0] - 20  # control: the EER's hold it
