"""What runs again after a change, and what does not (slow: whole workflow runs on the tiny configuration)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pipeline.base.files import read_json
from tests.conftest import REPOSITORY
from tests.workflow.conftest import jobs, snakemake

pytestmark = pytest.mark.slow
TINY = str(REPOSITORY / "workflow/config/tiny.yaml")
TRAINING = {"resolve_config", "fit", "embed", "score", "embed_across", "score_across", "report"}


def planned(folder, *setting):
    done = snakemake(folder, "--dry-run", "--configfile", TINY, *(["--config", *setting] if setting else []), "--", "all")
    assert done.returncode == 0, done.stdout[-3000:]
    return {name for name in jobs(done.stdout) if name not in ("all", "report_inputs")}


def test_a_second_run_does_nothing(tiny_run):
    folder, _ = tiny_run
    assert planned(folder) == set()
    again = snakemake(folder, "--configfile", TINY, "--", "all")
    assert "Nothing to be done" in again.stdout


def test_a_learning_rate_reruns_training_and_what_follows(tiny_run):
    assert planned(tiny_run[0], "methods={dubbernet_demo: {optim: {lr: 0.001}}}") == TRAINING


def test_a_mel_setting_reruns_audio_and_not_frames(tiny_run):
    rerun = planned(tiny_run[0], "companions={audio: {audio: {bands: 64}}}")
    assert {"encode_companion", "pack_shard", "index_shards", "fit"} <= rerun
    assert not {"make_demo", "read_tracklets", "encode_frames", "plan_shards"} & rerun


def test_a_frame_setting_reruns_frames_and_not_audio(tiny_run):
    rerun = planned(tiny_run[0], "datasets={demo: {frames: {quality: 90}}}")
    assert {"encode_frames", "pack_shard", "fit"} <= rerun
    assert not {"make_demo", "read_tracklets", "encode_companion", "align_companion"} & rerun


def test_scores_are_printed_with_what_they_are_numbers_of_and_the_report_says_the_same(tiny_run):
    done = snakemake(tiny_run[0], "--configfile", TINY, "--", "evaluate_student_demo")
    assert done.returncode == 0 and jobs(done.stdout) == {"evaluate_student_demo": 1}
    report = (tiny_run[0] / "results/report.md").read_text().replace("\\", "")
    for protocol, ap in (("mars_torchreid", "AP at hits"), ("mars_official", "trapezoid AP"), ("mars_merged", "AP at hits")):
        block = done.stdout.partition(f"\ndemo · {protocol}\n")[2].partition("\n\n")[0]
        assert re.match(rf"  gallery \d+ · \d/8 queries valid · {ap} · mean over (valid|all) queries\n", block)
        assert "  single split (official), single seed (0) · features: 16 values, as they are, squared euclidean\n" in block
        assert "bootstrap interval over queries, 2,000 draws, seed 0" in block
        for stage in ("untrained", "baseline", "student"):
            numbers = re.search(rf"dubbernet_demo · {stage} +frames only +(.*)", block)[1]
            (row,) = [line for line in report.splitlines() if f"· {stage} | frames only | {protocol} |" in line]
            assert all(f"| {cell} |" in row for cell in re.split(r"  +", numbers.strip()))


def test_the_report_is_there_and_says_what_it_must(tiny_run):
    page = (tiny_run[0] / "results/report.html").read_text()
    for word in ("mars_torchreid", "mars_official", "student", "untrained", "valid"):
        assert word in page, word
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page and "<link" not in page


STAGES = ("baseline", "student", "teacher", "untrained")
ELSEWHERE = (
    "methods={dubbernet_demo: {machine: {workers: 1, ranks: 1, checkpoint_steps: 7, tensorboard: 'off'},"
    " stages: {student: {changes: {machine: {recompute: true}}}}}}"
)


@pytest.fixture
def finished(tiny_run, tmp_path):
    """A copy of a finished run, with its times."""
    return Path(shutil.copytree(tiny_run[0], tmp_path / "copy", symlinks=True))


def test_where_and_how_fast_a_training_runs_never_trains_again(finished):
    """Not in the run that learns of it, nor in a later one; only the report, which shows all settings, is made again."""
    made = {path: path.stat().st_mtime_ns for path in sorted(finished.glob("results/runs/**/*.*"))}
    assert len([path for path in made if path.name == "model.safetensors"]) == len(STAGES)
    assert planned(finished, ELSEWHERE) == {"report"}
    done = snakemake(finished, "--configfile", TINY, "--config", ELSEWHERE, "--", "all")
    assert done.returncode == 0, done.stdout[-3000:]
    again = snakemake(finished, "--dry-run", "--configfile", TINY, "--config", ELSEWHERE, "--", "all")
    assert "Nothing to be done" in again.stdout
    assert planned(finished, ELSEWHERE.replace("workers: 1", "workers: 2")) == {"report"}
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert planned(finished, ELSEWHERE.replace("machine:", "optim: {lr: 0.001}, machine:", 1)) == TRAINING  # what does decide


def test_a_training_that_runs_gets_the_settings_of_its_machine(finished):
    """Its own, `changes` included; config.json does not hold them, so equal trainings have equal files."""
    folder = finished / "results/runs/dubbernet_demo/demo-official/seed0"

    def read(name):
        return {stage: read_json(folder / stage / name) for stage in ("teacher", "student")}

    before = read("config.json")
    assert [one["workers"] for one in read("machine.json").values()] == [0, 0]
    target = str((folder / "student/model.safetensors").relative_to(finished))
    done = snakemake(finished, "--configfile", TINY, "--config", ELSEWHERE, "--forcerun", "fit", "--", target)
    assert done.returncode == 0 and jobs(done.stdout)["fit"] == 2, done.stdout[-3000:]
    said = read("machine.json")
    assert all(one["workers"] == 1 and one["checkpoint_steps"] == 7 and one["tensorboard"] == "off" for one in said.values())
    assert {stage: one["recompute"] for stage, one in said.items()} == {"teacher": False, "student": True}
    assert read("config.json") == before
