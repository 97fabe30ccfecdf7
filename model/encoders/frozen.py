"""What all frozen audio encoders share: clips are padded to 5 s, tokens are averaged over the part that is sound.

In:      float32 [N, S] waveforms at 16 kHz and the valid samples of each.   Out: float32 [N, L, D] tokens.
Source:  specs/dubbernet.md 3.1. Ours: averages leave out tokens that look beyond the end of a clip (at least one stays).
"""

# N clips, S samples, A all tokens of a padded clip, F steps in time, D width, L tokens that are kept

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks.audio_tokens import pool_frames, valid_frames

RATE = 16_000
"""Samples per second."""
SAMPLES = 80_000
"""5 s: the length that clips are padded to."""
WINDOW = 400
"""Samples of an encoder's first step (25 ms in all of them); a shorter clip counts as one such step, the rest silent."""


class FrozenEncoder(nn.Module):
    """Base class. Its parameters want no gradient, and it is always in evaluation mode."""

    tokens: int
    """A, of a clip of 5 s."""
    unread: tuple[str, ...] = ()
    """Beginnings of names in a weight file that are left unread: what comes after the tokens (classifiers)."""

    def freeze(self) -> Self:
        """Call once, when the weights are in."""
        return self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever is asked."""
        return super().train(False)

    def spelling(self, names: set[str]) -> dict[str, tuple[str, ...]]:
        """What a weight file with these names calls each entry of the state dict; several names: parts along the first axis."""
        return {name: (name,) for name in self.state_dict()}

    def all_tokens(self, wave_NS: Tensor, samples_N: Tensor) -> Tensor:
        """Tokens of clips that are padded with zeros to SAMPLES: [N, A, D]."""
        raise NotImplementedError

    def steps(self, tokens_NAD: Tensor) -> Tensor:
        """All tokens -> one per step in time: [N, F, D]."""
        return tokens_NAD

    def valid_steps(self, samples_N: Tensor) -> Tensor:
        """Steps that see nothing but the clip: int64 [N], at least 1."""
        raise NotImplementedError

    def project(self, tokens_NLD: Tensor) -> Tensor:
        """What remains to be done to tokens after averaging; a linear map, so that fewer need it."""
        return tokens_NLD

    @torch.inference_mode()
    def forward(self, wave_NS: Tensor, samples_N: Tensor, length: int) -> Tensor:
        """Tokens of clips.

        Args:
            wave_NS: float32, full scale is 1; any width S: what lies behind a clip's valid samples is not looked at.
            samples_N: int64, 1..SAMPLES valid samples.
            length: L, by averaging over equal stretches of the valid part (they overlap in a clip with fewer steps); 0: all
                tokens of the padded clip.

        Returns:
            float32 [N, L or A, D].
        """
        wave_NS = F.pad(wave_NS, (0, SAMPLES - wave_NS.shape[1]))  # negative: cut
        wave_NS = wave_NS.masked_fill(~valid_frames(samples_N, SAMPLES), 0)
        samples_N = samples_N.clamp(min=WINDOW)
        tokens = self.all_tokens(wave_NS, samples_N)
        if length:
            tokens = pool_frames(self.steps(tokens), self.valid_steps(samples_N), length)
        return self.project(tokens)
