"""Verification scores: equal error rate and minimum detection cost.

In:      scores of trials (larger: more likely the same identity) and whether each is the same.   Out: fractions.
Source:  specs/avcleanse.md section 6.2. Ours: the equal error rate is where the line through neighbouring operating points
         crosses FNR = FPR; equal scores are one threshold. So constant scores give 0.5, not 1.
"""

from __future__ import annotations

import numpy as np

from pipeline.base.errors import ScoreError


def error_rates(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Miss and false-alarm rates at every threshold that changes a decision, from accepting none to accepting all.

    Args:
        scores: float [trials].
        same: bool [trials].

    Returns:
        (fnr, fpr): float64 [distinct scores + 1]; fnr falls from 1 to 0, fpr rises from 0 to 1.

    Raises:
        ScoreError: a score is not finite, or one of the two kinds of trial is missing.
    """
    if scores.shape != same.shape or scores.ndim != 1:
        raise ScoreError(f"trials: {scores.shape} scores and {same.shape} answers; expected one of each per trial")
    if not np.isfinite(scores).all():
        raise ScoreError(f"trials: {(~np.isfinite(scores)).sum()} of {len(scores)} scores are NaN or infinite")
    positives = int(same.sum())
    if positives in (0, len(same)):
        raise ScoreError(f"trials: {positives} of {len(same)} are of the same identity; both kinds are needed")
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # last trial of each distinct score
    accepted_same = np.concatenate([[0], np.cumsum(same[order])[last]])
    accepted = np.concatenate([[0], last + 1])
    return 1 - accepted_same / positives, (accepted - accepted_same) / (len(same) - positives)


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """Error rate where misses and false alarms are equally frequent, interpolated linearly between thresholds; 0..1."""
    fnr, fpr = error_rates(scores, same)
    right = int(np.argmax(fpr >= fnr))  # at least 1: the first point is fnr 1, fpr 0
    gap_left, gap_right = fnr[right - 1] - fpr[right - 1], fpr[right] - fnr[right]
    part = gap_left / (gap_left + gap_right)
    return float(fpr[right - 1] + part * (fpr[right] - fpr[right - 1]))


def min_detection_cost(scores: np.ndarray, same: np.ndarray, p_target: float = 0.05) -> float:
    """Smallest cost over all thresholds, relative to always giving the better constant answer (C_miss = C_fa = 1); 0..1.

    Args:
        scores, same: as in :func:`error_rates`.
        p_target: assumed part of trials of the same identity; report it with the number, others use 0.01.
    """
    if not 0 < p_target < 1:
        raise ScoreError(f"p_target={p_target}: must be between 0 and 1")
    fnr, fpr = error_rates(scores, same)
    return float((p_target * fnr + (1 - p_target) * fpr).min() / min(p_target, 1 - p_target))
