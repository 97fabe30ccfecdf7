"""Frozen audio encoders by name: what `tokens.encoder` of a companion can say ('precomputed' apart, which none of them makes).

In:      a name, the seed of the data path, a weight file.   Out: a FrozenEncoder.
Source:  specs/dubbernet.md 3.1. Nothing is downloaded: torchaudio's bundles only lend their architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torchaudio.models import hubert_base, wav2vec2_base

from model.encoders.fill import fill
from model.encoders.frozen import FrozenEncoder
from model.encoders.logmel import LogMelStub
from model.encoders.raw_wave import RawWave
from model.encoders.spectrogram import SpectrogramTransformer
from pipeline.base.config import NEEDS_WEIGHTS
from pipeline.base.errors import WeightsError
from pipeline.base.seeds import seed_for

ENCODERS: dict[str, Callable[[], FrozenEncoder]] = {
    "logmel_stub": LogMelStub,
    "random_frozen": lambda: RawWave(wav2vec2_base()),
    "wav2vec2_base": lambda: RawWave(wav2vec2_base()),
    "hubert_base": lambda: RawWave(hubert_base()),
    "ast": SpectrogramTransformer,
}


def make(name: str, seed: int, weights: str | Path | None) -> FrozenEncoder:
    """An encoder, filled and frozen.

    Args:
        name: of ENCODERS.
        seed: decides the weights of 'random_frozen' (torch's own generator is left as it was), and nothing else.
        weights: safetensors file, for those that need one.

    Raises:
        WeightsError: no weights where they are needed, weights where none are read, or a file that does not fit.
    """
    if name in NEEDS_WEIGHTS and weights is None:
        raise WeightsError(
            f"'{name}' needs weights: set companions.<name>.tokens.weights to a safetensors file "
            "(python -m model.convert_weights makes one of a .pth), or take an encoder without (logmel_stub, random_frozen)"
        )
    if name not in NEEDS_WEIGHTS and weights is not None:
        raise WeightsError(f"{weights}: '{name}' reads no weights; empty companions.<name>.tokens.weights, or choose another encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "audio tokens", name))
        encoder = ENCODERS[name]()
    if weights is not None:
        fill(weights, encoder)
    return encoder.freeze()
