"""The visual trunk's parts: frames -> tokens with position and camera, and transformer blocks (timm's).

Source: specs/dubbernet.md 4.1 (TransReID-style ViT-B/16 with overlapping patches).
"""

# B frames of all clips, H and W pixels, N tokens (CLS first), D width, C cameras

from __future__ import annotations

import math

import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn

from pipeline.base.errors import ConfigError


class Norm(nn.LayerNorm):
    """LayerNorm of the backbone: eps 1e-6 (fusion modules have PyTorch's 1e-5)."""

    def __init__(self, width: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(width, eps=1e-6, device=device, dtype=dtype)


def patch_grid(height: int, width: int, patch: int, stride: int) -> tuple[int, int]:
    """Rows and columns of patches; 256x128 with patch 16: (21, 10) at stride 12, (16, 8) at stride 16."""
    if height < patch or width < patch:
        raise ConfigError(f"model.patch={patch}: larger than a frame of {height}x{width} pixels; use smaller patches or larger frames")
    return (height - patch) // stride + 1, (width - patch) // stride + 1


def init_linear(module: nn.Module) -> None:
    """Truncated normal (std 0.02) and zero bias for linear layers; use with `module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Block(nn.Module):
    """Pre-norm ViT block: timm's `Block` with its names, its numbers and its parameters, and nothing that chance decides."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = Norm(width)
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.norm2 = Norm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D].

        Args:
            kept: [2, B, 1, 1], by what each frame's two halves count (blocks/chance.py); None: by 1.
        """
        attending, thinking = (None, None) if kept is None else kept.unbind(0)
        tokens = _add(tokens, self.attn(self.norm1(tokens)), attending)
        return _add(tokens, self.mlp(self.norm2(tokens)), thinking)


def _add(tokens: Tensor, found: Tensor, kept: Tensor | None) -> Tensor:
    return tokens + found if kept is None else torch.addcmul(tokens, found, kept.to(found.dtype))


def transformer_block(width: int, heads: int, mlp_ratio: float) -> Block:
    """A block with a ViT's initial values."""
    return Block(width, heads, mlp_ratio).apply(init_linear)


class FrameTokens(nn.Module):
    """[cls ; patches] + position + camera_scale * camera."""

    def __init__(self, grid: tuple[int, int], width: int, patch: int, stride: int, cameras: int, camera_scale: float) -> None:
        """`camera_scale` 0: there is no camera table, and camera indices are not looked at."""
        super().__init__()
        self.camera_scale = camera_scale
        self.patches = nn.Conv2d(3, width, patch, stride=stride)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], width))
        nn.init.normal_(self.patches.weight, std=math.sqrt(2 / (patch * patch * width)))
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        if camera_scale:
            self.camera = nn.Embedding(cameras, width)
            nn.init.trunc_normal_(self.camera.weight, std=0.02)

    def forward(self, frames: Tensor, camera_B: Tensor) -> Tensor:
        """float [B, 3, H, W] and int64 [B] -> [B, N, D]."""
        # 4.1: X_0 = [cls ; PatchEmb(I)] + P + 3 C[cam]
        patches_BND = self.patches(frames).flatten(2).transpose(1, 2)
        cls = self.cls.expand(len(patches_BND), -1, -1)
        tokens = torch.cat([cls, patches_BND], dim=1) + self.position
        if self.camera_scale:
            tokens = tokens + self.camera_scale * self.camera(camera_B)[:, None]
        return tokens
