"""Promise R6: a training that is killed at any step goes on to the same bytes; SIGTERM saves first; averages and accumulation."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from model import weights
from model.registry import make
from pipeline.base.files import digest_file
from pipeline.base.seeds import rng
from tests.train.processes import started
from tests.train.tiny import CAMERAS, CLASSES, BatchLoader, network, run_config
from train.checkpoint import Checkpoints, Place
from train.progress import Progress
from train.stop import Stop
from train.tasks import Distill, Identify
from train.trainer import Training

CPU = torch.device("cpu")
STEPS, EPOCHS = 7, 3
SETTINGS = {"ema": 0.9, "optim": {"accumulate": 2}, "stages": {"student": {"epochs": EPOCHS}}}
"""With everything that has a state: momentum, a moving average, masks with dropout, drop path, half-filled last steps."""


def training(folder: Path, every: int = 0, stop: Stop | None = None, **settings) -> Training:
    """A student that learns from a teacher, with its metrics and checkpoints in `folder`."""
    run = run_config("student", **{**SETTINGS, **settings}, machine={"checkpoint_steps": every, "checkpoint_seconds": 0})
    task = Distill(network(run), run.settings, make(run.teacher, CLASSES, CAMERAS))
    checkpoints = Checkpoints(folder / "ckpt", "key", "cpu", print)
    return Training(
        task, BatchLoader(steps=STEPS), run, device=CPU, metrics=folder / "metrics.jsonl", checkpoints=checkpoints, stop=stop or Stop()
    )


def finish(folder: Path, **settings) -> str:
    """SHA-256 of the weight file at the end."""
    trained = training(folder, **settings).train()
    weights.save(folder / "model.safetensors", trained.network, {})
    return digest_file(folder / "model.safetensors")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train_until(folder: Path, at: Place, every: int, sent: signal.Signals) -> None:
    """Train, and send this process a signal right behind its step `at`."""
    torch.set_num_threads(1)
    stop = Stop().listen()
    going = training(folder, every, stop)
    pause = going._pause

    def hit(before: int, progress: Progress) -> None:
        if going.place == at:
            os.kill(os.getpid(), sent)
        pause(before, progress)

    going._pause = hit
    going.train()


def killed(folder: Path, at: Place, every: int, sent: signal.Signals) -> int:
    """Exit status of a process that gets a signal right behind its step `at`."""
    process = started(train_until, folder, at, every, sent, errors=folder / "stderr.txt")
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, list[float]]:
    """An uninterrupted training, without any checkpoint inside an epoch."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    return finish(folder), losses(folder)


PLACES = [Place(epoch, min(step, STEPS)) for epoch in range(1, EPOCHS + 1) for step in range(2, STEPS + 2, 2)]
"""Where a step of the optimiser ends (every second batch, and the last)."""


@pytest.mark.parametrize("number", range(24))
def test_killed_at_a_random_step(tmp_path, whole, number):
    """24 trainings, each killed with SIGKILL at a step of its own, with checkpoints at another rhythm each."""
    draw = rng(4, "kill", number)
    at, every = PLACES[draw.integers(len(PLACES))], int(draw.integers(1, 6))
    assert killed(tmp_path, at, every, signal.SIGKILL) == -signal.SIGKILL
    assert (finish(tmp_path, every=every), losses(tmp_path)) == whole


def test_killed_at_every_step_on_its_way(tmp_path, whole):
    """The same training, killed at every place where a step ends: each time it comes one step further."""
    for at in PLACES:
        assert killed(tmp_path, at, 1, signal.SIGKILL) == -signal.SIGKILL
        (state,) = (tmp_path / "ckpt").glob("at-*/state.json") if at > PLACES[1] else (None,)
        assert state is None or Place(**json.loads(state.read_text())["place"]) < at
        assert killed(tmp_path, at, 1, signal.SIGTERM) == (128 + signal.SIGTERM if at != PLACES[-1] else 0)  # this one gets past it
    assert (finish(tmp_path), losses(tmp_path)) == whole


def test_sigterm_saves_first(tmp_path, whole, capfd):
    """No checkpoint was due: the one that SIGTERM asks for is there, and nothing is trained twice."""
    assert killed(tmp_path, Place(2, 4), 0, signal.SIGTERM) == 128 + signal.SIGTERM
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == [f"at-{STEPS + 4:012d}-key"]
    assert (
        "student: terminated from outside (SIGTERM), saved at epoch 2, step 4; the same command goes on"
        in (tmp_path / "stderr.txt").read_text()
    )
    going = training(tmp_path)
    assert going.place == Place(2, 4) and f"resumed in epoch 2 of {EPOCHS}, after step 4 of {STEPS}" in capfd.readouterr().err
    assert (finish(tmp_path), losses(tmp_path)) == whole


