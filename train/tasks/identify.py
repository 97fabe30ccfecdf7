"""Learn to tell training identities apart.

In:      batches of labelled clips.   Out: the terms 'identity' and 'triplet'.
Source:  specs/dubbernet.md section 6.
"""

from __future__ import annotations

from torch import Tensor

from model.api import Network
from pipeline.base.batch import Batch
from pipeline.base.config import MethodConfig
from train.losses.identity import identity_loss
from train.losses.triplet import triplet_loss
from train.tasks.task import Task


class Identify(Task):
    """One network, judged by a classifier and by a metric.

    Args:
        model: gets the batch as the loader made it.
        settings: only `smoothing` is read.
        teacher: none; here so that every task is made alike.
    """

    names = ("identity", "triplet")

    def __init__(self, model: Network, settings: MethodConfig, teacher: Network | None = None) -> None:
        super().__init__(model)
        assert teacher is None, "'identify' has no teacher; StageConfig refuses one"
        self.smoothing = settings.smoothing

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        out = self.model(batch)
        return {
            "identity": identity_loss(out.logits, batch.label, self.smoothing),
            "triplet": triplet_loss(out.feat, batch.label),
        }
