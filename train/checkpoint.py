"""The full state of a training, in a folder that is not an output of the workflow (those are deleted on failure).

In:      groups of named tensors, the optimiser, plain facts.   Out: ``at-000000000123-<key>/`` with one safetensors file per
         group, optimiser.safetensors and state.json; when the training has ended, ``ended-<key>/`` with what it made.
Source:  promises R1, R6 and R8; decisions.md (checkpoints).

A checkpoint is written beside its name, flushed and renamed; older ones go only after that, so there is always a whole
one. It belongs to a key (digest of settings, data and teacher): those of other keys are left alone, with a line that says so.
What a training has made is linked into the folder, because a workflow that died while it ran deletes its outputs and asks again. Random states are not stored, because every step seeds its own (see `train.trainer`). Nothing in it is a pickle.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from pipeline.base import disk, locks
from pipeline.base.errors import TrainError
from pipeline.base.files import atomic, digest_file, read_json, write_json

OPTIMISER, STATE = "optimiser.safetensors", "state.json"
WHOLE, PART, ENDED = "at-", ".part-", "ended-"
"""How names begin: of checkpoints, of what is being written or deleted, of what trainings have made."""
KEY = 12
"""Letters of the key in a name."""


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

    number: int
    """Batches since the training began."""
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
        """Write a checkpoint, then delete older ones of this key and what killed writers left.

        Args:
            number: batches since the training began; names the checkpoint, the highest is the newest.
            groups: named tensors by name of the group, which becomes a file name.
            facts: plain JSON values.

        Raises:
            DiskError: it could not be written, for want of room for example; those that are there stay.
        """
        tensors, settings = _taken_apart(optimiser)
        whole = {**groups, Path(OPTIMISER).stem: tensors}
        target = self._named(f"{WHOLE}{number:012d}")
        with self._written(target) as part:
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
        for other in self._found(WHOLE):
            if other != target and other.name.endswith(self.key[:KEY]):
                _delete(other)

    @contextmanager
    def _written(self, target: Path) -> Iterator[Path]:
        """A folder to write into, which takes the name `target` when the block has ended well."""
        with disk.writing(target, "what was saved before is still there"):
            self.folder.mkdir(parents=True, exist_ok=True)
            part, lock = locks.folder(self.folder, PART)  # deletes what killed writers left
            try:
                whole = part / target.name
                whole.mkdir()
                yield whole
                for path in (*whole.iterdir(), whole):
                    _flush(path)
                if target.exists():
                    _delete(target)
                whole.rename(target)
                _flush(self.folder)
            finally:
                locks.discard(part, lock)

    def _named(self, beginning: str) -> Path:
        return self.folder / f"{beginning}-{self.key[:KEY]}"

    def load(self, optimiser: Optimizer) -> Restored | None:
        """The newest checkpoint of this key, its optimiser's state put into `optimiser`; None when there is none.

        Raises:
            TrainError: the checkpoint is damaged, or its optimiser is another one (its code changed).
        """
        ours = []
        for path in self._found(WHOLE):
            state = _state(path, "key", "number", "place", "device", "digests", "optimiser", "facts")
            if state["key"] == self.key:
                ours.append((path, state))
            else:
                self.say(f"{path}: checkpoint of another run (settings, data, code or teacher differ); left alone")
        if not ours:
            return None
        found, state = max(ours, key=lambda one: one[1]["number"])
        with self.fitting():
            for name, digest in state["digests"].items():
                if digest_file(_file(found, name)) != digest:
                    raise TrainError(
                        f"{_file(found, name)}: damaged (its digest is not the one written beside it); delete {self.folder} to begin again"
                    )
            groups = {name: load_file(_file(found, name)) for name in state["digests"]}
            optimiser.load_state_dict(_put_together(groups.pop(Path(OPTIMISER).stem), state["optimiser"]))
            place = Place(**state["place"])
        if state["device"] != self.device:
            self.say(f"{found}: made on {state['device']}, resumed on {self.device}; the weights will not be bit-identical")
        return Restored(state["number"], place, state["facts"], groups)

    def fitting(self) -> _Fitting:
        """A block in which what was loaded is put where it belongs: if it does not fit, one sentence says so."""
        return _Fitting(self.folder)

    def end(self, made: Sequence[Path]) -> None:
        """The training has ended well: remember the files that it made, then delete its checkpoints.

        The files are linked, not copied, where the file system can.
        """
        with self._written(self._named(ENDED[:-1])) as part:
            for path in made:
                _link(path, part / path.name)
            write_json(part / STATE, {"key": self.key, "digests": {path.name: digest_file(path) for path in made}})
        for path in self._found(WHOLE):
            if path.name.endswith(self.key[:KEY]):
                _delete(path)

    def has_ended(self) -> bool:
        """Whether this very training has ended before, and what it made is still whole."""
        found = self._named(ENDED[:-1])
        if not found.is_dir():
            return False
        state = _state(found, "key", "digests")
        whole = all((found / name).is_file() and digest_file(found / name) == digest for name, digest in state["digests"].items())
        if state["key"] != self.key or not whole:
            self.say(f"{found}: not what the training made; trained again")
        return state["key"] == self.key and whole

    def ended(self, folder: Path) -> bool:
        """As :meth:`has_ended`; if so, the files that the training made are put into `folder` again."""
        if not self.has_ended():
            return False
        locks.clear(self.folder, PART)  # nobody may write here any more
        found = self._named(ENDED[:-1])
        for name in _state(found, "key", "digests")["digests"]:
            with atomic(folder / name) as temporary:
                temporary.unlink()
                _link(found / name, temporary)
                os.utime(temporary)  # an output that is older than its inputs would be asked for again and again
        return True

    def _found(self, *beginnings: str) -> list[Path]:
        """Folders whose names begin so, sorted."""
        paths = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [path for path in paths if path.name.startswith(beginnings)]


class _Fitting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError | ValueError | KeyError | TypeError | AttributeError | OSError | SafetensorError):
            raise TrainError(
                f"{self.folder}: its checkpoint does not fit the network of this code ({(str(error).splitlines() or [''])[0]}); "
                "delete the folder to begin again"
            ) from None


def _state(folder: Path, *fields: str) -> dict[str, Any]:
    """state.json of a folder, whose digests are of files in it: what else they name is neither read nor put anywhere.

    Raises:
        TrainError: it is not of this form.
    """
    path = folder / STATE
    state = read_json(path)
    whole = isinstance(state, dict) and set(fields) <= set(state) and isinstance(state["digests"], dict)
    if not whole or any(name in ("", ".", "..") or "/" in name or "\0" in name for name in state["digests"]):
        raise TrainError(
            f"{path}: not what a training writes ({', '.join(fields)}, digests of files beside it); delete {folder} to begin again"
        )
    return state


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


def _link(path: Path, to: Path) -> None:
    """A second name of a file, or a copy where it cannot have one."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def _file(folder: Path, group: str) -> Path:
    return folder / f"{group}.safetensors"


def _delete(checkpoint: Path) -> None:
    """Take the name away first: a kill in the middle must not leave half a checkpoint under a whole one's name."""
    hidden, lock = locks.folder(checkpoint.parent, PART)
    try:
        checkpoint.rename(hidden / checkpoint.name)
    finally:
        locks.discard(hidden, lock)  # what is left of it after a kill, whoever writes next deletes


def _flush(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
