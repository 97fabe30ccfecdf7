"""Weights that a training starts from: a plain ViT's (ImageNet), or those of another stage.

In:      safetensors file of a ViT in one of LAYOUTS (vit_base_patch16_224.orig_in21k_ft_in1k of timm for the defaults, or
         the same weights as jx_vit_base_p16_224), or a file that dubtrack wrote.
Out:     the network: trunk, position embedding, last block and last LayerNorm filled; or all that two networks share.
Source:  specs/dubbernet.md 4.2, 5.1 (start from the teacher). The released code went on after shape errors; here everything
         is filled or nothing is, and what a file may lack or have too much of is written down by name.
"""

# N tokens (CLS first), D width

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Network
from model.blocks.vit import patch_grid
from model.dubbernet import DubberNet
from model.weights import differences, load, named, opened, read_meta, require_finite, require_same
from pipeline.base.errors import WeightsError

NAMES = {
    "embedding.cls": "cls_token",
    "embedding.position": "pos_embed",
    "embedding.patches": "patch_embed.proj",
    "head.block": "blocks.{last}",
    "head.norm": "norm",
}
"""Our name of a part of a ViT -> its name in every layout; `blocks` has the same name."""

OWN = ("fusion", "audio", "local", "embedding.camera", "head.attention", "head.neck", "head.classifier")
"""Parts of DubberNet that a plain ViT does not have; they keep their initial values."""

OPTIONAL = ("fusion", "audio", "local", "head.attention")
"""Parts that one of our networks may have and another not."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file of a ViT holds beside the parts of NAMES."""

    tokens: tuple[str, ...]
    """Tokens before the patches, in the order of `pos_embed`, `cls_token` first."""
    unused: tuple[str, ...]
    """Names, or beginnings of names up to a dot, of what DubberNet does not have: not read."""


LAYOUTS = {
    "timm": Layout(tokens=("cls_token",), unused=("head",)),
    "jx": Layout(tokens=("cls_token",), unused=("head", "pre_logits")),
    "deit_distilled": Layout(tokens=("cls_token", "dist_token"), unused=("head", "head_dist", "dist_token")),
}
"""Each may stand below a common beginning such as 'module.', 'model.' or 'base.'. jx: the older files of the same weights.
deit_distilled: the distillation token and its position are left out, as in TransReID; CLS and patches are taken."""


def resize_positions(position: Tensor, grid: tuple[int, int], tokens: int = 1) -> Tensor:
    """Position embedding of a square grid -> that of `grid` (rows, columns): [1, tokens + n*n, D] -> [1, 1 + rows*columns, D].

    Patches bilinear (corners not aligned), the first token (CLS) unchanged, the other `tokens` left out.
    """
    cls, patches = position[:, :1], position[:, tokens:]
    side = math.isqrt(patches.shape[1])
    picture = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(picture, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([cls, resized.flatten(2).transpose(1, 2)], dim=1)


def load_vit(path: str | Path, network: Network) -> None:
    """Fill the backbone of `network` from a ViT of the same width, depth and patch; numbers of any float type become float32.

    Raises:
        WeightsError: the network is no ViT; no whole safetensors file; names are missing or unexpected, or shapes differ.
            `network` is as it was before then.
    """
    if not isinstance(network, DubberNet):
        raise WeightsError(f"{path}: {type(network).__name__} has no ViT backbone to fill; leave `pretrained` empty for this method")
    own, patches = network.state_dict(), network.embedding.patches
    with opened(path) as file:
        names = sorted(file.keys())
        before = _beginning(names)
        expected = {before + _their_name(ours, len(network.blocks)): ours for ours in own if not named(ours, OWN)}
        state = {name: _float32(file.get_tensor(name)) for name in names if name in expected}
    size = f"width {patches.out_channels} with {len(network.blocks) + 1} blocks and patches of {patches.kernel_size[0]} pixels"
    require = partial(require_same, path, remedy=f"expected a plain ViT of {size}, its parts named as timm does")

    layout, unexpected = _layout([name for name in names if name not in expected], before)
    require(missing=[name for name in expected if name not in state], unexpected=unexpected, different=[])
    grid = patch_grid(network.height, network.width, patches.kernel_size[0], patches.stride[0])
    position = f"{before}pos_embed"
    state[position] = _positions(path, state[position], grid, layout.tokens)
    require(missing=[], unexpected=[], different=differences(state, {name: own[expected[name]] for name in state}))
    require_finite(path, state)
    network.load_state_dict({expected[name]: tensor for name, tensor in state.items()}, strict=False)  # compared above


def start_from(path: str | Path, network: Network) -> dict[str, Any]:
    """Copy the parts that a stage's network shares with `network` (another stage's), and return the meta data of the file.

    Networks with the same parts that both hear, or both do not, must be the same to the last name. Of others, a part of
    OPTIONAL that only one of them has is left alone; so is the fusion when only one of them hears, because injection and
    perception are different modules some of whose names and shapes happen to agree.

    Raises:
        WeightsError: no whole file of dubtrack; any other name is missing or unexpected, or shapes or types differ.
            `network` is as it was before then.
    """
    meta = read_meta(path)
    with opened(path) as file:
        theirs = _optional(file.keys())
    leave = theirs ^ _optional(network.state_dict())
    if bool(meta.get("hears")) != network.hears:
        leave |= {"fusion"}
    return load(path, network, leave)


def _optional(names: Iterable[str]) -> set[str]:
    """The parts of OPTIONAL among parameters' names."""
    return {part for part in OPTIONAL if any(named(name, [part]) for name in names)}


def _beginning(names: list[str]) -> str:
    """What stands before 'cls_token', which every layout has: '' or, for example, 'module.'."""
    found = [name.removesuffix("cls_token") for name in names if name == "cls_token" or name.endswith(".cls_token")]
    return min(found, key=len, default="")


def _their_name(ours: str, last_block: int) -> str:
    """The name of a parameter in a ViT, whose last block and LayerNorm are the head's in DubberNet."""
    for mine, theirs in NAMES.items():
        if named(ours, [mine]):
            return theirs.format(last=last_block) + ours.removeprefix(mine)
    return ours


def _layout(others: list[str], before: str) -> tuple[Layout, list[str]]:
    """The layout that explains most of the names that are not a ViT's trunk, and the names that it leaves over."""
    left = [
        (layout, [name for name in others if not named(name, [before + part for part in layout.unused])]) for layout in LAYOUTS.values()
    ]
    return min(left, key=lambda pair: len(pair[1]))


def _float32(tensor: Tensor) -> Tensor:
    """Whole numbers (a quantised file) stay what they are and are found to be different."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _positions(path: str | Path, position: Tensor, grid: tuple[int, int], tokens: tuple[str, ...]) -> Tensor:
    """`position` for another grid; one that is no float [1, N, D] is left to the comparison of forms."""
    if position.ndim != 3 or len(position) != 1 or not position.is_floating_point():
        return position
    found = position.shape[1] - len(tokens)
    if found < 1 or math.isqrt(found) ** 2 != found:
        raise WeightsError(
            f"{path}: pos_embed is for {' and '.join(tokens)} and {found} patches, which is no square; expected a ViT of square images"
        )
    return resize_positions(position, grid, len(tokens))
