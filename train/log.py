"""The values of an epoch's batches: summed on the way, fetched now and then, written as metrics.jsonl.

In:      scalars on the device.   Out: means over batches and ranks; one JSON object per epoch.
Source:  ours. A step never waits for the device: what it gives is fetched in windows, and looked at then.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.ranks import ranks
from pipeline.base.errors import TrainError
from pipeline.base.files import atomic_open

CHECK_STEPS = 20
"""Batches between looks at the values of the terms, on a GPU: each look waits for it. On a CPU every batch is looked at."""


class EpochLog:
    """Sums the values of an epoch's batches; fetches them from the device in windows and names what is not finite.

    Args:
        epoch: from 1.
        steps, sums: of the batches before a resumed one.
        every: batches of a window.
    """

    def __init__(self, epoch: int, steps: int = 0, sums: dict[str, float] | None = None, every: int = 1) -> None:
        self.epoch, self.steps, self.sums, self.every = epoch, steps, dict(sums or {}), every
        self._window: list[dict[str, Tensor]] = []

    def add(self, values: dict[str, Tensor]) -> None:
        """Keep one batch's scalars (not fetched yet)."""
        self._window.append(values)

    @property
    def due(self) -> bool:
        """Whether a window is full."""
        return len(self._window) >= self.every

    def fetch(self) -> None:
        """Fetch and check what was added since the last time: means over the ranks.

        Raises:
            TrainError: a value is NaN or infinite; names the epoch, the step and the term.
        """
        if not self._window:
            return
        names = list(self._window[0])
        values = torch.stack([torch.stack([values[name] for name in names]) for values in self._window]).double()
        if ranks() > 1:
            dist.all_reduce(values)
            values /= ranks()
        for row in values.tolist():
            self.steps += 1
            for name, value in sorted(zip(names, row, strict=True), key=lambda pair: pair[0] == "loss"):  # the cause before the sum
                if not math.isfinite(value):
                    raise TrainError(
                        f"epoch {self.epoch}, step {self.steps}: '{name}' is {value}; lower optim.lr, or set precision to fp32 if it is bf16"
                    )
                self.sums[name] = self.sums.get(name, 0.0) + value
        self._window.clear()

    def mean(self, name: str) -> float:
        """Mean over the batches fetched so far."""
        return self.sums[name] / self.steps


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Write metrics, one JSON object per line, in place of what was there."""
    with atomic_open(path) as out:
        for record in records:
            out.write((json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode())
