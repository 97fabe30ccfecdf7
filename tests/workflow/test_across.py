"""Tests on another data set than was trained on, through the real Snakefile (slow: at the size of `tiny`)."""

from __future__ import annotations

import csv
import json

import pytest

from evaluate import trace
from evaluate.chain import Chain
from pipeline.base import tables
from tests.conftest import REPOSITORY
from tests.workflow.conftest import jobs, snakemake

pytestmark = pytest.mark.slow

TINY = str(REPOSITORY / "workflow/config/tiny.yaml")
TARGET = "evaluate_student_demo_on_demo_prid2011"
RUN = "results/runs/dubbernet_demo/demo-official/seed0/student"
SCORES = f"{RUN}/on/demo_prid2011-0/metrics.json"


@pytest.fixture(scope="module")
def across(tmp_path_factory):
    """Folder of a finished run of TARGET."""
    folder = tmp_path_factory.mktemp("across")
    done = snakemake(folder, "--configfile", TINY, "--", TARGET)
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


def test_scores_name_both_data_sets_and_can_be_followed_back(across):
    scored = json.loads((across / SCORES).read_text())
    assert [scored[name] for name in ("dataset", "split", "test_dataset", "test_split")] == ["demo", "official", "demo_prid2011", "0"]
    assert scored["modality"] == "frames only" and list(scored["protocols"]) == ["two_camera"]
    split = tables.read(across / "results/splits/demo_prid2011/0.parquet", tables.SPLIT).to_pylist()
    embedded = tables.read(across / RUN / "on/demo_prid2011-0/embeddings.parquet", tables.EMBEDDINGS).column("tracklet").to_pylist()
    assert sorted(embedded) == sorted(row["tracklet"] for row in split if row["role"] in ("query", "gallery", "junk"))
    places = {"demo": "MARS", "demo_prid2011": "PRID-2011", "demo_voices": "common_voice/en"}  # no report says so yet
    assert trace.check(Chain(across / SCORES, {name: str(across / "results/demo" / place) for name, place in places.items()})) == []


def test_the_other_data_set_needs_no_voices_and_a_second_run_does_nothing(across):
    assert sorted(path.name for path in (across / "results/shards").iterdir()) == ["demo-audio", "demo_prid2011-none"]
    assert sorted(path.name for path in (across / "results/features/demo_prid2011").iterdir()) == ["frames"]
    assert jobs(snakemake(across, "--dry-run", "--configfile", TINY, "--", TARGET).stdout) == {TARGET: 1}  # prints its table, makes nothing
    setting = "methods={dubbernet_demo: {stages: {student: {epochs: 2}}}}"  # negative control
    counted = jobs(snakemake(across, "--dry-run", "--configfile", TINY, "--config", setting, "--", TARGET).stdout)
    assert (counted["fit"], counted["embed_across"], counted["score_across"]) == (1, 1, 1) and "pack_shard" not in counted


def test_the_report_shows_them_beside_the_runs_own(across):
    """Every stage that only sees is tested there as well; the shards that are there already are taken."""
    stages = ["baseline", "student"]
    experiment = {"method": "dubbernet_demo", "dataset": "demo", "stages": [*stages, "teacher"], "test_on": ["demo_prid2011"]}
    settings = across / "settings.json"
    settings.write_text(json.dumps({"experiments": [experiment], "prepare": []}))
    words = ["--configfile", TINY, str(settings), "--", "results/report.html"]
    before = (across / SCORES).read_bytes()
    planned = jobs(snakemake(across, "--dry-run", *words).stdout)
    assert (planned["fit"], planned["embed"], planned["embed_across"], planned["score_across"]) == (1, 2, 1, 1)
    assert "pack_shard" not in planned
    done = snakemake(across, *words)
    assert done.returncode == 0, done.stdout[-6000:]
    assert (across / SCORES).read_bytes() == before
    runs = json.loads((across / "results/report/inputs.json").read_text())["runs"]
    scored = [(run["stage"], run["test_dataset"], run["test_split"], run["folder"], run["scored"]) for run in runs]
    folder = RUN.removesuffix("/student")
    assert scored == [
        row
        for stage in stages
        for row in (
            (stage, "demo", "official", f"{folder}/{stage}", True),
            (stage, "demo_prid2011", "0", f"{folder}/{stage}", True),  # the folder of the training; scores lie in on/demo_prid2011-0
        )
    ] + [("teacher", "demo", "official", f"{folder}/teacher", False)]
    with open(across / "results/report/scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["protocol"] for row in rows} > {"two_camera", "mars_torchreid"}
    assert "demo_prid2011" in (across / "results/report.html").read_text()
    assert trace.check(Chain(across / SCORES, {})) == []  # and now the report says where sources lie
