"""The step `train.fit` on a packed store: all stages, resume after a real SIGKILL, and what it refuses."""

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from model import weights
from pipeline.base.build import plain
from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError, TrainError
from pipeline.base.files import digest_file, write_json
from tests.train.tiny import pack, run_config
from train import fit

FACTS = fit.Facts(3, 2, {"kind": "audio", "oracle": False, "label_derived": True, "bands": 8})
CPU = torch.device("cpu")


class Data(NamedTuple):
    index: Path
    split: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return Data(*pack(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    return train(folder, data, run_config("teacher"))


def arguments(folder: Path, data: Data, run: RunConfig, *more: str) -> list[str]:
    """Command line of `fit`; writes the run's config.json into `folder`."""
    write_json(folder / "config.json", plain(run))
    return [str(folder), f"--config={folder / 'config.json'}", f"--index={data.index}", f"--split={data.split}", "--threads=1", *more]


def train(folder: Path, data: Data, run: RunConfig, *more: str) -> Path:
    fit.main(arguments(folder, data, run, *more))
    return folder / "model.safetensors"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_student_of_a_teacher(data, teacher, tmp_path):
    before = teacher.read_bytes()
    made = train(tmp_path, data, run_config("student"), f"--teacher={teacher}", f"--checkpoints={tmp_path / 'ckpt'}")
    assert teacher.read_bytes() == before
    assert not any(name.startswith(("mask", "teacher", "model.", "audio")) for name in load_file(made))
    *epochs, last = metrics(tmp_path)
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4] and last["done"] is True
    assert not (tmp_path / "ckpt").exists()
    meta = weights.read_meta(made)
    assert meta["config"] == digest_file(tmp_path / "config.json") and meta["teacher"] == digest_file(teacher)
    wanted = {"method": "tiny", "dataset": "toy", "split": "0", "seed": 0, "stage": "student", "classes": 3, "cameras": 2, "bands": 0}
    assert {name: meta[name] for name in wanted} == wanted
    assert (meta["hears"], meta["label_derived"], meta["oracle"]) == (False, False, False)


def test_a_stage_that_hears_says_whose_sound(teacher):
    meta = weights.read_meta(teacher)
    assert (meta["hears"], meta["label_derived"], meta["oracle"]) == (True, True, False)


def test_same_inputs_same_bytes(data, teacher, tmp_path):
    same = train(tmp_path, data, run_config("teacher")).read_bytes()
    other = train(tmp_path, data, run_config("teacher", seed=1)).read_bytes()
    assert same == teacher.read_bytes() != other


def test_untrained_is_where_the_student_starts(data, teacher, tmp_path):
    """No epoch: the weights as initialised, equal to the student's before its first step, whatever the stage is called."""
    untrained = load_file(train(tmp_path, data, run_config("untrained")))
    run = run_config("student")
    start = fit.make_task(run, FACTS, fit.load_teacher(teacher, run, FACTS), CPU).model.state_dict()
    assert untrained.keys() == start.keys() and all(torch.equal(untrained[name], start[name]) for name in start)
    other = fit.make_network(run_config("student", seed=1), run.this, FACTS).state_dict()
    assert not torch.equal(other["head.classifier.weight"], start["head.classifier.weight"])  # negative control
    assert [list(line) for line in metrics(tmp_path)] == [["device", "done", "epochs", "stage"]]


def test_a_backbone_starts_from_a_vit_file(data, tmp_path):
    torch.manual_seed(3)
    vit = VisionTransformer(img_size=32, patch_size=16, embed_dim=16, depth=3, num_heads=2, num_classes=7)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    (tmp_path / "plain").mkdir()
    started = load_file(train(tmp_path, data, run_config("untrained", pretrained=str(tmp_path / "vit.safetensors"))))
    random = load_file(train(tmp_path / "plain", data, run_config("untrained")))
    kernel = "embedding.patches.weight"
    assert torch.equal(started[kernel], vit.state_dict()["patch_embed.proj.weight"])
    assert not torch.equal(started[kernel], random[kernel])
    assert torch.equal(started["head.classifier.weight"], random["head.classifier.weight"])
    assert weights.read_meta(tmp_path / "model.safetensors")["pretrained"] == digest_file(tmp_path / "vit.safetensors")


def process(folder: Path, data: Data, run: RunConfig, *more: str) -> BaseProcess:
    """`fit` in a process of its own (forked, because importing torch anew takes longer than all trainings here)."""
    running = multiprocessing.get_context("fork").Process(target=fit.main, args=(arguments(folder, data, run, *more),))
    running.start()
    return running


def wait_for(path: Path, running: BaseProcess) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert running.is_alive() and time.monotonic() < deadline
        time.sleep(0.002)


def long_run(**method) -> RunConfig:
    return run_config("visual", stages={"visual": {"epochs": 40}}, **method)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """An uninterrupted training."""
    return train(tmp_path_factory.mktemp("whole"), data, long_run())


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_resumes_to_the_same_bytes(data, whole, tmp_path, sent, capsys):
    """R6 with a real signal at some step; going on with another rhythm of checkpoints and more loader processes."""
    store = tmp_path / "ckpt"
    running = process(tmp_path, data, long_run(), f"--checkpoints={store}")
    wait_for(store / "epoch-0003", running)
    os.kill(running.pid, sent)
    running.join()
    assert running.exitcode == (-signal.SIGKILL if sent == signal.SIGKILL else 128 + signal.SIGTERM)
    assert not (tmp_path / "model.safetensors").exists()
    resumed = train(tmp_path, data, long_run(checkpoint_epochs=7, workers=1), f"--checkpoints={store}")
    assert "visual: resumed after epoch" in capsys.readouterr().err
    ours, theirs = load_file(resumed), load_file(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [line["loss"] for line in metrics(tmp_path)[:-1]] == [line["loss"] for line in metrics(whole.parent)[:-1]]


def test_another_number_of_threads_is_told(data, tmp_path, capsys):
    """It is resumed all the same: sums differ in their last bits only."""
    store = tmp_path / "ckpt"
    running = process(tmp_path, data, long_run(), f"--checkpoints={store}")
    wait_for(store / "epoch-0001", running)
    running.kill()
    running.join()
    train(tmp_path, data, long_run(), f"--checkpoints={store}", "--threads=2")
    assert "made on cpu with 1 threads, resumed on cpu with 2 threads" in capsys.readouterr().err


def test_a_checkpoint_of_other_settings_or_data_is_not_resumed(data, tmp_path):
    run = run_config("visual")
    key = fit.checkpoint_key(run, "index", "split", "")
    assert key == fit.checkpoint_key(run_config("visual", workers=2, checkpoint_epochs=5), "index", "split", "")
    others = [
        fit.checkpoint_key(run_config("visual", seed=1), "index", "split", ""),
        fit.checkpoint_key(run_config("visual", optim={"lr": 0.1}), "index", "split", ""),
        fit.checkpoint_key(run, "another index", "split", ""),
        fit.checkpoint_key(run, "index", "another split", ""),
        fit.checkpoint_key(run, "index", "split", "teacher"),
    ]
    assert len({key, *others}) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "1"}, r"split 0 \(expected 1\)"),
        ({"dataset": "mars"}, r"dataset toy \(expected mars\)"),
        ({"classes": 5}, r"classes 3 \(expected 5\)"),
        ({"cameras": 6}, r"cameras 2 \(expected 6\)"),
    ],
)
def test_a_teacher_of_something_else_is_refused(teacher, changes, message):
    names = ("classes", "cameras")
    facts = fit.Facts(**{"classes": 3, "cameras": 2, "companion": None} | {k: v for k, v in changes.items() if k in names})
    given = plain(run_config("student")) | {k: v for k, v in changes.items() if k not in names}
    with pytest.raises(TrainError, match=message):
        fit.load_teacher(teacher, fit.build(RunConfig, given), facts)


