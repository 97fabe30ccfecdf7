"""Real MARS persons and real Common Voice speakers through the same Snakefile (slow; real data are outside the repository)."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from pipeline.base.tables import ALIGNMENT, INDEX, TRACKLETS, read, read_meta
from shards.read import Store
from tests.conftest import REPOSITORY
from tests.workflow.conftest import snakemake

pytestmark = [pytest.mark.slow, pytest.mark.real_data]
REAL = str(REPOSITORY / "tests/real_mini.yaml")


def roots(real_data) -> str:
    return f"roots={{mars: {real_data}/real_mini/mars, common_voice: {real_data}/common_voice_mini/en}}"


def clips_per_person(folder) -> dict[str, set[str]]:
    heard: dict[str, set[str]] = {}
    for row in read(folder / "results/alignment/mars-audio.parquet", ALIGNMENT).to_pylist():
        heard.setdefault(row["tracklet"][:4], set()).add(row["item"])
    return heard


def test_from_raw_folders_to_a_trained_student(tmp_path, real_data):
    done = snakemake(tmp_path, "--configfile", REAL, "--config", roots(real_data), "--", "all")
    assert done.returncode == 0, done.stdout[-6000:]

    tracklets = read(tmp_path / "results/tracklets/mars.parquet", TRACKLETS).to_pylist()
    assert len(tracklets) == 17 and sum(len(row["frames"]) for row in tracklets) == 339

    store = Store(tmp_path / "results/shards/mars-audio/index.parquet")
    packed = 0
    for row in tracklets:
        for path, stored in zip(row["frames"], store.frames(row["tracklet"], range(len(row["frames"]))), strict=True):
            assert bytes(stored) == (real_data / "real_mini/mars" / path).read_bytes()
            packed += 1
    assert packed == 339

    # 259, 50 and 30 frames; runs of 6 over the whole identity; the only fit gives the speakers with 47, 9 and 6 clips
    assert {person: len(items) for person, items in clips_per_person(tmp_path).items()} == {"0001": 44, "0003": 9, "0007": 5}
    assert (tmp_path / "results/runs/dubbernet_demo/mars-official/seed0/student/model.safetensors").stat().st_size > 0
    assert (tmp_path / "results/report.html").stat().st_size > 0
    assert read(tmp_path / "results/shards/mars-audio/index.parquet", INDEX).num_rows == 17

    # nothing may carry a speaker's id as shipped
    client_ids = {line.split("\t")[0] for line in (real_data / "common_voice_mini/en/train.tsv").read_text().splitlines()[1:]}
    for path in (tmp_path / "results").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(client.encode() in content for client in client_ids), path
    for path in (tmp_path / "results").rglob("*.parquet"):
        assert not any(set(map(str, c.to_pylist())) & client_ids for c in pq.read_table(path).columns), path


def test_runs_within_tracklets_need_more_than_these_speakers_have(tmp_path, real_data):
    tracklet_wise = "companions={audio: {alignment: {group_scope: tracklet}}}"
    done = snakemake(tmp_path, "--configfile", REAL, "--config", roots(real_data), tracklet_wise, "--", "allocate_audio_mars")
    assert done.returncode != 0
    sentence = next(line for line in done.stdout.splitlines() if line.startswith("error:"))
    assert "1 of 3 identities" in sentence and "0001 needs 48, best has 47" in sentence and "reuse: true" in sentence
    assert "Traceback" not in done.stdout


def test_reuse_serves_them_and_says_so(tmp_path, real_data):
    reused = "companions={audio: {alignment: {group_scope: tracklet, reuse: true}}}"
    done = snakemake(tmp_path, "--configfile", REAL, "--config", roots(real_data), reused, "--", "allocate_audio_mars")
    assert done.returncode == 0, done.stdout[-4000:]
    rows = read(tmp_path / "results/alignment/mars-audio.parquet", ALIGNMENT).to_pylist()
    assert sum(row["tracklet"].startswith("0001") for row in rows) == 48
    assert len(clips_per_person(tmp_path)["0001"]) == 47
    assert read_meta(tmp_path / "results/alignment/mars-audio.parquet")["policy"] == "id_speaker"
