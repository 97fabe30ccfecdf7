"""Start a network's backbone from a plain ViT (ImageNet), instead of from random numbers.

In:      safetensors file of a ViT as timm names and saves it (vit_base_patch16_224.orig_in21k_ft_in1k for the defaults).
Out:     the network, with trunk, position embedding, last block and last LayerNorm filled.
Source:  specs/dubbernet.md 4.2. The released code went on after shape errors; here everything is filled or nothing is.
"""

# N tokens (CLS first), D width

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Network
from model.blocks.vit import patch_grid
from model.dubbernet import DubberNet
from model.weights import differences, named, opened, require_same
from pipeline.base.errors import WeightsError

OWN = ("fusion", "audio", "embedding.camera", "head.neck", "head.classifier")
"""Parts of DubberNet that a plain ViT does not have; they keep their initial values."""

CLASSIFIERS = ("head", "head_dist", "pre_logits")
"""Parts of a plain ViT that DubberNet does not have."""

RENAMED = {"cls_token": "embedding.cls", "pos_embed": "embedding.position"}


def our_name(name: str, last_block: int) -> str:
    """The name that a ViT's parameter has in DubberNet, whose last block and last LayerNorm belong to the head."""
    name = RENAMED.get(name, name)
    name = re.sub(r"^patch_embed\.proj\.", "embedding.patches.", name)
    name = re.sub(r"^norm\.", "head.norm.", name)
    return re.sub(rf"^blocks\.{last_block}\.", "head.block.", name)


def resize_positions(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embedding of a square grid -> that of `grid` (rows, columns): [1, 1 + n*n, D] -> [1, 1 + rows*columns, D].

    Patches bilinear (corners not aligned), CLS unchanged.
    """
    cls, patches = position[:, :1], position[:, 1:]
    side = math.isqrt(patches.shape[1])
    picture = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(picture, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([cls, resized.flatten(2).transpose(1, 2)], dim=1)


def load_vit(path: str | Path, network: Network) -> None:
    """Fill the backbone of `network` from a ViT of the same width, depth and patch.

    Raises:
        WeightsError: the network is no ViT; no whole safetensors file; names are missing or unexpected, or shapes differ.
            `network` is as it was before then.
    """
    if not isinstance(network, DubberNet):
        raise WeightsError(f"{path}: {type(network).__name__} has no ViT backbone to fill; leave `pretrained` empty for this method")
    own = network.state_dict()
    with opened(path) as file:
        names = {name: our_name(name, last_block=len(network.blocks)) for name in sorted(file.keys()) if not named(name, CLASSIFIERS)}
        state = {ours: file.get_tensor(name).float() for name, ours in names.items() if ours in own}
    if "embedding.position" in state:
        position, patches = state["embedding.position"], network.embedding.patches
        found = position.shape[1] - 1
        if math.isqrt(found) ** 2 != found:
            raise WeightsError(f"{path}: pos_embed is for CLS and {found} patches, which is no square; expected a ViT of square images")
        grid = patch_grid(network.height, network.width, patches.kernel_size[0], patches.stride[0])
        state["embedding.position"] = resize_positions(position, grid)
    require_same(
        path,
        missing=[name for name in own if name not in state and not named(name, OWN)],
        unexpected=[name for name, ours in names.items() if ours not in own or named(ours, OWN)],
        different=differences(state, own),
    )
    network.load_state_dict(state, strict=False)  # names and shapes were compared above
