"""The encoder 'logmel_stub': log-mel bands through a fixed random matrix. It needs no weights and knows nothing of speech.

Source:  specs/dubbernet.md 3.1. At its numbers (n_fft 512, 128 bands from 20 Hz) one band, the fourth, holds no Fourier bin
         and is constant, whatever is heard; the log-mel pictures of kind 'audio' refuse such a bank, this stub is as specified.
         Ours: spectrum and bands in float64, as for kind 'audio'; the matrix is the same for every run and every machine.
"""

# N clips, S samples, L tokens that are kept

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchaudio.transforms import MelSpectrogram

from model.blocks.audio_tokens import normalise_clips
from model.encoders.frozen import RATE, SAMPLES, WINDOW, FrozenEncoder
from pipeline.base.seeds import rng

HOP = 160
BANDS = 128
WIDTH = 768
FLOOR = 1e-10
"""Power below which the logarithm is cut off."""
SEED = 20_260_131
"""Of the matrix: a constant, not the seed of a run, so that a clip has the same tokens everywhere."""


class LogMelStub(FrozenEncoder):
    """501 frames of 128 bands, normalised per clip, averaged, then 128 -> 768."""

    tokens = SAMPLES // HOP + 1
    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")  # see above
            self.mel = MelSpectrogram(
                RATE,
                n_fft=512,
                win_length=WINDOW,
                hop_length=HOP,
                f_min=20.0,
                f_max=8000.0,
                n_mels=BANDS,
                wkwargs={"dtype": torch.float64},
            ).double()
        values = rng(SEED, "audio tokens", "logmel_stub").standard_normal((BANDS, WIDTH)) / BANDS**0.5
        self.register_buffer("matrix", torch.from_numpy(values).float())

    def all_tokens(self, wave_NS: Tensor, samples_N: Tensor) -> Tensor:
        """Normalised log-mel [N, 501, 128]; zero, the mean, behind the end of a clip."""
        # one by one: the reflected edge of a clip lies at its own end
        clips = [self.mel(wave[:samples].double()).T for wave, samples in zip(wave_NS, samples_N.tolist(), strict=True)]
        frames = pad_sequence([clip.clamp(min=FLOOR).log() for clip in clips], batch_first=True)
        frames = F.pad(frames, (0, 0, 0, self.tokens - frames.shape[1]))
        steps_N = self.valid_steps(samples_N)
        return normalise_clips(frames, steps_N).float()  # in float32, silence would not quite become 0

    def valid_steps(self, samples_N: Tensor) -> Tensor:
        """Every centred frame: samples // 160 + 1."""
        return samples_N // HOP + 1

    def project(self, tokens_NLD: Tensor) -> Tensor:
        """[N, L, 128] -> [N, L, 768]."""
        return tokens_NLD @ self.matrix
