"""The loop: weights and terms, NaN, logs, and resume to the last bit (promise R6)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import weights
from model.registry import make
from pipeline.base.errors import TrainError
from tests.train.tiny import CAMERAS, CLASSES, BatchLoader, batch, network, run_config
from train.checkpoint import Checkpoints
from train.device import autocast, choose_device
from train.log import CHECK_STEPS, EpochLog
from train.tasks import Distill, Identify, Task
from train.trainer import Training, loss_weights

CPU = torch.device("cpu")


def train(task: Task, loader: BatchLoader, run, *, metrics: Path, checkpoints: Checkpoints | None = None) -> list[dict]:
    """Records of a whole training on the CPU."""
    return Training(task, loader, run, device=CPU, metrics=metrics, checkpoints=checkpoints).train().records


def make_task(seed: int = 0) -> Distill:
    run = run_config("student", seed)
    student = network(run, seed)
    return Distill(student, run.settings, make(run.teacher, CLASSES, CAMERAS))


class KilledError(Exception):
    pass


class KillingLoader(BatchLoader):
    """Raises in the middle of an epoch."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def batch(self, epoch: int, step: int):
        if (epoch, step) == (self.at, 1):
            raise KilledError
        return super().batch(epoch, step)


def trained(folder: Path, loader: BatchLoader, seed: int = 0, key: str = "key") -> bytes:
    """Weight file after the student's 4 epochs; `folder` keeps metrics and checkpoints."""
    run, task = run_config("student", seed), make_task(seed)
    checkpoints = Checkpoints(folder / "ckpt", key, "cpu", lambda line: None)
    train(task, loader, run, metrics=folder / "metrics.jsonl", checkpoints=checkpoints)
    weights.save(folder / "model.safetensors", task.model, {})
    return (folder / "model.safetensors").read_bytes()


def records(folder: Path) -> list[dict]:
    """Metrics without the fields that tell the time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tracklets_per_s", "data_wait", "saving_s")} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, list[dict]]:
    """Weights and metrics of an uninterrupted training."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    return trained(folder, BatchLoader()), records(folder)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path, whole, at):
    """KilledError in epoch `at`, with drop path, dropout and momentum at work."""
    with pytest.raises(KilledError):
        trained(tmp_path, KillingLoader(at))
    assert len(records(tmp_path)) == at - 1
    torch.manual_seed(99)  # what the new process happens to have drawn does not matter
    assert trained(tmp_path, BatchLoader()) == whole[0]
    assert records(tmp_path) == whole[1]


def test_killed_twice(tmp_path, whole):
    for at in (2, 3):
        with pytest.raises(KilledError):
            trained(tmp_path, KillingLoader(at))
    assert trained(tmp_path, BatchLoader()) == whole[0]


def test_negative_controls(tmp_path, whole, monkeypatch):
    """Another seed, other data, and a resume that loses the momentum must not give the same bytes."""
    assert trained(tmp_path / "seed", BatchLoader(), seed=1) != whole[0]
    assert trained(tmp_path / "data", BatchLoader(seed=1)) != whole[0]
    with pytest.raises(KilledError):
        trained(tmp_path / "momentum", KillingLoader(3))
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "load_state_dict", lambda self, state: None)
        assert trained(tmp_path / "momentum", BatchLoader()) != whole[0]


def test_drop_path_is_drawn_anew_in_every_step(tmp_path):
    """The step's seed depends on the step: the same batch gives another loss in the next step, at a rate of almost 0."""
    run = run_config("visual", optim={"lr": 1e-12})
    task = Identify(network(run), run.settings)
    seen = []
    forward = task.terms
    task.terms = lambda some: seen.append(forward(batch())) or seen[-1]
    train(task, BatchLoader(), run, metrics=tmp_path / "m")
    assert len({terms["triplet"].item() for terms in seen}) > len(seen) // 2


def test_metrics(whole):
    for epoch, record in enumerate(whole[1], start=1):
        assert (record["epoch"], record["step"], record["steps"]) == (epoch, 3 * epoch, 3)
        assert set(record["terms"]) == {"identity", "triplet", "tokens", "logits", "budget"}
        assert record["loss"] == pytest.approx(sum(record["terms"].values()), rel=1e-5)  # all weights are 1
        assert 0 <= record["stats"]["mask_0_zero"] <= 1
        assert record["remarks"] == []
    assert [record["lr"] for record in whole[1]] == pytest.approx([0.0068308, 0.004008, 0.0011852, 1.6e-5], rel=1e-4)


def test_weights_are_the_stages_else_the_methods_else_one():
    run = run_config("student", weights={"tokens": 2.0, "logits": 3.0, "features": 9.0}, stages={"student": {"weights": {"logits": 0.0}}})
    assert loss_weights(("identity", "tokens", "logits"), run) == {"identity": 1.0, "tokens": 2.0, "logits": 0.0}


def test_a_weight_without_a_term_stops_before_the_first_step(tmp_path):
    run = run_config("visual", stages={"visual": {"weights": {"budget": 1.0}}})
    task = Identify(network(run), run.settings)
    with pytest.raises(
        TrainError, match=r"tiny\.stages\.visual\.weights: no term for the weight budget; the task has the terms identity, tri"
    ):
        train(task, KillingLoader(1), run, metrics=tmp_path / "m")


