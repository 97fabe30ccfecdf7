"""The step: same bytes on every run, the folder replaced as a whole, and nobody's own files lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base import locks
from pipeline.base.errors import UserError
from pipeline.demo import make_demo
from pipeline.demo.make_demo import MARK, digest, main, make
from tests.torture.killing import members


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


def test_what_killed_makers_left_goes_and_what_a_living_one_fills_stays(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(make_demo, "_do", lambda job: None)
    for name in (".demo.x.part", ".demo.x.old", ".demonstration.part"):
        (tmp_path / name / "demo").mkdir(parents=True)
        (tmp_path / name / locks.HELD).touch()
    living, lock = locks.folder(tmp_path, ".demo.", make_demo.PART)
    (tmp_path / ".demo.x.part").mkdir()
    (tmp_path / ".demo.x.part" / locks.HELD).touch()
    make(tmp_path / "demo", tiny)
    assert {p.name for p in tmp_path.iterdir()} == {"demo", living.name, ".demonstration.part"}
    locks.release(lock)


POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from pipeline.demo import make_demo
pool = ProcessPoolExecutor(3, initializer={initializer})
list(pool.map(abs, range(9)))
print(len(multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="living processes of a session are looked up in /proc")
@pytest.mark.parametrize(("initializer", "left"), [("make_demo._end_with_parent", 0), ("None", 3)])  # the second is the negative control
def test_workers_end_with_their_parent(initializer, left):
    parent = subprocess.Popen(
        [sys.executable, "-c", POOL.format(initializer=initializer)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert parent.stdout.readline() == "3\n"
        parent.kill()
        parent.wait()
        limit = time.monotonic() + 30
        while left == 0 and members(parent.pid) and time.monotonic() < limit:
            time.sleep(0.02)
        assert len(members(parent.pid)) == left
    finally:
        for process in members(parent.pid):
            os.kill(process, signal.SIGKILL)
        parent.stdout.close()


def test_unknown_setting_is_named(tmp_path):
    with pytest.raises(UserError, match="speekers"):
        main([str(tmp_path / "x"), "--config", '{"speekers": 3}'])