def test_teacher_argument(data, teacher, tmp_path):
    with pytest.raises(TrainError, match="needs --teacher, the weights of stage teacher"):
        train(tmp_path, data, run_config("student"))
    with pytest.raises(TrainError, match="has no teacher"):
        train(tmp_path, data, run_config("visual"), f"--teacher={teacher}")


def test_store_of_another_data_set(data, tmp_path):
    run = fit.build(RunConfig, plain(run_config("visual")) | {"dataset": "mars"})
    with pytest.raises(TrainError, match="INDEX of data set 'toy', but"):
        train(tmp_path, data, run)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"network": "dubbernet_teecher"}, "did you mean 'dubbernet_teacher'"),
        ({"network": "dubbernet_visual", "hears": True}, "neither 'dubbernet_visual' nor a teacher hears"),
        ({"network": "dubbernet_teacher", "hears": False}, "'dubbernet_teacher' hears a companion; set hears to true"),
    ],
)
def test_a_network_that_does_not_fit_the_stage(stage, message):
    with pytest.raises(ConfigError, match=message):
        fit.make_task(run_config("visual", stages={"visual": stage}), FACTS, None, CPU)


@pytest.mark.parametrize("hears", [True, False])
def test_a_student_may_leave_hearing_to_its_teacher(teacher, hears):
    run = run_config("student", stages={"student": {"hears": hears}})
    task = fit.make_task(run, FACTS, fit.load_teacher(teacher, run, FACTS), CPU)
    assert fit.listens(run) and not fit.weights_meta(run, FACTS, task.model, "", "")["label_derived"]
