"""Two runs in one folder, a killed run, and commands that only look: with the real Snakefile."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from pipeline.base.running import GATE
from tests.torture import killing
from tests.workflow.conftest import snakemake

TARGET = "results/demo/demo.json"


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(json.dumps(killing.SETTINGS))
    return path


@pytest.fixture
def stopped(tmp_path, settings):
    """A run at work, stopped: its place and its process."""
    place = tmp_path / "place"
    killing.begin(place, None)
    first = killing.start(place, settings, TARGET)
    limit = time.monotonic() + 300
    while not list((place / "run/.snakemake").glob("runs/*.step")) and time.monotonic() < limit:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGSTOP)
    assert held(place)
    yield place, first
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()


def held(place):
    return sorted(path.name for path in (place / "run/.snakemake").glob("locks/*"))


def test_a_second_run_says_so_and_the_lock_of_a_killed_one_goes_by_itself(stopped, settings):
    place, first = stopped
    locks = held(place)
    second = snakemake(place / "run", "--configfile", str(settings), "--", TARGET, cores=1)
    assert second.returncode and f"process {first.pid} on" in second.stdout and "cannot be locked, since" in second.stdout
    assert held(place) == locks
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    third = snakemake(place / "run", "--configfile", str(settings), "--", TARGET, cores=1)
    assert third.returncode == 0, third.stdout[-3000:]
    assert third.stdout.count(f"process {first.pid} on") == 1 and "ended without cleaning up" in third.stdout
    assert [path.name for path in (place / "run" / "results").iterdir()] == ["demo"]


@pytest.mark.slow  # fast: tests/pipeline/base/test_running.py
def test_unlock_is_refused_while_a_run_lives_and_done_when_it_is_dead(stopped, settings):
    place, first = stopped
    locks = held(place)
    unlock = snakemake(place / "run", "--configfile", str(settings), "--unlock", "--", TARGET, cores=1)
    assert unlock.returncode and f"--unlock: not done, process {first.pid} on" in unlock.stdout
    assert held(place) == locks
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    unlock = snakemake(place / "run", "--configfile", str(settings), "--unlock", "--", TARGET, cores=1)
    assert unlock.returncode == 0 and not held(place), unlock.stdout[-3000:]
    assert [path.name for path in (place / "run/.snakemake/runs").iterdir()] == [GATE]


@pytest.mark.slow
def test_runs_that_make_other_files_go_side_by_side_and_keep_their_locks(tmp_path, settings):
    """The end of any run deletes the locks of all (Snakemake); the next run puts those of the living back."""
    place = tmp_path / "place"
    killing.begin(place, None)
    assert killing.start(place, settings, TARGET).wait(300) == 0, killing.said(place)
    state = place / "run" / ".snakemake"
    first = killing.start(place, settings, "results/tracklets/demo.parquet")
    limit = time.monotonic() + 300
    while not list(state.glob("runs/*.step")) and time.monotonic() < limit:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGSTOP)
    other = snakemake(place / "run", "--configfile", str(settings), "--", "results/items/demo_voices.parquet", cores=1)
    assert other.returncode == 0 and f"process {first.pid} on" in other.stdout, other.stdout[-3000:]
    assert not list(state.glob("locks/*"))  # else this test shows nothing
    same = snakemake(place / "run", "--configfile", str(settings), "--", "results/tracklets/demo.parquet", cores=1)
    assert same.returncode and f"process {first.pid} on" in same.stdout and "cannot be locked, since" in same.stdout
    os.killpg(first.pid, signal.SIGCONT)
    assert first.wait(300) == 0


@pytest.mark.parametrize("looking", [["--dry-run"], *(pytest.param([name], marks=pytest.mark.slow) for name in ("--list", "--summary"))])
def test_commands_that_only_look_register_nothing(tmp_path, settings, looking):
    done = snakemake(tmp_path, "--configfile", str(settings), *looking, *(["--", TARGET] if looking != ["--list"] else []), cores=1)
    assert done.returncode == 0, done.stdout[-3000:]
    assert not (tmp_path / ".snakemake" / "runs").exists()
