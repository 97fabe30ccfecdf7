"""The full state of a training, in a folder that is not an output of the workflow (those are deleted on failure).

In:      groups of named tensors, the optimiser, plain facts.   Out: ``at-000000000123/`` with one safetensors file per group,
         optimiser.safetensors and state.json.
Source:  promises R1, R6 and R8; decisions.md (checkpoints).

A checkpoint is written beside its name, flushed and renamed; older ones go only after that, so there is always a whole
one. It belongs to a key (digest of settings, data and teacher): under another key it is left alone, with a line that says
so. Random states are not stored, because every step seeds its own (see `train.trainer`). Nothing in it is a pickle.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from pipeline.base.errors import TrainError
from pipeline.base.files import digest_file, read_json, write_json

OPTIMISER, STATE = "optimiser.safetensors", "state.json"
WHOLE, PART = "at-", ".part-"
"""How names of finished checkpoints begin, and of those that are being written or deleted."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """How far a training has come."""

    epoch: int
    """The epoch that goes on, from 1."""
    step: int
    """Batches of it that are done."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A checkpoint that fits."""

    place: Place
    facts: dict[str, Any]
    """What was given to :meth:`Checkpoints.save`, as JSON gives it back."""
    groups: dict[str, dict[str, Tensor]]
    """Named tensors, on the CPU."""


class Checkpoints:
    """Checkpoints of one training in one folder.

    Args:
        folder: made when the first checkpoint is saved.
        key: digest of everything that must be equal for a checkpoint to be of use.
        device: what computes now ('cuda', 'cpu with 2 threads'); sums depend on it in their last bits.
        say: where the lines about ignored checkpoints go.
    """

    def __init__(self, folder: str | os.PathLike[str], key: str, device: str, say: Callable[[str], None]) -> None:
        self.folder, self.key, self.device, self.say = Path(folder), key, device, say

    def save(
        self,
        number: int,
        place: Place,
        groups: Mapping[str, Mapping[str, Tensor]],
        optimiser: Optimizer,
        facts: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint, then delete all others and what killed writers left.

        Args:
            number: batches since the training began; names the checkpoint, the highest is the newest.
            groups: named tensors by name of the group, which becomes a file name.
            facts: plain JSON values.
        """
        tensors, settings = _taken_apart(optimiser)
        whole = {**groups, Path(OPTIMISER).stem: tensors}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=self.folder))
        try:
            for name, group in whole.items():
                save_file({key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}, _file(part, name))
            state = {
                "key": self.key,
                "number": number,
                "place": asdict(place),
                "device": self.device,
                "digests": {name: digest_file(_file(part, name)) for name in whole},
                "optimiser": settings,
                "facts": dict(facts),
            }
            write_json(part / STATE, state)
            for path in (*(_file(part, name) for name in whole), part):
                _flush(path)
            target = self.folder / f"{WHOLE}{number:012d}"
            if target.exists():  # of another key: ours would have been resumed
                _delete(target)
            part.rename(target)
            _flush(self.folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        for other in self._found(WHOLE, PART):
            if other != target:
                _delete(other)

    def load(self, optimiser: Optimizer) -> Restored | None:
        """The newest checkpoint of this key, its optimiser's state put into `optimiser`; None when there is none.

        Raises:
            TrainError: the checkpoint is damaged, or its optimiser is another one (its code changed).
        """
        ours = []
        for path in self._found(WHOLE):
            state = read_json(path / STATE)
            if state["key"] == self.key:
                ours.append((path, state))
            else:
                self.say(f"{path}: checkpoint of another run (settings, data or teacher differ); not resumed")
        if not ours:
            return None
        found, state = max(ours, key=lambda one: one[1]["number"])
        for name, digest in state["digests"].items():
            if digest_file(_file(found, name)) != digest:
                raise TrainError(
                    f"{_file(found, name)}: damaged (its digest is not the one written beside it); delete {self.folder} to begin again"
                )
        groups = {name: load_file(_file(found, name)) for name in state["digests"]}
        with self.fitting():
            optimiser.load_state_dict(_put_together(groups.pop(Path(OPTIMISER).stem), state["optimiser"]))
        if state["device"] != self.device:
            self.say(f"{found}: made on {state['device']}, resumed on {self.device}; the weights will not be bit-identical")
        return Restored(Place(**state["place"]), state["facts"], groups)

    def fitting(self) -> _Fitting:
        """A block in which what was loaded is put where it belongs: if it does not fit, one sentence says so."""
        return _Fitting(self.folder)

    def remove(self) -> None:
        """The training has ended well: delete the checkpoints, and the folder if nothing else is in it."""
        for path in self._found(WHOLE, PART):
            _delete(path)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _found(self, *beginnings: str) -> list[Path]:
        """Folders whose names begin so, sorted."""
        paths = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [path for path in paths if path.name.startswith(beginnings)]


class _Fitting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError | ValueError | KeyError):
            raise TrainError(
                f"{self.folder}: its checkpoint does not fit the network of this code ({str(error).splitlines()[0]}); "
                "delete the folder to begin again"
            ) from None


def _taken_apart(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an optimiser's state by 'number of the parameter.name', and everything else as plain values."""
    state = optimiser.state_dict()
    tensors, plain = {}, {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                plain[f"{number}.{name}"] = value
    return tensors, {"groups": state["param_groups"], "plain": plain}


def _put_together(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`_taken_apart`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**settings["plain"], **tensors}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    return {"state": state, "param_groups": settings["groups"]}


def _file(folder: Path, group: str) -> Path:
    return folder / f"{group}.safetensors"


def _delete(checkpoint: Path) -> None:
    """Take the name away first: a kill in the middle must not leave half a checkpoint under a whole one's name."""
    hidden = Path(tempfile.mkdtemp(prefix=PART, dir=checkpoint.parent))
    checkpoint.rename(hidden)  # over the empty folder
    shutil.rmtree(hidden)


def _flush(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
