"""The step `train.fit` on a packed store: all stages, resume after a real SIGKILL, and what it refuses."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from model import weights
from model.blocks.part import parts_of
from pipeline.base import tables
from pipeline.base.build import plain
from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError, TrainError
from pipeline.base.files import digest_file, write_json
from pipeline.base.seeds import rng
from tests.train.processes import started
from tests.train.tiny import pack, run_config
from train import fit

FACTS = fit.Facts(3, 2, {"kind": "audio", "policy": "id_speaker", "oracle": False, "label_derived": True, "bands": 8, "tokens": None})
NONE = fit.Given()
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
    assert [path.name[:6] for path in (tmp_path / "ckpt").iterdir()] == ["ended-"]
    meta = weights.read_meta(made)
    read = {"config": tmp_path / "config.json", "index": data.index, "split": data.split, "teacher": teacher}
    assert meta["from"] == {name: digest_file(path) for name, path in read.items()}
    wanted = {"method": "tiny", "dataset": "toy", "split": "0", "seed": 0, "stage": "student", "classes": 3, "cameras": 2, "bands": 0}
    assert {name: meta[name] for name in wanted} == wanted
    assert (meta["hears"], meta["label_derived"], meta["oracle"], meta["tokens"]) == (False, False, False, None)
    assert (meta["companion"], meta["test_companion"], meta["policy"]) == ("audio", "audio", "id_speaker")  # its teacher heard it


def test_a_stage_that_hears_says_whose_sound(teacher):
    meta = weights.read_meta(teacher)
    assert (meta["hears"], meta["label_derived"], meta["oracle"], meta["policy"]) == (True, True, False, "id_speaker")


def test_what_weights_say_about_frozen_tokens_and_silence():
    """Tokens are those of the network that hears them; a stage that nobody sounds in has no policy."""
    tokens = {"encoder": "hubert_base", "weights_sha256": "ab", "length": 16, "rate": 16000, "seconds": 5.0}
    facts = fit.Facts(3, 2, {**FACTS.companion, "tokens": tokens})
    for stage, expected in (("teacher", (tokens, "id_speaker")), ("student", (None, "id_speaker")), ("visual", (None, ""))):
        run = run_config(stage)
        meta = fit.weights_meta(run, facts, fit.make_network(run, facts), {"config": "c"})
        assert (meta["tokens"], meta["policy"], meta["from"]) == (*expected, {"config": "c"})


def test_same_inputs_same_bytes(data, teacher, tmp_path):
    same = train(tmp_path, data, run_config("teacher")).read_bytes()
    other = train(tmp_path, data, run_config("teacher", seed=1)).read_bytes()
    assert same == teacher.read_bytes() != other


def test_untrained_is_where_the_student_starts(data, teacher, tmp_path):
    """No epoch: the weights as initialised, equal to the student's before its first step, whatever the stage is called."""
    untrained = load_file(train(tmp_path, data, run_config("untrained")))
    run = run_config("student")
    start = fit.make_task(run, FACTS, fit.Given(teacher=str(teacher)), CPU).model.state_dict()
    assert untrained.keys() == start.keys() and all(torch.equal(untrained[name], start[name]) for name in start)
    other = fit.make_network(run_config("student", seed=1), FACTS).state_dict()
    assert not torch.equal(other["head.classifier.weight"], start["head.classifier.weight"])  # negative control
    assert [list(line) for line in metrics(tmp_path)] == [["device", "done", "epochs", "kept", "stage"]]


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    """A plain ViT of the tiny networks' size, as timm names it."""
    torch.manual_seed(3)
    made = VisionTransformer(img_size=32, patch_size=16, embed_dim=16, depth=3, num_heads=2, num_classes=7)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(made.state_dict(), path)
    return path


def test_a_backbone_starts_from_a_vit_file(data, vit, tmp_path):
    (tmp_path / "plain").mkdir()
    started = load_file(train(tmp_path, data, run_config("untrained", pretrained="vit_tiny"), f"--pretrained={vit}"))
    random = load_file(train(tmp_path / "plain", data, run_config("untrained")))
    kernel = "embedding.patches.weight"
    assert torch.equal(started[kernel], load_file(vit)["patch_embed.proj.weight"])
    assert not torch.equal(started[kernel], random[kernel])
    assert torch.equal(started["head.classifier.weight"], random["head.classifier.weight"])
    assert weights.read_meta(tmp_path / "model.safetensors")["from"]["pretrained"] == digest_file(vit)


