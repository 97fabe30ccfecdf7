"""Keep learned weights over time off frames that augmentation has partly erased.

In:      weights over the frames of each clip, and which of them were erased.   Out: one number.
Source:  specs/dubbernet.md section 4.5 (auxiliary loss of the temporal attention).
"""

# B clips in the batch, T frames per clip

from __future__ import annotations

from torch import Tensor


def attention_loss(weight_BT: Tensor, erased_BT: Tensor) -> Tensor:
    """Mean over clips of the weight that lies on erased frames.

    Args:
        weight_BT: float [B, T], at least 0, sum 1 over each clip.
        erased_BT: bool [B, T].

    Returns:
        float32 scalar in 0..1: 0 when no frame was erased, 1 when all were.
    """
    return (weight_BT.float() * erased_BT).sum(1).mean()
