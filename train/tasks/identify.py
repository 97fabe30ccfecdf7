"""Learn to tell training identities apart.

In:      batches of labelled clips.   Out: the terms of `train.tasks.labelled`, nothing else.
Source:  specs/dubbernet.md section 6.
"""

from __future__ import annotations

from torch import Tensor

from model.api import Network
from pipeline.base.batch import Batch
from pipeline.base.config import MethodConfig
from train.tasks.labelled import Labelled


class Identify(Labelled):
    """One network, judged by a classifier and by a metric.

    Args:
        model: gets the batch as the loader made it.
        settings: `smoothing` and `model`.
        teacher: none; here so that every task is made alike.
    """

    def __init__(self, model: Network, settings: MethodConfig, teacher: Network | None = None) -> None:
        super().__init__(model, settings)
        assert teacher is None, "'identify' has no teacher; StageConfig refuses one"

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return self.label_terms(self.model(batch), batch)
