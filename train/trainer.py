"""The one training loop: it weighs and sums the named terms of a task, steps, logs, saves and resumes.

In:      a task, a loader, the run's settings.   Out: a trained task and ``metrics.jsonl``.
Source:  specs/dubbernet.md section 6; promises R6 and R8.

Nothing in a step waits for the device: terms stay there and are fetched, and checked for NaN, every `CHECK_STEPS` steps.
Every step seeds torch from (seed, epoch, step), so a resumed training repeats the same drop paths without stored states.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.base.batch import Batch
from pipeline.base.config import RunConfig
from pipeline.base.errors import TrainError
from pipeline.base.files import atomic_open
from pipeline.base.seeds import seed_for
from train.checkpoint import Checkpoints
from train.optim import make_optimiser, set_learning_rate
from train.tasks import Task

CHECK_STEPS = 50
"""Steps between looks at the values of the terms."""

tqdm.set_lock(threading.RLock())  # its own lock is shared by forked processes: one that is killed while it holds it stops all others


class Loader(Protocol):
    """What the loop needs of `shards.loader.TrainLoader`."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch (from 1), a function of (seed, epoch, step)."""


def say(line: str) -> None:
    """One plain line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def be_deterministic() -> None:
    """Ask torch for the same bits every time, and for float32 where float32 is said. Attention on a GPU only warns.

    Call before the first use of a CUDA device: cuBLAS reads its variable once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    cast(Any, torch.utils.deterministic).fill_uninitialized_memory = False  # a debugging aid that costs time
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # its default is True, also where matrix products are told to be exact


def choose_device() -> torch.device:
    """The current CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 autocast for 'bf16', and for 'auto' on CUDA; otherwise nothing."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def loss_weights(names: tuple[str, ...], run: RunConfig) -> dict[str, float]:
    """Weight of every term of the task: the stage's, else the method's, else 1.

    Raises:
        TrainError: the stage weighs a term that its task does not have, before the first step.
    """
    idle = sorted(set(run.this.weights) - set(names))
    if idle:
        raise TrainError(
            f"{run.method}.stages.{run.stage}.weights: no term for the weight{'s'[: len(idle) > 1]} {', '.join(idle)}; "
            f"the task has the terms {', '.join(names)}"
        )
    return {name: run.this.weights.get(name, run.settings.weights.get(name, 1.0)) for name in names}


def train_step(task: Task, batch: Batch, optimiser: torch.optim.Optimizer, weights: dict[str, float], precision: str) -> dict[str, Tensor]:
    """One step. Returns scalars on the device, without gradient: 'loss', then the terms, then the task's statistics."""
    with autocast(precision, batch.frames.device):
        terms = task.terms(batch)
    assert set(terms) == set(task.names), f"{type(task).__name__} gave {sorted(terms)}, declared {sorted(task.names)}"
    loss = torch.stack([weights[name] * term.float() for name, term in terms.items()]).sum()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return {"loss": loss.detach(), **{name: term.detach().float() for name, term in terms.items()}, **task.stats}


class WaitClock:
    """Seconds that a loop has waited for what it iterates over."""

    def __init__(self) -> None:
        self.waited = 0.0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch


class EpochLog:
    """Sums the values of an epoch's steps; fetches them from the device in windows and names what is not finite."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.steps, self.sums = epoch, 0, dict[str, float]()
        self._window: list[dict[str, Tensor]] = []

    def add(self, values: dict[str, Tensor]) -> None:
        """Keep one step's scalars (not fetched yet)."""
        self._window.append(values)
        if len(self._window) == CHECK_STEPS:
            self.fetch()

    def fetch(self) -> None:
        """Fetch and check what was added since the last time.

        Raises:
            TrainError: a value is NaN or infinite; names the epoch, the step and the term.
        """
        if not self._window:
            return
        names = list(self._window[0])
        rows = torch.stack([torch.stack([values[name] for name in names]) for values in self._window]).double().tolist()
        for row in rows:
            self.steps += 1
            for name, value in sorted(zip(names, row, strict=True), key=lambda pair: pair[0] == "loss"):  # the cause before the sum
                if not math.isfinite(value):
                    raise TrainError(
                        f"epoch {self.epoch}, step {self.steps}: '{name}' is {value}; lower optim.lr, or set precision to fp32 if it is bf16"
                    )
                self.sums[name] = self.sums.get(name, 0.0) + value
        self._window.clear()

    def mean(self, name: str) -> float:
        """Mean over the steps fetched so far."""
        return self.sums[name] / self.steps


