"""Pack-time half of each medium: files as shipped -> arrays.

An encoder is called as ``encode(item, path, start, seconds, config, seed)`` and returns a 2-D array [length, width]
(see `audio.encode`). A new medium is one module here and one line in ENCODERS.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.features import audio

ENCODERS: dict[str, Callable[..., np.ndarray]] = {"audio": audio.encode}
