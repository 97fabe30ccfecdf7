"""What a student learns from a frozen teacher: its tokens (weighted by a mask), its logits, its features.

In:      tensors of student and teacher, and masks of the mask generator.   Out: one number per loss.
Source:  specs/dubbernet.md section 5.3, golden facts L3, L4 and L5. Every distance between student and teacher carries the
         factor T^2 (16 at temperature 4), as released; for the divergences it also keeps the gradient's size independent
         of T. L1 and squared differences have no softmax, so there T is nothing but this factor.
         Ours: the mask is used (the released code drops it), normalised per frame and held by a budget, because a
         non-negative mask times a non-negative loss falls to 0 and stays there.
"""

# B clips, R rows (frames of all clips, B*T), N tokens of a frame, D token width, K classes

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAK = 0.1
"""Slope of the budget behind a closed mask."""

# --- 5.3 TKD: tokens --------------------------------------------------------------------------------------------------


def divergence(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(target / T) || softmax(student / T)) over the last axis.

    Args:
        student: float [..., D]; computed in float32 whatever its type.
        target: float [..., D], without gradient.
        temperature: T > 0.

    Returns:
        float32 [...], at least 0.
    """
    student_log = F.log_softmax(student.float() / temperature, dim=-1)
    target_log = F.log_softmax(target.detach().float() / temperature, dim=-1)
    return F.kl_div(student_log, target_log, reduction="none", log_target=True).sum(-1) * temperature**2


def absolute_difference(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over the last axis of |student - target|; arguments and result as :func:`divergence`."""
    return (student.float() - target.detach().float()).abs().mean(-1) * temperature**2


def squared_difference(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over the last axis of (student - target)^2; arguments and result as :func:`divergence`."""
    return (student.float() - target.detach().float()).square().mean(-1) * temperature**2


DISTANCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "kl": divergence,
    "l1": absolute_difference,
    "mse": squared_difference,
}
"""Distance of one token over its channels, by the value of `distill.token`."""


def normalise_tokens(tokens: Tensor, how: str) -> Tensor:
    """Each token scaled by itself: float [..., D] -> float32 [..., D].

    Args:
        how: 'none'; 'l2', to length 1; 'ln', to mean 0 and variance 1 over its channels (a LayerNorm without parameters).
    """
    tokens = tokens.float()
    if how == "l2":
        return F.normalize(tokens, dim=-1)
    if how == "ln":
        return F.layer_norm(tokens, tokens.shape[-1:])
    assert how == "none", how
    return tokens


def token_distill_loss(
    student_RND: Tensor, target_RND: Tensor, weight_RN: Tensor | None, temperature: float, distance: str = "kl", normalize: str = "none"
) -> Tensor:
    """TKD of one fusion point: mean over frames and tokens of weight times the distance over channels.

    Args:
        student_RND, target_RND: float [R, N, D], the tokens that are compared.
        weight_RN: float [R, N] from :func:`mask_weights`, or a raw mask; None weighs every token 1.
        temperature: T > 0; the factor T^2 is part of every distance.
        distance: name in `DISTANCES`.
        normalize: what :func:`normalise_tokens` does to both sides first.

    Returns:
        float32 scalar.
    """
    each_RN = DISTANCES[distance](normalise_tokens(student_RND, normalize), normalise_tokens(target_RND, normalize), temperature)
    return each_RN.mean() if weight_RN is None else (each_RN * weight_RN.float()).mean()


# --- 5.3 LKD: clips ---------------------------------------------------------------------------------------------------


def logits_distill_loss(student_BK: Tensor, target_BK: Tensor, temperature: float) -> Tensor:
    """LKD: mean over clips of the divergence over classes. float [B, K] twice -> float32 scalar."""
    return divergence(student_BK, target_BK, temperature).mean()


def feature_distill_loss(student_BD: Tensor, target_BD: Tensor, temperature: float) -> Tensor:
    """LKD as released: T^2 * mean squared difference of features. float [B, D] twice (before the BNNeck) -> float32 scalar."""
    return squared_difference(student_BD, target_BD, temperature).mean()


# --- 5.3 mask training ------------------------------------------------------------------------------------------------


def mask_weights(mask_RN: Tensor) -> Tensor:
    """A mask as weights of mean 1 per frame (`mask: normalized`).

    Args:
        mask_RN: float [R, N] in 0..6 (after ReLU6).

    Returns:
        float32 [R, N]: mask / (mean of the frame's mask + 1e-6); 1 for every token of a frame whose mask is all 0.
    """
    mask_RN = mask_RN.float()
    mean_R1 = mask_RN.mean(1, keepdim=True)
    return torch.where(mean_R1 > 0, mask_RN / (mean_R1 + 1e-6), 1.0)


def mask_budget_loss(score_RN: Tensor, target: float) -> Tensor:
    """(mean of min(mask, 1) - target)^2: keeps a learned mask from closing.

    Ours: below 0, where the mask is 0, a score counts `LEAK` times itself. Otherwise a mask that is all 0 (training can
    take it there) had no gradient at all, and not even its budget could open it again.

    Args:
        score_RN: float [R, N], whose ReLU6 is the mask.
        target: rho.

    Returns:
        float32 scalar.
    """
    return (F.leaky_relu(score_RN.float(), LEAK).clamp(max=1.0).mean() - target).square()


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
