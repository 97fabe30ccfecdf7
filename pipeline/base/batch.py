"""The typed hand-over from the loader to a network. torch is named as a type only, so that importing this is light.

Axes: B clips in the batch, T frames per clip, N distinct companion items, F companion frames, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(slots=True)
class Companion:
    """Companion items of a batch. Each distinct item stands here once, however many frames hear it."""

    values: Tensor
    """float32 (until the batch is ready: as stored, float16) [N, F, M]; audio: log-mel (natural logarithm of power), zero-padded at the end of F; audio_tokens: F is the
    number L of tokens, M their width."""
    lengths: Tensor
    """int64 [N]; valid frames of each item, 1..F."""
    align: Tensor
    """int64 [B, T]; item of each frame, -1 where the frame has none."""

    def to(self, device: torch.device | str) -> Companion:
        return Companion(
            self.values.to(device, non_blocking=True),
            self.lengths.to(device, non_blocking=True),
            self.align.to(device, non_blocking=True),
        )


@dataclass(slots=True)
class Augmentation:
    """What is still to be done to the frames of a batch: flip, then shift, then erase (see shards/augment.py)."""

    flip: Tensor
    """bool [B, T]; left and right change places."""
    shift: Tensor
    """int64 [B, T, 2]; pixels down and to the right, negative is up and left; what enters is zero."""
    erase: Tensor
    """int64 [B, T, 4]; top, left, height, width of a rectangle that is filled with `level`; height 0: none."""
    level: Tensor
    """uint8 [3]; red, green, blue."""

    def to(self, device: torch.device | str) -> Augmentation:
        return Augmentation(*(part.to(device, non_blocking=True) for part in (self.flip, self.shift, self.erase, self.level)))

    def pin_memory(self) -> Augmentation:
        return Augmentation(*(part.pin_memory() for part in (self.flip, self.shift, self.erase, self.level)))


@dataclass(slots=True)
class Batch:
    """Clips of frames, with labels and companions.

    A training loader makes batches on the host that are not *ready*: their frames are as they were stored, `augmentation` says what
    is still to be done to them, and companion values have the type in which they were stored. `shards.device.ready` does the rest
    where the batch is to be used. Networks get ready batches only.
    """

    frames: Tensor
    """uint8 [B, T, 3, H, W], RGB, in any memory order; normalised on the device by the network (mean 0.5, std 0.5)."""
    label: Tensor
    """int64 [B]; training label 0..K-1, -1 for clips that do not train."""
    camera: Tensor
    """int64 [B]; camera index from 0."""
    tracklet: list[str]
    """Tracklet of each clip; in evaluation several clips share one."""
    companions: dict[str, Companion] = field(default_factory=dict)
    """By kind ('audio', 'audio_tokens'); empty where the network may not hear."""
    erased: Tensor | None = None
    """bool [B, T]; whether augmentation erases a part of the frame. None in evaluation, where nothing is augmented."""
    augmentation: Augmentation | None = None
    """What is still to be done to `frames`; None in a ready batch."""

    def frames_only(self) -> Batch:
        """The same clips without companions: what a student sees."""
        return replace(self, companions={})

    def to(self, device: torch.device | str) -> Batch:
        """Copy to a device; pinned tensors are copied without waiting."""
        return Batch(
            self.frames.to(device, non_blocking=True),
            self.label.to(device, non_blocking=True),
            self.camera.to(device, non_blocking=True),
            self.tracklet,
            {kind: companion.to(device) for kind, companion in self.companions.items()},
            None if self.erased is None else self.erased.to(device, non_blocking=True),
            None if self.augmentation is None else self.augmentation.to(device),
        )

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when pinning is on."""
        for companion in self.companions.values():
            companion.values, companion.lengths, companion.align = (
                companion.values.pin_memory(),
                companion.lengths.pin_memory(),
                companion.align.pin_memory(),
            )
        self.frames, self.label, self.camera = self.frames.pin_memory(), self.label.pin_memory(), self.camera.pin_memory()
        self.erased = None if self.erased is None else self.erased.pin_memory()
        self.augmentation = None if self.augmentation is None else self.augmentation.pin_memory()
        return self
