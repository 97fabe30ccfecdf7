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
    """Joins parts. A rank's part counts in the loss of every rank, so its gradient is the sum over all of them; that gradients
    of parameters are averaged over ranks afterwards makes it that of the mean of the ranks' losses."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(ranks())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return own(whole)


def gather(part: Tensor) -> Tensor:
    """[B, ...] of every rank -> [R * B, ...] of all, in the order of ranks; differentiable.

    The loss is then the mean of the ranks' losses: gradients of parameters must be averaged over ranks (as
    DistributedDataParallel does). Every rank must call this equally often, and go back through it equally often.
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
