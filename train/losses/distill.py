"""What a student learns from a frozen teacher: its tokens (weighted by a mask) and its logits.

In:      tensors of student and teacher, and masks of the mask generator.   Out: one number per loss.
Source:  specs/dubbernet.md section 5.3, golden facts L4 and L5.
         Ours: the mask is used (the released code drops it), normalised per frame and held by a budget, because a
         non-negative mask times a non-negative loss falls to 0 and stays there.
"""

# R rows (frames of all clips, B*T), N tokens of a frame, D token width, K classes

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def divergence(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(target / T) || softmax(student / T)) over the last axis.

    Args:
        student: float [..., D]; computed in float32 whatever its type.
        target: float [..., D], without gradient.
        temperature: T > 0. The factor T^2 keeps the size of the gradient independent of T.

    Returns:
        float32 [...], at least 0.
    """
    student_log = F.log_softmax(student.float() / temperature, dim=-1)
    target_log = F.log_softmax(target.detach().float() / temperature, dim=-1)
    return F.kl_div(student_log, target_log, reduction="none", log_target=True).sum(-1) * temperature**2


def token_distill_loss(student_RND: Tensor, target_RND: Tensor, weight_RN: Tensor | None, temperature: float) -> Tensor:
    """TKD of one fusion point: mean over frames and tokens of weight times the divergence over channels.

    Args:
        student_RND, target_RND: float [R, N, D], tokens after the fusion.
        weight_RN: float [R, N] from :func:`mask_weights`; None weighs every token 1.

    Returns:
        float32 scalar.
    """
    each_RN = divergence(student_RND, target_RND, temperature)
    return each_RN.mean() if weight_RN is None else (each_RN * weight_RN.float()).mean()


def logits_distill_loss(student_BK: Tensor, target_BK: Tensor, temperature: float) -> Tensor:
    """LKD: mean over clips of the divergence over classes. float [B, K] twice -> float32 scalar."""
    return divergence(student_BK, target_BK, temperature).mean()


def mask_weights(mask_RN: Tensor) -> Tensor:
    """A mask as weights of mean 1 per frame.

    Args:
        mask_RN: float [R, N] in 0..6 (after ReLU6).

    Returns:
        float32 [R, N]: mask / (mean of the frame's mask + 1e-6); 1 for every token of a frame whose mask is all 0.
    """
    mask_RN = mask_RN.float()
    mean_R1 = mask_RN.mean(1, keepdim=True)
    return torch.where(mean_R1 > 0, mask_RN / (mean_R1 + 1e-6), 1.0)


def mask_budget_loss(mask_RN: Tensor, target: float) -> Tensor:
    """(mean of min(mask, 1) - target)^2: keeps a learned mask from closing. float [R, N] -> float32 scalar."""
    return (mask_RN.float().clamp(max=1.0).mean() - target).square()


def mask_statistics(mask_RN: Tensor) -> dict[str, Tensor]:
    """What a mask looks like, for the log.

    Args:
        mask_RN: float [R, N] in 0..6.

    Returns:
        float32 scalars on the same device, without gradient: 'mean'; 'zero', the fraction of tokens at exactly 0;
        'entropy', the mean over frames of the entropy of mask / sum, relative to ln N (1: all tokens weigh the same;
        0: one token has all the weight, or none has any).
    """
    mask_RN = mask_RN.detach().float()
    share_RN = mask_RN / mask_RN.sum(1, keepdim=True).clamp(min=1e-6)
    entropy_R = torch.special.entr(share_RN).sum(1) / math.log(max(mask_RN.shape[1], 2))
    return {"mean": mask_RN.mean(), "zero": (mask_RN == 0).float().mean(), "entropy": entropy_R.mean()}
