"""Ablations, oracle and frozen encoders through the real Snakefile, at the size of `tiny` (slow)."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.base import tables
from tests.conftest import REPOSITORY
from tests.workflow.conftest import snakemake

pytestmark = pytest.mark.slow

ROWS = {
    "baseline": "no teacher",
    "student_silence": "silence",
    "teacher_in_silence": "teacher, silence at test",
    "oracle_probe": "hears only",
}
STAGES = ["baseline", "teacher", "teacher_silence", "student_silence", "oracle_probe"]


def run(folder, settings, *targets):
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    done = snakemake(folder, "--configfile", str(REPOSITORY / "workflow/config/tiny.yaml"), str(folder / "settings.yaml"), "--", *targets)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """Results of a small ablation with an oracle row, two seeds."""
    folder = tmp_path_factory.mktemp("ablation")
    about = {
        "method": "dubbernet_demo",
        "dataset": "demo",
        "question": "What is it for?",
        "reference": "baseline",
        "seeds": [0, 1],
        "rows": ROWS,
    }
    stages = {name: {"epochs": 1} for name in STAGES}
    run(folder, {"ablations": {"mini": about}, "methods": {"dubbernet_demo": {"stages": stages}}}, "results/ablations/mini/report.html")
    return folder / "results"


def metrics(results, stage, seed=0):
    return json.loads((results / f"runs/dubbernet_demo/demo-official/seed{seed}/{stage}/metrics.json").read_text())


def test_the_table_has_means_and_spreads(ablation):
    with open(ablation / "ablations/mini/ablation.csv", newline="") as file:
        rows = {row["stage"]: row for row in csv.DictReader(file) if row["protocol"] == "mars_torchreid"}
    assert list(rows) == list(ROWS)
    each = [metrics(ablation, "baseline", seed)["protocols"]["mars_torchreid"]["mAP"] for seed in (0, 1)]
    assert float(rows["baseline"]["mAP"]) == pytest.approx(sum(each) / 2, abs=1e-6)
    assert float(rows["baseline"]["mAP_std"]) == pytest.approx(abs(each[0] - each[1]) / 2**0.5, abs=1e-6)


def test_oracle_is_said_and_only_there(ablation):
    assert {stage: metrics(ablation, stage)["oracle"] for stage in ROWS} == {
        "baseline": False,
        "student_silence": False,
        "teacher_in_silence": False,
        "oracle_probe": True,
    }
    for name in ("report.html", "report.md", "scores.csv", "ablation.csv"):
        lines = (ablation / "ablations/mini" / name).read_text().splitlines()
        assert any("oracle" in line for line in lines), name
    said = [line for line in (ablation / "ablations/mini/scores.csv").read_text().splitlines() if "oracle_probe" in line]
    assert said and all(",oracle," in line for line in said)


def test_weights_are_handed_on_unchanged(ablation):
    """A stage of 0 epochs that starts from another is that network."""
    folder = ablation / "runs/dubbernet_demo/demo-official/seed0"
    first, then = (load_file(folder / stage / "model.safetensors") for stage in ("teacher", "teacher_in_silence"))
    assert first.keys() == then.keys() and all(torch.equal(first[name], then[name]) for name in first)
    vectors = {stage: tables.read_meta(folder / stage / "embeddings.parquet") for stage in ("teacher_in_silence", "oracle_probe")}
    assert vectors["teacher_in_silence"]["companion"] == "audio_silence" and vectors["teacher_in_silence"]["trained_on"] == "audio"
    assert vectors["oracle_probe"]["companion"] == "audio_oracle" and vectors["oracle_probe"]["oracle"] is True


def test_a_teacher_hears_through_a_frozen_encoder(tmp_path):
    """Clips -> waves -> tokens -> shards -> a teacher; the waves are gone afterwards."""
    settings = {"methods": {"dubbernet_demo": {"companion": "audio_stub", "stages": {"teacher": {"epochs": 1}}}}}
    run(tmp_path, settings, "train_teacher_demo")
    index = tables.read_meta(tmp_path / "results/shards/demo-audio_stub/index.parquet")
    assert index["companion"]["kind"] == "audio_tokens" and index["companion"]["bands"] == 768
    assert index["companion"]["tokens"]["encoder"] == "logmel_stub" and index["companion"]["tokens"]["length"] == 16
    features = sorted(path.name for path in (tmp_path / "results/features/demo/audio_stub").iterdir())
    assert features == ["00000.parquet", "00001.parquet"]
    assert (tmp_path / "results/runs/dubbernet_demo/demo-official/seed0/teacher/model.safetensors").is_file()


def test_controls_that_hear_through_another_encoder_are_refused(tmp_path):
    done = snakemake(tmp_path, "--dry-run", "--config", "methods={dubbernet_demo: {companion: audio_stub}}", "--", "ablate_dubbernet_demo")
    assert done.returncode and "its stages hear through different encoders (companions audio_" in done.stdout
