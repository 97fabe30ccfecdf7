"""One vector for each tracklet: the mean feature of its clips.

In:      a network in evaluation mode, batches of clips that name their tracklet.   Out: :class:`Vectors`.
Source:  specs/dubbernet.md sections 3.3 and 7.1 (mean over the tracklet's chunks of the feature after the BNNeck, float32,
         not normalised). Ours: the mean is summed in float64 in the order of the clips, so it does not depend on how clips
         were batched beyond the last digits of the network itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from model.api import Network
from pipeline.base.batch import Batch
from pipeline.base.errors import ScoreError

BATCH_FRAMES = 384
"""Frames per batch: 64 clips of 6. More does not speed up a CPU and fits any GPU."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Mean feature of each tracklet, tracklets in sorted order."""

    tracklet: list[str]
    clips: np.ndarray
    """int64 [tracklets]; clips that were averaged."""
    values: np.ndarray
    """float32 [tracklets, D]."""


def tracklet_vectors(network: Network, batches: Iterable[Batch], device: torch.device | str) -> Vectors:
    """Embed clips and average those of one tracklet, wherever batches cut it.

    Args:
        network: in evaluation mode, on `device`.
        batches: clips with the name of their tracklet, on the host.

    Raises:
        ScoreError: no clip at all, or a feature that is not finite.
    """
    sums: dict[str, np.ndarray] = {}
    clips: dict[str, int] = {}
    for batch in batches:
        network.check(batch)
        features = network.embed(batch.to(device)).to("cpu", torch.float64).numpy()
        for name, feature in zip(batch.tracklet, features, strict=True):
            if not np.isfinite(feature).all():
                raise ScoreError(
                    f"tracklet {name}: the network's feature holds NaN or infinity; the training diverged, look at metrics.jsonl"
                )
            sums[name] = sums[name] + feature if name in sums else feature.copy()
            clips[name] = clips.get(name, 0) + 1
    if not sums:
        raise ScoreError("no clip to embed: the split has no tracklet of the roles that were asked for; check the split")
    names = sorted(sums)
    count = np.array([clips[name] for name in names])
    mean = np.stack([sums[name] for name in names]) / count[:, None]
    return Vectors(names, count, mean.astype(np.float32))
