"""The parts of a network that most of its time and memory go into: they can be compiled, and computed twice instead of kept.

Source: torch.compile and activation checkpointing (torch.utils.checkpoint). A part draws nothing itself (blocks/chance.py), so
the second time gives the same numbers as the first; and its program is that of its class, not of the part, so that all blocks
of all networks share one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

VARIANTS = 64
"""Programs of one class that may exist at once: networks, times modes, times sizes. torch's own limit is 8."""


class Part(nn.Module):
    """Base of such parts: they say what they do in `compute`, not in `forward`."""

    compiles = True
    """Whether :func:`compile_parts` makes a program of it."""
    recompute = False
    """Whether the backward pass computes the part again, from its input; else its inner tensors are kept until then."""
    program: Callable[..., Any] | None = None
    """`compute` as compiled: a function of the part, so that a copy of the part computes with its own weights."""

    compute: Callable[..., Any]

    def forward(self, *given: Any) -> Any:
        """What `compute` says."""
        compute = self.program or type(self).compute
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(compute, self, *given, use_reentrant=False, preserve_rng_state=False)
        return compute(self, *given)


def parts_of(module: nn.Module) -> list[Part]:
    """All parts of a network, or of a task: blocks, fusions, what cuts frames into tokens, mask generators."""
    return [part for part in module.modules() if isinstance(part, Part)]


def recompute_parts(module: nn.Module, on: bool = True) -> None:
    """Whether the backward pass computes the parts again: much less memory, a third more time, the same bits."""
    for part in parts_of(module):
        part.recompute = on


def compile_parts(module: nn.Module, backend: str = "inductor") -> None:
    """Let torch.compile make the parts' programs when they are next used, once for each class, mode and size (any size, from
    the second on). 'inductor' needs a C++ compiler on a CPU. Names of weights stay."""
    from torch import _dynamo  # seconds of imports that nobody else needs

    _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, VARIANTS)
    _dynamo.config.optimize_ddp = False  # it would cut parts in two; they are small enough to send gradients in between
    parts = [part for part in parts_of(module) if part.compiles]
    programs = {kind: torch.compile(kind.compute, backend=backend, fullgraph=True) for kind in {type(part) for part in parts}}
    for part in parts:
        part.program = programs[type(part)]
