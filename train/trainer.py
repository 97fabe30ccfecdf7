"""The one training loop: it weighs and sums the named terms of a task, steps, logs, saves and resumes.

In:      a task, a loader, the run's settings.   Out: a trained network and ``metrics.jsonl``.
Source:  specs/dubbernet.md section 6; promises R6, R7 and R8.

Nothing in a step waits for the device: terms stay there and are fetched, and checked for NaN, every `log.CHECK_STEPS` batches (on a CPU, after each).
Every batch seeds torch from (seed, epoch, step), so a resumed training repeats the same drop paths without stored states.
Under torch.distributed each rank has its part of every batch (model/ranks.py); rank 0 alone writes, looks and speaks.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from model.api import Network
from model.ranks import rank, ranks
from pipeline.base.batch import Batch
from pipeline.base.config import RunConfig
from pipeline.base.errors import TrainError
from pipeline.base.seeds import seed_for
from train.board import Board, scalars_of
from train.checkpoint import Checkpoints, Place
from train.device import autocast, collective_device
from train.log import CHECK_STEPS, EpochLog, write_records
from train.optim import make_optimiser, set_learning_rate
from train.progress import Progress, say
from train.stop import Stop
from train.tasks import Task
from train.validate import Selection, in_words


class Loader(Protocol):
    """What the loop needs of `shards.loader.TrainLoader`."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def batches(self, epoch: int, first_step: int, device: torch.device, check: Callable[[Batch], object]) -> Iterator[Batch]:
        """This rank's part of the batches of one epoch (from 1), a function of (seed, epoch, step), ready on the device.

        `check` sees each batch while its values are on the host.
        """


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


