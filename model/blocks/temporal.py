"""Temporal attention: how much each frame of a clip counts, instead of all alike.

Source: specs/dubbernet.md 4.5. Ours: the last ReLU starts open (bias 1). Frames look alike to a new network, so that from an
ordinary start the ReLU is closed for all of them with about one seed in four, and a closed ReLU never learns. The softmax
cancels what frames have in common: the weights start near 1/T either way.
"""

# B clips, T frames per clip, D width

from __future__ import annotations

import torch
from torch import Tensor, nn


class TemporalAttention(nn.Module):
    """Features of a clip's frames -> their weights. Any T; a clip of one frame has the weight 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(1, width // 3)  # 256 of 768
        self.reduce = nn.Conv1d(width, hidden, 1)
        self.over_time = nn.Conv1d(hidden, 1, 3, padding=1)
        self.activate = nn.ReLU()
        nn.init.ones_(self.over_time.get_parameter("bias"))

    def forward(self, frames_BTD: Tensor) -> Tensor:
        """float32 [B, T, D] -> [B, T], at least 0, sum 1 over T."""
        with torch.autocast(frames_BTD.device.type, enabled=False):
            hidden = self.activate(self.reduce(frames_BTD.transpose(1, 2)))
            return self.activate(self.over_time(hidden)).squeeze(1).softmax(dim=1)
