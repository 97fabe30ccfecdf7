"""Look at networks in the middle of a training without leaving a trace in it.

In:      a module in whatever mode.   Out: the same module for the time of a `with`: in evaluation mode, without gradients.
Source:  ours. Drop path, dropout and the hearing of a training step draw from torch's global generators; a look must not
         take a number out of them, nor leave a part of a network in another mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def aside(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards every part is in the mode it was in, and torch's generators stand where they stood.

    Args:
        module: all of its parts are switched; what it does not own (a teacher kept outside) is not touched.
        device: where the module is; its generator is kept beside the CPU's.
    """
    modes = [(part, part.training) for part in module.modules()]
    devices = [device] if device.type == "cuda" else []
    module.eval()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
