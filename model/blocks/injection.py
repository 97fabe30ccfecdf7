"""Simple Injection: visual tokens ask the audio tokens, and the answer is added to them (teacher).

Source: specs/dubbernet.md 4.3. There is no position on the audio side, so the order of the audio tokens does not matter;
with a single audio token the answer would be the same for every visual token, whatever the image.
"""

# B frames of all clips, N visual tokens, L audio tokens, D width

from __future__ import annotations

from torch import Tensor, nn

from model.blocks.attention import CrossAttention


class Injection(nn.Module):
    """X + LN(Attention(LN(X), adapted audio)). Initialised as PyTorch does; LayerNorm eps 1e-5."""

    def __init__(self, width: int, heads: int, adapter_width: int) -> None:
        super().__init__()
        self.visual_norm = nn.LayerNorm(width)
        self.audio_norm = nn.LayerNorm(width)
        self.adapter = nn.Sequential(nn.Linear(width, adapter_width), nn.GELU(), nn.Linear(adapter_width, width))
        self.attention = CrossAttention(width, heads)
        self.out_norm = nn.LayerNorm(width)

    def forward(self, visual_BND: Tensor, audio_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D] and [B, L, D] -> (attn, fused), both [B, N, D]: before and after the residual sum."""
        audio = self.audio_norm(audio_BLD)
        audio = audio + self.adapter(audio)
        attn = self.attention(self.visual_norm(visual_BND), audio)
        return attn, visual_BND + self.out_norm(attn)
