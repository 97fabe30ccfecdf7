"""Turn a .pth file (a pickle, written by torch.save) into safetensors, for ViTs and audio encoders alike.

In:      a state dict: tensors by name, also below 'model' or 'state_dict'; read so that nothing in it can run.
Out:     safetensors file of the same tensors: same names (without a common 'module.'), types and numbers.
Source:  specs/dubbernet.md 4.2 and 3.1: the weights that people have are .pth files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.base import cli
from pipeline.base.errors import WeightsError
from pipeline.base.files import atomic, digest_file

WRAPPERS = ("model", "state_dict")
"""Names below which training scripts put the state dict."""
PARALLEL = "module."
"""What torch's data-parallel wrappers put before every name."""
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
FOREIGN = re.compile(r"GLOBAL (\S+) was not an allowed global")
"""How torch names a class that a file would have it import."""


def read_pickle(path: str | Path) -> Any:
    """What torch.save wrote, on the CPU; only tensors and plain values are built, no code of the file runs.

    Raises:
        WeightsError: no such file; not of torch.save, or not whole; holds anything else than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); expected a file of torch.save") from None
    except Exception as error:  # bytes that are no such file raise whatever the parser trips over
        foreign = FOREIGN.search(str(error))
        if foreign:
            raise WeightsError(
                f"{path}: holds a {foreign[1]}, and reading that could run code; expected tensors by name, so have the state dict "
                "alone saved where the file comes from"
            ) from None
        raise WeightsError(
            f"{path}: no whole file of torch.save ({type(error).__name__}); copy it again (safetensors needs no converting)"
        ) from None


def state_dict(path: str | Path, content: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file by name, and the names of what stood beside the state dict.

    Every tensor is contiguous and has memory of its own, because safetensors holds no views.

    Raises:
        WeightsError: `content` is no state dict, below none or one of WRAPPERS; names what is not a tensor.
    """
    beside: list[str] = []
    while isinstance(content, Mapping) and (inner := [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]):
        if len(inner) > 1:
            raise WeightsError(f"{path}: holds both {' and '.join(inner)}; expected one state dict")
        beside += [str(name) for name in content if name != inner[0]]
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not content:
        found = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsError(f"{path}: holds {found}; expected tensors by name (a state dict), also below {' or '.join(WRAPPERS)}")
    other = [f"the name {name!r} is no text" for name in content if not isinstance(name, str)]
    other += [f"{name!r} is {_kind(value)}" for name, value in content.items() if not _storable(value)]
    if other:
        more = f" and {len(other) - 1} more like it" if len(other) > 1 else ""
        raise WeightsError(
            f"{path}: {other[0]}{more}; expected nothing but tensors by name, below {' or '.join(WRAPPERS)} if there is more"
        )
    strip = PARALLEL if all(name.startswith(PARALLEL) for name in content) else ""
    return {
        name.removeprefix(strip): tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in content.items()
    }, beside


def _storable(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
        and value.dtype in FLOATS + WHOLE
    )


def _kind(value: Any) -> str:
    """A few words for an error, such as 'a dict' or 'a tensor of torch.qint8'."""
    return f"a tensor of {value.dtype} ({value.layout}, {value.device})" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("pickle", type=Path, help="the .pth, .pt or .bin file")
    arguments.add_argument("out", type=Path, help="the .safetensors file to write")
    args = arguments.parse_args(argv)
    if args.out.suffix != ".safetensors":  # also keeps the original from being written over
        raise WeightsError(f"{args.out}: the file to write must end in .safetensors; the file to read comes first")

    if args.out.is_dir() or args.out.resolve() == args.pickle.resolve():
        raise WeightsError(f"{args.out}: a folder, or the file that is read; name another file to write")
    tensors, beside = state_dict(args.pickle, read_pickle(args.pickle))
    with atomic(args.out) as temporary:
        save_file(tensors, temporary)
    if beside:
        print(cli.printable(f"left out: {', '.join(beside)}"))
    print(f"{args.out}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values())} numbers")
    print(f"SHA-256 {digest_file(args.out)}")


if __name__ == "__main__":
    cli.run(main)
