"""The visual trunk's parts: frames -> tokens with position and camera, and transformer blocks (timm's names and numbers).

Source: specs/dubbernet.md 4.1 (TransReID-style ViT-B/16 with overlapping patches). Ours, for speed, with the same numbers
within rounding: patches are cut out as bytes and multiplied as a matrix, because convolutions of 3 channels are slow, their
gradients most of all; and a block of which one token is wanted computes no other.
"""

# B frames of all clips, H and W pixels, N tokens, D width, C cameras

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks.part import Part
from pipeline.base.errors import ConfigError


class Norm(nn.LayerNorm):
    """LayerNorm of the backbone: eps 1e-6 (fusion modules have PyTorch's 1e-5)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)


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


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, first_only: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D], or [B, 1, D]: what the first token finds."""
        if first_only:
            width = tokens.shape[-1]
            weight, bias = (p.split([width, 2 * width]) for p in (self.qkv.weight, self.qkv.bias))
            query = F.linear(tokens[:, :1], weight[0], bias[0]).unflatten(-1, (self.heads, -1))
            key, value = F.linear(tokens, weight[1], bias[1]).unflatten(-1, (2, self.heads, -1)).unbind(2)
        else:
            query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        found = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self.proj(found.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers, GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(Part):
    """Pre-norm ViT block: the parameters of timm's `Block` under its names, and nothing that chance decides."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = Norm(width)
        self.attn = Attention(width, heads)
        self.norm2 = Norm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def compute(self, tokens: Tensor, kept: Tensor | None = None, first_only: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D].

        Args:
            kept: [2, B, 1, 1], by what each frame's two halves count (blocks/chance.py); None: by 1.
            first_only: [B, 1, D], the first token alone; a sixth of the work, because the others only give keys and values.
        """
        attending, thinking = (None, None) if kept is None else kept.unbind(0)
        found = self.attn(self.norm1(tokens), first_only)
        tokens = _add(tokens[:, :1] if first_only else tokens, found, attending)
        return _add(tokens, self.mlp(self.norm2(tokens)), thinking)


def _add(tokens: Tensor, found: Tensor, kept: Tensor | None) -> Tensor:
    return tokens + found if kept is None else torch.addcmul(tokens, found, kept)


def transformer_block(width: int, heads: int, mlp_ratio: float) -> Block:
    """A block with a ViT's initial values."""
    return Block(width, heads, mlp_ratio).apply(init_linear)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in -1..1 (mean 0.5, std 0.5), on the device of the pixels."""
    assert pixels.dtype == torch.uint8, f"pixels: uint8, got {pixels.dtype}"
    return pixels.div(127.5).sub_(1.0)


class FrameTokens(Part):
    """[cls ; patches] + position + camera_scale * camera."""

    def __init__(self, grid: tuple[int, int], width: int, patch: int, stride: int, cameras: int, camera_scale: float) -> None:
        """`camera_scale` 0: there is no camera table, and camera indices are not looked at."""
        super().__init__()
        self.camera_scale, self.patch, self.stride = camera_scale, patch, stride
        self.patches = nn.Conv2d(3, width, patch, stride=stride)  # its parameters are used, by their usual names
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], width))
        nn.init.normal_(self.patches.weight, std=math.sqrt(2 / (patch * patch * width)))
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        if camera_scale:
            self.camera = nn.Embedding(cameras, width)
            nn.init.trunc_normal_(self.camera.weight, std=0.02)

    def compute(self, frames: Tensor, camera_B: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] and int64 [B] -> [B, N, D], N = 1 + patches."""
        # 4.1: X_0 = [cls ; PatchEmb(I)] + P + 3 C[cam]
        patches_BND = F.linear(normalise(self.cut(frames)), self.patches.weight.permute(0, 2, 3, 1).flatten(1), self.patches.bias)
        cls = self.cls.expand(len(patches_BND), -1, -1)
        tokens = torch.cat([cls, patches_BND], dim=1) + self.position
        if self.camera_scale:
            tokens = tokens + self.camera_scale * self.camera(camera_B)[:, None]
        return tokens

    def forget_cameras(self) -> None:
        """Give all frames the mean of the cameras' embeddings, as a part of their position; indices are not looked at any more."""
        if self.camera_scale:
            with torch.no_grad():
                self.position.add_(self.camera_scale * self.camera.weight.mean(0))
            self.camera_scale = 0.0

    def cut(self, frames: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, patches, patch * patch * 3]: patches row by row, colours fastest, as loaders keep pixels."""
        patches = frames.unfold(2, self.patch, self.stride).unfold(3, self.patch, self.stride)
        return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
