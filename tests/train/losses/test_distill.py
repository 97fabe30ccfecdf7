"""Distillation losses: golden facts L3, L4 and L5 of specs/dubbernet.md, weights and budget by hand."""

import pytest
import torch

from model.blocks.mask import MaskGenerator
from pipeline.base.seeds import seed_for
from train.losses.distill import (
    DISTANCES,
    feature_distill_loss,
    logits_distill_loss,
    mask_budget_loss,
    mask_statistics,
    mask_weights,
    normalise_tokens,
    token_distill_loss,
)

STUDENT, TEACHER = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])


def test_l4_divergence():
    assert logits_distill_loss(STUDENT, TEACHER, 4.0).item() == pytest.approx(0.265195, abs=5e-7)
    assert token_distill_loss(STUDENT[None], TEACHER[None], None, 4.0).item() == pytest.approx(0.265195, abs=5e-7)


@pytest.mark.parametrize("distance", DISTANCES)
def test_l4_identical_tensors_give_zero(distance):
    assert logits_distill_loss(STUDENT, STUDENT, 4.0).item() == 0
    assert feature_distill_loss(STUDENT, STUDENT, 4.0).item() == 0
    assert token_distill_loss(STUDENT[None], STUDENT[None], torch.ones(1, 1), 4.0, distance).item() == 0


def test_l3_constant_gaps():
    """16 at temperature 4: gaps of 1 and 2 in the two layers give 16 * (1 + 2) / 2; a feature gap of 0.5 gives 16 * 0.25."""
    tokens = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
    layers = [token_distill_loss(tokens + gap, tokens, None, 4.0, "l1").item() for gap in (1.0, -2.0)]
    assert sum(layers) / 2 == pytest.approx(24.0)
    assert feature_distill_loss(tokens[0] + 0.5, tokens[0], 4.0).item() == pytest.approx(4.0)


def test_squared_difference_of_tokens():
    """Gaps 1 and 3 in a token of two channels: (1 + 9) / 2, times T^2 = 4."""
    student = torch.tensor([[[1.0, 3.0]]], requires_grad=True)
    loss = token_distill_loss(student, torch.zeros(1, 1, 2), None, 2.0, "mse")
    assert loss.item() == pytest.approx(20.0)


@pytest.mark.parametrize(("how", "expected"), [("none", [3.0, 4.0]), ("l2", [0.6, 0.8]), ("ln", [-1.0, 1.0])])
def test_tokens_are_normalised_one_by_one(how, expected):
    """(3, 4) has length 5, mean 3.5 and deviation 0.5; ten times as much is the same token."""
    tokens = torch.tensor([[[3.0, 4.0], [30.0, 40.0]]])
    found = normalise_tokens(tokens, how)
    torch.testing.assert_close(found[0, 0], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    if how != "none":
        torch.testing.assert_close(found[0, 1], found[0, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["l2", "ln"])
def test_normalised_tokens_have_no_scale(how):
    """The same direction at another length (and for ln another level) is no difference; without normalising it is one."""
    teacher = (torch.arange(48) * 7 % 11).reshape(2, 3, 8) / 3
    student = 5 * teacher + (1.0 if how == "ln" else 0.0)
    assert token_distill_loss(student, teacher, None, 4.0, "l1", how).item() == pytest.approx(0, abs=1e-3)
    assert token_distill_loss(student, teacher, None, 4.0, "l1").item() > 1


def test_normalising_to_length_1_leaves_next_to_no_divergence():
    """Magnitudes of section 5.3 for random tokens of width 768: about 1.0 as they are, 1.3e-3 normalised to length 1."""
    torch.manual_seed(seed_for(0, "magnitudes"))
    student, teacher = torch.randn(4, 50, 768), torch.randn(4, 50, 768)
    found = [token_distill_loss(student, teacher, None, 4.0, *how).item() for how in (("kl", "none"), ("kl", "l2"), ("l1", "none"))]
    assert found == pytest.approx([1.0, 1.3e-3, 18.0], rel=0.06)


def test_direction_of_the_divergence():
    """KL(teacher || student), T=1: p = softmax(ln 3, 0) = (3/4, 1/4), q = (1/2, 1/2)."""
    p, q = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    wanted = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert logits_distill_loss(q, p, 1.0).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert logits_distill_loss(p, q, 1.0).item() != pytest.approx(wanted.item(), abs=1e-3)


@pytest.mark.parametrize("distance", DISTANCES)
def test_s7_no_gradient_reaches_the_teacher(distance):
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    losses = [logits_distill_loss(student, teacher, 4.0), feature_distill_loss(student, teacher, 4.0)]
    losses.append(token_distill_loss(student[None], teacher[None], None, 4.0, distance))
    sum(losses).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


@pytest.mark.parametrize(("distance", "whole"), [("kl", 0.265195), ("l1", 8.0), ("mse", 8.0)])
def test_tokens_are_weighed(distance, whole):
    """Two tokens, only the second differs: weights (0, 2) give its whole distance, (2, 0) nothing, none the half.

    Its channels differ by 1, 1, 0, 0: the mean is 1/2, times 16, for l1 and mse alike.
    """
    student, teacher = torch.cat([STUDENT, STUDENT])[None], torch.cat([STUDENT, TEACHER])[None]
    weights = torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 0.0]]), None
    values = [token_distill_loss(student, teacher, weight, 4.0, distance).item() for weight in weights]
    assert values == pytest.approx([whole, 0, whole / 2], abs=1e-6)


