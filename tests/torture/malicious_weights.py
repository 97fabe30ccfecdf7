"""Malicious weights and checkpoints: pickles under every name, safetensors whose headers lie, states that name other files."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model import pretrained, weights
from model.encoders.fill import fill
from pipeline.base.config import OptimConfig
from pipeline.base.files import digest_file, write_json
from tests.model.tiny import network
from tests.torture.malicious import Attack, Runs, Trap
from train.checkpoint import STATE, Checkpoints, Place
from train.optim import make_optimiser


def saved(trap: Trap, content: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def by_hand(trap: Trap) -> bytes:
    """A zip of torch's form around a pickle of anybody's."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("archive/data.pkl", pickle.dumps(Runs(trap.hit), 2))
        packed.writestr("archive/version", "3\n")
        packed.writestr("archive/byteorder", "little")
    return out.getvalue()


def old_tar(trap: Trap) -> bytes:
    """The form of torch before 0.4."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Runs(trap.hit), 2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return out.getvalue()


def climbing_zip(trap: Trap) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name in ("../../outside/HIT", "/../x", "archive/data.pkl"):
            packed.writestr(name, pickle.dumps(Runs(trap.hit), 2))
    return out.getvalue()


def in_array(trap: Trap) -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.array([Runs(trap.hit)], object))
    return out.getvalue()


PICKLES: dict[str, Callable[[Trap], bytes]] = {
    "torch.save beside tensors": lambda trap: saved(trap, {"model": {"a": torch.zeros(1)}, "hook": Runs(trap.hit)}),
    "torch.save of the old form": lambda trap: saved(trap, {"a": Runs(trap.hit)}, _use_new_zipfile_serialization=False),
    "pickle of protocol 0": lambda trap: b"cos\nsystem\n(S'" + trap.touch.encode() + b"'\ntR.",
    "pickle of protocol 4": lambda trap: pickle.dumps({"a": Runs(trap.hit)}, 4),
    "pickle by way of builtins": lambda trap: b'cbuiltins\neval\n(S\'__import__("os").system("' + trap.touch.encode() + b"\")'\ntR.",
    "pickle that imports through torch": lambda trap: b"\x80\x02ctorch.serialization\nos.system\nX" + _text(trap.touch) + b"\x85R.",
    "a zip made by hand": by_hand,
    "a tar of old torch": old_tar,
    "a zip with names that climb": climbing_zip,
    "npz of objects": in_array,
}


def _text(text: str) -> bytes:
    return len(text).to_bytes(4, "little") + text.encode()


def converted(make: Callable[[Trap], bytes]) -> Callable[[Trap], None]:
    def run(trap: Trap) -> None:
        (trap.inside / "in.pth").write_bytes(make(trap))
        trap.step("model.convert_weights", trap.inside / "in.pth", trap.inside / "out.safetensors")

    return run


def loaded(make: Callable[[Trap], bytes], reader: Callable[[Path], object]) -> Callable[[Trap], None]:
    """A file that calls itself safetensors."""

    def run(trap: Trap) -> None:
        path = trap.inside / "w.safetensors"
        path.write_bytes(make(trap))
        reader(path)

    return run


def headed(header: str, length: int | None = None, data: int = 16) -> Callable[[Trap], bytes]:
    """A safetensors file with a header of anybody's."""
    text = header.encode()
    return lambda trap: struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def tensor(shape: str = "[4]", offsets: str = "[0, 16]", kind: str = "F32", name: str = "a", more: str = "") -> str:
    return f'{{"{name}": {{"dtype": "{kind}", "shape": {shape}, "data_offsets": {offsets}}}{more}}}'


HEADERS: dict[str, Callable[[Trap], bytes]] = {
    "header of 2^63 bytes": headed("{}", 1 << 63),
    "header longer than the file": headed("{}", 1 << 20),
    "header nested": headed("[" * 50_000 + "]" * 50_000),
    "tensors that overlap": headed(tensor(more=', "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}'), data=24),
    "tensor beyond the file": headed(tensor(offsets="[0, 99999999]", shape="[24999999]")),
    "offsets backwards": headed(tensor(offsets="[16, 0]")),
    "shape that overflows": headed(tensor(shape="[4611686018427387904, 4]")),
    "a type that is code": headed(tensor(kind="__import__('os').system('x')")),
    "a hole between tensors": headed(tensor(offsets="[4, 20]"), data=20),
    "note that is no JSON": headed(tensor(more=', "__metadata__": {"dubtrack": "<script>"}')),
    "note that is nested": headed(tensor(more=f', "__metadata__": {{"dubtrack": "{"[" * 50_000}{"]" * 50_000}"}}')),
    "note that is a list": headed(tensor(more=', "__metadata__": {"dubtrack": "[1]"}')),
}


