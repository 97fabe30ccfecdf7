"""The step: same bytes on every run, the folder replaced as a whole, and nobody's own files lost."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.base.errors import UserError
from pipeline.demo import make_demo
from pipeline.demo.make_demo import MARK, digest, main, make


def test_same_settings_same_bytes_with_two_processes_and_over_an_older_demo(made, tiny, tmp_path):
    out = tmp_path / "again"
    make(out, replace(tiny, seed=8))
    stray = out / "MARS/bbox_train/9999"
    stray.mkdir()
    (stray / "9999C1T0001F001.jpg").write_bytes(b"left over")
    note = make(out, tiny, threads=2)
    assert note == made[1]
    assert digest(out) == note["digest"] and not stray.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_another_seed_gives_other_bytes_and_a_changed_file_another_digest(tiny, made, tmp_path):
    note = make(tmp_path / "other", replace(tiny, seed=8))
    assert note["digest"] != made[1]["digest"]
    victim = min((tmp_path / "other").rglob("*.jpg"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert digest(tmp_path / "other") != note["digest"]


def test_note_is_written_and_true(made):
    folder, note = made
    assert json.loads((folder / "demo.json").read_text()) == note
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert note["files"] == len(files) - 2  # all but demo.json and the mark
    assert note["counts"]["mars"]["frames"] == len(list((folder / "MARS").rglob("*.jpg")))
    assert note["counts"]["common_voice"]["files"] == len(list((folder / "common_voice").rglob("*.mp3")))


def test_a_folder_of_somebody_else_is_refused(tmp_path, tiny):
    (tmp_path / "MARS").mkdir()
    (tmp_path / "MARS/precious.jpg").write_bytes(b"real data")
    with pytest.raises(UserError, match="did not make"):
        make(tmp_path, tiny)
    assert (tmp_path / "MARS/precious.jpg").read_bytes() == b"real data"


def test_a_failure_leaves_the_older_demo_and_no_litter(tmp_path, tiny, monkeypatch):
    out = tmp_path / "demo"
    out.mkdir()
    (out / MARK).touch()
    (out / "old").touch()

    def fail(job):
        raise RuntimeError("disk full")

    monkeypatch.setattr(make_demo, "_do", fail)
    with pytest.raises(RuntimeError):
        make(out, tiny)
    assert (out / "old").exists() and [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_unknown_setting_is_named(tmp_path):
    with pytest.raises(UserError, match="speekers"):
        main([str(tmp_path / "x"), "--config", '{"speekers": 3}'])
