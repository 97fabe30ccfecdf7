"""What every network takes and gives.

In:      Batch (pipeline/base/batch.py) on the network's device.
Out:     Outputs, the same type in training and in evaluation (specs/dubbernet.md 4.4 and 9, B3).

`forward` never reads a value back from the device, because a GPU would have to wait for it. So camera indices,
alignments and lengths are only checked while a batch is on the host: call `network.check(batch)` before `batch.to(device)`.
"""

# B clips, T frames per clip, N tokens per frame (CLS first), D width, K classes, H and W pixels, P parts

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.base.batch import Batch
from pipeline.base.errors import ConfigError, UserError

UNITS = {"audio": ("frames", "bands"), "audio_tokens": ("tokens", "values per token")}
"""Kind of a companion -> what one item has along its first axis and along its second, for messages."""


@dataclass(slots=True)
class Outputs:
    """What a network says about a batch. Everything is float32, except that `taps_attn` may have the type of autocast."""

    logits: Tensor
    """[B, K], from the feature after the BNNeck."""
    feat: Tensor
    """[B, D], the clip's frames taken together, before the BNNeck: the triplet loss measures distances here."""
    feat_bn: Tensor
    """[B, D], after the BNNeck: what is compared in retrieval."""
    taps_attn: list[Tensor] = field(default_factory=list)
    """Per fusion point [B*T, N, D]: what the fusion found, before the residual sum. Empty where nothing is fused."""
    taps_fused: list[Tensor] = field(default_factory=list)
    """Per entry of `fusion_after_blocks` [B*T, N, D]: the tokens that the next block gets, after the residual sum. A network
    without fusion gives them, too (the block's own output), so that a visual teacher can teach tokens."""
    attention: Tensor | None = None
    """[B, T], weights of a clip's frames, sum 1; None where frames count alike (`pool: mean`)."""
    local_logits: list[Tensor] = field(default_factory=list)
    """Per part [B, K]; P = 4 parts with the local branch, else none."""
    local_feats: list[Tensor] = field(default_factory=list)
    """Per part [B, D*T], before the part's BNNeck."""
    local_feats_bn: list[Tensor] = field(default_factory=list)
    """Per part [B, D*T], after it."""


class Network(nn.Module):
    """Base of all networks."""

    hears: bool
    """Whether `forward` reads a companion of the batch."""
    kind: str
    """Kind of the companion it reads ('audio', 'audio_tokens'); '' when it reads none."""
    cameras: int
    """Cameras it knows (indices 0..cameras-1); 0: camera indices are not looked at."""
    bands: int
    """Width of one companion frame (last axis of its values); 0 when it reads none."""
    height: int
    """Pixels of a frame."""
    width: int
    frames: int
    """Frames that a clip must have; 0: any number."""

    def __init__(self, *, hears: bool, kind: str, classes: int, cameras: int, bands: int, height: int, width: int, frames: int = 0) -> None:
        """
        Args:
            hears: whether `kind` and `bands` are used; they may be '' and 0 otherwise.
            classes: training identities K, at least 1.
            cameras, frames: 0 where the network does not look at them.

        Raises:
            ConfigError: no class, or a network that hears without a companion that it can read.
        """
        super().__init__()
        if classes < 1:
            raise ConfigError(f"classes={classes}: a network needs at least one training identity; check the split and the tracklets")
        if hears and (kind not in UNITS or bands < 1):
            raise ConfigError(
                f"kind='{kind}', bands={bands}: the network hears, so it needs a companion of a kind it can read "
                f"({' or '.join(UNITS)}); name one in `companion` of the method or the stage"
            )
        self.hears, self.kind, self.bands = hears, kind if hears else "", bands if hears else 0
        self.cameras, self.height, self.width, self.frames = cameras, height, width, frames

    if TYPE_CHECKING:

        def __call__(self, batch: Batch) -> Outputs: ...

    def forward(self, batch: Batch) -> Outputs:
        """Every clip of the batch, in either mode; the mode only changes what chance drops, and batch statistics."""
        raise NotImplementedError

    def embed(self, batch: Batch) -> Tensor:
        """float32 [B, D], the retrieval feature of each clip (`feat_bn`), without gradients.

        With the local branch [B, D + P*D*T]: [f ; p_1/4 ; ...; p_4/4], all after their BNNecks (4.5).
        The network must be in evaluation mode, else clips of a batch would influence each other.
        """
        assert not self.training, "embed: call network.eval() first"
        with torch.no_grad():
            out = self(batch)
        parts = out.local_feats_bn
        return torch.cat([out.feat_bn, *(part / len(parts) for part in parts)], dim=1)

    def forget_cameras(self) -> None:
        """From now on every camera is an unknown one, whatever its index: for data of other cameras than it was trained on."""
        self.cameras = 0

    def check(self, batch: Batch) -> None:
        """Refuse a batch that this network cannot read. `forward` calls it, too.

        Sizes and names are always checked; values (cameras, alignment, lengths) only while the batch is on the host.

        Raises:
            UserError: frames of another size, clips of another length, a camera that was not learned, a missing companion, one
                with other bands, an alignment to items that are not there, an item without a valid frame, a single token.
        """
        self._check_frames(batch)
        if self.hears:
            self._check_companion(batch)

    def _check_frames(self, batch: Batch) -> None:
        clip, _, height, width = batch.frames.shape[1:]
        if (height, width) != (self.height, self.width):
            raise UserError(
                f"the batch has frames of {height}x{width} pixels (height x width), the network was built for "
                f"{self.height}x{self.width}; use shards of that frame size, or train a network for this one"
            )
        if self.frames and clip != self.frames:
            raise UserError(
                f"the batch has clips of {clip} frames, the network was built for exactly {self.frames} because its local branch joins "
                "the frames of a clip; use clip.frames of its training, or train with model.local_branch=false"
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
            carried = " or ".join(f"'{kind}'" for kind in sorted(batch.companions)) or "none"
            raise UserError(
                f"the network hears '{self.kind}', but the batch has no such companion (found: {carried}); give the run a companion of "
                "this kind, or use a network that sees frames only"
            )
        items, frames, bands = companion.values.shape
        unit, unit_of_bands = UNITS[self.kind]
        if bands != self.bands:
            raise UserError(
                f"'{self.kind}' of the batch has {bands} {unit_of_bands}, the network was built for {self.bands}; use shards with that many"
            )
        if self.kind == "audio_tokens" and frames < 2:
            raise UserError(
                f"'{self.kind}': items of the batch have {frames} token, expected at least 2, because attention over one key gives the "
                "same vector for every patch, whatever the image; set `tokens` of the companion to 2 or more and pack the shards again"
            )
        if companion.align.device.type != "cpu":
            return
        if companion.align.numel() and not -1 <= int(companion.align.min()) <= int(companion.align.max()) < items:
            low, high = int(companion.align.min()), int(companion.align.max())
            raise UserError(f"'{self.kind}': frames of the batch point to items {low}..{high}, but it holds {items}; pack the shards again")
        fewest = frames if self.kind == "audio_tokens" else 1  # tokens are never padded
        if items and not fewest <= int(companion.lengths.min()) <= int(companion.lengths.max()) <= frames:
            low, high = int(companion.lengths.min()), int(companion.lengths.max())
            wanted = f"exactly {frames}" if fewest == frames else f"{fewest}..{frames}"
            raise UserError(f"'{self.kind}': items of the batch have {low}..{high} valid {unit}, expected {wanted}; pack the shards again")
