"""Verification scores: equal error rate and minimum detection cost, each in our form and in that of published code; intervals.

In:      scores of trials (larger: more likely the same identity), whether each is the same, for intervals whose they are.
Out:     fractions.
Source:  specs/avcleanse.md section 6.2. Ours (`toolkit`): equal scores are one threshold, all or none of them may be accepted, and the
         equal error rate is where the line through neighbouring operating points crosses FNR = FPR. So it does not depend on the order
         of trials, and constant scores give 0.5.

`reference` repeats what the published numbers were made by, its quirks included, so that they can be compared:

* EER: operating points whose neighbours make a line with them are dropped, as scikit-learn's `roc_curve` does by default (second
  differences of the two counts are 0); of the rest the first at which |FNR - FPR| is smallest counts, and the larger of its two rates
  is the EER. So it is never below the true crossing, it depends on the dropping, and constant scores give 1. Where two points are
  equally near, the rounding of float64 decides; we do the same divisions in the same order.
* minDCF: every trial is a threshold of its own. Of equal scores the trial that is listed first is rejected first, so shuffling the list
  may change the number: constant scores give 0 if the list has all different identities first. All trials are never accepted at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng

Compat = Literal["toolkit", "reference"]


class TooFewIdentitiesError(ScoreError):
    """A bootstrap sample has no trial of one kind, so the numbers of these trials have no interval."""


def equal_error_rate(scores: np.ndarray, same: np.ndarray, compat: Compat = "toolkit") -> float:
    """:meth:`Trials.equal_error_rate` of these trials; 0..1."""
    return Trials(scores, same).equal_error_rate(compat)


def min_detection_cost(scores: np.ndarray, same: np.ndarray, p_target: float, compat: Compat = "toolkit") -> float:
    """:meth:`Trials.min_detection_cost` of these trials; 0..1."""
    return Trials(scores, same).min_detection_cost(p_target, compat)


class Trials:
    """Scored trials, sorted once for all that is asked of them.

    Args:
        scores: float [trials].
        same: bool [trials]; whether both sides are of one identity.

    Raises:
        ScoreError: a score is not finite, or one of the two kinds of trial is missing.
    """

    def __init__(self, scores: np.ndarray, same: np.ndarray) -> None:
        if scores.shape != same.shape or scores.ndim != 1 or same.dtype != np.bool_:
            raise ScoreError(
                f"trials: scores of shape {scores.shape}, answers of shape {same.shape} and type {same.dtype}; expected one number and "
                "one bool per trial"
            )
        if not np.isfinite(scores).all():
            raise ScoreError(f"trials: {(~np.isfinite(scores)).sum()} of {len(scores)} scores are NaN or infinite")
        self.same = int(same.sum())
        """Trials of the same identity."""
        self.different = len(same) - self.same
        if not self.same or not self.different:
            raise ScoreError(f"trials: {self.same} of {len(same)} are of the same identity; both kinds are needed")
        self.order = np.argsort(scores, kind="stable")
        """int64 [trials]; rising scores, equal ones as listed."""
        rising = scores[self.order]
        below = np.concatenate([[0], np.flatnonzero(rising[1:] != rising[:-1]) + 1, [len(rising)]])
        self._rejected_same = np.concatenate([[0], np.cumsum(same[self.order])])  # [trials + 1], in front of each trial
        self.missed = self._rejected_same[below][::-1]
        """int64 [distinct scores + 1]; rejected trials of the same identity, from accepting none to accepting all."""
        self.passed = (self.different - below + self._rejected_same[below])[::-1]
        """int64 [distinct scores + 1]; accepted trials of different identities, at the same thresholds."""

    def error_rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Miss and false-alarm rates at every threshold that changes a decision, from accepting none to accepting all.

        Returns:
            (fnr, fpr): float64 [distinct scores + 1]; fnr falls from 1 to 0, fpr rises from 0 to 1.
        """
        return self.missed / self.same, self.passed / self.different

    def equal_error_rate(self, compat: Compat = "toolkit") -> float:
        """Error rate where misses and false alarms are equally frequent; 0..1.

        Args:
            compat: 'toolkit': interpolated linearly between thresholds; 'reference': at one of them (see above).
        """
        if compat == "toolkit":
            return _crossing(self.missed, self.passed, self.same, self.different)
        accepted = self.same - self.missed
        kept = np.ones(len(accepted), np.bool_)
        kept[2:-1] = (np.diff(accepted[1:], 2) != 0) | (np.diff(self.passed[1:], 2) != 0)  # accepting none joins after the dropping
        fnr, fpr = 1 - accepted[kept] / self.same, self.passed[kept] / self.different
        nearest = int(np.argmin(np.abs(fnr - fpr)))
        return float(max(fnr[nearest], fpr[nearest]))

    def min_detection_cost(self, p_target: float, compat: Compat = "toolkit") -> float:
        """Smallest cost over all thresholds, relative to always giving the better constant answer (C_miss = C_fa = 1).

        Args:
            p_target: assumed part of trials of the same identity; report it with the number: here 0.05, elsewhere 0.01.
            compat: 'reference': every trial is its own threshold (see above).

        Returns:
            0..1; 'reference' may exceed 1 where p_target is above 0.5, because it never accepts all.
        """
        check_p_target(p_target)
        if compat == "toolkit":
            return _smallest_cost(*self.error_rates(), p_target)
        rejected = np.arange(1, len(self.order) + 1)
        missed = self._rejected_same[1:]
        return _smallest_cost(missed / self.same, 1 - (rejected - missed) / self.different, p_target)

    def resampled(
        self, p_targets: Sequence[float], resamples: int, seed: int, sides: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        """Equal error rate and minDCF (`toolkit`) of bootstrap samples.

        Trials are drawn within their kind, as many of each as there are. That takes trials for independent, which they are not: a list
        makes hundreds of trials of one speaker, and whoever sounds like somebody else does so in all of them. **The interval is then
        too narrow.** With `sides`, identities are drawn instead, and a trial counts as often as both its sides together: the product
        of how often its two identities were drawn; a trial within one identity as often as that was.

        minDCF takes the best threshold of the trials at hand, so it comes out too low, and its interval, too, the more so the fewer
        trials of different identities there are and the smaller p_target is: of 400 lists of 100 made-up identities, 95 % intervals
        over identities held the true minDCF (p_target 0.01) in 94 % with 79,200 such trials, in 80 % with 5,000, in 40 % with 1,000;
        those of the EER did in 93 to 96 % (docs/protocols.md, tests/evaluate/coverage.py).

        Args:
            p_targets: of minDCF.
            resamples: bootstrap samples.
            seed: with the number of the sample it decides what is drawn: more samples begin with the same ones.
            sides: codes from 0 of the identities on either side, integers [trials] each.

        Returns:
            float64 [resamples, 1 + p_targets]: EER, then minDCF by each p_target.

        Raises:
            TooFewIdentitiesError: a sample is left without one kind of trial.
            ScoreError: `sides` contradicts the trials.
        """
        for p_target in p_targets:
            check_p_target(p_target)
        draws = self._by_trial(resamples, seed) if sides is None else self._by_identity(resamples, seed, *sides)
        corners = self._corners()
        missed_at, rejected_at = self.missed[corners], self.different - self.passed[corners]
        out = np.empty((resamples, 1 + len(p_targets)))
        for number, (same, different) in enumerate(draws):
            missed, rejected = (np.concatenate([[0], np.cumsum(weights)]) for weights in (same, different))
            if not missed[-1] or not rejected[-1]:
                raise TooFewIdentitiesError(
                    f"sample {number} of the identities is left without trials of {'different identities' if missed[-1] else 'the same identity'}: "
                    "too few identities for an interval"
                )
            misses, passes = missed[missed_at], rejected[-1] - rejected[rejected_at]
            out[number, 0] = _crossing(misses, passes, int(missed[-1]), int(rejected[-1]))
            fnr, fpr = misses / missed[-1], passes / rejected[-1]
            out[number, 1:] = [_smallest_cost(fnr, fpr, p_target) for p_target in p_targets]
        return out

    def _corners(self) -> np.ndarray:
        """Operating points, bool, at which the curve can turn whatever the trials weigh: not those between two steps of one kind."""
        misses, passes = np.diff(self.missed) != 0, np.diff(self.passed) != 0
        straight = (misses[1:] == misses[:-1]) & (passes[1:] == passes[:-1]) & (misses[1:] != passes[1:])
        return np.concatenate([[True], ~straight, [True]])

    def _by_trial(self, resamples: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Weights of the trials of the same and of different identities, both in the order of rising scores."""
        for number in range(resamples):
            random = rng(seed, "verification", "trials", number)
            yield tuple(np.bincount(random.integers(n, size=n), minlength=n) for n in (self.same, self.different))  # type: ignore[misc]

    def _by_identity(self, resamples: int, seed: int, left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same, where identities are drawn."""
        if left.shape != self.order.shape or right.shape != self.order.shape:
            raise ScoreError(f"identities of {left.shape} and {right.shape} sides; expected one each for {len(self.order)} trials")
        is_same = np.diff(self._rejected_same).astype(np.bool_)
        left, right = left[self.order], right[self.order]
        wrong = int(((left == right) != is_same).sum())
        if wrong:
            raise ScoreError(
                f"identities: in {wrong} of {len(left)} trials the two sides are of one identity and the answer is not, or the reverse"
            )
        within, one, other = left[is_same], left[~is_same], right[~is_same]
        identities = int(max(left.max(), right.max())) + 1
        for number in range(resamples):
            drawn = rng(seed, "verification", "identities", number).integers(identities, size=identities)
            times = np.bincount(drawn, minlength=identities)
            yield times[within], times[one] * times[other]


def interval(samples: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of bootstrap samples, as many left out on either side.

    Args:
        samples: float [samples, numbers].
        confidence: part of the samples within, e.g. 0.95.

    Returns:
        (low, high): float64 [numbers].
    """
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def check_p_target(p_target: float) -> None:
    """Refuse what is no part.

    Raises:
        ScoreError: it is not above 0 and below 1.
    """
    if not 0 < p_target < 1:
        raise ScoreError(f"p_target={p_target}: must be above 0 and below 1")


def _crossing(missed: np.ndarray, passed: np.ndarray, same: int, different: int) -> float:
    """Where the line through the operating points crosses FNR = FPR; which point lies on which side is decided in whole numbers."""
    misses, alarms = missed * different, passed * same
    right = int(np.argmax(alarms >= misses))  # at least 1: at the first point all are missed and none passes
    before, after = int(misses[right - 1] - alarms[right - 1]), int(alarms[right] - misses[right])
    return float((passed[right - 1] + before / (before + after) * (passed[right] - passed[right - 1])) / different)


def _smallest_cost(fnr: np.ndarray, fpr: np.ndarray, p_target: float) -> float:
    return float((p_target * fnr + (1 - p_target) * fpr).min() / min(p_target, 1 - p_target))
