"""Small networks and batches for the tests of `model`."""

from __future__ import annotations

from typing import Any

import torch

from model.api import Network
from model.registry import MODELS
from pipeline.base.batch import Batch, Companion
from pipeline.base.config import ModelConfig

CLASSES, CAMERAS, BANDS, HEIGHT, WIDTH, FRAMES = 5, 3, 8, 32, 16, 3
ITEM = {"audio": (20, BANDS), "audio_tokens": (6, 10)}
"""Shape of one companion item: log-mel frames and bands; tokens (of a width that is not the network's) and values."""


def config(**changes: Any) -> ModelConfig:
    """Width 24, three blocks (two fusion points), 1 + 7 x 3 tokens on frames of 32x16."""
    numbers: dict[str, Any] = {"width": 24, "depth": 3, "heads": 3, "patch": 8, "stride": 4, "fusion_after_blocks": (0, 1)}
    return ModelConfig(**numbers | {"audio_tokens": 4, "audio_frames": 20} | changes)


def make(settings: ModelConfig, name: str, **facts: Any) -> Network:
    """A network of these settings, with what the data say where `facts` do not."""
    kind = facts.get("kind", "audio")
    known = {"kind": kind, "classes": CLASSES, "cameras": CAMERAS, "bands": ITEM[kind][1] if kind in ITEM else 0}
    return MODELS[name](settings, **known | {"height": HEIGHT, "width": WIDTH, "frames": FRAMES} | facts)


def network(
    name: str = "dubbernet_teacher",
    *,
    seed: int = 0,
    classes: int = CLASSES,
    cameras: int = CAMERAS,
    kind: str = "audio",
    frames: int = FRAMES,
    **changes: Any,
) -> Network:
    """A network of :func:`config` with reproducible weights, in training mode."""
    torch.manual_seed(seed)
    return make(config(**changes), name, classes=classes, cameras=cameras, kind=kind, frames=frames)


def batch(clips: int = 2, frames: int = FRAMES, *, items: int = 2, seed: int = 1, kind: str = "audio") -> Batch:
    """Random frames; frame number j of all clips hears item j modulo `items` (nothing when there are no items)."""
    random = torch.Generator().manual_seed(seed)
    order = torch.arange(clips * frames).reshape(clips, frames)
    length, width = ITEM[kind]
    padded = 3 * torch.arange(items) if kind == "audio" else torch.zeros(items, dtype=torch.int64)
    return Batch(
        frames=torch.randint(0, 256, (clips, frames, 3, HEIGHT, WIDTH), generator=random, dtype=torch.uint8),
        label=torch.arange(clips) % CLASSES,
        camera=torch.arange(clips) % CAMERAS,
        tracklet=[f"t{i}" for i in range(clips)],
        companions={
            kind: Companion(
                values=torch.randn(items, length, width, generator=random) - 5,
                lengths=length - padded,
                align=order % items if items else torch.full_like(order, -1),
            )
        },
    )
