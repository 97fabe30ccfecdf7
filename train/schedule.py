"""The learning rate of an epoch: linear warm-up, then one cosine.

In:      the settings and the epoch.   Out: one number.
Source:  specs/dubbernet.md section 6 (check values: golden fact D4). The rates at which warm-up begins and the cosine
         ends are those of the base rate for every parameter group, also for biases, which peak higher.
"""

from __future__ import annotations

import math

from pipeline.base.config import ScheduleConfig


def learning_rate(epoch: int, epochs: int, peak: float, base: float, schedule: ScheduleConfig) -> float:
    """Learning rate that a parameter group has during one whole epoch.

    Args:
        epoch: from 1.
        epochs: epochs of the stage; the cosine's period where `schedule.period` is 0.
        peak: the group's full learning rate.
        base: the base learning rate, to which `warmup_factor` and `final_factor` are relative.
        schedule: warm-up and cosine. The cosine's clock runs during warm-up.
    """
    if epoch < schedule.warmup_epochs:
        start = schedule.warmup_factor * base
        return start + (peak - start) * epoch / schedule.warmup_epochs
    final = schedule.final_factor * base
    part = min(epoch / (schedule.period or epochs), 1.0)
    return final + (peak - final) * (1 + math.cos(math.pi * part)) / 2