def test_a_student_starts_from_its_teacher(data, teacher, tmp_path):
    """init: teacher. With 0 epochs the trunk and the head are the teacher's, perception is as it would be without."""
    stages = {"student": {"start": "teacher", "epochs": 0}}
    made = train(tmp_path, data, run_config("student", stages=stages, pretrained="vit_tiny"), f"--teacher={teacher}", f"--start={teacher}")
    started, taught = load_file(made), load_file(teacher)
    own = fit.make_network(run_config("student"), FACTS).state_dict()
    shared = [name for name in started if not name.startswith("fusion")]
    assert "head.classifier.weight" in shared and all(torch.equal(started[name], taught[name]) for name in shared)
    assert all(torch.equal(started[name], own[name]) for name in started if name.startswith("fusion"))
    meta = weights.read_meta(made)
    assert (meta["from"]["start"], meta["from"]["teacher"]) == (digest_file(teacher), digest_file(teacher))
    assert "pretrained" not in meta["from"]


def test_a_control_of_0_epochs_is_the_network_it_starts_from(data, teacher, tmp_path):
    """What a teacher is worth on other sound: the same weights under another stage; what they heard in training stays known."""
    stages = {"again": {"network": "dubbernet_teacher", "hears": True, "epochs": 0, "start": "teacher"}}
    made = train(tmp_path, data, run_config("again", stages=stages), f"--start={teacher}")
    ours, theirs = load_file(made), load_file(teacher)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    meta = weights.read_meta(made)
    assert (meta["stage"], meta["epochs"], meta["from"]["start"]) == ("again", 0, digest_file(teacher))
    assert (meta["label_derived"], meta["oracle"]) == (True, False)


def test_a_teacher_of_frozen_tokens_and_a_probe_of_them(tmp_path):
    """Tokens come from the shards; the weights say which encoder made them, and that they were allotted by label."""
    tokens = Data(*pack(tmp_path, "audio_tokens"))
    stages = {"probe": {"network": "audio_probe", "hears": True, "epochs": 1}, "teacher": {"epochs": 1}, "student": {"epochs": 1}}
    made = {}
    for stage in ("teacher", "probe", "student"):
        (tmp_path / stage).mkdir()
        given = [f"--teacher={made['teacher']}"] if stage == "student" else []
        made[stage] = train(tmp_path / stage, tokens, run_config(stage, companion="tokens", stages=stages), *given)
    for stage in ("teacher", "probe"):
        meta = weights.read_meta(made[stage])
        assert meta["tokens"] == {"encoder": "precomputed", "weights_sha256": "", "length": 2}
        assert (meta["companion"], meta["hears"], meta["label_derived"], meta["bands"]) == ("tokens", True, True, 8)
    assert weights.read_meta(made["student"])["tokens"] is None
    assert not any(name.startswith("embedding") for name in load_file(made["probe"]))


def process(folder: Path, data: Data, run: RunConfig, *more: str) -> BaseProcess:
    """`fit` in a process of its own."""
    return started(fit.main, arguments(folder, data, run, *more))


