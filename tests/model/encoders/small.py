"""Frozen encoders of the same classes as the real ones, small enough for tests; and waveforms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torchaudio.models import Wav2Vec2Model, wav2vec2_model

from model.encoders.frozen import FrozenEncoder
from model.encoders.logmel import LogMelStub
from model.encoders.raw_wave import RawWave
from model.encoders.spectrogram import SpectrogramTransformer

BASE = {
    "extractor_mode": "group_norm",
    "extractor_conv_bias": False,
    "encoder_projection_dropout": 0.1,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
}
"""What the small network shares with the base one."""


def network(**changes: Any) -> Wav2Vec2Model:
    """wav2vec 2.0 with the kernels and strides of the base network, but 6 and 16 channels and two layers."""
    kernels = [(6, 10, 5), *[(6, 3, 2)] * 4, *[(6, 2, 2)] * 2]
    sizes = {"encoder_embed_dim": 16, "encoder_num_layers": 2, "encoder_num_heads": 2, "encoder_ff_interm_features": 24}
    sizes |= {"encoder_pos_conv_kernel": 8, "encoder_pos_conv_groups": 2, "aux_num_out": None}
    return wav2vec2_model(**BASE | {"extractor_conv_layer_config": kernels} | sizes | changes)


def raw_wave(seed: int = 0) -> RawWave:
    torch.manual_seed(seed)
    made = RawWave(network())
    with torch.no_grad():  # as initialised, tokens hardly differ from each other
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def spectrogram(seed: int = 0) -> SpectrogramTransformer:
    torch.manual_seed(seed)
    made = SpectrogramTransformer(width=12, depth=2, heads=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return made


SMALL: dict[str, Callable[[], FrozenEncoder]] = {"logmel": LogMelStub, "raw_wave": raw_wave, "spectrogram": spectrogram}


def noise(*samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clips of so many samples, padded with zeros: float32 [N, longest], int64 [N]."""
    generator = torch.Generator().manual_seed(seed)
    clips = [0.1 * torch.randn(count, generator=generator) for count in samples]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(samples)


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
    return path
