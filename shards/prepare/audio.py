"""Load-time half of audio: log-mel items of any length -> one array of a fixed shape.

In:      float16 [L, M] log-mel pictures.   Out: float16 [N, F, M] and the valid length of each.
Source:  specs/dubbernet.md section 3.1 (crop and pad). Ours: training crops at a random place.
"""

# N items, L frames of an item as stored, F frames that the network takes, M mel bands

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def fit(items: Sequence[np.ndarray], frames: int, bands: int, cut: Callable[[int, int], int] | None) -> tuple[Tensor, Tensor]:
    """Cut longer items to `frames`, pad shorter ones with zeros at the end.

    Args:
        items: float16 [L, M] each, L at least 1.
        frames: F.
        bands: M.
        cut: is asked for each longer item, by its number and its L - F spare frames, how many of these are lost at its start;
            None cuts around the centre.

    Returns:
        values float16 [N, F, M] (zero behind the valid length) and lengths int64 [N], each ``min(L, F)``.
    """
    values = np.zeros((len(items), frames, bands), np.float16)
    lengths = np.array([min(len(item), frames) for item in items], np.int64)
    for n, (item, length) in enumerate(zip(items, lengths, strict=True)):
        spare = len(item) - length
        start = cut(n, spare) if spare and cut else spare // 2
        values[n, :length] = item[start : start + length]
    return torch.from_numpy(values), torch.from_numpy(lengths)
