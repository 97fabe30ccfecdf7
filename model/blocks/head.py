"""The head: last transformer block on all tokens, CLS of every frame, frames to clip, BNNeck, classifier.

Source: specs/dubbernet.md 4.4; 4.5 for weights over time. With the mean, frames are independent up to there, so the order of
frames in a clip does not matter.
"""

# B clips, T frames per clip, N tokens, D width, K classes

from __future__ import annotations

from torch import Tensor, nn

from model.blocks.neck import bnneck, classifier, classify
from model.blocks.temporal import TemporalAttention
from model.blocks.vit import Block, Norm


class Head(nn.Module):
    """Tokens of all frames -> features and logits of clips."""

    def __init__(self, block: Block, width: int, classes: int, *, weigh_frames: bool = False) -> None:
        """`weigh_frames`: frames count by learned weights over time, instead of all alike."""
        super().__init__()
        self.block = block
        self.norm = Norm(width)
        self.neck = bnneck(width)
        self.classifier = classifier(width, classes)
        self.attention = TemporalAttention(width) if weigh_frames else None

    def forward(self, tokens: Tensor, frames_per_clip: int, kept: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """[B*T, N, D] -> (feat [B, D], feat_bn [B, D], logits [B, K], weights of the frames [B, T] or None), all float32.

        `kept` is for the block.
        """
        cls = self.norm(self.block(tokens, kept, True)[:, 0])  # 4.4: z = CLS of LN(Block_12(Y_11)); no other token is used
        cls_BTD = cls.float().unflatten(0, (-1, frames_per_clip))
        if self.attention is None:
            feat, weight_BT = cls_BTD.mean(1), None  # 4.4: g
        else:
            weight_BT = self.attention(cls_BTD)  # 4.5: softmax(a)
            feat = (weight_BT[..., None] * cls_BTD).sum(1)
        feat_bn, logits = classify(self.neck, self.classifier, feat)  # 4.4: f, W_c f
        return feat, feat_bn, logits, weight_BT
