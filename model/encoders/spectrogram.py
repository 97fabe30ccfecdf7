"""The encoder 'ast': the Audio Spectrogram Transformer, a distilled ViT over overlapping patches of a filter-bank picture.

Source:  specs/dubbernet.md 3.1: Kaldi's filter bank, zeros up to 1024 frames, (x + 4.2677393) / (2 * 4.5689974), patches of
         16x16 every 10, 12 x 101 + 2 = 1214 tokens. Ours: the tokens are those after the final LayerNorm; averages leave out
         CLS and DIST, and take the 12 rows of frequency together first. LayerNorm's eps is 1e-6, as in training.
"""

# N clips, S samples, T time in frames, B mel bins, A tokens (CLS, DIST, then rows of frequency by columns of time), D width

from __future__ import annotations

import re
from functools import partial
from typing import Any, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torchaudio.compliance.kaldi import fbank

from model.encoders.frozen import RATE, WINDOW, FrozenEncoder

FRAMES = 1024
BINS = 128
HOP = 160
PATCH = 16
STRIDE = 10
ROWS, COLUMNS = (BINS - PATCH) // STRIDE + 1, (FRAMES - PATCH) // STRIDE + 1
EXTRA = 2
"""CLS and DIST."""
MEAN, DEVIATION = -4.2677393, 4.5689974
"""Of the filter banks of AudioSet, on which the published weights were trained."""

AUTHORS = {"cls": "cls_token", "dist": "dist_token", "position": "pos_embed"}
"""Names of the authors' release: timm's."""
HUGGING_FACE = (
    (r"^cls$", "embeddings.cls_token"),
    (r"^dist$", "embeddings.distillation_token"),
    (r"^position$", "embeddings.position_embeddings"),
    (r"^patches\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
HUGGING_FACE_PREFIX = "audio_spectrogram_transformer."
CLASSIFIERS = ("v.head", "v.head_dist", "mlp_head")
"""Of the authors' release: two that were left over from images, and the one for sounds."""


class SpectrogramTransformer(FrozenEncoder):
    """ViT-B with CLS and DIST over 12 x 101 patches."""

    tokens = ROWS * COLUMNS + EXTRA
    unread = ("classifier", *CLASSIFIERS, *(f"module.{name}" for name in CLASSIFIERS))

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.dist = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, self.tokens, width))
        self.patches = nn.Conv2d(1, width, PATCH, stride=STRIDE)
        norm = cast(Any, partial(nn.LayerNorm, eps=1e-6))  # timm's hint asks for a class, its code for a call
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = norm(width)

    def spelling(self, names: set[str]) -> dict[str, tuple[str, ...]]:
        """The layout of Hugging Face's release where the file has its prefix, else the authors'."""
        if any(name.startswith(HUGGING_FACE_PREFIX) for name in names):
            return {ours: hugging_face_names(ours) for ours in self.state_dict()}
        prefix = "module.v." if any(name.startswith("module.") for name in names) else "v."
        return {ours: (prefix + re.sub(r"^patches\.", "patch_embed.proj.", AUTHORS.get(ours, ours)),) for ours in self.state_dict()}

    def all_tokens(self, wave_NS: Tensor, samples_N: Tensor) -> Tensor:
        """[N, 1214, 768]."""
        # one by one: the last frame of a clip ends within it
        pictures = [filter_bank(wave[:samples]) for wave, samples in zip(wave_NS, samples_N.tolist(), strict=True)]
        return self.transform(torch.stack(pictures))

    def transform(self, picture_NTB: Tensor) -> Tensor:
        """Normalised filter banks [N, 1024, 128] -> tokens [N, 1214, 768]."""
        patches = self.patches(picture_NTB.transpose(1, 2)[:, None]).flatten(2).transpose(1, 2)
        extra = torch.cat([self.cls, self.dist], dim=1).expand(len(patches), -1, -1)
        return self.norm(self.blocks(torch.cat([extra, patches], dim=1) + self.position))

    def steps(self, tokens_NAD: Tensor) -> Tensor:
        """Mean over the rows of frequency: [N, 101, 768]."""
        return tokens_NAD[:, EXTRA:].unflatten(1, (ROWS, COLUMNS)).mean(dim=1)

    def valid_steps(self, samples_N: Tensor) -> Tensor:
        """Columns of patches whose 16 frames are all of the clip: 49 of 101 for 5 s."""
        frames_N = (samples_N - WINDOW) // HOP + 1
        return ((frames_N - PATCH) // STRIDE + 1).clamp(min=1)


def filter_bank(wave_S: Tensor) -> Tensor:
    """Waveform of one clip, float32 [at least 400] -> normalised picture [1024, 128]; frames behind the end are 0 before that."""
    bank = fbank(
        wave_S[None],
        sample_frequency=float(RATE),
        frame_length=1000.0 * WINDOW / RATE,
        frame_shift=1000.0 * HOP / RATE,
        num_mel_bins=BINS,
        window_type="hanning",
        dither=0.0,
    )
    padded = nn.functional.pad(bank, (0, 0, 0, FRAMES - len(bank)))
    return (padded - MEAN) / (2 * DEVIATION)


def hugging_face_names(ours: str) -> tuple[str, ...]:
    """Name of a parameter in Hugging Face's release; queries, keys and values have one each."""
    for pattern, theirs in HUGGING_FACE:
        ours = re.sub(pattern, theirs, ours)
    parts = [ours.replace(".attn.qkv.", f".attention.attention.{part}.") for part in ("query", "key", "value")]
    return tuple(HUGGING_FACE_PREFIX + part for part in dict.fromkeys(parts))
