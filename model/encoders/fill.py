"""Weights of a frozen encoder from a safetensors file in the layout of its release: everything is filled or nothing is.

In:      safetensors file, encoder.   Out: the encoder, filled.
Source:  specs/dubbernet.md 3.1 and 4.2 (the released code went on after errors of loading).
"""

from __future__ import annotations

from pathlib import Path

import torch

from model.encoders.frozen import FrozenEncoder
from model.weights import differences, named, opened, require_same

REMEDY = "give the weights that were released for the chosen tokens.encoder, under their own names"


def fill(path: str | Path, encoder: FrozenEncoder) -> None:
    """Copy all weights of `encoder` from a file; 16-bit floating point is widened.

    Raises:
        WeightsError: no whole safetensors file; names (as the file's layout spells them) are missing, or unexpected and not
            `encoder.unread`; or shapes differ. `encoder` is as it was before then.
    """
    own = encoder.state_dict()
    with opened(path) as file:
        names = set(file.keys())
        spelling = encoder.spelling(names)
        expected = {
            name: part for ours, theirs in spelling.items() for name, part in zip(theirs, own[ours].chunk(len(theirs)), strict=True)
        }
        found = {name: file.get_tensor(name) for name in sorted(names & expected.keys())}
    found = {name: tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor for name, tensor in found.items()}
    require_same(
        path,
        missing=[name for name in expected if name not in names],
        unexpected=[name for name in sorted(names) if name not in expected and not named(name, encoder.unread)],
        different=differences(found, expected),
        remedy=REMEDY,
    )
    encoder.load_state_dict({ours: torch.cat([found[name] for name in theirs]) for ours, theirs in spelling.items()})
