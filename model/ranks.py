"""The processes ("ranks") that share every batch of one training: who this one is, and how they join their parts.

In:      tensors whose first axis runs over this rank's part of the batch.   Out: the same of the whole batch, and back.
Source:  ours. Rank r of R has the r-th of R equal parts of the batch, so parts in the order of ranks are the whole. Without
         torch.distributed there is one rank, and everything here gives back what it was given.

What depends on the whole batch (hardest triplets, batch statistics, the mask's budget) is computed by every rank from joined
parts, in the same way; what chance decides is drawn for the whole batch by every rank, from equal seeds. So R ranks compute
what one computes, within the rounding of sums.
"""

# B clips (or rows) of this rank, R ranks

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this one, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """Joins parts. Every rank goes on to compute the same from the whole, so the gradient of this rank's part is known here
    without asking the others; times R, because gradients of parameters are averaged over the ranks afterwards."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(ranks())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return own(gradients[0]) * ranks()


def gather(part: Tensor) -> Tensor:
    """[B, ...] of every rank -> [R * B, ...] of all, in the order of ranks; differentiable.

    What follows must be the same function of the whole on every rank, and gradients of parameters must be averaged over ranks
    (as DistributedDataParallel does).
    """
    return part if ranks() == 1 else _Gather.apply(part)


def own(whole: Tensor) -> Tensor:
    """[R * B, ...] -> this rank's [B, ...]."""
    return whole if ranks() == 1 else whole.chunk(ranks())[rank()]


def rand(rows: int, *shape: int, device: torch.device) -> Tensor:
    """float32 [rows, *shape] uniform in 0..1 from torch's global generator: this rank's rows of what is drawn for all.

    Every rank must have seeded its generator alike and must draw in the same order.
    """
    return own(torch.rand(ranks() * rows, *shape, device=device))
