"""Parameter groups and their rates."""

import pytest
import torch
from torch import nn

from pipeline.base.config import OptimConfig, ScheduleConfig
from pipeline.base.errors import TrainError
from train.optim import make_optimiser, parameter_groups, set_learning_rate


def test_biases_are_faster_and_frozen_parameters_are_left_out():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    module[1].bias.requires_grad_(False)
    weights, biases = parameter_groups(module, OptimConfig(lr=0.1, bias_lr_factor=2.0))
    assert [p.shape for p in weights["params"]] == [(3, 2), (3,)] and weights["lr"] == 0.1
    assert [p.shape for p in biases["params"]] == [(3,)] and biases["lr"] == 0.2


def test_nothing_to_train_is_refused():
    with pytest.raises(TrainError, match="nothing to train"):
        parameter_groups(nn.Linear(1, 1).requires_grad_(False), OptimConfig())


def test_rates_follow_the_schedule():
    optimiser = make_optimiser(nn.Linear(2, 3), OptimConfig())
    assert isinstance(optimiser, torch.optim.SGD)
    assert set_learning_rate(optimiser, 30, 120, OptimConfig(), ScheduleConfig()) == pytest.approx(0.0068308, rel=1e-5)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.0068308, 0.0136592], rel=1e-5)


def test_sgd_step_by_hand():
    """w = 1, gradient 1, decay 0.5, rate 0.1: w - 0.1 * (1 + 0.5) = 0.85."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    optimiser = make_optimiser(module, OptimConfig(lr=0.1, weight_decay=0.5))
    module(torch.ones(1, 1)).sum().backward()
    optimiser.step()
    assert module.weight.item() == pytest.approx(0.85)


def test_adamw():
    assert isinstance(make_optimiser(nn.Linear(1, 1), OptimConfig(name="adamw", lr=1e-3)), torch.optim.AdamW)
