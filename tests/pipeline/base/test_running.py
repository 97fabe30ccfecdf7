"""Runs and steps are known while they live: what a killed one leaves goes, what a living one holds stays."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.base import cli, locks, running
from pipeline.base.errors import UserError
from tests.conftest import REPOSITORY

LIVE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from pipeline.base import running
folder, inputs, outputs = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
with running.registered(folder, lambda text: None, "snakemake " + sys.argv[3], local="queue" not in sys.argv[4:]) as run:
    run.claim(inputs, outputs)
    for number in range(9):
        if not (folder / f"locks/{number}.output.lock").exists():
            break
    for kind, names in (("input", inputs), ("output", outputs)):  # as Snakemake does
        (folder / f"locks/{number}.{kind}.lock").write_text("".join(name + "\\n" for name in names))
    run.open()
    print(run.record, flush=True)
    sys.stdin.read()
"""
STEP = """
import sys
from pipeline.base import cli
def main():
    print("at work", flush=True)
    sys.stdin.read()
cli.run(main)
"""


@pytest.fixture
def start():
    """Start a process and wait until it is at work; returns it and what it printed."""
    started = []

    def begin(code, *arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def kill(process):
    process.kill()
    process.wait()


def locked(folder):
    return {path.name.split(".")[1]: path.read_text().split() for path in sorted((folder / "locks").glob("*.lock"))}


def run(folder, **options):
    """What a run says that begins now, and Snakemake's locks as it finds them."""
    said = []
    with running.registered(folder, said.append, "snakemake again", **options):
        return said, locked(folder)


def unlock(folder):
    with running.unlocking(folder, pytest.fail):
        for path in (folder / "locks").iterdir():
            path.unlink()


def claim(folder, inputs, outputs):
    with running.registered(folder, lambda _: None, "snakemake again") as this:
        this.claim(inputs, outputs)


def elsewhere(record):
    """Make a record that of a run on another machine."""
    record.write_text(json.dumps({**json.loads(record.read_text()), "host": "node7", "boot": "another"}))


def test_a_living_run_is_named_and_keeps_its_lock(tmp_path, start):
    process, _ = start(LIVE, str(tmp_path), "in", "out")
    said, there = run(tmp_path)
    assert there == {"input": ["in"], "output": ["out"]} and len(said) == 1
    assert f"process {process.pid} on " in said[0] and "(snakemake out), is at work here, too" in said[0]
    assert f"kill {process.pid}; do not use --unlock while it lives" in said[0]
    with pytest.raises(UserError, match=f"--unlock: not done, process {process.pid} "):
        unlock(tmp_path)


def test_the_lock_of_a_killed_run_goes_and_it_is_said_once(tmp_path, start):
    process, _ = start(LIVE, str(tmp_path), "in", "out")
    kill(process)
    said, there = run(tmp_path)
    assert there == {} and len(said) == 1
    assert f"process {process.pid} on " in said[0] and "ended without cleaning up" in said[0] and "since 20" in said[0]
    assert run(tmp_path) == ([], {})
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [running.GATE]


def test_a_run_that_ends_well_leaves_nothing(tmp_path, start):
    process, _ = start(LIVE, str(tmp_path), "in", "out")
    process.communicate()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [running.GATE]


def test_of_a_dead_and_a_living_run_only_the_dead_one_loses_its_lock(tmp_path, start):
    dead, _ = start(LIVE, str(tmp_path), "in", "dead")
    living, _ = start(LIVE, str(tmp_path), "in", "living")
    kill(dead)
    said, there = run(tmp_path)
    assert there["output"] == ["living"] and there["input"] == ["in"]
    assert [f"process {process.pid} " in text for process, text in zip((dead, living), said, strict=True)] == [True, True]


def test_a_lock_that_the_end_of_another_run_has_deleted_comes_back(tmp_path, start):
    start(LIVE, str(tmp_path), "in", "out")
    for path in (tmp_path / "locks").iterdir():  # as Snakemake does when any run ends
        path.unlink()
    assert run(tmp_path)[1] == {"input": ["in"], "output": ["out"]}


def test_a_lock_that_no_known_run_has_left_is_left_alone(tmp_path):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.output.lock").write_text("out\n")
    said, there = run(tmp_path)
    assert there == {"output": ["out"]} and "a lock that no known run has left" in said[0] and "--unlock once" in said[0]


def test_a_run_killed_between_its_lock_and_its_word_of_it(tmp_path, start):
    process, record = start(LIVE, str(tmp_path), "in", "out")
    kill(process)
    for kind in running.KINDS:
        Path(record).with_suffix(f".{kind}").unlink()
    assert run(tmp_path)[1] == {}


def test_on_another_machine_a_lock_that_is_not_held_proves_nothing(tmp_path, start):
    process, record = start(LIVE, str(tmp_path), "in", "out")
    kill(process)
    elsewhere(Path(record))
    said, there = run(tmp_path)
    assert there == {"input": ["in"], "output": ["out"]} and len(said) == 1
    assert f"process {process.pid} on node7" in said[0] and "make sure that it is gone, then run snakemake --unlock" in said[0]
    unlock(tmp_path)
    assert run(tmp_path) == ([], {})


def test_the_jobs_of_a_killed_cluster_run_may_be_in_the_queue(tmp_path, start):
    process, _ = start(LIVE, str(tmp_path), "in", "out", "queue")
    kill(process)
    for path in (tmp_path / "locks").iterdir():  # the end of another run
        path.unlink()
    for _ in range(2):
        said, there = run(tmp_path)
        assert there == {"input": ["in"], "output": ["out"]} and len(said) == 1
        assert (
            f"process {process.pid} on " in said[0] and "jobs may still be in the queue; look with squeue, end them with scancel" in said[0]
        )
    with pytest.raises(UserError, match=r"out: cannot be locked; .*scancel, then run snakemake --unlock and this command again"):
        claim(tmp_path, [], ["out"])
    unlock(tmp_path)
    assert run(tmp_path) == ([], {})
    claim(tmp_path, [], ["out"])


def test_a_cluster_run_that_ends_well_leaves_nothing(tmp_path, start):
    process, _ = start(LIVE, str(tmp_path), "in", "out", "queue")
    process.communicate()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [running.GATE]


@pytest.mark.parametrize(("inputs", "outputs", "free"), [("", "out", False), ("out", "x", False), ("", "in", False), ("in", "x", True)])
def test_the_files_of_a_living_run_are_refused_whatever_became_of_its_lock(tmp_path, start, inputs, outputs, free):
    """B ends while C reads the rules: Snakemake deletes the locks of all, also that of A."""
    first, _ = start(LIVE, str(tmp_path), "in", "out")
    other, _ = start(LIVE, str(tmp_path), "in", "other")
    with running.registered(tmp_path, lambda _: None, "snakemake again") as third:
        assert len(list((tmp_path / "locks").glob("*.output.lock"))) == 2
        shutil.rmtree(tmp_path / "locks")
        other.communicate()
        if free:
            third.claim(inputs.split(), outputs.split())
            assert third.record.with_suffix(".output").read_text() == "x\n"
            assert (tmp_path / "locks").is_dir()
        else:
            with pytest.raises(UserError, match=f"cannot be locked, since process {first.pid} on .*wait for it.*kill {first.pid}"):
                third.claim(inputs.split(), outputs.split())
    assert first.poll() is None


def test_the_step_of_a_run_killed_meanwhile_keeps_its_files(tmp_path, start):
    process, record = start(LIVE, str(tmp_path), "in", "out")
    start(STEP, **{running.RUN: record})
    with running.registered(tmp_path, lambda _: None, "snakemake again") as other:
        kill(process)
        with pytest.raises(UserError, match="out: cannot be locked"):
            other.claim(["out"], ["x"])


def test_nobody_starts_while_locks_are_taken_away(tmp_path, start):
    """Else the new run would lose its lock and its record."""
    start(LIVE, str(tmp_path), "in", "out")[0].communicate()
    with running.unlocking(tmp_path, pytest.fail), open(tmp_path / "runs" / running.GATE) as gate, pytest.raises(BlockingIOError):
        fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / "runs" / running.GATE) as gate:
        fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_unlock_forgets_no_record_that_is_held(tmp_path):
    with running.unlocking(tmp_path, pytest.fail):
        record, held = running._record(tmp_path / "runs", "7-x", running.ALIVE, running._this("snakemake"))
        left, lock = running._record(tmp_path / "runs", "8-x", running.ALIVE, running._this("snakemake"))
        os.close(lock)
    assert record.exists() and not left.exists()
    os.close(held)