def test_sigterm_behind_the_last_step_of_an_epoch(tmp_path, whole):
    assert killed(tmp_path, Place(1, STEPS), 0, signal.SIGTERM) == 128 + signal.SIGTERM
    assert training(tmp_path).place == Place(2, 0)
    assert (finish(tmp_path), losses(tmp_path)) == whole


def broken_step(restored: Training) -> None:
    restored.place = Place(restored.place.epoch, restored.place.step - 2)
    restored.log.steps -= 2


def broken_average(restored: Training) -> None:
    restored.average.module.load_state_dict(restored.task.model.state_dict())


def broken_momentum(restored: Training) -> None:
    restored.optimiser.state.clear()


@pytest.mark.parametrize("broken", [broken_step, broken_average, broken_momentum])
def test_a_resume_that_forgets_is_caught(tmp_path, whole, broken):
    """Negative controls."""
    assert killed(tmp_path, Place(3, 4), 1, signal.SIGTERM) == 128 + signal.SIGTERM
    restored = training(tmp_path)
    assert restored.place == Place(3, 4)
    broken(restored)
    trained = restored.train()
    weights.save(tmp_path / "model.safetensors", trained.network, {})
    assert digest_file(tmp_path / "model.safetensors") != whole[0]


def identify(loader: BatchLoader, folder: Path, **settings) -> Training:
    run = run_config("visual", **settings, schedule={"warmup_epochs": 0}, model={"drop_path": 0.0})
    return Training(Identify(network(run), run.settings), loader, run, device=CPU, metrics=folder / "m", checkpoints=None)


def test_accumulated_gradients_are_the_mean_over_batches(tmp_path):
    """Two batches make one step by the mean of their gradients; the third, left over, makes one by itself."""
    stages = {"visual": {"epochs": 1}}
    accumulated = identify(BatchLoader(steps=3), tmp_path, optim={"accumulate": 2, "momentum": 0.0, "weight_decay": 0.0}, stages=stages)
    plain = identify(BatchLoader(steps=3), tmp_path, optim={"momentum": 0.0, "weight_decay": 0.0}, stages=stages)
    start = {name: value.detach().clone() for name, value in plain.task.named_parameters()}
    seen: list[dict[str, torch.Tensor]] = []
    plain.optimiser.step = lambda: seen.append({n: p.grad.clone() for n, p in plain.task.named_parameters() if p.grad is not None})
    plain.train()  # three gradients at the same weights
    stepped: list[dict[str, torch.Tensor]] = []
    step = accumulated.optimiser.step

    def look() -> None:
        stepped.append({n: p.grad.clone() for n, p in accumulated.task.named_parameters() if p.grad is not None})
        if len(stepped) == 1:
            step()

    accumulated.optimiser.step = look
    accumulated.train()
    assert len(seen) == 3 and len(stepped) == 2
    rate = accumulated.optimiser.param_groups[0]["lr"]
    for name, first in stepped[0].items():
        assert torch.allclose(first, (seen[0][name] + seen[1][name]) / 2, rtol=1e-4, atol=1e-7), name
        if "bias" not in name:
            after = dict(accumulated.task.named_parameters())[name]
            assert torch.allclose(after, start[name] - rate * first, rtol=1e-5, atol=1e-7), name
    assert any(not torch.allclose(stepped[0][name], seen[0][name], rtol=1e-3) for name in stepped[0])  # negative control


def test_the_moving_average_is_what_is_kept(tmp_path):
    going = identify(BatchLoader(steps=3), tmp_path, ema=0.8, stages={"visual": {"epochs": 1}})
    name = "head.classifier.weight"
    expected = dict(going.task.model.named_parameters())[name].detach().clone()
    step = going.optimiser.step

    def follow() -> None:
        step()
        nonlocal expected
        expected = 0.8 * expected + 0.2 * dict(going.task.model.named_parameters())[name].detach()

    going.optimiser.step = follow
    trained = going.train()
    assert trained.kept["average"] == 0.8 and trained.kept["keep"] == "last"
    kept = trained.network.state_dict()
    assert torch.allclose(kept[name], expected, rtol=1e-5)
    assert not torch.allclose(kept[name], going.task.model.state_dict()[name], rtol=1e-4)
    assert kept["head.neck.num_batches_tracked"] == 3  # whole numbers are copied, not averaged
