"""What chance drops in training: halves of blocks, and scores of masks.

Source: specs/dubbernet.md 4.1 (stochastic depth), 5.2 (dropout). As timm's DropPath and PyTorch's Dropout: what is kept is
divided by the chance to be kept, so that the mean stays. Ours: every number is drawn for the whole batch and this rank's rows
are taken (model/ranks.py), and a forward draws all its drop paths at once, before the first block. So a block itself knows no
chance: it can be computed twice (recompute), and blocks of different rates are the same program (compile).
"""

# R frames of all clips of this rank

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.ranks import rand


def drawn(keep: Tensor, rows: int) -> Tensor:
    """float32 [...] chances to be kept -> float32 [rows, ...]: 0 where dropped, else 1 / keep."""
    return torch.where(rand(rows, *keep.shape, device=keep.device) < keep, 1 / keep, 0.0)


class DropPath(nn.Module):
    """For each block, each of its halves and each frame: by what the half counts, or not at all."""

    def __init__(self, rates: list[float]) -> None:
        """`rates`: of each block the chance that a frame skips a half of it, in 0..1."""
        super().__init__()
        self.rates = rates
        self.keep: Tensor
        self.register_buffer("keep", 1 - torch.tensor(rates)[:, None].repeat(1, 2), persistent=False)

    def forward(self, rows: int) -> list[Tensor] | list[None]:
        """Per block float32 [2, R, 1, 1], first for its attention, then for its MLP; None where nothing is ever dropped."""
        if not (self.training and any(self.rates)):
            return [None] * len(self.rates)
        return list(drawn(self.keep, rows).permute(1, 2, 0).contiguous()[..., None, None].unbind(0))


class Dropout(nn.Module):
    """nn.Dropout on [R, ...]."""

    def __init__(self, rate: float) -> None:
        """`rate`: the chance that a value becomes 0, in 0..1."""
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """float [R, ...] -> the same shape and type."""
        if not (self.training and self.rate):
            return x
        return x * drawn(torch.full(x.shape[1:], 1 - self.rate, device=x.device), len(x)).to(x.dtype)
