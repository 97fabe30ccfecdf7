"""Several processes train as one does (promise R7): whole trainings through `train.fit`, with gloo on the CPU."""

import json
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.base.config import RunConfig
from pipeline.base.files import digest_file
from tests.train.processes import started
from tests.train.test_fit import Data, arguments, train
from tests.train.tiny import pack, run_config
from train import fit, trainer
from train.checkpoint import Checkpoints
from train.tasks import labelled

SETTINGS: dict[str, Any] = {
    "ema": 0.5,
    "optim": {"accumulate": 2},
    "sampler": {"identities": 2, "tracklets": 2},
    "model": {"local_branch": True, "pool": "attention", "audio_dropout": 0.3},
    "stages": {"teacher": {"epochs": 3}, "student": {"epochs": 3}},
}
"""Everything that depends on the whole batch or on chance: hardest triplets, batch statistics, budget, drop path, dropouts."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return Data(*pack(tmp_path_factory.mktemp("data"), classes=4))


def one_rank(rank: int, ranks: int, port: int, change: Callable[[], None], given: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    change()
    fit.main(given)


def as_it_is() -> None:
    pass


def triplets_of_a_rank() -> None:
    """Broken on purpose: triplets that are mined within a rank's own clips."""
    labelled.gather = lambda part: part


def death_behind(epoch: int) -> None:
    """A process that ends as by SIGKILL once it has saved the checkpoint behind an epoch (0: its first one)."""
    save = trainer.Training._save

    def save_and_die(self: trainer.Training) -> None:
        save(self)
        if self.place.epoch == epoch + 1 or not epoch:
            os._exit(9)

    trainer.Training._save = save_and_die


def blindness() -> None:
    """Only rank 0 sees the checkpoints."""
    load = Checkpoints.load
    Checkpoints.load = lambda self, optimiser: load(self, optimiser) if os.environ["RANK"] == "0" else None


def together(ranks: int, folder: Path, data: Data, run: RunConfig, *more: str, change: Callable[[], None] = as_it_is) -> list[int]:
    """`fit` in so many processes, as torchrun starts them, each changed first; their exit statuses. They write into stderr.txt."""
    folder.mkdir(exist_ok=True)
    given = arguments(folder, data, run, *more)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    processes = [started(one_rank, rank, ranks, port, change, given, errors=folder / "stderr.txt") for rank in range(ranks)]
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest distance of two weight files, each tensor relative to its own length (some biases stay at 0 but for rounding)."""
    assert found.keys() == expected.keys()
    return max(float((found[name].float() - tensor.float()).norm() / (tensor.float().norm() + 1e-4)) for name, tensor in expected.items())


def facts(folder: Path) -> list[dict]:
    """Metrics without what tells the time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("tracklets_per_s", "data_wait", "saving_s", "device")}
        for line in lines
    ]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    """Teacher and student of one process."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    for stage in ("teacher", "student"):
        (folder / stage).mkdir()
    train(folder / "teacher", data, run_config("teacher", **SETTINGS))
    train(folder / "student", data, run_config("student", **SETTINGS), f"--teacher={folder / 'teacher' / 'model.safetensors'}")
    return folder


def stage_of_two(stage: str, folder: Path, data: Data, alone: Path, change: Callable[[], None] = as_it_is, **settings: Any) -> Path:
    """A stage trained by two ranks, its teacher being that of one."""
    given = [f"--teacher={alone / 'teacher' / 'model.safetensors'}"] * (stage == "student")
    assert together(2, folder, data, run_config(stage, **{**SETTINGS, **settings}), *given, change=change) == [0, 0]
    return folder / "model.safetensors"


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_two_ranks_train_as_one(data, alone, tmp_path, stage):
    """Weights within rounding, and the same losses, whatever is accumulated, averaged, dropped; loader processes beside."""
    made = stage_of_two(stage, tmp_path / "two", data, alone, machine={"workers": 1})
    assert apart(load_file(made), load_file(alone / stage / "model.safetensors")) < 1e-5
    ours, theirs = facts(tmp_path / "two"), facts(alone / stage)
    assert [line["loss"] for line in ours[:-1]] == pytest.approx([line["loss"] for line in theirs[:-1]], rel=1e-5)
    assert ours[0]["terms"] == pytest.approx(theirs[0]["terms"], rel=1e-4, abs=1e-6)


def test_two_ranks_give_the_same_bytes_again(data, alone, tmp_path):
    first, second = (stage_of_two("teacher", tmp_path / name, data, alone) for name in ("a", "b"))
    assert digest_file(first) == digest_file(second)


def test_losses_of_its_own_clips_alone_are_found(data, alone, tmp_path):
    """Negative control."""
    made = stage_of_two("teacher", tmp_path / "two", data, alone, triplets_of_a_rank)
    assert apart(load_file(made), load_file(alone / "teacher" / "model.safetensors")) > 1e-3


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_training_goes_on_with_another_number_of_ranks(data, alone, tmp_path, first, then):
    """Killed after its second epoch, gone on with: the order of samples does not know how many share it."""
    run = run_config("teacher", **SETTINGS)
    store = f"--checkpoints={tmp_path / 'ckpt'}"
    assert together(first, tmp_path / "run", data, run, store, change=partial(death_behind, 2)) == [9] * first
    assert together(then, tmp_path / "run", data, run, store) == [0] * then
    assert "teacher: resumed after epoch 2 of 3" in (tmp_path / "run" / "stderr.txt").read_text()
    assert apart(load_file(tmp_path / "run" / "model.safetensors"), load_file(alone / "teacher" / "model.safetensors")) < 1e-5


def test_ranks_that_see_different_checkpoints_stop(data, tmp_path):
    """A folder that the nodes do not share: going on would mix two places of the training in every step."""
    run = run_config("teacher", **SETTINGS)
    store = f"--checkpoints={tmp_path / 'ckpt'}"
    assert together(1, tmp_path / "run", data, run, store, change=partial(death_behind, 0)) == [9]
    assert together(2, tmp_path / "run", data, run, store, change=blindness) == [1, 1]
    said = "the ranks do not find the same checkpoint (rank 0: checkpoint at batch 2, rank 1: checkpoint at batch 0)"
    assert said in (tmp_path / "run" / "stderr.txt").read_text()


def test_a_batch_that_ranks_cannot_share_is_refused(data, tmp_path):
    run = run_config("visual", sampler={"identities": 3, "tracklets": 1})
    assert set(together(2, tmp_path / "run", data, run)) == {1}
    assert "2 processes cannot share batches of 3 x 1 = 3 clips equally; train with 1 or 3" in (tmp_path / "run" / "stderr.txt").read_text()
