"""The full-size networks as they are trained, and batches for them: what the step benches share.

The teacher hears the tokens of a frozen encoder (`audio_tokens`), so that nothing but the ViT and its fusions is measured.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from model.registry import MODELS
from pipeline.base.batch import Batch, Companion
from pipeline.base.config import MethodConfig, ModelConfig
from train.optim import make_optimiser
from train.tasks import Distill, Identify, Task
from train.trainer import backward

CLASSES, CAMERAS, TOKENS = 625, 6, 101
"""MARS: training identities and cameras. Audio tokens of a frame: 5 s by a spectrogram transformer, pooled over frequency."""

HEIGHT, WIDTH = 256, 128


def make_task(stage: str, model: ModelConfig, *, frames: int, height: int = HEIGHT, width: int = WIDTH, bands: int = 768) -> Task:
    """The task of a stage on the CPU, in training mode.

    Args:
        stage: 'teacher' (identify), 'student' (distil from such a teacher, frozen) or 'alone' (identify, the student's network).
        bands: width of an audio token.
    """
    torch.manual_seed(0)
    settings = MethodConfig(stages={}, model=model)
    facts = {"classes": CLASSES, "cameras": CAMERAS, "height": height, "width": width, "frames": frames}
    if stage == "alone":
        return Identify(MODELS["dubbernet_student"](model, kind="", bands=0, **facts), settings).train()
    teacher = MODELS["dubbernet_teacher"](model, kind="audio_tokens", bands=bands, **facts)
    if stage == "teacher":
        return Identify(teacher, settings).train()
    return Distill(MODELS["dubbernet_student"](model, kind="", bands=0, **facts), settings, teacher).train()


def make_batch(clips: int, frames: int, *, height: int = HEIGHT, width: int = WIDTH, tokens: int = TOKENS, bands: int = 768) -> Batch:
    """Random clips of four per identity, pixels in the order of the loaders; every clip hears an item of its own."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (clips, frames, height, width, 3), generator=random, dtype=torch.uint8)
    clip = torch.arange(clips)
    sound = Companion(torch.randn(clips, tokens, bands, generator=random), torch.full((clips,), tokens), clip[:, None].repeat(1, frames))
    return Batch(pixels.permute(0, 1, 4, 2, 3), clip // min(4, clips // 2), clip % CAMERAS, [str(i) for i in clip], {"audio_tokens": sound})


def stepper(task: Task, precision: str = "fp32") -> Callable[[Batch], torch.Tensor]:
    """Steps of training, as the trainer does them; each gives its loss."""
    optimiser = make_optimiser(task, MethodConfig(stages={}).optim)
    weights = dict.fromkeys(task.names, 1.0)

    def step(batch: Batch) -> torch.Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss = backward(task, task, batch, weights, precision, 1)["loss"]
        optimiser.step()
        return loss

    return step
