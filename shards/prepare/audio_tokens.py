"""Load-time half of audio tokens: what a frozen encoder made -> one array. Nothing is cut, padded or drawn.

In:      float16 [L, D] per clip, L the same for all.   Out: float16 [N, L, D] and the valid length of each, which is L.
Source:  specs/dubbernet.md section 3.1 (L is constant over a data set).
"""

# N items, L tokens of each, D values of a token

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.base.errors import ShardError


def fit(items: Sequence[np.ndarray], tokens: int, width: int, cut: Callable[[int, int], int] | None) -> tuple[Tensor, Tensor]:
    """Stack items of one shape.

    Args:
        items: float16 [L, D] each.
        tokens: L.
        width: D.
        cut: not used; here so that all media are called alike.

    Returns:
        values float16 [N, L, D] and lengths int64 [N], all L.

    Raises:
        ShardError: an item has another shape.
    """
    for item in items:
        if item.shape != (tokens, width):
            raise ShardError(
                f"a clip has audio tokens {list(item.shape)}, expected [{tokens}, {width}] of the companion's settings; pack the shards again"
            )
    values = np.stack(items).astype(np.float16, copy=False) if items else np.zeros((0, tokens, width), np.float16)
    return torch.from_numpy(values), torch.full((len(items),), tokens, dtype=torch.int64)
