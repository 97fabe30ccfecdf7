"""Load-time half of frames: JPEG bytes -> uint8 pictures; flip, crop and erase for training.

In:      JPEG files of the drawn frames.   Out: uint8 tensors [T, 3, H, W], RGB; the network normalises on its device.
Source:  specs/dubbernet.md section 3.2. Ours: flip and crop are shared by the frames of a clip unless `shared` is off;
         erasing is drawn per frame, fills a level before normalisation (128 is zero after it), is tried up to
         `erase_attempts` times, and draws the aspect of the rectangle on a logarithmic scale. As released: `shared` off,
         one attempt, levels 189, 186, 179 (0.485, 0.456, 0.406 after normalisation), aspect drawn uniformly.
"""

# T frames of a clip, H height and W width in pixels. In memory colours come last, as JPEG decoders give them: turning the
# axes round would cost as much as half the decoding, and convolutions take either order.

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.base.config import AugmentConfig
from pipeline.base.errors import ShardError


def decode(jpegs: Sequence[bytes | memoryview], height: int, width: int, where: str, indices: Sequence[int] | np.ndarray) -> Tensor:
    """Decode JPEG files of one tracklet.

    Args:
        jpegs: one file per entry of `indices`.
        height: pixels that every picture must have.
        width: pixels that every picture must have.
        where: shard and tracklet, for messages.
        indices: frame numbers in the tracklet, for messages.

    Returns:
        uint8 [T, 3, height, width], RGB.

    Raises:
        ShardError: a file does not decode or has another size; names shard, tracklet and frame.
    """
    out = torch.empty((len(jpegs), height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for t, (jpeg, index) in enumerate(zip(jpegs, indices, strict=True)):
        try:  # bytearray: torch wants memory it may write to
            picture = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), ImageReadMode.RGB)
        except (RuntimeError, ValueError) as error:
            raise ShardError(f"{where}: frame {index} does not decode ({error}); delete that shard and pack it again") from None
        if picture.shape[1:] != out.shape[2:]:
            found = f"{picture.shape[1]}x{picture.shape[2]}"
            raise ShardError(f"{where}: frame {index} is {found} (height x width), expected {height}x{width}; pack the shards again")
        out[t] = picture
    return out


def augment(frames: Tensor, settings: AugmentConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flip, pad and crop, then erase.

    Numbers are drawn in this order: flip, top, left (once if `settings.shared`, else for each frame), then the
    rectangle of each frame.

    Args:
        frames: uint8 [T, 3, H, W]; not changed.
        settings: chances and sizes.
        rng: the clip's own generator.

    Returns:
        uint8 [T, 3, H, W], and bool [T]: whether the frame lost a rectangle (not where no attempt to fit one succeeded).
    """
    parts = frames.split(len(frames) if settings.shared else 1)
    moved = []
    for part in parts:
        flip = rng.random() < settings.flip
        top, left = rng.integers(0, 2 * settings.pad, size=2, endpoint=True).tolist()
        moved.append(shift(part.flip(-1) if flip else part, settings.pad - top, settings.pad - left))
    out = moved[0] if settings.shared else join(moved)
    T, _, H, W = out.shape
    pixels = out.permute(0, 2, 3, 1).numpy()  # the same memory; NumPy fills a rectangle with rows of a colour ten times as fast
    row = np.full((W, 3), settings.erase_level, np.uint8)
    erased = np.zeros(T, np.bool_)
    for t in range(T):
        if rng.random() < settings.erase:
            y, x, h, w = rectangle(H, W, settings, rng)
            pixels[t, y : y + h, x : x + w] = row[:w]
            erased[t] = h > 0
    return out, torch.from_numpy(erased)


def join(parts: Sequence[Tensor]) -> Tensor:
    """Frames of one or more clips in a row, colours last in memory: uint8 [sum of T, 3, H, W], new memory."""
    return torch.cat([part.permute(0, 2, 3, 1) for part in parts]).permute(0, 3, 1, 2)


def shift(frames: Tensor, down: int, right: int) -> Tensor:
    """Move pictures inside their borders; what enters is zero (black).

    Padding by p zeros and cropping back at (top, left) of the padded picture is a shift by (p - top, p - left).

    Args:
        frames: uint8 [T, 3, H, W].
        down: pixels, negative is up.
        right: pixels, negative is left.

    Returns:
        uint8 [T, 3, H, W], new memory.
    """
    H, W = frames.shape[-2:]
    out = torch.zeros_like(frames)
    out[..., _kept(H, down), _kept(W, right)] = frames[..., _kept(H, -down), _kept(W, -right)]
    return out


def _kept(size: int, by: int) -> slice:
    """Where the pixels that stay in the picture lie after moving by `by`."""
    return slice(max(by, 0), max(size + min(by, 0), 0))


def rectangle(H: int, W: int, settings: AugmentConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A rectangle that fits into a picture: top, left, height, width in pixels; 0, 0, 0, 0 if no attempt fits.

    Each attempt draws an area, uniform in `erase_area` times the picture's, and an aspect (height over width) in
    `erase_aspect`..1/`erase_aspect`, uniform itself or in its logarithm (`erase_aspect_draw`); sides are rounded to
    whole pixels, at least one. The place is uniform over all places where the rectangle fits.
    """
    smallest, largest = settings.erase_area
    lowest = settings.erase_aspect
    for _ in range(settings.erase_attempts):
        area = rng.uniform(smallest, largest) * H * W
        if settings.erase_aspect_draw == "uniform":
            aspect = rng.uniform(lowest, 1 / lowest)
        else:
            aspect = math.exp(rng.uniform(math.log(lowest), -math.log(lowest)))
        h, w = max(round(math.sqrt(area * aspect)), 1), max(round(math.sqrt(area / aspect)), 1)
        if h <= H and w <= W:
            return int(rng.integers(0, H - h, endpoint=True)), int(rng.integers(0, W - w, endpoint=True)), h, w
    return 0, 0, 0, 0
