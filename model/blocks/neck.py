"""BNNeck and classifier: what stands between a feature and its classes.

Source: specs/dubbernet.md 4.4 (f = BN1d(g), logits = W_c f) and 4.5, where each part has its own pair.
"""

# B clips, D width, K classes

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.ranks import gather, own


class BNNeck(nn.BatchNorm1d):
    """Batch norm over the clips of all ranks (torch's SyncBatchNorm is for GPUs alone). With one rank it is BatchNorm1d."""

    def forward(self, feat_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]; every rank normalises all clips, so that running statistics are the same everywhere."""
        return own(super().forward(gather(feat_BD))) if self.training else super().forward(feat_BD)


def bnneck(width: int) -> BNNeck:
    """Batch norm whose bias stays 0: classes are told apart around the origin."""
    neck = BNNeck(width)
    neck.bias.requires_grad_(False)
    return neck


def classifier(width: int, classes: int) -> nn.Linear:
    """Linear layer without bias, from small random numbers."""
    linear = nn.Linear(width, classes, bias=False)
    nn.init.normal_(linear.weight, std=0.001)
    return linear


def classify(neck: nn.Module, linear: nn.Module, feat_BD: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [B, D] -> (feat_bn [B, D], logits [B, K]), in float32: these are few numbers, and the losses compare them closely."""
    with torch.autocast(feat_BD.device.type, enabled=False):
        feat_bn = neck(feat_BD)
        return feat_bn, linear(feat_bn)