def test_mask_weights_have_mean_one_per_frame():
    weights = mask_weights(torch.tensor([[1.0, 3.0, 0.0, 0.0], [6.0, 6.0, 6.0, 6.0]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))


def test_an_empty_mask_weighs_every_token_one():
    mask = torch.zeros(2, 3, requires_grad=True)
    weights = mask_weights(mask)
    assert weights.tolist() == [[1, 1, 1]] * 2
    weights.sum().backward()
    assert mask.grad.isfinite().all()


@pytest.mark.parametrize(
    ("score", "expected"), [([[0.7, 0.7]], 0), ([[9.0, 0.0]], 0.04), ([[0.0, 0.0]], 0.49), ([[-1.0, -3.0]], (-0.2 - 0.7) ** 2)]
)
def test_budget(score, expected):
    assert mask_budget_loss(torch.tensor(score), 0.7).item() == pytest.approx(expected, abs=1e-6)


def test_statistics():
    stats = mask_statistics(torch.tensor([[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert {name: value.item() for name, value in stats.items()} == pytest.approx({"mean": 0.5, "zero": 0.75, "entropy": 0.25})


def train_mask(mode: str, steps: int = 300, bias: float | None = None) -> float:
    """Fraction of zeros after training a mask generator with the reference rate on random tokens.

    'seen': the budget of the mask itself, not of the scores behind it.
    """
    torch.manual_seed(seed_for(0, "collapse"))
    student, teacher = torch.randn(8, 32, 24), torch.randn(8, 32, 24)
    generator = MaskGenerator(24, dropout=0.2)
    if bias is not None:
        generator.score[4].bias.data.fill_(bias)
    optimiser = torch.optim.SGD(generator.parameters(), lr=0.008, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        mask, score = generator(student, teacher)
        weight = mask if mode == "raw" else mask_weights(mask)
        loss = token_distill_loss(student, teacher, weight, 4.0)
        if mode != "raw":
            loss = loss + mask_budget_loss(mask if mode == "seen" else score, 0.7)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return (generator.eval()(student, teacher)[0] == 0).float().mean().item()


def test_l5_raw_mask_collapses_and_normalized_mask_does_not():
    """Within 300 steps of SGD; the mask as it is without dropout."""
    assert train_mask("raw") > 0.95
    assert train_mask("normalized") < 0.8


def test_a_closed_mask_opens_again():
    """Scores around -3: behind ReLU6 nothing moves them but the leak of the budget."""
    assert train_mask("normalized", bias=-3.0) < 0.8
    assert train_mask("seen", bias=-3.0) == 1.0
