"""What a clip sounds like, as L audio tokens A of the network's width: from log-mel pictures, or from a frozen encoder's tokens.

In:      values of a companion, as in the batch.   Out: tokens of each item, and of each frame.
Source:  specs/dubbernet.md 3.1 (per-clip normalisation, adaptive mean over time to L tokens). The original encoder is
unknown (section 12). For log-mel pictures ours are two strided convolutions over time, trained with the network, so that no
foreign weights are needed; tokens of a frozen encoder are made before training (model/encoders) and used as they are.
Padding at the end of a clip never changes its tokens: beyond the last valid frame every layer sees the same zeros that it
would see beyond the end of an unpadded clip.
"""

# B clips of frames, T frames per clip, N items, F log-mel frames, M bands or width of a given token, D width, L audio tokens

from __future__ import annotations

import torch
from torch import Tensor, nn

KERNEL = 5
"""Frames that one step of a convolution sees."""


def valid_frames(lengths_N: Tensor, frames: int) -> Tensor:
    """int64 [N] -> bool [N, F]: which frames belong to the clip and which are padding."""
    return torch.arange(frames, device=lengths_N.device) < lengths_N[:, None]


def normalise_clips(mel_NFM: Tensor, lengths_N: Tensor) -> Tensor:
    """float32 [N, F, M] -> the same, each clip with mean 0 and variance 1 over its valid values; padding is 0.

    Takes out the recording level. A clip that is constant (digital silence) becomes 0.
    """
    padding = ~valid_frames(lengths_N, mel_NFM.shape[1])[..., None]
    values = (lengths_N * mel_NFM.shape[2])[:, None, None]
    mean = mel_NFM.masked_fill(padding, 0).sum((1, 2), keepdim=True) / values
    centred = (mel_NFM - mean).masked_fill(padding, 0)
    variance = centred.square().sum((1, 2), keepdim=True) / values
    return centred * (variance + 1e-5).rsqrt()


def pool_frames(x_NFD: Tensor, lengths_N: Tensor, tokens: int) -> Tensor:
    """Mean over L equal stretches of each clip's valid frames: [N, F, D] -> [N, L, D].

    Token i covers frames floor(i * length / L) .. ceil((i + 1) * length / L) - 1, as `nn.AdaptiveAvgPool1d` does for a clip
    without padding; stretches of a clip shorter than L frames overlap.
    """
    i = torch.arange(tokens, device=lengths_N.device)
    first = i * lengths_N[:, None] // tokens
    end = ((i + 1) * lengths_N[:, None] + tokens - 1) // tokens
    frame = torch.arange(x_NFD.shape[1], device=lengths_N.device)
    member = (frame >= first[..., None]) & (frame < end[..., None])
    weight = member / (end - first)[..., None]
    return weight.to(x_NFD.dtype) @ x_NFD


class LogMelTokens(nn.Module):
    """Normalise, halve the frame rate twice, and average over time to `tokens` tokens."""

    def __init__(self, bands: int, width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.bands_to_width = nn.Conv1d(bands, width, KERNEL, stride=2, padding=KERNEL // 2)
        self.norm1 = nn.LayerNorm(width)
        self.over_time = nn.Conv1d(width, width, KERNEL, stride=2, padding=KERNEL // 2, groups=width)
        self.over_channels = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.activate = nn.GELU()

    def forward(self, mel_NFM: Tensor, lengths_N: Tensor) -> Tensor:
        """float32 [N, F, M], int64 [N] with 1..F valid frames -> [N, L, D]."""
        x = normalise_clips(mel_NFM, lengths_N)

        x = self.bands_to_width(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm1(self.activate(x))
        lengths = (lengths_N + 1) // 2  # an odd kernel with half of it as padding: one step per started pair of frames
        x = x * valid_frames(lengths, x.shape[1])[..., None]

        x = self.over_time(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm2(self.activate(self.over_channels(x)))
        return pool_frames(x, (lengths + 1) // 2, self.tokens)


class GivenTokens(nn.Module):
    """Tokens of a frozen encoder, as they are; brought to `width` by one linear layer where theirs is another."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.to_width = nn.Identity() if bands == width else nn.Linear(bands, width)

    def forward(self, tokens_NLM: Tensor, lengths_N: Tensor) -> Tensor:
        """float32 [N, L, M] -> [N, L, D]. Nothing is padded, so `lengths_N` is not needed."""
        return self.to_width(tokens_NLM)


def audio_encoder(kind: str, bands: int, width: int, tokens: int) -> nn.Module:
    """Values and lengths of the items of a companion -> [N, L, D].

    Args:
        kind: 'audio' (log-mel pictures) or 'audio_tokens' (L is that of the companion).
        bands: M.
        width: D.
        tokens: L, for 'audio'.
    """
    return GivenTokens(bands, width) if kind == "audio_tokens" else LogMelTokens(bands, width, tokens)


def heard_by_frames(tokens_NLD: Tensor, align_BT: Tensor) -> Tensor:
    """Tokens of the items -> those of every frame, [B*T, L, D].

    A frame without an item (align -1) hears L zero vectors. That is not silence, which is encoded like any other sound:
    after the injection's LayerNorm it is one constant vector that the injection can learn.
    """
    nothing = tokens_NLD.new_zeros(1, *tokens_NLD.shape[1:])
    return torch.cat([tokens_NLD, nothing])[align_BT.flatten()]  # index -1 is the last row: nothing
