"""Pull the farthest clip of an identity closer than the nearest clip of another: batch-hard, soft margin.

In:      features before the batch norm, and labels.   Out: one number.
Source:  specs/dubbernet.md section 6 (L_Tri), golden fact L1.
         Ours: distances in float32 from differences; the released code takes a half-precision cross term, which cancels.
"""

# B clips in the batch, D feature width

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-6
"""Distances are clamped from below here: the slope of a square root at 0 is infinite."""


def pairwise_distance(feat_BD: Tensor) -> Tensor:
    """Euclidean distance between all pairs.

    Args:
        feat_BD: float [B, D]; bfloat16 and float16 are widened first. Only differences, squares and sums follow,
            none of which autocast narrows, so the result is float32 under autocast too.

    Returns:
        float32 [B, B], at least `SMALLEST`; the gradient of a clamped distance is 0.
    """
    feat_BD = feat_BD.float()
    squared_BB = (feat_BD[:, None] - feat_BD[None]).square().sum(-1)
    return squared_BB.clamp(min=SMALLEST**2).sqrt()


def triplet_loss(feat_BD: Tensor, label: Tensor) -> Tensor:
    """Mean over anchors of log(1 + exp(farthest positive - nearest negative)).

    Args:
        feat_BD: float [B, D], not normalised, before the batch norm.
        label: int64 [B]. The anchor counts as its own positive (distance `SMALLEST`).

    Returns:
        float32 scalar. Equal features give ln 2. An anchor without any negative in the batch adds 0; the sampler's
        P >= 2 identities rule that out.
    """
    distance_BB = pairwise_distance(feat_BD)
    same_BB = label[:, None] == label[None]
    farthest_B = distance_BB.masked_fill(~same_BB, float("-inf")).amax(1)
    nearest_B = distance_BB.masked_fill(same_BB, float("inf")).amin(1)
    return F.softplus(farthest_B - nearest_B).mean()
