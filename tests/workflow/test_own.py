"""Own tracklets through the same Snakefile, without sound and with sound of their own (slow)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from pipeline.base.tables import read_meta
from tests.workflow.conftest import jobs, snakemake

pytestmark = pytest.mark.slow

TINY = """
datasets: {{own: {{shards: 1, frames: {{height: 32, width: 16}}}}}}
roots: {{own: {root}}}
methods:
  visual: &tiny
    model: {{width: 16, depth: 2, heads: 2, patch: 8, stride: 8, fusion_after_blocks: [0], audio_tokens: 2, audio_frames: 50}}
    clip: {{frames: 2}}
    sampler: {{identities: 2, tracklets: 2}}
    augment: {{pad: 2}}
    machine: {{workers: 0}}
    threads: 1
    stages: {{student: {{epochs: 1}}}}
  dubbernet_own:
    <<: *tiny
    stages: {{teacher: {{epochs: 1}}, student: {{epochs: 1}}}}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Four persons, two cameras, a tracklet of four PNGs and one WAV in each; two persons train. The path has a space."""
    root = tmp_path_factory.mktemp("own") / "my tracklets"
    rows = ["split,role,identity,camera,tracklet,frame,audio"]
    draw = np.random.default_rng(0)
    for person in range(4):
        for camera in ("door", "hall"):
            role = "train" if person < 2 else {"door": "query", "hall": "gallery"}[camera]
            name = f"p{person}_{camera}"
            (root / name).mkdir(parents=True)
            sound = 0.2 * np.sin(np.arange(16000) * (0.05 + 0.02 * person)) + 0.01 * draw.standard_normal(16000)
            soundfile.write(root / f"{name}.wav", sound, 16000)
            for frame in range(4):
                picture = np.clip(draw.normal(60 * person + 30, 20, (64, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(root / name / f"{frame}.png")
                sound_file = "" if name == "p3_hall" else f"{name}.wav"  # one gallery tracklet is silent
                rows.append(f"main,{role},person {person},{camera},{name},{name}/{frame}.png,{sound_file}")
    (root / "tracklets.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def settings(own, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "own.yaml"
    file.write_text(TINY.format(root=json.dumps(str(own))))
    return str(file)


def test_frames_alone_and_an_edited_table_is_read_again(own, settings, tmp_path):
    done = snakemake(tmp_path, "--configfile", settings, "--", "evaluate_visual_own")
    assert done.returncode == 0, done.stdout[-4000:]
    metrics = json.loads((tmp_path / "results/runs/visual/own-main/seed0/student/metrics.json").read_text())
    assert metrics["protocols"]["market"]["valid"] == 2 and metrics["protocols"]["market"]["gallery"] == 2
    assert metrics["modality"] == "frames only" and not metrics["oracle"]
    assert read_meta(tmp_path / "results/shards/own-none/index.parquet")["companion"] is None
    assert not (tmp_path / "results/items").exists()

    table = own / "tracklets.csv"
    before = table.read_text()
    repeated = snakemake(tmp_path, "--configfile", settings, "--", "evaluate_visual_own").stdout
    assert jobs(repeated) == {"evaluate_visual_own": 1} and "own · market" in repeated  # nothing is made, the scores are printed
    try:
        table.write_text(before.replace("main,gallery,person 3", "main,unused,person 3"))
        again = jobs(snakemake(tmp_path, "--dry-run", "--configfile", settings, "--", "evaluate_visual_own").stdout)
    finally:
        table.write_text(before)
    assert {"read_tracklets", "read_split"} <= set(again)


def test_with_sound_of_their_own_the_teacher_too_is_scored_and_is_no_oracle(settings, tmp_path):
    done = snakemake(tmp_path, "--configfile", settings, "--", "evaluate_student_own")
    assert done.returncode == 0, done.stdout[-4000:]
    stages = {
        stage: json.loads((tmp_path / f"results/runs/dubbernet_own/own-main/seed0/{stage}/metrics.json").read_text())
        for stage in ("teacher", "student")
    }
    assert (stages["teacher"]["modality"], stages["student"]["modality"]) == ("frames + recorded sound", "frames only")
    assert not stages["teacher"]["oracle"]
    assert stages["teacher"]["heard"] == {"tracklets": 4, "with_sound": 3} and stages["student"]["heard"] is None
    assert read_meta(tmp_path / "results/alignment/own-own_audio.parquet")["label_derived"] is False
