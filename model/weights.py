"""Weights of a network in one safetensors file: nothing in it can run, and nothing is loaded half.

In:      module and meta (plain JSON values).   Out: file; and back.
Source:  specs/dubbernet.md 9, B28 (errors of loading were swallowed, and files said nothing about what they were for).
The meta data (classes, cameras, method, data set, ...) stand in the file's header, as JSON text under one key.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.base.errors import WeightsError
from pipeline.base.files import atomic, parse_json

META_KEY = "dubtrack"
LISTED = 5
"""Differences that an error spells out before it counts the rest."""
REBUILD = "build the network with the settings and data that the file was made with"
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of what torch.save and pickle write."""


def save(path: str | Path, module: nn.Module, meta: dict[str, Any]) -> None:
    """Write parameters and buffers of `module`, from whatever device; equal values give equal bytes.

    Args:
        meta: plain JSON values that say what the weights are for; finite numbers only.

    Raises:
        DiskError: the disk is full, may not be written, or fails.
    """
    header = {META_KEY: json.dumps(meta, sort_keys=True, ensure_ascii=False, allow_nan=False)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic(path) as temporary:
        save_file(state, temporary, metadata=header)


def read_meta(path: str | Path) -> dict[str, Any]:
    """The meta data given to :func:`save`; reads the header only.

    Raises:
        WeightsError: no such file, no whole safetensors file, or one that :func:`save` did not write.
    """
    with opened(path) as file:
        return _meta(path, file)


def load(path: str | Path, module: nn.Module, leave: Collection[str] = ()) -> dict[str, Any]:
    """Copy weights into `module`, on whatever device it is, and return the meta data.

    Args:
        leave: names, or beginnings of names up to a dot, that are left alone: whatever the file holds there is not read, and
            the module keeps its own.

    Raises:
        WeightsError: as :func:`read_meta`; or names are missing or unexpected, or shapes or types differ. The module is
            as it was before then.
    """
    own = {name: tensor for name, tensor in module.state_dict().items() if not named(name, leave)}
    with opened(path) as file:
        meta = _meta(path, file)
        names = [name for name in sorted(file.keys()) if not named(name, leave)]
        state = {name: file.get_tensor(name) for name in names if name in own}
    require_same(
        path,
        missing=[name for name in own if name not in state],
        unexpected=[name for name in names if name not in own],
        different=differences(state, own),
    )
    require_finite(path, state)
    module.load_state_dict(state, strict=False)  # names and shapes were compared above
    return meta


def named(name: str, allowed: Collection[str]) -> bool:
    """Whether a parameter is named by one of `allowed`, fully or by its beginning: 'head.neck' names 'head.neck.weight'."""
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in allowed)


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """One phrase for each tensor whose shape or type is not the expected one. Every name of `found` is in `expected`."""
    return [
        f"{name} is {_form(tensor)} instead of {_form(expected[name])}"
        for name, tensor in found.items()
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype)
    ]


def require_same(path: str | Path, *, missing: list[str], unexpected: list[str], different: list[str], remedy: str = REBUILD) -> None:
    """Raise WeightsError when there is anything in the three lists; each is cut after LISTED entries, with a count."""
    if missing or unexpected or different:
        parts = [
            _list(what, names) for what, names in (("missing", missing), ("unexpected", unexpected), ("different", different)) if names
        ]
        raise WeightsError(f"{path}: does not fit the network ({'; '.join(parts)}); {remedy}")


def require_finite(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Raise WeightsError where a tensor holds NaN or infinity: training would blame the learning rate for it."""
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if broken:
        raise WeightsError(f"{path}: {_list('with NaN or infinity', broken)}; make or copy the file again")


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """The file as safetensors' reader; whatever cannot be read is a WeightsError of one sentence."""
    try:
        with open(path, "rb") as raw:
            start = raw.read(4)
        reader = safe_open(str(path), framework="pt")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); expected a safetensors file") from None
    except SafetensorError as error:
        if start.startswith(PICKLES):
            raise WeightsError(
                f"{path}: a pickle (torch.save), which could run code when read; give the file that "
                f"`python -m model.convert_weights {shlex.quote(str(path))} OUT.safetensors` makes of it"
            ) from None
        raise WeightsError(f"{path}: no whole safetensors file ({error}); make or copy it again") from None
    with reader as file:
        yield file


def _meta(path: str | Path, file: Any) -> dict[str, Any]:
    text = (file.metadata() or {}).get(META_KEY)
    if text is None:
        raise WeightsError(
            f"{path}: its header has no '{META_KEY}' entry, so it was not written by dubtrack; train a network, or convert it"
        )
    try:
        meta = parse_json(text)
    except ValueError as error:
        raise WeightsError(f"{path}: the '{META_KEY}' entry of its header is not JSON ({error}); make it again") from None
    if not isinstance(meta, dict):
        raise WeightsError(f"{path}: the '{META_KEY}' entry of its header is no JSON object; make it again")
    return meta


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _list(what: str, names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {what}: {', '.join(names[:LISTED])}{more}"