def wait_for(store: Path, batches: int, running: BaseProcess) -> None:
    """Until a checkpoint of at least so many batches is there."""
    deadline = time.monotonic() + 60
    while not any(int(path.name.split("-")[1]) >= batches for path in store.glob("at-*")):
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
    wait_for(store, 3, running)
    os.kill(running.pid, sent)
    running.join()
    assert running.exitcode == (-signal.SIGKILL if sent == signal.SIGKILL else 128 + signal.SIGTERM)
    assert not (tmp_path / "model.safetensors").exists()
    resumed = train(tmp_path, data, long_run(machine={"checkpoint_epochs": 7, "workers": 1}), f"--checkpoints={store}")
    assert "visual: resumed after epoch" in capsys.readouterr().err
    ours, theirs = load_file(resumed), load_file(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [line["loss"] for line in metrics(tmp_path)[:-1]] == [line["loss"] for line in metrics(whole.parent)[:-1]]


def test_what_a_training_made_is_not_made_twice(data, tmp_path, capsys, monkeypatch):
    """Snakemake was killed while the training ran to its end: it deletes the outputs and asks again. Other settings train anew."""
    store, out = f"--checkpoints={tmp_path / 'ckpt'}", tmp_path / "out"
    out.mkdir()
    first = train(out, data, run_config("visual"), store)
    made, log, inode = first.read_bytes(), (out / "metrics.jsonl").read_bytes(), first.stat().st_ino
    kept = next((tmp_path / "ckpt").glob("ended-*/model.safetensors"))
    assert kept.stat().st_ino == inode  # a second name of the same file, no second copy
    first.unlink()
    (out / "metrics.jsonl").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(fit.Training, "train", None)  # would fail
        again = train(out, data, run_config("visual"), store)
    assert (again.read_bytes(), (out / "metrics.jsonl").read_bytes()) == (made, log)
    assert "visual: was trained to its end before; its weights are taken from" in capsys.readouterr().err
    assert train(out, data, run_config("visual", seed=1), store).read_bytes() != made
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged: trained again, to the same bytes
    assert train(out, data, run_config("visual"), store).read_bytes() == made


def test_ranks_are_not_forgotten(data, tmp_path):
    with pytest.raises(TrainError, match=r"machine.ranks=2, nodes=1: train.fit is one process; start it with python -m train.launch"):
        train(tmp_path, data, run_config("visual", machine={"ranks": 2}))


@pytest.mark.slow
def test_killed_at_twenty_random_moments(data, tmp_path):
    """One training, killed by SIGKILL again and again wherever it is (real loader with processes, AdamW, windows, average, looks at
    held-out identities, the best kept, a checkpoint after every step): the same weights to the bit as if nothing had happened."""
    settings = {
        "optim": {"name": "adamw", "lr": 0.001},
        "ema": 0.9,
        "sampler": {"identities": 2, "tracklets": 1, "window": 1},
        "validation": {"identities": 2, "epochs": 20, "keep": "best"},
        "stages": {"visual": {"epochs": 300}},
    }
    more = Data(*pack(tmp_path, classes=4))
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = load_file(train(tmp_path / "whole", more, run_config("visual", **settings)))
    machine = {"checkpoint_steps": 1, "checkpoint_seconds": 0, "workers": 1}
    run, store = run_config("visual", **settings, machine=machine), tmp_path / "ckpt"
    draw, come = rng(1, "moments"), [0]
    for _ in range(20):
        running = process(tmp_path / "killed", more, run, f"--checkpoints={store}")
        wait_for(store, come[-1] + 1, running)
        time.sleep(0.1 * draw.random())
        running.kill()
        running.join()
        come.append(max(int(path.name.split("-")[1]) for path in store.glob("at-*")))
    assert come == sorted(set(come)) and come[-1] < 600, "each time it came further, and it was never at its end"
    ours = load_file(train(tmp_path / "killed", more, run, f"--checkpoints={store}"))
    assert ours.keys() == whole.keys() and all(torch.equal(ours[name], tensor) for name, tensor in whole.items())
    assert metrics(tmp_path / "killed")[-1]["kept"] == metrics(tmp_path / "whole")[-1]["kept"]


def test_another_number_of_threads_is_told(data, tmp_path, capsys):
    """It is resumed all the same: sums differ in their last bits only."""
    store = tmp_path / "ckpt"
    running = process(tmp_path, data, long_run(), f"--checkpoints={store}")
    wait_for(store, 1, running)
    running.kill()
    running.join()
    train(tmp_path, data, long_run(), f"--checkpoints={store}", "--threads=2")
    assert "made on cpu with 1 threads, resumed on cpu with 2 threads" in capsys.readouterr().err


def test_a_checkpoint_of_other_settings_data_or_weights_is_not_resumed():
    given = ("index", "split", "teacher", "start", "pretrained")
    key = fit.checkpoint_key(run_config("student"), *given)
    assert key == fit.checkpoint_key(run_config("student", machine={"workers": 2, "checkpoint_epochs": 5}), *given)  # the teacher's too
    others = [fit.checkpoint_key(run_config("student"), *given[:i], "another", *given[i + 1 :]) for i in range(5)]
    for changes in ({"optim": {"lr": 0.1}}, {"stages": {"teacher": {"changes": {"model": {"injection": "add"}}}}}):
        others.append(fit.checkpoint_key(run_config("student", **changes), *given))
    others.append(fit.checkpoint_key(run_config("student", seed=1), *given))
    assert len({key, *others}) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "mars"}, r"dataset toy \(expected mars\)"),
        ({"split": "1"}, r"split 0 \(expected 1\)"),
        ({"seed": 7}, r"seed 0 \(expected 7\)"),
        ({"method": "other"}, r"method tiny \(expected other\)"),
        ({"classes": 5}, r"classes 3 \(expected 5\)"),
        ({"cameras": 6}, r"cameras 2 \(expected 6\)"),
    ],
)
@pytest.mark.parametrize("role", ["teacher", "start"])
def test_weights_of_something_else_are_refused(teacher, role, changes, message):
    """Among them a teacher checkpoint of another data set: one sentence, before anything is built."""
    facts = replace(FACTS, **{name: value for name, value in changes.items() if name in ("classes", "cameras")})
    stage = {"student": {"start": "teacher"}} if role == "start" else {}
    run = run_config("student", stages=stage)
    names = {name: value for name, value in changes.items() if name not in ("classes", "cameras")}
    run = replace(run, **names, teacher=replace(run.teacher, **names))
    with pytest.raises(TrainError, match=f"not the {role} of stage student: {message}; train stage teacher of this run"):
        fit.check_made_by(str(teacher), role, "teacher", run, facts)
    if role == "teacher":
        with pytest.raises(TrainError, match=message):
            fit.make_task(run, facts, fit.Given(teacher=str(teacher)), CPU)


