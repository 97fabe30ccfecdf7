"""How the teacher hears: what it finds in the audio tokens is added to its visual tokens.

Source: specs/dubbernet.md 4.3 (Simple Injection) and section 10 (`teacher.fusion`: the two simpler ways it is compared with).
There is no position on the audio side, so the order of the audio tokens does not matter; with a single audio token the
attention would answer the same to every visual token, whatever the image.
"""

# B frames of all clips, N visual tokens (CLS first), L audio tokens, D width

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.blocks.attention import CrossAttention
from model.blocks.part import Part


class Injection(Part):
    """What all injections share: 4.3 step 1 (the adapter) and the LayerNorm of step 4.

    Initialised as PyTorch does; LayerNorm eps 1e-5. `compute` gives (attn, fused), both [B, N, D]: O and Y of 4.3.
    """

    def __init__(self, width: int, adapter_width: int, zero_init: bool) -> None:
        """`zero_init`: the LayerNorm starts at weight 0, so that Y = X at first."""
        super().__init__()
        self.audio_norm = nn.LayerNorm(width)
        self.adapter = nn.Sequential(nn.Linear(width, adapter_width), nn.GELU(), nn.Linear(adapter_width, width))
        self.out_norm = nn.LayerNorm(width)
        if zero_init:
            nn.init.zeros_(self.out_norm.weight)

    def adapt(self, audio_BLD: Tensor) -> Tensor:
        """4.3 step 1: A' = LN(A) + W_2 GELU(W_1 LN(A)), [B, L, D]."""
        audio = self.audio_norm(audio_BLD)
        return audio + self.adapter(audio)


class AttentionInjection(Injection):
    """Simple Injection: every visual token asks the audio tokens. Y = X + LN(Attention(LN(X), A'))."""

    def __init__(self, width: int, heads: int, adapter_width: int, zero_init: bool = False) -> None:
        super().__init__(width, adapter_width, zero_init)
        self.visual_norm = nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)

    def compute(self, visual_BND: Tensor, audio_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D] and [B, L, D] -> (attn, fused), both [B, N, D]."""
        attn = self.attention(self.visual_norm(visual_BND), self.adapt(audio_BLD))  # 4.3 steps 2 and 3
        return attn, visual_BND + self.out_norm(attn)  # 4.3 step 4


class AddInjection(Injection):
    """Every visual token gets the same: Y = X + LN(W mean(A') + b). Nothing in the image decides what is heard."""

    def __init__(self, width: int, heads: int, adapter_width: int, zero_init: bool = False) -> None:
        """`heads` is not used: nothing attends."""
        super().__init__(width, adapter_width, zero_init)
        self.linear = nn.Linear(width, width)

    def compute(self, visual_BND: Tensor, audio_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D] and [B, L, D] -> (attn, fused), both [B, N, D]; attn is a view of one vector per frame."""
        attn_B1D = self.linear(self.adapt(audio_BLD).mean(1, keepdim=True))
        return attn_B1D.expand_as(visual_BND), visual_BND + self.out_norm(attn_B1D)


class ClsInjection(Injection):
    """Only the CLS token hears: Y_cls = X_cls + LN(W [LN(X_cls) ; mean(A')] + b); the other tokens stay, their attn is 0."""

    def __init__(self, width: int, heads: int, adapter_width: int, zero_init: bool = False) -> None:
        """`heads` is not used: nothing attends."""
        super().__init__(width, adapter_width, zero_init)
        self.visual_norm = nn.LayerNorm(width)
        self.linear = nn.Linear(2 * width, width)

    def compute(self, visual_BND: Tensor, audio_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D] and [B, L, D] -> (attn, fused), both [B, N, D]."""
        cls_B1D, patches = visual_BND[:, :1], visual_BND[:, 1:]
        heard_B1D = self.adapt(audio_BLD).mean(1, keepdim=True)
        attn_B1D = self.linear(torch.cat([self.visual_norm(cls_B1D), heard_B1D], dim=-1))
        attn = torch.cat([attn_B1D, attn_B1D.new_zeros(patches.shape)], dim=1)
        return attn, torch.cat([cls_B1D + self.out_norm(attn_B1D), patches], dim=1)


INJECTIONS: dict[str, type[AttentionInjection] | type[AddInjection] | type[ClsInjection]] = {
    "attention": AttentionInjection,
    "add": AddInjection,
    "concat_cls": ClsInjection,
}
"""By the value of `model.injection`."""
