"""Networks by name: what `stages.<name>.network` of a method can say.

In:      ModelConfig and the facts of the data (classes, cameras, bands, frame size).   Out: Network.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from model.api import Network
from model.blocks.mask import MaskGenerator
from model.dubbernet import DubberNet
from pipeline.base.config import DistillConfig, ModelConfig


def dubbernet_teacher(config: ModelConfig, *, classes: int, cameras: int, bands: int, height: int, width: int) -> Network:
    """Frames and audio: injection after the blocks of `fusion_after_blocks` (specs/dubbernet.md section 4)."""
    return DubberNet(config, fusion="injection", classes=classes, cameras=cameras, bands=bands, height=height, width=width)


def dubbernet_student(config: ModelConfig, *, classes: int, cameras: int, bands: int, height: int, width: int) -> Network:
    """Frames only: perception at the same places (section 5.1). `bands` is not used."""
    return DubberNet(config, fusion="perception", classes=classes, cameras=cameras, bands=0, height=height, width=width)


def dubbernet_visual(config: ModelConfig, *, classes: int, cameras: int, bands: int, height: int, width: int) -> Network:
    """Frames only, nothing added to the ViT: the honest baseline (section 10). `bands` is not used."""
    return DubberNet(config, fusion="none", classes=classes, cameras=cameras, bands=0, height=height, width=width)


MODELS: dict[str, Callable[..., Network]] = {
    "dubbernet_teacher": dubbernet_teacher,
    "dubbernet_student": dubbernet_student,
    "dubbernet_visual": dubbernet_visual,
}


def mask_generators(model: ModelConfig, distill: DistillConfig) -> nn.ModuleList:
    """One MaskGenerator per fusion point, in order (section 5.2).

    They belong to the distillation, not to the student: keep them outside it, so that its files do not hold them.
    """
    return nn.ModuleList(MaskGenerator(model.width, distill.mask_dropout) for _ in model.fusion_after_blocks)
