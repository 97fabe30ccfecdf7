"""The optimiser of a task: two parameter groups, biases faster than the rest.

In:      a module and the settings.   Out: an optimiser of torch.optim.
Source:  specs/dubbernet.md section 6.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.base.config import OptimConfig, ScheduleConfig
from pipeline.base.errors import TrainError
from train.schedule import learning_rate


def parameter_groups(module: nn.Module, optim: OptimConfig) -> list[dict]:
    """Parameters that want a gradient, in the module's order: those named '*bias*' apart, with their own peak rate."""
    wanted = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not wanted:
        raise TrainError("the task has no parameter that wants a gradient, so there is nothing to train; set epochs to 0")
    others = [p for name, p in wanted if "bias" not in name]
    biases = [p for name, p in wanted if "bias" in name]
    groups = [(others, optim.lr), (biases, optim.lr * optim.bias_lr_factor)]
    return [{"params": members, "lr": peak, "peak": peak} for members, peak in groups if members]


def make_optimiser(module: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over :func:`parameter_groups`, fused into one pass over memory; weight decay on everything."""
    groups = parameter_groups(module, optim)
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, epoch: int, epochs: int, optim: OptimConfig, schedule: ScheduleConfig) -> float:
    """Give every group the rate of `epoch` (from 1); returns the rate of parameters that are not biases."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(epoch, epochs, group["peak"], optim.lr, schedule)
    return learning_rate(epoch, epochs, optim.lr, optim.lr, schedule)