def test_a_tap_that_is_not_there_stops_before_the_first_step(tmp_path):
    run = run_config("student", distill={"tap": "attn"}, stages={"teacher": {"network": "dubbernet_visual", "hears": False}})
    task = Distill(network(run), run.settings, make(run.teacher, CLASSES, CAMERAS))
    before = {name: tensor.clone() for name, tensor in task.state_dict().items() if "num_batches" not in name and "running" not in name}
    with pytest.raises(TrainError, match=r"distill\.tap=attn: the teacher \(DubberNet\) fuses nothing"):
        train(task, BatchLoader(hears=False), run, metrics=tmp_path / "m")
    assert all(torch.equal(task.state_dict()[name], value) for name, value in before.items())


def test_nan_names_epoch_step_and_term():
    log = EpochLog(5)
    values = {"loss": torch.tensor(float("nan")), "identity": torch.tensor(1.0), "triplet": torch.tensor(float("nan"))}
    log.add({name: torch.tensor(1.0) for name in values})
    log.add(values)
    with pytest.raises(TrainError, match="epoch 5, step 2: 'triplet' is nan"):
        log.fetch()


def test_values_are_fetched_in_windows():
    log = EpochLog(1, every=CHECK_STEPS)
    for step in range(CHECK_STEPS + 1):
        log.add({"loss": torch.tensor(float(step))})
        assert log.steps == 0 and log.due == (step >= CHECK_STEPS - 1)
    log.fetch()
    assert log.steps == CHECK_STEPS + 1 and log.mean("loss") == CHECK_STEPS / 2


@pytest.mark.parametrize("value", ["loss", "weight"])
def test_a_diverged_training_saves_nothing(tmp_path, value):
    """NaN in a term, or only in the weights after the last step."""

    class Broken(Task):
        names = ("identity",)

        def terms(self, some):
            weight = self.model.head.classifier.weight
            if value == "weight":
                weight.register_hook(lambda grad: grad * float("nan"))
            return {"identity": weight.sum() * (float("nan") if value == "loss" else 1.0)}

    run = run_config("visual", stages={"visual": {"weights": {"identity": 1.0}, "epochs": 1}})
    task = Broken(network(run))
    checkpoints = Checkpoints(tmp_path / "ckpt", "key", "cpu", print)
    with pytest.raises(TrainError, match="epoch 1, step 1: 'identity' is nan" if value == "loss" else "epoch 1: 'model.head.* not finite"):
        train(task, BatchLoader(steps=1), run, metrics=tmp_path / "m", checkpoints=checkpoints)
    assert not checkpoints.folder.exists()


def test_plain_lines_where_stderr_is_no_terminal(tmp_path, capsys):
    run = run_config("visual", stages={"visual": {"epochs": 2}})
    task = Identify(network(run), run.settings)
    train(task, BatchLoader(steps=1), run, metrics=tmp_path / "m")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["visual 1/2", "visual 2/2"]


def test_a_collapsed_mask_is_told_and_recorded(tmp_path, capsys):
    """As a warning while it trains, and in the log for the report."""
    run, task = run_config("student", stages={"student": {"epochs": 1}}), make_task()
    for generator, bias in zip(task.masks, (-100, 100), strict=True):
        generator.score[4].bias.data.fill_(bias)
    done = train(task, BatchLoader(steps=1), run, metrics=tmp_path / "metrics.jsonl")
    told = capsys.readouterr().err
    assert "warning: student, epoch 1: mask_0_zero=1.000: the mask has collapsed" in told
    (remark,) = records(tmp_path)[0]["remarks"]
    assert remark in told and done[0]["remarks"] == [remark]


def test_l5_a_raw_mask_collapses_in_a_whole_training_and_says_so(tmp_path):
    """The task and the loop themselves, 300 steps of SGD at the rate of the defaults on random clips; normalized stays open."""
    remarks = {}
    for mask in ("raw", "normalized"):
        run = run_config("student", distill={"mask": mask}, schedule={"period": 100})
        stage = replace(run.this, epochs=3)
        task = Distill(network(run), run.settings, make(run.teacher, CLASSES, CAMERAS))
        done = train(task, BatchLoader(steps=100), replace(run, this=stage), metrics=tmp_path / mask)
        remarks[mask] = [len(record["remarks"]) for record in done]
    assert remarks["raw"][-1] == 2 and remarks["normalized"][-1] == 0


def test_precision():
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for precision, expected in (("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == expected


def test_training_in_bf16(tmp_path):
    """All terms stay finite under autocast, and the statistics too."""
    run = run_config("student", precision="bf16", stages={"student": {"epochs": 1}})
    done = train(make_task(), BatchLoader(), run, metrics=tmp_path / "m")
    assert len(done) == 1


def test_learning_lowers_the_loss(tmp_path):
    """The same four clips again and again are learned."""

    class Same(BatchLoader):
        def batch(self, epoch, step):
            return batch()

    run = run_config("visual", model={"drop_path": 0.0}, stages={"visual": {"epochs": 8}})
    task = Identify(network(run), run.settings)
    done = train(task, Same(steps=5), run, metrics=tmp_path / "m")
    assert done[-1]["terms"]["triplet"] < 0.5 * done[0]["terms"]["triplet"]
    assert done[-1]["terms"]["identity"] < done[0]["terms"]["identity"]
