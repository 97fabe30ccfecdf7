"""Load-time halves of the media: what was drawn -> arrays of a fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from shards.prepare import audio, audio_tokens

Cut = Callable[[int, int], int]
"""(number of an item, frames it has too many) -> how many of these are lost at its start."""
Fit = Callable[[Sequence[np.ndarray], int, int, Cut | None], tuple[Tensor, Tensor]]
"""(items, frames, width, cut or None) -> values float16 [N, frames, width], lengths int64 [N]."""

PREPARE: dict[str, Fit] = {"audio": audio.fit, "audio_tokens": audio_tokens.fit}
"""By kind of companion."""