def test_the_next_run_waits_for_the_step_of_a_killed_one(tmp_path, start):
    process, record = start(LIVE, str(tmp_path), "in", "out")
    step, word = start(STEP, **{running.RUN: record})
    assert word == "at work"
    kill(process)
    seen, told = [], threading.Event()

    def say(text):
        seen.append(text)
        told.set()

    def begin():
        with running.registered(tmp_path, say, "snakemake again"):
            seen.append("begun")

    waiting = threading.Thread(target=begin)
    waiting.start()
    assert told.wait(60) and f"a step of it goes on: process {step.pid} " in seen[0] and f"kill {step.pid}" in seen[0]
    waiting.join(0.3)
    assert waiting.is_alive() and "begun" not in seen
    with pytest.raises(UserError, match=f"process {step.pid} "):
        unlock(tmp_path)
    step.communicate()
    waiting.join(60)
    assert seen[-1] == "begun" and "ended without cleaning up" in seen[1]


@pytest.mark.parametrize("cleared", [False, True])
def test_a_step_that_starts_when_its_run_is_dead_does_nothing(tmp_path, start, cleared):
    process, record = start(LIVE, str(tmp_path), "in", "out")
    kill(process)
    if cleared:
        run(tmp_path)
    step, word = start(STEP, **{running.RUN: record})
    _, error = step.communicate()
    assert (word, step.returncode) == ("", cli.USER_ERROR)
    assert error.startswith("error: the snakemake that started this step has ended") and "Traceback" not in error
    assert not list((tmp_path / "runs").glob(f"*{running.STEP}"))


