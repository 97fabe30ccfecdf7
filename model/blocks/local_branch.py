"""Local branch: four parts of the patches, each followed through all frames of the clip at once.

Source: specs/dubbernet.md 4.5 (TCSS and VPPF of VID-Trans-ReID). There, frames and patches are regrouped by reading the
memory in another order, so that a 'patch' holds tokens of one frame (section 9, B27); here axes are really exchanged.
Ours: a second group that is one patch shorter (odd number of patches), and a last part that takes what is left over
(210 patches: 52, 52, 52, 54), so that every patch is used exactly once.
"""

# B clips, T frames per clip, N tokens per frame (CLS first), D width, K classes

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.blocks.neck import bnneck, classifier, classify
from model.blocks.vit import Norm, transformer_block
from pipeline.base.errors import ConfigError

PARTS = 4
SHIFT = 5
"""Patches by which the row of patches is rotated before it is shuffled."""


def join_frames(tokens: Tensor, frames: int) -> Tensor:
    """[B*T, N, D] -> [B, N, T*D]: the T frames of the same patch side by side."""
    return tokens.unflatten(0, (-1, frames)).transpose(1, 2).flatten(2)


def patch_order(patches: int) -> Tensor:
    """int64 [patches]: which patch stands at each place once they are rotated and their two halves are interleaved."""
    rotated = torch.arange(patches).roll(-SHIFT)
    first = (patches + 1) // 2
    order = torch.empty_like(rotated)
    order[0::2], order[1::2] = rotated[:first], rotated[first:]
    return order


def part_sizes(patches: int) -> list[int]:
    """Patches of each part; the last one takes the remainder."""
    size = patches // PARTS
    return [size] * (PARTS - 1) + [patches - (PARTS - 1) * size]


class LocalBranch(nn.Module):
    """Tokens of all frames -> features and logits of the parts of each clip. All parts share one block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, frames: int, patches: int, classes: int) -> None:
        """
        Args:
            frames: T, the exact number of frames in every clip, at least 1.
            patches: N - 1, at least one for each part.
        """
        super().__init__()
        if frames < 1 or patches < PARTS:
            raise ConfigError(
                f"model.local_branch: clips of {frames} frames with {patches} patches each, expected at least 1 and {PARTS}; "
                "use smaller patches or a smaller stride, or switch it off"
            )
        joined = width * frames
        self.frames, self.sizes = frames, part_sizes(patches)
        self.block = transformer_block(joined, heads, mlp_ratio)  # no stochastic depth
        self.block.compiles = False  # little but matrix products, and of other sizes than the blocks of the trunk
        self.norm = Norm(joined)
        self.necks = nn.ModuleList(bnneck(joined) for _ in range(PARTS))
        self.classifiers = nn.ModuleList(classifier(joined, classes) for _ in range(PARTS))
        self.order: Tensor
        self.register_buffer("order", patch_order(patches), persistent=False)

    def forward(self, tokens: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """[B*T, N, D] -> per part (feats [B, T*D], feats_bn [B, T*D], logits [B, K]), all float32."""
        joined = join_frames(tokens, self.frames)
        cls, patches = joined[:, :1], joined[:, 1:][:, self.order]
        feats, feats_bn, logits = [], [], []
        for part, neck, linear in zip(patches.split(self.sizes, dim=1), self.necks, self.classifiers, strict=True):
            feat = self.norm(self.block(torch.cat([cls, part], dim=1), None, True)[:, 0]).float()
            feat_bn, said = classify(neck, linear, feat)
            feats.append(feat)
            feats_bn.append(feat_bn)
            logits.append(said)
        return feats, feats_bn, logits
