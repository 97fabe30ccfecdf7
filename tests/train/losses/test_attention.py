"""The auxiliary loss of weights over time (specs/dubbernet.md section 4.5), by hand."""

import pytest
import torch

from train.losses.attention import attention_loss


@pytest.mark.parametrize(
    ("erased", "expected"),
    [
        ([[0, 0, 0], [0, 0, 0]], 0.0),
        ([[1, 1, 1], [1, 1, 1]], 1.0),
        ([[1, 0, 0], [0, 0, 1]], (0.5 + 0.75) / 2),
        ([[0, 1, 1], [0, 0, 0]], 0.5 / 2),
    ],
)
def test_weight_on_erased_frames(erased, expected):
    weight = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.25, 0.75]])
    assert attention_loss(weight, torch.tensor(erased, dtype=torch.bool)).item() == pytest.approx(expected)


def test_it_moves_weight_away_from_erased_frames():
    score = torch.zeros(1, 2, requires_grad=True)
    attention_loss(score.softmax(1), torch.tensor([[True, False]])).backward()
    assert score.grad[0, 0] > 0 > score.grad[0, 1]