def test_a_step_on_another_machine_of_its_run_works(tmp_path, start):
    """srun hands the variable to other nodes, where the lock of a living run may not be seen; but a record that has gone tells."""
    process, record = start(LIVE, str(tmp_path), "in", "out")
    kill(process)
    elsewhere(Path(record))
    step, word = start(STEP, **{running.RUN: record})
    assert word == "at work"
    step.communicate()
    assert step.returncode == 0
    Path(record).unlink()
    assert start(STEP, **{running.RUN: record})[1] == ""


def test_a_step_without_a_run_just_works(start, monkeypatch):
    monkeypatch.delenv(running.RUN, raising=False)
    assert start(STEP)[1] == "at work"


def test_control_a_run_that_does_not_hold_its_lock_is_taken_for_dead(tmp_path, start):
    start(LIVE.replace("    print(", "    import os; os.closerange(3, 64)\n    print("), str(tmp_path), "in", "out")
    said, there = run(tmp_path)
    assert "ended without cleaning up" in said[0] and there == {}


def test_a_record_that_is_none(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/1-x.run").write_text("{")
    with pytest.raises(UserError, match=r"1-x.run: not the record of a run"):
        run(tmp_path)


def test_nothing_of_snakemakes_in_the_temporary_folder_is_touched(tmp_path):
    """A checkout in a folder called snakemake..., say."""
    (tmp_path / "tmp/snakemake-tutorial/dubtrack").mkdir(parents=True)
    (tmp_path / "tmp/snakemake-tutorial/dubtrack/README.md").touch()
    (tmp_path / "tmp/snakemakedead").mkdir()
    (tmp_path / "tmp/snakemakedead/dubtrack").touch()
    before = sorted((tmp_path / "tmp").rglob("*"))
    (tmp_path / "Snakefile").write_text(
        "from pipeline.base.running import watch\nwatch(workflow, print)\nrule one:\n    output: 'one'\n    shell: 'touch {output}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(tmp_path / "Snakefile"), "--directory", str(tmp_path), "--cores", "1"],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and (tmp_path / "one").exists(), done.stderr
    assert sorted((tmp_path / "tmp").rglob("*")) == before


@pytest.mark.parametrize("local", [True, False])
def test_the_record_says_whether_jobs_may_outlive_the_run(tmp_path, monkeypatch, local):
    """A run's own jobs are told of it only where they run beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(running.RUN, "")  # so that what is set here is gone afterwards
    monkeypatch.delenv(running.RUN)
    seen = []

    def execute(*, executor_plugin):
        seen.extend(json.loads(path.read_text())["local"] for path in Path(".snakemake/runs").glob("*.run"))
        seen.append(running.RUN in os.environ)
        workflow._build_dag()
        with workflow.persistence.lock():
            seen.append((tmp_path / ".snakemake/runs").joinpath(running.GATE).exists())

    persistence = SimpleNamespace(lock=contextlib.nullcontext, all_inputfiles=lambda: ["in"], all_outputfiles=lambda: ["out"])
    workflow = SimpleNamespace(
        execute=execute,
        _build_dag=lambda: None,
        unlock=None,
        is_main_process=True,
        persistence=persistence,
        execution_settings=SimpleNamespace(lock=True),
    )
    running.watch(workflow, pytest.fail)
    workflow.execute(executor_plugin=SimpleNamespace(common_settings=SimpleNamespace(dryrun_exec=False, local_exec=local)))
    assert seen == [local, local, True]


def test_the_record_of_a_step_that_was_killed_after_its_run_was_forgotten_goes_with_the_next(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "1-aaaa-2.step").write_text("{}")
    (runs / "1-bbbb-3.step").write_text("{}")
    held = locks.take(runs / "1-bbbb-3.step")  # this one lives
    with running.registered(tmp_path, print, "snakemake") as run:
        (runs / f"{run.record.stem}-4.step").write_text("{}")  # of a run that is known
    assert [path.name for path in runs.glob("*.step")] == ["1-bbbb-3.step"]
    locks.release(held)
