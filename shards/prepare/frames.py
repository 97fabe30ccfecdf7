"""Load-time half of frames: JPEG bytes -> uint8 pictures; flip, shift and erase them for training.

In:      JPEG files of the drawn frames; what was drawn for them (shards/augment.py).
Out:     uint8 tensors, RGB; the network normalises on its device.
Source:  specs/dubbernet.md section 3.2. Ours: only whole pixels move, so that a CPU and a GPU give the same bytes.
"""

# B clips, T frames of each, N frames in a row, H height and W width in pixels. In memory colours come last, as JPEG decoders give
# them: turning the axes round would cost as much as half the decoding, and convolutions take either order.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.base.batch import Augmentation
from pipeline.base.errors import ShardError

MOST_SEGMENTS = 1 << 13
"""Segments and fill bytes before a JPEG's size; a head as packed has some ten."""
MOST_SCANS = 100
"""Scans of one JPEG: each may be a walk through all pixels."""
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode(jpegs: Sequence[bytes | memoryview], out: Tensor, where: str, indices: Sequence[int] | np.ndarray) -> None:
    """Decode JPEG files of one tracklet.

    Args:
        jpegs: one file per entry of `indices`.
        out: uint8 [N, 3, height, width], to be filled with RGB; its size is what every picture must have.
        where: shard and tracklet, for messages.
        indices: frame numbers in the tracklet, for messages.

    Raises:
        ShardError: a file does not decode or has another size; names shard, tracklet and frame.
    """
    height, width = out.shape[2:]
    for picture, jpeg, index in zip(out, jpegs, indices, strict=True):
        size = _size(jpeg)
        if size is None:
            raise _damaged(where, index, "no JPEG with its size in its head")
        if size != (height, width):  # said before a decoder asks for gigabytes
            raise ShardError(
                f"{where}: frame {index} is {size[0]}x{size[1]} (height x width), expected {height}x{width}; pack the shards again"
            )
        data = bytearray(jpeg)  # torch wants memory it may write to
        if (scans := data.count(b"\xff\xda")) > MOST_SCANS:
            raise _damaged(where, index, f"{scans} scans, at most {MOST_SCANS} are packed")
        try:
            picture.copy_(decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.RGB))
        except (RuntimeError, ValueError) as error:
            raise _damaged(where, index, str(error).partition("\n")[0]) from None


def _damaged(where: str, index: int, why: str) -> ShardError:
    """Training must not go on with fewer frames than it says, so it ends here; the sentence says how to find all such frames."""
    return ShardError(
        f"{where}: frame {index} does not decode ({why}); if shards.verify finds nothing wrong with the store, the picture was damaged when it "
        "was packed: pack again with datasets.<name>.frames.check: true, which finds all such pictures (and broken: drop, which leaves them out)"
    )


def _size(jpeg: bytes | memoryview) -> tuple[int, int] | None:
    """Height and width that a JPEG's head claims; None: its segments do not lead there."""
    at = 2
    for _ in range(MOST_SEGMENTS):
        if at + 9 > len(jpeg) or jpeg[at] != 0xFF:
            return None
        marker = jpeg[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _FRAME_HEADERS:
            return int.from_bytes(jpeg[at + 5 : at + 7], "big"), int.from_bytes(jpeg[at + 7 : at + 9], "big")
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA:  # coded data, an end, or what stands nowhere between segments
            return None
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return None


def augment(frames: Tensor, changes: Augmentation) -> Tensor:
    """Change the frames of a batch as was drawn.

    Args:
        frames: uint8 [B, T, 3, H, W], on any device; not changed.
        changes: on the same device.

    Returns:
        uint8 [B, T, 3, H, W], colours last in memory; the same bytes on every device.
    """
    pictures = frames.permute(0, 1, 3, 4, 2)
    if frames.device.type == "cpu":
        out = _one_by_one(pictures, changes)
    else:
        numbers = torch.arange(pictures.shape[0] * pictures.shape[1], device=frames.device).unflatten(0, pictures.shape[:2])
        out = take(pictures.flatten(0, 1), numbers, changes)
    return out.permute(0, 1, 4, 2, 3)


def take(pictures: Tensor, numbers: Tensor, changes: Augmentation) -> Tensor:
    """Pick pictures and change them, all at once: for a device on which calls are dear and pixels cheap.

    Args:
        pictures: uint8 [N, H, W, 3].
        numbers: int64 [B, T], each in 0..N-1.
        changes: of B clips of T frames.

    Returns:
        uint8 [B, T, H, W, 3].
    """
    H, W = pictures.shape[1:3]
    y, x = torch.arange(H, device=pictures.device), torch.arange(W, device=pictures.device)
    row, column = y - changes.shift[..., :1], x - changes.shift[..., 1:]  # [B, T, H], [B, T, W]: where a pixel comes from
    inside = _cross((row >= 0) & (row < H), (column >= 0) & (column < W))
    column = torch.where(changes.flip[..., None], W - 1 - column, column)
    out = pictures[numbers[..., None, None], row.clamp(0, H - 1)[..., :, None], column.clamp(0, W - 1)[..., None, :]]
    top, left, height, width = (part[..., None] for part in changes.erase.unbind(-1))
    erased = _cross((y >= top) & (y < top + height), (x >= left) & (x < left + width))
    return torch.where(erased, changes.level, out * inside)


def _cross(rows: Tensor, columns: Tensor) -> Tensor:
    """bool [..., H] and [..., W] -> [..., H, W, 1]: both."""
    return (rows[..., :, None] & columns[..., None, :])[..., None]


def _one_by_one(pictures: Tensor, changes: Augmentation) -> Tensor:
    """The same on a CPU, where a pixel that is moved once is what counts. uint8 [B, T, H, W, 3] -> the same shape, new memory.

    torch turns rows of pixels round ten times as fast as NumPy; NumPy fills a rectangle with rows of a colour ten times as fast as
    torch.
    """
    B, T, H, W, _ = pictures.shape
    out = np.zeros(pictures.shape, np.uint8)
    row = np.full((W, 3), changes.level.numpy(), np.uint8)
    flips, shifts, rectangles = changes.flip.tolist(), changes.shift.tolist(), changes.erase.tolist()
    for b in range(B):
        first = 0
        for t in range(1, T + 1):  # frames that move alike move together
            if t < T and flips[b][t] == flips[b][first] and shifts[b][t] == shifts[b][first]:
                continue
            (down, right), part = shifts[b][first], pictures[b, first:t]
            source = part.permute(0, 3, 1, 2).flip(-1).permute(0, 2, 3, 1) if flips[b][first] else part  # the order torch is fast in
            out[b, first:t, _kept(H, down), _kept(W, right)] = source[:, _kept(H, -down), _kept(W, -right)].numpy()
            first = t
        for t, (top, left, height, width) in enumerate(rectangles[b]):
            out[b, t, top : top + height, left : left + width] = row[:width]
    return torch.from_numpy(out)


def _kept(size: int, by: int) -> slice:
    """Where the pixels that stay in the picture lie after moving by `by`."""
    return slice(max(by, 0), max(size + min(by, 0), 0))
