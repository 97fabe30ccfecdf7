"""Pack-time half of each medium: files as shipped -> arrays.

A new medium is one module here, with the four functions of `Encoder`, and one line in ENCODERS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.config import CompanionConfig
from pipeline.features import audio, audio_tokens


class Encoder(NamedTuple):
    """What a medium has to offer."""

    check: Callable[[CompanionConfig], None]
    """Refuses settings that cannot work (ConfigError), before anything is decoded."""
    folder: Callable[[CompanionConfig, Path], Path]
    """(config, folder of the items) -> the folder that ALIGNMENT.path is looked up in."""
    encode: Callable[..., np.ndarray]
    """(item, path or None, start, seconds, config, seed) -> 2-D array [length, width]; see `audio.wave_of`."""
    about: Callable[[CompanionConfig], dict[str, Any]]
    """What FEATURES meta says about the arrays: 'form', 'bands' (their width), 'versions' and more."""


ENCODERS: dict[str, Encoder] = {
    "audio": Encoder(audio.check, audio.folder, audio.encode, audio.about),
    "audio_tokens": Encoder(audio_tokens.check, audio_tokens.folder, audio_tokens.encode, audio_tokens.about),
}
"""By kind of companion."""
