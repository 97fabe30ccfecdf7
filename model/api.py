"""What every network takes and gives.

In:      Batch (pipeline/base/batch.py) on the network's device.
Out:     Outputs, the same type in training and in evaluation (specs/dubbernet.md 4.4 and 9, B3).

`forward` never reads a value back from the device, because a GPU would have to wait for it. So camera indices,
alignments and lengths are only checked while a batch is on the host: call `network.check(batch)` before `batch.to(device)`.
"""

# B clips, T frames per clip, N tokens per frame (CLS first), D width, K classes, H and W pixels

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.base.batch import Batch
from pipeline.base.errors import UserError


@dataclass(slots=True)
class Outputs:
    """What a network says about a batch. Everything is float32, except that `taps_attn` may have the type of autocast."""

    logits: Tensor
    """[B, K], from the feature after the BNNeck."""
    feat: Tensor
    """[B, D], mean over the clip's frames before the BNNeck: the triplet loss measures distances here."""
    feat_bn: Tensor
    """[B, D], after the BNNeck: what is compared in retrieval."""
    taps_attn: list[Tensor] = field(default_factory=list)
    """Per fusion point [B*T, N, D]: what attention gave, before the residual sum."""
    taps_fused: list[Tensor] = field(default_factory=list)
    """Per fusion point [B*T, N, D]: the tokens after the residual sum."""


def normalise(frames: Tensor) -> Tensor:
    """uint8 [B, T, 3, H, W] -> float32 [B*T, 3, H, W] in -1..1 (mean 0.5, std 0.5), on the device of the frames."""
    assert frames.dtype == torch.uint8 and frames.ndim == 5, f"frames: uint8 [B, T, 3, H, W], got {frames.dtype} {tuple(frames.shape)}"
    return frames.flatten(0, 1).float().div_(127.5).sub_(1.0)


class Network(nn.Module):
    """Base of all networks."""

    hears: bool
    """Whether `forward` reads a companion of the batch."""
    kind: str
    """Kind of the companion it reads ('audio'); '' when it reads none."""
    cameras: int
    """Cameras it knows (indices 0..cameras-1); 0: camera indices are not looked at."""
    bands: int
    """Bands of the companion (last axis of its values); 0 when it reads none."""
    height: int
    """Pixels of a frame."""
    width: int

    def __init__(self, *, kind: str, cameras: int, bands: int, height: int, width: int) -> None:
        super().__init__()
        self.hears, self.kind, self.bands = bool(kind), kind, bands
        self.cameras, self.height, self.width = cameras, height, width

    if TYPE_CHECKING:

        def __call__(self, batch: Batch) -> Outputs: ...

    def forward(self, batch: Batch) -> Outputs:
        """Every clip of the batch, in either mode; the mode only changes dropped paths and batch statistics."""
        raise NotImplementedError

    def embed(self, batch: Batch) -> Tensor:
        """float32 [B, D], the retrieval feature of each clip (`feat_bn`), without gradients.

        The network must be in evaluation mode, else clips of a batch would influence each other.
        """
        assert not self.training, "embed: call network.eval() first"
        with torch.no_grad():
            return self(batch).feat_bn

    def check(self, batch: Batch) -> None:
        """Refuse a batch that this network cannot read. `forward` calls it, too.

        Sizes and names are always checked; values (cameras, alignment, lengths) only while the batch is on the host.

        Raises:
            UserError: frames of another size, a camera that was not learned, a missing companion, one with other bands,
                an alignment to items that are not there, an item without a valid frame.
        """
        self._check_frames(batch)
        if self.hears:
            self._check_companion(batch)

    def _check_frames(self, batch: Batch) -> None:
        height, width = batch.frames.shape[3:]
        if (height, width) != (self.height, self.width):
            raise UserError(
                f"the batch has frames of {height}x{width} pixels (height x width), the network was built for "
                f"{self.height}x{self.width}; use shards of that frame size, or train a network for this one"
            )
        if self.cameras and batch.camera.device.type == "cpu":
            for tracklet, camera in zip(batch.tracklet, batch.camera.tolist(), strict=True):
                if not 0 <= camera < self.cameras:
                    raise UserError(
                        f"tracklet {tracklet} has camera index {camera}, but the network learned cameras 0..{self.cameras - 1}; use it "
                        "where it was trained, or train it with model.camera_scale=0, which makes it independent of cameras"
                    )

    def _check_companion(self, batch: Batch) -> None:
        companion = batch.companions.get(self.kind)
        if companion is None:
            raise UserError(
                f"the network hears '{self.kind}', but the batch has no such companion; give the run a companion of this kind, "
                "or use a network that sees frames only"
            )
        items, frames, bands = companion.values.shape
        if bands != self.bands:
            raise UserError(
                f"'{self.kind}' of the batch has {bands} bands, the network was built for {self.bands}; use shards with that many"
            )
        if companion.align.device.type != "cpu":
            return
        if companion.align.numel() and not -1 <= int(companion.align.min()) <= int(companion.align.max()) < items:
            low, high = int(companion.align.min()), int(companion.align.max())
            raise UserError(f"'{self.kind}': frames of the batch point to items {low}..{high}, but it holds {items}; pack the shards again")
        if items and not 1 <= int(companion.lengths.min()) <= int(companion.lengths.max()) <= frames:
            low, high = int(companion.lengths.min()), int(companion.lengths.max())
            raise UserError(
                f"'{self.kind}': items of the batch have {low}..{high} valid frames, expected 1..{frames}; pack the shards again"
            )
