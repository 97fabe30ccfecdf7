"""The encoders 'wav2vec2_base', 'hubert_base' and 'random_frozen': torchaudio's wav2vec 2.0 over raw waveforms.

Source:  specs/dubbernet.md 3.1: zero mean and unit variance over the valid samples, zeros up to 5 s, 249 tokens of the last
         layer. Ours: the transformer does not attend to padding (torchaudio's `lengths`). One thing does see it: the first
         layer's GroupNorm takes its statistics over the whole padded clip, as wherever these networks hear padded clips;
         because every clip is padded to the same 5 s, its tokens are nevertheless its own.

Both pretrained networks have the same names and shapes: a file of one loads as the other, and only its SHA-256 tells.
"""

# N clips, S samples, A tokens (steps of 20 ms), D width

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model

from model.blocks.audio_tokens import valid_frames
from model.encoders.frozen import SAMPLES, FrozenEncoder

WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
"""The two parts of a normalised weight: as torch names them now, and as in the published files."""


class RawWave(FrozenEncoder):
    """A wav2vec 2.0 network without its pretraining or recognition head."""

    unread = ("aux",)  # letters of a network that was fine-tuned to recognise speech

    def __init__(self, network: Wav2Vec2Model) -> None:
        """`network`: e.g. torchaudio's `wav2vec2_base()`, which also is HuBERT's architecture."""
        super().__init__()
        self.network = network
        self.tokens = int(self.valid_steps(torch.tensor([SAMPLES])))

    def freeze(self) -> RawWave:
        """Also multiplies the normalised weight of the position convolution out, once instead of for each clip."""
        nn.utils.parametrize.remove_parametrizations(self.network.encoder.transformer.pos_conv_embed.conv, "weight")
        return super().freeze()

    def spelling(self, names: set[str]) -> dict[str, tuple[str, ...]]:
        """Names of torchaudio's published files, and of what torch writes today."""
        out: dict[str, tuple[str, ...]] = {}
        for ours in self.state_dict():
            theirs = ours.removeprefix("network.")
            for new, old in WEIGHT_NORM.items():
                published = theirs.replace(new, old)
                theirs = published if published in names else theirs
            out[ours] = (theirs,)
        return out

    def all_tokens(self, wave_NS: Tensor, samples_N: Tensor) -> Tensor:
        """Last layer: [N, 249, 768]; behind the end of a clip, what the network makes of nothing."""
        return self.network(normalise_waves(wave_NS, samples_N), samples_N)[0]

    def valid_steps(self, samples_N: Tensor) -> Tensor:
        """One step for every 320 samples from the 400th on."""
        for layer in self.network.feature_extractor.conv_layers:
            samples_N = (samples_N - layer.kernel_size) // layer.stride + 1
        return samples_N


def normalise_waves(wave_NS: Tensor, samples_N: Tensor) -> Tensor:
    """float32 [N, S] -> the same, each clip with mean 0 and variance 1 over its valid samples, 0 behind them; silence stays 0."""
    padding = ~valid_frames(samples_N, wave_NS.shape[1])
    wave = wave_NS.double().masked_fill(padding, 0)
    centred = (wave - wave.sum(1, keepdim=True) / samples_N[:, None]).masked_fill(padding, 0)
    variance = centred.square().sum(1, keepdim=True) / samples_N[:, None]
    return (centred * (variance + 1e-7).rsqrt()).float()
