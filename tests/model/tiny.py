"""Small networks and batches for the tests of `model`."""

from __future__ import annotations

from typing import Any

import torch

from model.api import Network
from model.registry import MODELS
from pipeline.base.batch import Batch, Companion
from pipeline.base.config import ModelConfig

CLASSES, CAMERAS, BANDS, HEIGHT, WIDTH = 5, 3, 8, 32, 16


def config(**changes: Any) -> ModelConfig:
    """Width 24, three blocks (two fusion points), 1 + 7 x 3 tokens on frames of 32x16."""
    numbers: dict[str, Any] = {"width": 24, "depth": 3, "heads": 3, "patch": 8, "stride": 4, "fusion_after_blocks": (0, 1)}
    return ModelConfig(**numbers | {"audio_tokens": 4, "audio_frames": 20} | changes)


def network(name: str = "dubbernet_teacher", *, seed: int = 0, classes: int = CLASSES, cameras: int = CAMERAS, **changes: Any) -> Network:
    """A network of :func:`config` with reproducible weights, in training mode."""
    torch.manual_seed(seed)
    return MODELS[name](config(**changes), classes=classes, cameras=cameras, bands=BANDS, height=HEIGHT, width=WIDTH)


def batch(clips: int = 2, frames: int = 3, *, items: int = 2, seed: int = 1) -> Batch:
    """Random frames; frame number j of all clips hears item j modulo `items` (nothing when there are no items)."""
    random = torch.Generator().manual_seed(seed)
    order = torch.arange(clips * frames).reshape(clips, frames)
    return Batch(
        frames=torch.randint(0, 256, (clips, frames, 3, HEIGHT, WIDTH), generator=random, dtype=torch.uint8),
        label=torch.arange(clips) % CLASSES,
        camera=torch.arange(clips) % CAMERAS,
        tracklet=[f"t{i}" for i in range(clips)],
        companions={
            "audio": Companion(
                values=torch.randn(items, 20, BANDS, generator=random) - 5,
                lengths=20 - 3 * torch.arange(items),
                align=order % items if items else torch.full_like(order, -1),
            )
        },
    )
