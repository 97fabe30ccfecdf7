"""A look leaves no trace: modes, gradients and torch's generator are as they were."""

import pytest
import torch
from torch import nn

from train.aside import aside

CPU = torch.device("cpu")


def test_modes_of_all_parts_and_the_generator_come_back():
    frozen = nn.Dropout().eval()
    module = nn.Sequential(nn.Dropout(), frozen).train()
    frozen.eval()
    state = torch.get_rng_state()
    with pytest.raises(KeyError), aside(module, CPU):
        assert not any(part.training for part in module.modules()) and not torch.is_grad_enabled()
        torch.rand(3)
        assert not torch.equal(torch.get_rng_state(), state)  # control: something was drawn
        raise KeyError
    assert module.training and module[0].training and not frozen.training
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
