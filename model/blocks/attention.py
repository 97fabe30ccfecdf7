"""Attention from one set of tokens to another: the core of injection and perception.

Source: specs/dubbernet.md 4.3 steps 2-3 and 5.1 step 1.
"""

# B frames of all clips, N asking tokens, L answering tokens, D width

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention with queries from one place and keys and values from another (which may be the same)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, asking_BND: Tensor, answering_BLD: Tensor) -> Tensor:
        """[B, N, D] and [B, L, D] -> [B, N, D]; scale 1 / sqrt(D / heads)."""
        # 4.3 step 2: Q = X W_q, [K, V] = A' W_kv
        query = self.query(asking_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(answering_BLD).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        # 4.3 step 3: O = softmax(Q K^T / sqrt(D / heads)) V, heads joined, W_o and bias
        found = F.scaled_dot_product_attention(query, key, value)
        return self.out(found.transpose(1, 2).flatten(2))
