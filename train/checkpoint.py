"""The full state of a training, in a folder that is not an output of the workflow (those are deleted on failure).

In:      a task, its optimiser, the metrics so far.   Out: ``epoch-0007/`` with task.safetensors, optimiser.pt, state.json.
Source:  promises R1, R6 and R8; decisions.md (checkpoints).

A checkpoint is written beside its name, flushed and renamed; older ones go only after that, so there is always a whole
one. It belongs to a key (digest of settings, data and teacher): under another key it is left alone, with a line that says
so. Random states are not stored, because every step seeds its own (see `train.trainer`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.base.errors import TrainError
from pipeline.base.files import digest_file, read_json, write_json

TASK, OPTIMISER, STATE = "task.safetensors", "optimiser.pt", "state.json"
WHOLE, PART = "epoch-", ".part-"
"""How names of finished checkpoints begin, and of those that are being written or deleted."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a training goes on."""

    epoch: int
    """Last epoch that is complete, from 1."""
    records: list[dict[str, Any]]
    """Metrics of epochs 1..epoch."""


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

    def save(self, epoch: int, task: nn.Module, optimiser: torch.optim.Optimizer, records: list[dict[str, Any]]) -> None:
        """Write the checkpoint of `epoch` (from 1), then delete all others and what killed writers left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=self.folder))
        try:
            save_file({name: tensor.contiguous() for name, tensor in task.state_dict().items()}, part / TASK)
            torch.save(optimiser.state_dict(), part / OPTIMISER)
            digests = {name: digest_file(part / name) for name in (TASK, OPTIMISER)}
            write_json(part / STATE, {"key": self.key, "epoch": epoch, "device": self.device, "digests": digests, "records": records})
            for name in (TASK, OPTIMISER, "."):
                _flush(part / name)
            target = self.folder / f"{WHOLE}{epoch:04d}"
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

    def load(self, task: nn.Module, optimiser: torch.optim.Optimizer) -> Restored | None:
        """Put the newest checkpoint of this key into `task` and `optimiser`; None when there is none.

        Raises:
            TrainError: the checkpoint is damaged, or does not fit the task (its code changed).
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
        found, state = max(ours, key=lambda one: one[1]["epoch"])
        for name, digest in state["digests"].items():
            if digest_file(found / name) != digest:
                raise TrainError(
                    f"{found / name}: damaged (its digest is not the one written beside it); delete {self.folder} to begin again"
                )
        try:
            task.load_state_dict(load_file(found / TASK))
            optimiser.load_state_dict(torch.load(found / OPTIMISER, map_location="cpu", weights_only=True))
        except (RuntimeError, ValueError) as error:
            raise TrainError(
                f"{found}: does not fit the network of this code ({str(error).splitlines()[0]}); delete {self.folder} to begin again"
            ) from None
        if state["device"] != self.device:
            self.say(f"{found}: made on {state['device']}, resumed on {self.device}; the weights will not be bit-identical")
        return Restored(state["epoch"], state["records"])

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
