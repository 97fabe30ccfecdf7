"""Networks by name: what `stages.<name>.network` of a method can say.

In:      ModelConfig and the facts of the data (companion, classes, cameras, frame size, clip length).   Out: Network.
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from model.api import Network
from model.audio_probe import AudioProbe
from model.blocks.mask import MaskGenerator
from model.dubbernet import DubberNet
from pipeline.base.config import DistillConfig, ModelConfig, RunConfig
from pipeline.base.errors import ConfigError, did_you_mean


class MakeNetwork(Protocol):
    """What stands in MODELS.

    Args:
        config: sizes and switches.
        kind: kind of the companion that a hearing network reads ('audio', 'audio_tokens'), or ''.
        classes: training identities K.
        cameras: cameras of the data set.
        bands: width of one companion frame; 0 without a companion.
        height, width: pixels of a frame.
        frames: T, frames of a clip.

    A network that does not hear ignores `kind` and `bands`.
    """

    def __call__(
        self, config: ModelConfig, *, kind: str, classes: int, cameras: int, bands: int, height: int, width: int, frames: int
    ) -> Network: ...


def dubbernet_teacher(
    config: ModelConfig, *, kind: str, classes: int, cameras: int, bands: int, height: int, width: int, frames: int
) -> Network:
    """Frames and audio: injection after the blocks of `fusion_after_blocks` (specs/dubbernet.md section 4)."""
    return DubberNet(
        config,
        fusion="injection",
        kind=kind,
        classes=classes,
        cameras=cameras,
        bands=bands,
        height=height,
        width=width,
        frames=frames,
    )


def dubbernet_student(
    config: ModelConfig, *, kind: str, classes: int, cameras: int, bands: int, height: int, width: int, frames: int
) -> Network:
    """Frames only: perception at the same places (section 5.1)."""
    return DubberNet(
        config, fusion="perception", kind="", classes=classes, cameras=cameras, bands=0, height=height, width=width, frames=frames
    )


def dubbernet_visual(
    config: ModelConfig, *, kind: str, classes: int, cameras: int, bands: int, height: int, width: int, frames: int
) -> Network:
    """Frames only, nothing added to the ViT: the honest baseline (section 10)."""
    return DubberNet(config, fusion="none", kind="", classes=classes, cameras=cameras, bands=0, height=height, width=width, frames=frames)


def audio_probe(config: ModelConfig, *, kind: str, classes: int, cameras: int, bands: int, height: int, width: int, frames: int) -> Network:
    """Audio only: how far a voice alone tells identities apart (control of section 7.4)."""
    return AudioProbe(config, kind=kind, classes=classes, cameras=cameras, bands=bands, height=height, width=width)


MODELS: dict[str, MakeNetwork] = {
    "dubbernet_teacher": dubbernet_teacher,
    "dubbernet_student": dubbernet_student,
    "dubbernet_visual": dubbernet_visual,
    "audio_probe": audio_probe,
}


def make(run: RunConfig, classes: int, cameras: int) -> Network:
    """The network of a run as initialised, on the CPU. Its weights come from torch's global generator, which is not seeded here.

    Args:
        run: names the network, its settings, the companion and the frame size.
        classes: training identities K.
        cameras: cameras of the data set.

    Raises:
        ConfigError: no such network, or one that cannot be made of these numbers.
    """
    name = run.this.network
    if name not in MODELS:
        raise ConfigError(f"stages.{run.stage}.network='{name}': no such network{did_you_mean(name, MODELS)}")
    return MODELS[name](
        run.settings.model,
        kind=run.kind,
        classes=classes,
        cameras=cameras,
        bands=run.bands,
        height=run.height,
        width=run.width,
        frames=run.settings.clip.frames,
    )


def mask_generators(model: ModelConfig, distill: DistillConfig) -> nn.ModuleList:
    """One MaskGenerator per fusion point, in order (section 5.2).

    They belong to the distillation, not to the student: keep them outside it, so that its files do not hold them.
    """
    return nn.ModuleList(MaskGenerator(model.width, distill.mask_dropout) for _ in model.fusion_after_blocks)