def test_weights_of_another_stage_are_refused(data, teacher, tmp_path):
    student = tmp_path / "student"
    student.mkdir()
    other = train(student, data, run_config("untrained"))
    with pytest.raises(TrainError, match=r"stage untrained \(expected teacher\), network dubbernet_student \(expected dubbernet_teacher\)"):
        train(tmp_path, data, run_config("student"), f"--teacher={other}")
    run = run_config("student", stages={"student": {"start": "teacher"}})
    with pytest.raises(TrainError, match=r"not the start of stage student: stage untrained"):
        train(tmp_path, data, run, f"--teacher={teacher}", f"--start={other}")


@pytest.mark.parametrize(
    ("stage", "changes", "given", "message"),
    [
        ("student", {}, {}, "stage student needs --teacher, the weights of stage teacher, its teacher"),
        ("visual", {"start": "teacher"}, {}, "stage visual needs --start, the weights of stage teacher, from which it starts"),
        ("visual", {"changes": {"pretrained": "vit_x"}}, {}, "stage visual needs --pretrained, the ViT 'vit_x' of the setting"),
        ("visual", {}, {"teacher": "t"}, "no weights of that kind; leave --teacher=t out"),
        ("visual", {}, {"start": "s"}, "no weights of that kind; leave --start=s out"),
        ("visual", {}, {"pretrained": "p"}, "no weights of that kind; leave --pretrained=p out"),
        (
            "visual",
            {"start": "teacher", "changes": {"pretrained": "vit_x"}},
            {"start": "s", "pretrained": "p"},
            "leave --pretrained=p out",  # it starts from a stage, not from the ViT
        ),
    ],
)
def test_weight_files_that_are_missing_or_one_too_many(data, tmp_path, stage, changes, given, message):
    run = run_config(stage, stages={stage: changes})
    with pytest.raises(TrainError, match=message):
        train(tmp_path, data, run, *(f"--{name}={path}" for name, path in given.items()))


def test_store_of_another_data_set(data, tmp_path):
    run = replace(run_config("visual"), dataset="mars")
    with pytest.raises(TrainError, match="INDEX of data set 'toy', but"):
        train(tmp_path, data, run)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"dataset": "mars", "split": "0"}, "SPLIT of data set 'mars', but config.json is for 'toy'; give both of one"),
        ({"dataset": "toy", "split": "1"}, "SPLIT of split '1', but config.json is for '0'; give both of one"),
        ({}, "SPLIT of data set None, but config.json is for 'toy'"),
    ],
)
def test_split_of_another_data_set_or_of_another_name(data, tmp_path, meta, message):
    index, split = data
    tables.write(tmp_path / "split.parquet", tables.read(split, tables.SPLIT), tables.SPLIT, meta)
    with pytest.raises(TrainError, match=message):
        train(tmp_path, Data(index, tmp_path / "split.parquet"), run_config("untrained"))
    train(tmp_path, data, run_config("untrained"))  # negative control


