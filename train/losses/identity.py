"""Which training identity is it: cross-entropy with smoothed labels.

In:      logits and labels.   Out: one number.
Source:  specs/dubbernet.md section 6 (L_ID), golden fact L2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def identity_loss(logits: Tensor, label: Tensor, smoothing: float = 0.1) -> Tensor:
    """Mean cross-entropy against (1 - smoothing) on the true class plus smoothing / K on every class.

    Args:
        logits: float [B, K]; computed in float32 whatever its type.
        label: int64 [B], 0..K-1.
        smoothing: 0..1.

    Returns:
        float32 scalar. Equal logits give ln K.
    """
    return F.cross_entropy(logits.float(), label, label_smoothing=smoothing)
