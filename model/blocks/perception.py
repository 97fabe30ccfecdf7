"""Simple Perception: what stands in the student where the teacher listens. Self-attention with a gate per channel.

Source: specs/dubbernet.md 5.1. The LayerNorm after the gate cancels a common scale: only the gate's relative sizes matter.
"""

# B frames of all clips, N tokens, D width

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.blocks.attention import CrossAttention
from model.blocks.part import Part


class Perception(Part):
    """X + LN(sigmoid(gate) * Attention(LN(X), LN(X))). Initialised as PyTorch does; LayerNorm eps 1e-5."""

    def __init__(self, width: int, heads: int, zero_init: bool = False) -> None:
        """`zero_init`: the last LayerNorm starts at weight 0, so that Y = X at first."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)
        self.gate = nn.Parameter(torch.empty(1, 1, width))
        self.out_norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.gate)
        if zero_init:
            nn.init.zeros_(self.out_norm.weight)

    def compute(self, visual_BND: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D] -> (attn, fused), both [B, N, D]: O' and Y of 5.1, before and after the residual sum."""
        normed = self.norm(visual_BND)
        attn = self.attention(normed, normed) * self.gate.sigmoid()  # 5.1 steps 1 and 2: O, O' = O * sigma(tau)
        return attn, visual_BND + self.out_norm(attn)  # 5.1 step 3