def test_weights_note_the_tracklets_behind_index(data, tmp_path):
    """As INDEX notes them, whatever it is called; nothing where it does not."""
    assert weights.read_meta(train(tmp_path, data, run_config("untrained")))["tracklets"] == ""
    index = data.index.with_name("noting.parquet")
    kept = {name: value for name, value in tables.read_meta(data.index).items() if name not in ("schema", "version")}
    tables.write(index, tables.read(data.index, tables.INDEX), tables.INDEX, {**kept, "from": {"tracklets": "ab"}})
    assert weights.read_meta(train(tmp_path, Data(index, data.split), run_config("untrained")))["tracklets"] == "ab"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"network": "dubbernet_visual", "hears": True}, "neither 'dubbernet_visual' nor a teacher hears"),
        ({"network": "dubbernet_teacher", "hears": False}, "'dubbernet_teacher' hears a companion; set hears to true"),
    ],
)
def test_a_network_that_does_not_fit_the_stage(stage, message):
    with pytest.raises(ConfigError, match=message):
        fit.make_task(run_config("visual", stages={"visual": stage}), FACTS, NONE, CPU)


def test_an_unknown_network_is_refused_by_the_settings():
    with pytest.raises(ConfigError, match="did you mean 'dubbernet_teacher'"):
        run_config("visual", stages={"visual": {"network": "dubbernet_teecher"}})


@pytest.mark.parametrize("hears", [True, False])
def test_a_student_may_leave_hearing_to_its_teacher(teacher, hears):
    run = run_config("student", stages={"student": {"hears": hears}})
    task = fit.make_task(run, FACTS, fit.Given(teacher=str(teacher)), CPU)
    assert fit.listens(run) and not fit.weights_meta(run, FACTS, task.model, {})["label_derived"]


def test_a_teacher_is_built_by_its_own_settings(data, tmp_path):
    """Its stage may change the network; the student's settings say nothing about that."""
    stages = {"teacher": {"changes": {"model": {"injection": "add", "drop_path": 0.0}}, "epochs": 0}, "student": {"epochs": 1}}
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    for folder in (teacher, student):
        folder.mkdir()
    made = train(teacher, data, run_config("teacher", stages=stages))
    train(student, data, run_config("student", stages=stages), f"--teacher={made}")
    assert metrics(student)[0]["terms"]["tokens"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_train(data, tmp_path):
    """Both stages, with recomputed blocks and a moving average; within rounding of what plain blocks come to."""
    made: dict[bool, dict[str, Path]] = {}
    for compiled in (False, True):
        settings = {"compile": compiled, "machine": {"recompute": compiled}, "ema": 0.5}
        made[compiled] = {}
        for stage in ("teacher", "student"):
            (tmp_path / f"{stage}{compiled}").mkdir()
            given = [f"--teacher={made[False]['teacher']}"] if stage == "student" else []
            made[compiled][stage] = train(tmp_path / f"{stage}{compiled}", data, run_config(stage, **settings), *given)
    for stage in ("teacher", "student"):
        plain, ours = load_file(made[False][stage]), load_file(made[True][stage])
        assert plain.keys() == ours.keys()
        for name, tensor in plain.items():
            assert torch.allclose(ours[name].float(), tensor.float(), rtol=1e-3, atol=1e-4), (stage, name)


def test_switches_reach_the_blocks(teacher):
    """Those of the student and of its masks; the frozen teacher keeps nothing that could be computed again."""
    plain, switched = (
        fit.make_task(run_config("student", machine={"recompute": on}), FACTS, fit.Given(teacher=str(teacher)), CPU) for on in (False, True)
    )
    assert not any(part.recompute for part in parts_of(plain)) and len(parts_of(switched)) > 6
    assert all(part.recompute for part in parts_of(switched)) and not any(part.recompute for part in parts_of(switched.teacher))


def test_without_a_compiler_compile_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TrainError, match=r"compile: torch.compile needs a compiler, and none of c\+\+, g\+\+, clang\+\+ is on PATH"):
        fit.make_task(run_config("visual", compile=True), FACTS, NONE, CPU)
