"""What runs again after a change, and what does not (slow: whole workflow runs on the tiny configuration)."""

from __future__ import annotations

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.conftest import jobs, snakemake

pytestmark = pytest.mark.slow
TINY = str(REPOSITORY / "workflow/config/tiny.yaml")
TRAINING = {"resolve_config", "fit", "embed", "score", "report"}


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


def test_the_report_is_there_and_says_what_it_must(tiny_run):
    page = (tiny_run[0] / "results/report.html").read_text()
    for word in ("mars_torchreid", "mars_official", "student", "untrained", "valid"):
        assert word in page, word
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page and "<link" not in page
