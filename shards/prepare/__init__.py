"""Load-time halves of the media: what was drawn -> arrays of a fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from shards.prepare import audio, audio_tokens

Fit = Callable[[Sequence[np.ndarray], int, int, np.random.Generator | None], tuple[Tensor, Tensor]]
"""(items, frames, width, rng or None) -> values float32 [N, frames, width], lengths int64 [N]."""

PREPARE: dict[str, Fit] = {"audio": audio.fit, "audio_tokens": audio_tokens.fit}
"""By kind of companion."""
