"""Load-time half of audio: log-mel items of any length -> one array of a fixed shape.

In:      float16 [L, M] log-mel pictures.   Out: float32 [N, F, M] and the valid length of each.
Source:  specs/dubbernet.md section 3.1 (crop and pad). Ours: training crops at a random place.
"""

# N items, L frames of an item as stored, F frames that the network takes, M mel bands

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def fit(items: Sequence[np.ndarray], frames: int, bands: int, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
    """Cut longer items to `frames`, pad shorter ones with zeros at the end.

    Args:
        items: float16 [L, M] each, L at least 1.
        frames: F.
        bands: M.
        rng: gives the start of a cut, uniform over all places, in the order of `items`; None cuts around the centre.

    Returns:
        values float32 [N, F, M] (zero behind the valid length) and lengths int64 [N], each ``min(L, F)``.
    """
    values = torch.zeros((len(items), frames, bands))
    lengths = torch.empty(len(items), dtype=torch.int64)
    for n, item in enumerate(items):
        spare = max(len(item) - frames, 0)
        start = spare // 2 if rng is None else int(rng.integers(0, spare, endpoint=True))
        kept = item[start : start + frames]
        values[n, : len(kept)] = torch.from_numpy(kept.astype(np.float32))
        lengths[n] = len(kept)
    return values, lengths
