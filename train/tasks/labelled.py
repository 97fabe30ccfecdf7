"""What the labels of a batch teach one network, whatever else it learns from: the common half of all tasks.

In:      Outputs of the network and the batch they belong to.
Out:     the terms 'identity' and 'triplet'; for `model.local_branch` also 'identity_local' and 'triplet_local', for
         `model.pool: attention` also 'attention'.
Source:  specs/dubbernet.md section 6 (L_ID, L_Tri) and section 4.5 (parts and attention). Under several ranks (model/ranks.py)
         triplets are mined over the whole batch; the other terms are means over clips, which ranks may take apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.api import Network, Outputs
from model.ranks import gather
from pipeline.base.batch import Batch
from pipeline.base.config import MethodConfig
from pipeline.base.errors import TrainError
from train.losses.attention import attention_loss
from train.losses.identity import identity_loss
from train.losses.triplet import triplet_loss
from train.tasks.task import Task


class Labelled(Task):
    """A network that learns to tell training identities apart.

    Args:
        model: the network that is trained.
        settings: `smoothing`, and of `model` whether there are parts and weights over time.
    """

    def __init__(self, model: Network, settings: MethodConfig) -> None:
        super().__init__(model)
        self.smoothing = settings.smoothing
        self.parts, self.attention = settings.model.local_branch, settings.model.pool == "attention"
        self.names = ("identity", "triplet") + ("identity_local", "triplet_local") * self.parts + ("attention",) * self.attention

    def check(self, batch: Batch) -> None:
        super().check(batch)
        if self.attention and batch.erased is None:
            raise TrainError(
                "model.pool=attention: the batch does not say which frames were erased (Batch.erased), which the term 'attention' "
                "needs; train from shards.loader.TrainLoader, or set model.pool to mean"
            )

    def label_terms(self, out: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The terms of the module's docstring, float32 scalars. Parts count equally.

        Raises:
            TrainError: the network has no parts, or no weights over time, though its settings ask for them.
        """
        label = gather(batch.label)  # the hardest clips are looked for in the whole batch
        terms = {
            "identity": identity_loss(out.logits, batch.label, self.smoothing),  # 6 L_ID
            "triplet": triplet_loss(gather(out.feat), label),  # 6 L_Tri
        }
        if self.parts:  # 4.5: ID and triplet alike
            if not out.local_logits:
                raise TrainError(f"model.local_branch is on, but {type(self.model).__name__} gives no parts; switch it off in this stage")
            terms["identity_local"] = torch.stack([identity_loss(part, batch.label, self.smoothing) for part in out.local_logits]).mean()
            terms["triplet_local"] = torch.stack([triplet_loss(gather(part), label) for part in out.local_feats]).mean()
        if self.attention:  # 4.5: auxiliary loss
            if out.attention is None:
                raise TrainError(
                    f"model.pool=attention, but {type(self.model).__name__} gives no weights over time; set model.pool to mean in this stage"
                )
            assert batch.erased is not None, "check() comes before terms()"
            terms["attention"] = attention_loss(out.attention, batch.erased)
        return terms
