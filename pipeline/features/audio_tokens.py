"""Voice clips that a frozen encoder hears: waveforms for it, or tokens that somebody else has made with one.

In:      a clip as `audio` reads it; with the encoder 'precomputed' one .npy file per clip, [tokens, width] or [1, tokens, width].
Out:     int16 [samples, 1], 16 kHz, for `model.encode_tokens`; with 'precomputed' float16 [L, width], ready for a shard.
Source:  specs/dubbernet.md 3.1 (16 kHz mono, 5 s around the centre, averages over time). Ours: waveforms travel as int16, the
         precision that voice clips have (a step of 3e-5, -98 dBFS); they are not padded, the encoder's side does that.

The arithmetic of an encoder is a step of its own because it wants a GPU, whose nodes have no decoders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.config import CompanionConfig
from pipeline.base.errors import ConfigError, SourceError
from pipeline.features import audio

RATE = 16_000
"""Samples per second that every encoder was trained with."""
SECONDS = 5.0
"""The longest clip that the encoders are given."""
FULL_SCALE = 32_768
"""int16 of amplitude 1."""
MAGIC = b"\x93NUMPY"
"""First bytes of a .npy file."""


def check(config: CompanionConfig) -> None:
    """Refuse settings that no encoder can work with.

    Raises:
        ConfigError: another rate, clips longer than the encoders take, or no folder of precomputed tokens.
    """
    if config.tokens.encoder == "precomputed":
        if not config.tokens.store:
            raise ConfigError("companion.tokens.store is empty; name the folder that holds <path of the clip without its ending>.npy")
        return
    if config.audio.rate != RATE:
        raise ConfigError(f"companion.audio.rate={config.audio.rate}: '{config.tokens.encoder}' hears {RATE} samples per second")
    if config.audio.max_seconds > SECONDS:
        raise ConfigError(
            f"companion.audio.max_seconds={config.audio.max_seconds:g}: '{config.tokens.encoder}' hears at most {SECONDS:g} s"
        )


def folder(config: CompanionConfig, root: Path) -> Path:
    """Folder that the paths of items are relative to when they are encoded: of the tokens, or of the voices."""
    return Path(config.tokens.store).expanduser() if config.tokens.encoder == "precomputed" else root


def about(config: CompanionConfig) -> dict[str, Any]:
    """What FEATURES meta says about the values. `rate` and `seconds` are null where only somebody else knows."""
    tokens = config.tokens
    if tokens.encoder == "precomputed":
        note = {"encoder": "precomputed", "weights_sha256": "", "length": tokens.length, "rate": None, "seconds": None}
        return {"form": "tokens", "bands": tokens.width, "tokens": note, "versions": {"numpy": np.__version__}}
    waves = {"rate": config.audio.rate, "seconds": config.audio.max_seconds}
    return {"form": "waves", "bands": 1, "waves": waves, "versions": audio.decoders()}


def encode(item: str, path: Path | None, start: float | None, seconds: float, config: CompanionConfig, seed: int) -> np.ndarray:
    """One companion item: its waveform, or its precomputed tokens. The arguments are those of `audio.wave_of`.

    Args:
        path: of 'precomputed', the clip's path below the store; its ending is replaced by .npy.

    Returns:
        int16 [samples, 1], or float16 [L, width].

    Raises:
        MediaError: as `audio.wave_of`.
        SourceError: precomputed tokens are missing or not in the documented form.
    """
    if config.tokens.encoder != "precomputed":
        wave = audio.wave_of(item, path, start, seconds, config.audio, seed)
        scaled = np.rint(wave.astype(np.float64) * FULL_SCALE)
        return scaled.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)[:, None]
    if start is not None:
        raise SourceError(
            f"item {item}: a part of {path} (from {start:g} s), but precomputed tokens belong to whole files; cut the sound into one file per clip"
        )
    file = folder(config, Path()) / f"{item}.npy" if path is None else path.with_suffix(".npy")
    return precomputed(file, config.tokens.length, config.tokens.width)


def precomputed(path: Path, length: int, width: int) -> np.ndarray:
    """Tokens of one clip from a file, averaged to `length`.

    Returns:
        float16 [length, width].

    Raises:
        SourceError: one sentence that begins with the path: no such file, no whole array of plain numbers, another width, too
            few tokens, or values that are not finite in float16.
    """
    found = _array(path)
    shape = list(found.shape)
    tokens = found[0] if found.ndim == 3 and len(found) == 1 else found
    if tokens.ndim != 2 or tokens.dtype.kind != "f":
        raise SourceError(f"{path}: {found.dtype} {shape}, expected floating point [tokens, {width}] or [1, tokens, {width}]")
    if tokens.shape[1] != width:
        raise SourceError(f"{path}: tokens of width {tokens.shape[1]}, expected {width}; set companion.tokens.width to what there is")
    if len(tokens) == 1:
        raise SourceError(f"{path}: one token; at least 2 are needed, because attention over one key gives the same vector for every patch")
    if len(tokens) < length:
        raise SourceError(f"{path}: {len(tokens)} tokens, {length} wanted; set companion.tokens.tokens to what the shortest clip has")
    with np.errstate(over="ignore"):  # an overflow becomes inf, which is refused
        pooled = pool(np.asarray(tokens, np.float64), length).astype(np.float16)
    if not np.isfinite(pooled).all():
        raise SourceError(f"{path}: values that are not finite, or beyond the {np.finfo(np.float16).max:g} of float16; make it again")
    return pooled


def _array(path: Path) -> np.ndarray:
    """The array of a .npy file, or SourceError. It is mapped: a header that claims more than there is costs nothing, and what
    is mapped holds no objects."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
        if start != MAGIC:
            raise SourceError(f"{path}: no .npy file (it begins with {start!r}); expected one array per clip, as numpy.save writes it")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; every clip that is heard needs its tokens there") from None
    except Exception as error:  # hostile bytes: the kinds that NumPy raises are many and not documented
        said = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise SourceError(f"{path}: no whole array of plain numbers ({said}); make it again") from None


def pool(tokens: np.ndarray, length: int) -> np.ndarray:
    """Mean over `length` equal stretches of time: [tokens, width] -> [length, width].

    Stretch i covers tokens floor(i * n / L) .. ceil((i + 1) * n / L) - 1, as for the encoders that run here (adaptive average
    pooling).
    """
    n = len(tokens)
    return np.stack([tokens[i * n // length : -(-(i + 1) * n // length)].mean(axis=0) for i in range(length)])
