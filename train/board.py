"""TensorBoard: scalars of every epoch, and now and then pictures of what the networks get and make.

In:      records of metrics.jsonl; a batch as the task gets it.   Out: event files in one folder.
Source:  ours. The package is imported only when a board is opened, because GPU nodes often have none of it. Pictures leave the
         training as it is: no number is drawn from its generators, and no network stays in another mode.
"""

# B clips, T frames per clip, N tokens of a frame (CLS first)

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from model.blocks.vit import patch_grid
from model.ranks import rank
from pipeline.base import disk
from pipeline.base.batch import Batch
from pipeline.base.config import ModelConfig, RunConfig
from pipeline.base.errors import ConfigError
from train import drawing
from train.aside import aside
from train.progress import say
from train.tasks import Distill, Task

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CLIPS = 8
"""Clips of a batch that are shown."""
MASKED = 4
"""Clips whose masks are computed and shown."""
ITEMS = 8
"""Companion items that are shown."""


def open_board(setting: str, folder: Path, step: int) -> Board | None:
    """The board of one stage; None where there is none (setting 'off', ranks after the first, no package).

    Args:
        setting: `machine.tensorboard`.
        folder: of the event files; made if it is not there.
        step: optimiser steps that are done: what an earlier process has written of later ones is taken back.

    Raises:
        ConfigError: 'on', and the package is not installed.
        DiskError: its folder cannot be written.
    """
    if setting == "off" or rank() > 0:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        what = f"the package 'tensorboard' cannot be imported ({error})"
        if setting == "on":
            raise ConfigError(f"machine.tensorboard=on: {what}; install it, or set it to auto or off") from None
        say(f"no TensorBoard: {what}; metrics.jsonl has all numbers")
        return None
    threading.excepthook = without_disk
    with disk.writing(folder):
        return Board(SummaryWriter(str(folder), purge_step=step + 1), folder)


def without_disk(failed: threading.ExceptHookArgs) -> None:
    """No traceback of the writer's thread for a full disk: the next call of the board raises the same error."""
    if (
        failed.exc_value is None
        or disk.number_of(failed.exc_value) is None
        or not type(failed.thread).__module__.startswith("tensorboard.")
    ):
        threading.__excepthook__(failed)


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Names and values of an epoch's record: train/loss, train/lr, terms/..., stats/..., speed/..., validation/..."""
    return {
        **{f"train/{name}": record[name] for name in ("loss", "lr")},
        **{f"{group}/{name}": value for group in ("terms", "stats", "validation") for name, value in record.get(group, {}).items()},
        **{f"speed/{name}": record[name] for name in ("tracklets_per_s", "data_wait")},
    }


class Board:
    """Writes what it is given; make it with :func:`open_board`. All methods raise DiskError where its folder cannot be written."""

    def __init__(self, writer: SummaryWriter, folder: Path) -> None:
        self._writer, self._folder = writer, folder

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers on the host, by name, after so many optimiser steps."""
        with disk.writing(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, task: Task, batch: Batch, run: RunConfig) -> None:
        """Clips, the items that they hear, and the weights of tokens where the task has masks.

        Args:
            batch: as the task gets it, augmented, on its device.
            run: for the form of the network.
        """
        shown = first_clips(batch, CLIPS)
        self._picture("clips", drawing.clips(shown.frames.cpu()), step)
        for kind, companion in shown.companions.items():
            heard = [item for item in dict.fromkeys(companion.align.flatten().tolist()) if item >= 0][:ITEMS]
            if heard:
                self._picture(f"heard/{kind}", drawing.items(companion.values[heard].cpu(), companion.lengths[heard].cpu()), step)
        shown = first_clips(batch, MASKED)
        for i, weights_BTN in zip(run.settings.model.fusion_after_blocks, mask_maps(task, shown), strict=False):
            self._picture(f"masks/after_block_{i}", _masked(shown, weights_BTN, run.settings.model), step)

    def _picture(self, name: str, picture: Any, step: int) -> None:
        with disk.writing(self._folder):
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Everything so far is on disk: call it before a checkpoint is saved that would not write it again."""
        with disk.writing(self._folder):
            self._writer.flush()

    def close(self) -> None:
        """Write what is left and end."""
        with disk.writing(self._folder):
            self._writer.flush()  # `close` alone does not say that the writer's thread has failed
            self._writer.close()


def first_clips(batch: Batch, count: int) -> Batch:
    """The first clips of a batch; items stay, though nobody may hear them now."""
    return replace(
        batch,
        frames=batch.frames[:count],
        label=batch.label[:count],
        camera=batch.camera[:count],
        tracklet=batch.tracklet[:count],
        companions={kind: replace(companion, align=companion.align[:count]) for kind, companion in batch.companions.items()},
        erased=None if batch.erased is None else batch.erased[:count],
    )


def mask_maps(task: Task, batch: Batch) -> list[Tensor]:
    """How much each token counts in token distillation: per fusion point float32 [B, T, N] on the host; none without masks.

    In evaluation mode: without dropout and drop path, so the student's tokens are not quite those of a training step.
    """
    if not isinstance(task, Distill):
        return []
    with aside(task, batch.frames.device):
        return [weights_BTN.float().cpu() for weights_BTN in task.token_weights(batch)]


def _masked(batch: Batch, weights_BTN: Tensor, model: ModelConfig) -> Any:
    height, width = batch.frames.shape[-2:]
    return drawing.masks(batch.frames.cpu(), weights_BTN, patch_grid(height, width, model.patch, model.stride), model.patch, model.stride)
