"""Distillation losses: golden facts L4 and L5 of specs/dubbernet.md, weights and budget by hand."""

import pytest
import torch

from model.blocks.mask import MaskGenerator
from pipeline.base.seeds import seed_for
from train.losses.distill import (
    logits_distill_loss,
    mask_budget_loss,
    mask_statistics,
    mask_weights,
    token_distill_loss,
)

STUDENT, TEACHER = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])


def test_golden():
    assert logits_distill_loss(STUDENT, TEACHER, 4.0).item() == pytest.approx(0.265195, abs=5e-7)
    assert token_distill_loss(STUDENT[None], TEACHER[None], None, 4.0).item() == pytest.approx(0.265195, abs=5e-7)


def test_identical_tensors_give_zero():
    assert logits_distill_loss(STUDENT, STUDENT, 4.0).item() == 0
    assert token_distill_loss(STUDENT[None], STUDENT[None], torch.ones(1, 1), 4.0).item() == 0


def test_direction_of_the_divergence():
    """KL(teacher || student), T=1: p = softmax(ln 3, 0) = (3/4, 1/4), q = (1/2, 1/2)."""
    p, q = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    wanted = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert logits_distill_loss(q, p, 1.0).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert logits_distill_loss(p, q, 1.0).item() != pytest.approx(wanted.item(), abs=1e-3)


def test_no_gradient_reaches_the_teacher():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    logits_distill_loss(student, teacher, 4.0).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


def test_tokens_are_weighed():
    """Two tokens, only the second differs: weights (0, 2) give its whole divergence, (2, 0) nothing, none the half."""
    student, teacher = torch.cat([STUDENT, STUDENT])[None], torch.cat([STUDENT, TEACHER])[None]
    values = [token_distill_loss(student, teacher, w, 4.0).item() for w in (torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 0.0]]), None)]
    assert values == pytest.approx([0.265195, 0, 0.265195 / 2], abs=1e-6)


def test_mask_weights_have_mean_one_per_frame():
    weights = mask_weights(torch.tensor([[1.0, 3.0, 0.0, 0.0], [6.0, 6.0, 6.0, 6.0]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))


def test_an_empty_mask_weighs_every_token_one():
    mask = torch.zeros(2, 3, requires_grad=True)
    weights = mask_weights(mask)
    assert weights.tolist() == [[1, 1, 1]] * 2
    weights.sum().backward()
    assert mask.grad.isfinite().all()


@pytest.mark.parametrize(("mask", "expected"), [([[0.7, 0.7]], 0), ([[6.0, 0.0]], 0.04), ([[0.0, 0.0]], 0.49)])
def test_budget(mask, expected):
    assert mask_budget_loss(torch.tensor(mask), 0.7).item() == pytest.approx(expected, abs=1e-6)


def test_statistics():
    stats = mask_statistics(torch.tensor([[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert {name: value.item() for name, value in stats.items()} == pytest.approx({"mean": 0.5, "zero": 0.75, "entropy": 0.25})


def train_mask(mode: str, steps: int = 300) -> float:
    """Fraction of zeros after training a mask generator with the reference rate on random tokens."""
    torch.manual_seed(seed_for(0, "collapse"))
    student, teacher = torch.randn(8, 32, 24), torch.randn(8, 32, 24)
    generator = MaskGenerator(24, dropout=0.2)
    optimiser = torch.optim.SGD(generator.parameters(), lr=0.008, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        mask = generator(student, teacher)
        if mode == "raw":
            loss = token_distill_loss(student, teacher, mask, 4.0)
        else:
            loss = token_distill_loss(student, teacher, mask_weights(mask), 4.0) + mask_budget_loss(mask, 0.7)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return (generator.eval()(student, teacher) == 0).float().mean().item()


def test_raw_mask_collapses_and_normalized_mask_does_not():
    """L5."""
    assert train_mask("raw") > 0.95
    assert train_mask("normalized") < 0.8