@dataclass
class Trained:
    """What a training leaves."""

    network: Network
    """The weights to keep: the last, their moving average, or the best."""
    kept: dict[str, Any]
    """What they are: :meth:`train.validate.Selection.hand_on`, and 'average', the decay of a moving average."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """One per epoch, as in metrics.jsonl."""


class Training:
    """One stage in training: everything that a checkpoint holds, and the steps that change it.

    Args:
        task: already on `device`.
        loader: this rank's part of every batch.
        run: the settings.
        device: where it trains.
        metrics: rewritten whole after every epoch, so that it never holds epochs that a resumed training repeats.
        checkpoints: where to save and look for states; None: nowhere.
        selection: which weights are handed on; None: the last.
        stop: asked whenever values are fetched whether to save and end.

    Raises:
        TrainError: a weight has no term; a checkpoint is damaged or does not fit.
    """

    def __init__(
        self,
        task: Task,
        loader: Loader,
        run: RunConfig,
        *,
        device: torch.device,
        metrics: Path,
        checkpoints: Checkpoints | None,
        selection: Selection | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.task, self.loader, self.run, self.device, self.metrics = task, loader, run, device, metrics
        self.checkpoints, self.stop = checkpoints, stop or Stop()
        self.weights = loss_weights(task.names, run)  # refused before anything is built on it
        self.optimiser = make_optimiser(task, run.settings.optim)
        self.average = ModelEmaV3(task.model, decay=run.settings.ema) if run.settings.ema else None
        self.selection = selection or Selection(run.settings.validation, run.this.epochs, None)
        self.records: list[dict[str, Any]] = []
        self.place, self.log = Place(1, 0), self._log(1)
        self._saved, self._saving = time.monotonic(), 0.0
        self.board: Board | None = None
        """Of the first rank, where there is one; opened once it is known at which step the training goes on."""
        self._restore()
        self.module: torch.nn.Module = task
        if ranks() > 1:
            self.module = DistributedDataParallel(task, broadcast_buffers=False, gradient_as_bucket_view=True)

    # --- the loop ---

    def train(self) -> Trained:
        """All epochs that are left.

        Raises:
            TrainError: a value or a parameter is not finite.
            SystemExit: SIGTERM asked for an end; a checkpoint was saved.
        """
        epochs = self.run.this.epochs
        self._write()
        with Progress(self.run.stage, epochs, self.loader.steps, self.number) as progress:
            try:
                while self.place.epoch <= epochs:
                    self._whole_epoch(progress)
            except torch.OutOfMemoryError as error:
                raise TrainError(
                    f"the device is out of memory ({str(error).splitlines()[0]}); set machine.recompute to true, make batches smaller "
                    "(sampler.identities, with optim.accumulate), or use more ranks or machine.data=indexed"
                ) from None
        kept = self.selection.hand_on(self.network) | {"average": self.run.settings.ema}
        return Trained(self.network, kept, self.records)

    def _whole_epoch(self, progress: Progress) -> None:
        """What is left of an epoch, and what follows it: a look at held-out identities, the records, a checkpoint."""
        epoch, epochs, settings = self.place.epoch, self.run.this.epochs, self.run.settings
        rate = set_learning_rate(self.optimiser, epoch, epochs, settings.optim, settings.schedule)
        record = {"epoch": epoch, "step": epoch * self.loader.steps, "lr": rate, **self._epoch(progress)}
        if rank() == 0:
            record |= self.selection.after(epoch, self.network)
        if "validation" in record:
            say(f"{self.run.stage} {epoch}/{epochs}  {in_words(record['validation'])}")
        self.records.append(record)
        if self.board:
            self.board.scalars(record["step"], scalars_of(record))
        self.place, self.log = Place(epoch + 1, 0), self._log(epoch + 1)
        self._write()
        asked = epoch < epochs and self.stop.agreed()
        due = epoch % settings.machine.checkpoint_epochs == 0 and time.monotonic() - self._saved >= settings.machine.checkpoint_seconds
        if asked or due or epoch == epochs:
            self._save()
        if asked:
            self._end(f"after epoch {epoch}")

    @property
    def number(self) -> int:
        """Batches since the training began."""
        return (self.place.epoch - 1) * self.loader.steps + self.place.step

    @property
    def network(self) -> Network:
        """What would be handed on now: the network, or its moving average where there is one."""
        return cast(Network, self.average.module) if self.average else self.task.model

    def _epoch(self, progress: Progress) -> dict[str, Any]:
        """What is left of one epoch; returns its means and its speed."""
        steps, accumulate = self.loader.steps, self.run.settings.optim.accumulate
        self.task.train()
        progress.begin(self.place.epoch)
        batches = progress.timed(self.loader.batches(self.place.epoch, self.place.step, self.device, self.task.check))
        while self.place.step < steps:
            before, size = self.place.step, min(accumulate, steps - self.place.step)
            self._step(batches, size, progress)
            self.place = Place(self.place.epoch, before + size)
            self._pause(before, progress)
        self._fetch(progress)
        assert self.log.steps == steps, f"the loader promised {steps} batches and gave {self.log.steps}"
        self._check_state()
        progress.end(self._means())
        return self._record(progress)

    def _step(self, batches: Iterator[Batch], size: int, progress: Progress) -> None:
        """One step of the optimiser, by the mean gradient of `size` batches."""
        run, epoch = self.run, self.place.epoch
        self.optimiser.zero_grad(set_to_none=True)
        for number in range(size):
            batch, step = next(batches), self.place.step + number
            if self.board and step == 0 and self._pictures_due(epoch):
                self.board.pictures(self.number, self.task, batch, run)
            torch.manual_seed(seed_for(run.seed, "step", epoch, step))
            wait = number < size - 1 and isinstance(self.module, DistributedDataParallel)
            with cast(DistributedDataParallel, self.module).no_sync() if wait else contextlib.nullcontext():
                self.log.add(backward(self.module, self.task, batch, self.weights, run.settings.precision, size))
            progress.add(len(batch.tracklet) * ranks())
        self.optimiser.step()
        if self.average:
            self.average.update(self.task.model)

    def _pictures_due(self, epoch: int) -> bool:
        every = self.run.settings.machine.pictures_epochs
        return every > 0 and (epoch == 1 or epoch % every == 0)

    def _fetch(self, progress: Progress) -> None:
        self.log.fetch()
        progress.tell(self._means())

    def _means(self) -> dict[str, float]:
        """The loss and its terms, of the epoch so far."""
        return {name: self.log.mean(name) for name in ("loss", *self.task.names)}

    def _pause(self, before: int, progress: Progress) -> None:
        """Between two steps: look at the values, save a checkpoint, end, where it is time to."""
        every, step = self.run.settings.machine.checkpoint_steps, self.place.step
        looked = self.log.due
        if looked:
            self._fetch(progress)
        asked = looked and self.stop.agreed()
        inside = step < self.loader.steps
        if inside and (asked or (every and step // every > before // every)):
            self.log.fetch()
            self._check_state()
            self._save()
        if asked and inside:
            self._end(f"at epoch {self.place.epoch}, step {step}")

    def _end(self, where: str) -> NoReturn:
        """Somebody asked for it; all is saved that can be."""
        if ranks() > 1:
            dist.barrier()  # whoever starts ranks ends all when one has ended: none may before the first has saved
        saved = f"saved {where}; the same command goes on from there" if self.checkpoints else "nothing is saved without --checkpoints"
        say(f"{self.run.stage}: terminated from outside (SIGTERM), {saved}")
        sys.exit(128 + signal.SIGTERM)

    def _record(self, progress: Progress) -> dict[str, Any]:
        """The epoch's record; says what its statistics call for."""
        log, task = self.log, self.task
        saving, self._saving = self._saving, 0.0
        stats = {name: log.mean(name) for name in task.stats}
        remarks = task.remarks(stats)
        for remark in remarks:
            say(f"warning: {self.run.stage}, epoch {log.epoch}: {remark}")
        return {
            "steps": log.steps,
            "loss": log.mean("loss"),
            "terms": {name: log.mean(name) for name in task.names},
            "stats": stats,
            "remarks": remarks,
            "tracklets_per_s": round(progress.speed, 2),
            "data_wait": round(progress.wait, 4),
            "saving_s": round(saving, 2),
        }

    # --- what is kept on disk ---

    def _restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        restored = self.checkpoints.load(self.optimiser) if self.checkpoints else None
        require_agreement("checkpoint at batch", restored.number if restored else 0)
        if not restored or not self.checkpoints:
            return
        facts, groups = restored.facts, restored.groups
        with self.checkpoints.fitting():
            self.task.load_state_dict(groups["task"])
            if self.average:
                self.average.module.load_state_dict(groups["average"])
            self.selection.load(groups["best"], facts["selection"])
        self.place, self.records = restored.place, facts["records"]
        self.log = self._log(restored.place.epoch, restored.place.step, facts["sums"])
        epoch, step, epochs = self.place.epoch, self.place.step, self.run.this.epochs
        inside = f"in epoch {epoch} of {epochs}, after step {step} of {self.loader.steps}"
        say(f"{self.run.stage}: resumed {inside if step else f'after epoch {epoch - 1} of {epochs}'}")

    def _save(self) -> None:
        if not self.checkpoints or rank() != 0:
            return
        begun = time.monotonic()
        groups = {"task": self.task.state_dict()}
        if self.average:
            groups["average"] = self.average.module.state_dict()
        if self.board:
            self.board.flush()
        groups["best"], selection = self.selection.state()
        facts = {"records": self.records, "sums": self.log.sums, "selection": selection}
        self.checkpoints.save(self.number, self.place, groups, self.optimiser, facts)
        self._saved = time.monotonic()
        self._saving += self._saved - begun

    def _log(self, epoch: int, steps: int = 0, sums: dict[str, float] | None = None) -> EpochLog:
        return EpochLog(epoch, steps, sums, 1 if self.device.type == "cpu" else CHECK_STEPS)

    def _write(self) -> None:
        if rank() == 0:
            write_records(self.metrics, self.records)

    def _check_state(self) -> None:
        """The last step's loss may be finite and its update not: look before the state is saved."""
        floats = {name: tensor for name, tensor in self.task.state_dict().items() if tensor.is_floating_point()}
        finite = torch.stack([tensor.isfinite().all() for tensor in floats.values()]).tolist()
        broken = [name for name, ok in zip(floats, finite, strict=True) if not ok]
        if broken:
            raise TrainError(
                f"epoch {self.log.epoch}: '{broken[0]}' and {len(broken) - 1} more are not finite after step {self.log.steps}; lower optim.lr"
            )


