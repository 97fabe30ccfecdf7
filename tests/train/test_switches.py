"""Every switch of specs/dubbernet.md section 10 that training has, through `train.fit` on the tiny store: one epoch each."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.base.build import merge
from pipeline.base.config import RunConfig
from tests.train.test_fit import Data, metrics, train
from tests.train.tiny import pack, run_config

DISTILLED = ("tokens", "logits", "features", "budget")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return Data(*pack(tmp_path_factory.mktemp("data")))


@dataclass(frozen=True)
class Case:
    """What differs from the tiny method, and the terms that the student then has."""

    name: str
    terms: tuple[str, ...] = ("identity", "triplet", "tokens", "logits", "budget")
    method: dict[str, Any] = field(default_factory=dict)
    """Settings of both stages."""
    student: dict[str, Any] = field(default_factory=dict)
    """Of the student's stage."""
    teacher: dict[str, Any] = field(default_factory=dict)


def distill(name: str, terms: str = "identity triplet tokens logits budget", **settings: Any) -> Case:
    return Case(name, tuple(terms.split()), {"distill": settings})


def model(name: str, **settings: Any) -> Case:
    return Case(name, method={"model": settings})


RELEASED = {
    "distill": {"token": "l1", "tap": "released", "logits": "feat_mse", "mask": "off"},
    "schedule": {"period": 120},
    "augment": {"shared": False, "erase_attempts": 1, "erase_aspect_draw": "uniform", "erase_level": [189, 186, 179]},
}

CASES = [
    Case("default"),
    Case("released", ("identity", "triplet", "tokens", "features"), RELEASED),
    # kd.token, kd.normalize, kd.temperature, kd.tap
    distill("token-l1", token="l1"),
    distill("token-mse", token="mse"),
    distill("token-off", "identity triplet logits", token="off"),
    distill("normalize-l2", normalize="l2"),
    distill("normalize-ln", normalize="ln"),
    distill("temperature-1", temperature=1.0),
    distill("tap-attn", tap="attn"),
    distill("tap-released", tap="released"),
    # kd.logits
    distill("logits-feat_mse", "identity triplet tokens features budget", logits="feat_mse"),
    distill("logits-both", "identity triplet tokens logits features budget", logits="both"),
    distill("logits-off", "identity triplet tokens budget", logits="off"),
    # mask.mode
    distill("mask-raw", "identity triplet tokens logits", mask="raw"),
    distill("mask-off", "identity triplet tokens logits", mask="off"),
    distill("mask-detached_random", "identity triplet tokens logits", mask="detached_random"),
    # student.init, student.fusion, teacher.fusion
    Case("init-teacher", student={"start": "teacher"}),
    Case("student-plain", student={"network": "dubbernet_visual"}),
    Case("teacher-none", teacher={"network": "dubbernet_visual", "hears": False}),
    Case("teacher-changed", teacher={"changes": {"model": {"injection": "add"}}}),
    model("teacher-add", injection="add"),
    model("teacher-concat_cls", injection="concat_cls"),
    Case("teacher-add-tap-attn", method={"model": {"injection": "add"}, "distill": {"tap": "attn"}}),
    Case("teacher-concat_cls-tap-attn", method={"model": {"injection": "concat_cls"}, "distill": {"tap": "attn"}}),
    model("audio-dropout", audio_dropout=0.5),
    model("zero-init", fusion_zero_init=True),
    # fusion_after_blocks, sie, patch_stride
    model("fusion-1", fusion_after_blocks=[1]),
    model("no-camera", camera_scale=0.0),
    model("stride-8", stride=8),
    # frames T, pool, local_branch
    Case("frames-3", method={"clip": {"frames": 3}}),
    Case("pool-attention", ("identity", "triplet", "attention", "tokens", "logits", "budget"), {"model": {"pool": "attention"}}),
    Case(
        "local-branch",
        ("identity", "triplet", "identity_local", "triplet_local", "tokens", "logits", "budget"),
        {"model": {"local_branch": True}},
    ),
    # optimisation
    Case("bf16", method={"precision": "bf16"}),
    Case("adamw", method={"optim": {"name": "adamw", "lr": 0.001}}),
]


def fit(folder: Path, data: Data, run: RunConfig, terms: tuple[str, ...], *more: str) -> Path:
    """Train a stage whose terms all weigh 1; its weight file."""
    folder.mkdir()
    return train(folder, data, replace(run, this=replace(run.this, weights=dict.fromkeys(terms, 1.0))), *more)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_switch(data, tmp_path, case):
    """A teacher as initialised, and one epoch of a student that has exactly the expected terms."""
    stages = {"teacher": {"epochs": 0, **case.teacher}, "student": {"epochs": 1, **case.student}}
    method = merge({"stages": stages}, case.method)
    taught = tuple(name for name in case.terms if name not in DISTILLED)
    teacher = fit(tmp_path / "teacher", data, run_config("teacher", **method), taught)
    run = run_config("student", **method)
    given = [f"--teacher={teacher}"] + [f"--start={teacher}"] * bool(run.this.start)
    student = fit(tmp_path / "student", data, run, case.terms, *given)

    record, last = metrics(tmp_path / "student")
    assert set(record["terms"]) == set(case.terms) and last["done"]
    assert all(math.isfinite(value) for value in record["terms"].values())
    assert all(record["terms"][name] > 0 for name in set(DISTILLED[:3]) & set(case.terms))
    assert bool(record["stats"]) == ("tokens" in case.terms and run.settings.distill.mask != "off")
    assert not [name for name in load_file(student) if "mask" in name or "audio" in name]
