"""The head: last transformer block on all tokens, CLS of every frame, mean over the clip, BNNeck, classifier.

Source: specs/dubbernet.md 4.4. Frames are independent up to the mean, so the order of frames in a clip does not matter.
"""

# B clips, T frames per clip, N tokens, D width, K classes

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from model.blocks.vit import Norm


class Head(nn.Module):
    """Tokens of all frames -> features and logits of clips."""

    def __init__(self, block: Block, width: int, classes: int) -> None:
        super().__init__()
        self.block = block
        self.norm = Norm(width)
        self.neck = nn.BatchNorm1d(width)
        self.neck.bias.requires_grad_(False)  # stays 0: classes are told apart around the origin
        self.classifier = nn.Linear(width, classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, tokens: Tensor, frames_per_clip: int) -> tuple[Tensor, Tensor, Tensor]:
        """[B*T, N, D] -> (feat [B, D], feat_bn [B, D], logits [B, K]), all float32."""
        cls = self.norm(self.block(tokens)[:, 0])
        feat = cls.float().unflatten(0, (-1, frames_per_clip)).mean(1)
        with torch.autocast(feat.device.type, enabled=False):  # few numbers, and the losses compare them closely
            feat_bn = self.neck(feat)
            return feat, feat_bn, self.classifier(feat_bn)