def require_agreement(what: str, number: int) -> None:
    """All ranks found the same in the folder for checkpoints; one that goes on elsewhere than the others would spoil every step.

    Raises:
        TrainError: they did not, on every rank.
    """
    if ranks() == 1:
        return
    mine = torch.tensor([number], device=collective_device())
    found = [torch.empty_like(mine) for _ in range(ranks())]
    dist.all_gather(found, mine)
    numbers = [int(one.item()) for one in found]
    if len(set(numbers)) > 1:
        said = ", ".join(f"rank {i}: {what} {one}" for i, one in enumerate(numbers))
        raise TrainError(
            f"the ranks do not find the same checkpoint ({said}); name a folder with --checkpoints that all nodes see, and start again"
        )


def backward(module: torch.nn.Module, task: Task, batch: Batch, weights: dict[str, float], precision: str, share: int) -> dict[str, Tensor]:
    """Add the gradient of one batch, divided by `share`, to that of the parameters.

    Args:
        module: the task, or its DistributedDataParallel.
        batch: on the device.

    Returns:
        Scalars on the device, without gradient: 'loss', then the terms, then the task's statistics.
    """
    with autocast(precision, batch.frames.device):
        terms = module(batch)
    assert set(terms) == set(task.names), f"{type(task).__name__} gave {sorted(terms)}, declared {sorted(task.names)}"
    loss = torch.stack([weights[name] * term.float() for name, term in terms.items()]).sum()
    (loss / share if share > 1 else loss).backward()
    return {"loss": loss.detach(), **{name: term.detach().float() for name, term in terms.items()}, **task.stats}
