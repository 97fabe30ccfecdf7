"""Batch-hard soft-margin triplet: golden fact L1 of specs/dubbernet.md, a plain double loop, precision, gradients."""

import math

import pytest
import torch

from pipeline.base.seeds import seed_for
from train.losses.triplet import pairwise_distance, triplet_loss

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0], [3.0, 4.0]])
LABELS = torch.tensor([0, 0, 1, 1])


def slow_triplet(feat: torch.Tensor, label: torch.Tensor) -> float:
    """As the definition reads."""
    total = 0.0
    for i in range(len(feat)):
        distances = [math.dist(feat[i].tolist(), other.tolist()) for other in feat]
        positive = max(d for d, other in zip(distances, label, strict=True) if other == label[i])
        negative = min(d for d, other in zip(distances, label, strict=True) if other != label[i])
        total += math.log1p(math.exp(positive - negative))
    return total / len(feat)


def test_l1_loss():
    assert triplet_loss(POINTS, LABELS).item() == pytest.approx(0.532067, abs=5e-7)


def test_l1_distances():
    distance = pairwise_distance(POINTS)
    farthest = [distance[i][LABELS[i] == LABELS].max().item() for i in range(4)]
    nearest = [distance[i][LABELS[i] != LABELS].min().item() for i in range(4)]
    assert farthest == pytest.approx([1, 1, 4, 4])
    assert nearest == pytest.approx([3, 3.16228, 3, 4.24264], abs=1e-5)


def test_l1_equal_features_give_ln_2_and_a_finite_gradient():
    feat = torch.ones(4, 3, requires_grad=True)
    loss = triplet_loss(feat, LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.equal(feat.grad, torch.zeros(4, 3))


@pytest.mark.parametrize("seed", range(3))
def test_against_a_double_loop(seed):
    torch.manual_seed(seed_for(seed, "triplet"))
    feat, label = torch.randn(12, 5), torch.arange(12) // 3
    assert triplet_loss(feat, label).item() == pytest.approx(slow_triplet(feat, label), rel=1e-5)


def test_an_anchor_is_its_own_positive():
    """Single tracklets: every farthest positive is the anchor at distance 0, not an error and not a negative."""
    feat = torch.tensor([[0.0], [2.0]])
    assert triplet_loss(feat, torch.tensor([0, 1])).item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-5)


def test_float32_under_autocast():
    """Features far from 0: bfloat16 keeps 8 bits of 1000, so the released half-precision cross term would lose the 1."""
    feat = POINTS + 1000
    with torch.autocast("cpu", torch.bfloat16):
        inside = triplet_loss(feat, LABELS)
        lost = torch.cdist(feat.bfloat16().float(), feat.bfloat16().float())
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(0.532067, abs=1e-4)
    assert lost[0, 1].item() != pytest.approx(1, abs=0.1)  # negative control
