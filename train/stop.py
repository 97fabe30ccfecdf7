"""The wish to end: SIGTERM, as clusters send it before they take a machine away.

In:      a signal.   Out: whether this training should save and end, agreed on by all of its processes.
Source:  promise R1.
"""

from __future__ import annotations

import os
import signal
import sys

import torch
import torch.distributed as dist

from model.ranks import ranks
from train.device import collective_device


class Stop:
    """SIGTERM asks for a checkpoint and an end; a second one ends at once, but for one of several ranks: a rank is told by Slurm
    and by whoever started it, and again when another rank has ended."""

    def __init__(self) -> None:
        self.asked, self._process = False, os.getpid()

    def listen(self) -> Stop:
        """From now on; loader processes that are forked later pay no attention."""
        signal.signal(signal.SIGTERM, self._hear)
        return self

    def _hear(self, *_: object) -> None:
        if os.getpid() != self._process:
            return
        if self.asked and ranks() == 1:
            sys.exit(128 + signal.SIGTERM)
        self.asked = True

    def agreed(self) -> bool:
        """Whether any rank has been asked; every rank must call this at the same step."""
        if ranks() == 1:
            return self.asked
        said = torch.tensor(float(self.asked), device=collective_device())
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said.item())
