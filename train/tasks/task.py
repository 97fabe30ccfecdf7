"""What a task is: a module that turns a batch into named loss terms. The trainer weighs, sums, logs and steps."""

from __future__ import annotations

from torch import Tensor, nn

from model.api import Network
from pipeline.base.batch import Batch


class Task(nn.Module):
    """A network and whatever else is trained with it. A checkpoint holds the whole; a stage hands on `model` alone."""

    model: Network
    names: tuple[str, ...]
    """Names of the terms, known before the first batch."""
    stats: dict[str, Tensor]
    """Scalars of the last call of `terms` that are logged but not minimised: on the device, without gradient."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model
        self.stats = {}

    def check(self, batch: Batch) -> None:
        """Refuse a batch that the networks cannot read, while it is on the host (see model/api.py)."""
        self.model.check(batch)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of a batch on the device of the task: scalars under exactly the names in `names`."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`terms`, under the name by which DistributedDataParallel calls a module."""
        return self.terms(batch)

    def remarks(self, stats: dict[str, float]) -> list[str]:
        """What a reader of the log should be told about an epoch's mean statistics."""
        return []