def train(
    task: Task, loader: Loader, run: RunConfig, *, device: torch.device, metrics: Path, checkpoints: Checkpoints | None
) -> list[dict[str, Any]]:
    """Train `task` (already on `device`) for the stage's epochs, from the newest checkpoint if there is one.

    Args:
        metrics: rewritten whole after every epoch, so that it never holds epochs that a resumed training repeats.
        checkpoints: where to save and look for states; None: nowhere.

    Returns:
        One record per epoch, as in `metrics`; its 'remarks' are sentences for whoever reads the log, and for the report.

    Raises:
        TrainError: a weight has no term, or a value or a parameter is not finite.
    """
    settings, epochs = run.settings, run.this.epochs
    loss_weights(task.names, run)  # refused before anything is built on it
    optimiser = make_optimiser(task, settings.optim)
    restored = checkpoints.load(task, optimiser) if checkpoints else None
    done, records = (restored.epoch, list(restored.records)) if restored else (0, [])
    if restored:
        say(f"{run.stage}: resumed after epoch {done} of {epochs}")
    write_records(metrics, records)
    for epoch in range(done + 1, epochs + 1):
        rate = set_learning_rate(optimiser, epoch, epochs, settings.optim, settings.schedule)
        record = _train_epoch(task, loader, optimiser, run, epoch, device)
        records.append({"epoch": epoch, "step": epoch * record["steps"], "lr": rate, **record})
        write_records(metrics, records)
        if checkpoints and (epoch % settings.machine.checkpoint_epochs == 0 or epoch == epochs):
            checkpoints.save(epoch, task, optimiser, records)
    return records


def _train_epoch(
    task: Task, loader: Loader, optimiser: torch.optim.Optimizer, run: RunConfig, epoch: int, device: torch.device
) -> dict[str, Any]:
    """One epoch; returns its means and its speed."""
    task.train()
    weights = loss_weights(task.names, run)
    log, clips, clock, begun = EpochLog(epoch), 0, WaitClock(), time.perf_counter()
    with tqdm(total=loader.steps, desc=f"{run.stage} {epoch}/{run.this.epochs}", disable=not sys.stderr.isatty(), leave=False) as bar:
        for step, batch in enumerate(clock.timed(loader.epoch(epoch))):
            task.check(batch)
            torch.manual_seed(seed_for(run.seed, "step", epoch, step))
            log.add(train_step(task, batch.to(device), optimiser, weights, run.settings.precision))
            clips += len(batch.tracklet)
            bar.update()
    log.fetch()
    assert log.steps == loader.steps, f"the loader promised {loader.steps} batches and gave {log.steps}"
    _check_state(task, epoch)
    spent = time.perf_counter() - begun
    stats = {name: log.mean(name) for name in task.stats}
    remarks = task.remarks(stats)
    record: dict[str, Any] = {
        "steps": log.steps,
        "loss": log.mean("loss"),
        "terms": {name: log.mean(name) for name in task.names},
        "stats": stats,
        "remarks": remarks,
        "tracklets_per_s": round(clips / spent, 2),
        "data_wait": round(clock.waited / spent, 4),
    }
    if not sys.stderr.isatty():
        terms = "  ".join(f"{name} {value:.4f}" for name, value in record["terms"].items())
        say(f"{run.stage} {epoch}/{run.this.epochs}  loss {record['loss']:.4f}  {terms}  {record['tracklets_per_s']} tracklets/s")
    for remark in remarks:
        say(f"warning: {run.stage}, epoch {epoch}: {remark}")
    return record


def _check_state(task: Task, epoch: int) -> None:
    """The last step's loss may be finite and its update not: look before the state is saved."""
    floats = {name: tensor for name, tensor in task.state_dict().items() if tensor.is_floating_point()}
    finite = torch.stack([tensor.isfinite().all() for tensor in floats.values()]).tolist()
    broken = [name for name, ok in zip(floats, finite, strict=True) if not ok]
    if broken:
        raise TrainError(f"epoch {epoch}: '{broken[0]}' and {len(broken) - 1} more are not finite after the last step; lower optim.lr")


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Write metrics, one JSON object per line, in place of what was there."""
    with atomic_open(path) as out:
        for record in records:
            out.write((json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode())
