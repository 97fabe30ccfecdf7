"""Pictures of what networks get and make: clips, log-mel items, weights of tokens.

In:      tensors on the host.   Out: pictures uint8 [H, W, 3], RGB, row 0 at the top. Pure functions of their input.
Source:  ours.
"""

# B clips, T frames per clip, H and W pixels, F companion frames, M mel bands, N tokens of a frame (CLS first)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

GAP = 4
"""Pixels between pictures of a grid, white."""
PADDING = 128
"""Grey level of what lies behind the end of an item."""
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
"""Colours from low to high: black, violet, red, orange, pale yellow; brighter is higher, in grey print as well."""
FULL = 2.0
"""Weight of a token that has the highest colour; 1, the mean of a normalized mask, has the middle one."""
CLS_ROWS = 12
"""Pixels of the bar above a frame that shows the weight of its CLS token."""


def heat(values: np.ndarray) -> np.ndarray:
    """Colours of numbers: float [...] in 0..1 (cut off there) -> uint8 [..., 3]."""
    at = np.clip(values, 0, 1) * (len(HEAT) - 1)
    low = np.minimum(at.astype(np.int64), len(HEAT) - 2)
    part = (at - low)[..., None]
    return np.rint(HEAT[low] * (1 - part) + HEAT[low + 1] * part).astype(np.uint8)


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Pictures in rows, GAP white pixels between them; smaller ones stand at the top left of their cell."""
    height = [max(picture.shape[0] for picture in row) for row in rows]
    width = [max(row[i].shape[1] for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    out = np.full((sum(height) + GAP * (len(height) - 1), sum(width) + GAP * (len(width) - 1), 3), 255, np.uint8)
    for j, row in enumerate(rows):
        top = sum(height[:j]) + GAP * j
        for i, picture in enumerate(row):
            left = sum(width[:i]) + GAP * i
            out[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return out


def clips(frames: Tensor) -> np.ndarray:
    """uint8 [B, T, 3, H, W] -> a grid with one clip in each row, time from left to right."""
    return grid([[frame.permute(1, 2, 0).numpy() for frame in clip] for clip in frames])


def items(values: Tensor, lengths: Tensor, height: int = 160, width: int = 320) -> np.ndarray:
    """Companion items, one below the other: time from left to right, the lowest band at the bottom.

    Args:
        values: float [N, F, M]; log-mel, or tokens (then a column is a token).
        lengths: int [N], valid frames of each; what lies behind is grey.
        height, width: least pixels of an item; bands and frames are repeated a whole number of times.

    Colours run from the lowest to the highest value of each item; an item of one value is black.
    """
    return grid([[_item(value.float().numpy(), int(length), height, width)] for value, length in zip(values, lengths, strict=True)])


def _item(values: np.ndarray, length: int, height: int, width: int) -> np.ndarray:
    F, M = values.shape
    valid = values[:length]
    low, span = valid.min(), np.ptp(valid)
    out = np.full((M, F, 3), PADDING, np.uint8)
    out[:, :length] = heat((valid - low) / (span or 1)).transpose(1, 0, 2)[::-1]
    return out.repeat(max(1, -(-height // M)), axis=0).repeat(max(1, -(-width // F)), axis=1)


def masks(frames: Tensor, weights: Tensor, patches: tuple[int, int], patch: int, stride: int) -> np.ndarray:
    """Weights of tokens laid over their frames, one clip in each row; above each frame a bar with the weight of CLS.

    Args:
        frames: uint8 [B, T, 3, H, W].
        weights: float [B, T, N], 0 or more; 1 has the middle colour, FULL and more the highest.
        patches: rows and columns of patches; N is one more than their product.
        patch, stride: pixels of a patch, and from one patch to the next.
    """
    return grid(
        [
            [_mask(frame.numpy(), weight.float().numpy(), patches, patch, stride) for frame, weight in zip(*pair, strict=True)]
            for pair in zip(frames, weights, strict=True)
        ]
    )


def _mask(frame: np.ndarray, weight: np.ndarray, patches: tuple[int, int], patch: int, stride: int) -> np.ndarray:
    """One frame uint8 [3, H, W] in pale grey under the colours of its patches; overlapping ones count by their mean."""
    rows, columns = patches
    assert len(weight) == 1 + rows * columns, f"{len(weight)} weights for 1 + {rows} x {columns} tokens"
    total, count = np.zeros(frame.shape[1:]), np.zeros(frame.shape[1:])
    for k, value in enumerate(weight[1:].tolist()):
        top, left = k // columns * stride, k % columns * stride
        total[top : top + patch, left : left + patch] += value
        count[top : top + patch, left : left + patch] += 1
    grey = np.repeat((np.array([0.299, 0.587, 0.114]) @ frame.transpose(1, 0, 2))[..., None], 3, axis=2)
    colour = heat(total / np.maximum(count, 1) / FULL)
    picture = np.where(count[..., None] > 0, (grey + 2.0 * colour) / 3, grey)
    bar = np.broadcast_to(heat(weight[0] / FULL), (CLS_ROWS, frame.shape[2], 3))
    return np.concatenate([bar, np.rint(picture).astype(np.uint8)])