class Folder:
    """A checkpoint and an ended training, as they are made, with states that can be edited."""

    def __init__(self, trap: Trap) -> None:
        self.module = nn.Linear(2, 2)
        self.optimiser = make_optimiser(self.module, OptimConfig())
        self.module(torch.ones(1, 2)).sum().backward()
        self.optimiser.step()
        self.store = Checkpoints(trap.inside / "c", "key", "cpu", lambda line: None)

    def save(self) -> Path:
        self.store.save(1, Place(1, 1), {"task": self.module.state_dict()}, self.optimiser, {})
        return next(self.store.folder.iterdir())

    def end(self, trap: Trap) -> Path:
        (trap.inside / "model.safetensors").write_bytes(b"weights")
        self.store.end([trap.inside / "model.safetensors"])
        return next(self.store.folder.iterdir())


def resumed(edit: Callable[[Trap, Path, dict[str, Any]], Any]) -> Callable[[Trap], None]:
    """A checkpoint with an edited state, which a training goes on from."""

    def run(trap: Trap) -> None:
        made = Folder(trap)
        found = made.save()
        state = json.loads((found / STATE).read_text())
        edited = edit(trap, found, state)
        (found / STATE).write_text(edited if isinstance(edited, str) else json.dumps(state))
        made.store.load(made.optimiser)

    return run


def swapped(group: str, content: Callable[[Trap], bytes]) -> Callable[[Trap, Path, dict[str, Any]], None]:
    """Another file in the place of a group's, its digest in the state made right."""

    def edit(trap: Trap, found: Path, state: dict[str, Any]) -> None:
        path = found / f"{group}.safetensors"
        path.write_bytes(content(trap))
        state["digests"][group] = digest_file(path)

    return edit


def named(name: str) -> Callable[[Trap, Path, dict[str, Any]], None]:
    """The state names a file that lies elsewhere."""

    def edit(trap: Trap, found: Path, state: dict[str, Any]) -> None:
        path = trap.outside / "x.safetensors"
        if not path.exists():
            (trap.inside / "x.safetensors").write_bytes(b"")
        state["digests"][name.replace("{out}", str(trap.outside))] = "0" * 64

    return edit


def ended(trap: Trap) -> None:
    """A training that has ended, as its state says with a file whose name leads out of every folder it is put into."""
    made = Folder(trap)
    found = made.end(trap)
    name = "../../outside/planted"
    target = found / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"planted")
    write_json(found / STATE, {"key": "key", "digests": {name: digest_file(target)}})
    (trap.inside / "run").mkdir()
    made.store.ended(trap.inside / "run")


def attacks() -> Iterator[Attack]:
    for kind, make in PICKLES.items():
        yield Attack(f".pth: {kind}", converted(make), "could run code|no whole file of torch.save|expected tensors by name")
        yield Attack(f".safetensors: {kind}", loaded(make, weights.read_meta), "a pickle|no whole safetensors file")
        yield Attack(f"checkpoint: {kind} for the optimiser", resumed(swapped("optimiser", make)), "does not fit")
    visual = network("dubbernet_visual")
    encoder: Any = nn.Linear(1, 1)  # whatever it is: the file is looked at first
    for kind, make in HEADERS.items():
        yield Attack(f".safetensors: {kind}", loaded(make, weights.read_meta), "no whole safetensors file|entry|is no JSON")
        if "note" not in kind:
            yield Attack(
                f"backbone: {kind}", loaded(make, lambda path: pretrained.load_vit(path, visual)), "no whole safetensors file|does not fit"
            )
    pth = PICKLES["torch.save beside tensors"]
    yield Attack("backbone: a pickle", loaded(pth, lambda path: pretrained.load_vit(path, visual)), "a pickle")
    yield Attack("start: a pickle", loaded(pth, lambda path: pretrained.start_from(path, visual)), "a pickle")
    yield Attack("audio encoder: a pickle", loaded(pth, lambda path: fill(path, encoder)), "a pickle")
    task = PICKLES["pickle of protocol 4"]
    yield Attack("checkpoint: a pickle for the weights", resumed(swapped("task", task)), "does not fit")
    for name in ("../../x", "{out}/x", "a/../../../outside/x"):
        yield Attack(f"checkpoint: names {name}", resumed(named(name)), "not what a training writes")
    yield Attack("checkpoint: state nested", resumed(lambda trap, found, state: "[" * 100_000 + "]" * 100_000), "nested too deeply")
    yield Attack("checkpoint: state a pickle", resumed(lambda trap, found, state: pickle.dumps(Runs(trap.hit), 0).decode()), "not JSON")
    yield Attack("checkpoint: state a list", resumed(lambda trap, found, state: "[]"), "not what a training writes")
    yield Attack(
        "checkpoint: place that is a call", resumed(lambda trap, found, state: state.update(place={"__class__": 1})), "does not fit"
    )
    yield Attack("ended training: a name that leads out", ended, "not what a training writes")
    for name in ("hf-hub:evil/model", "local-dir:/tmp", "../x", "$(touch x)", "https://127.0.0.1/x"):
        fetch = lambda trap, name=name: trap.step("model.fetch_pretrained", trap.inside / "w.safetensors", "--name", name)  # noqa: E731
        yield Attack(f"pretrained: named {name}", fetch, "timm has no weights of this name|timm names no")
