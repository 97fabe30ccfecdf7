"""Smoothed cross-entropy: golden fact L2 of specs/dubbernet.md."""

import math

import pytest
import torch

from train.losses.identity import identity_loss


def test_l2_loss():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, -1.0]])
    assert identity_loss(logits, torch.tensor([0, 1]), 0.1).item() == pytest.approx(0.440242, abs=5e-7)


def test_by_hand():
    """One clip: 0.9 + 0.1/2 of the label's weight on class 0, 0.1/2 on class 1."""
    logits = torch.tensor([[1.0, 0.0]])
    log_sum = math.log(math.e + 1)
    assert identity_loss(logits, torch.tensor([0]), 0.1).item() == pytest.approx(0.95 * (log_sum - 1) + 0.05 * log_sum)


@pytest.mark.parametrize("classes", [2, 7])
def test_l2_equal_logits_give_ln_k(classes):
    assert identity_loss(torch.zeros(3, classes), torch.tensor([0, 1, 1])).item() == pytest.approx(math.log(classes))


def test_half_precision_logits_are_widened():
    assert identity_loss(torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([0])).dtype == torch.float32
