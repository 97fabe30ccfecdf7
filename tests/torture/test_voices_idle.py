"""Clips are taken out where nobody is at work: who is, what a dead run has left, and who comes while it goes on."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import pytest

from pipeline.base import locks, running
from shards import withdraw
from tests.pipeline.base.test_running import LIVE, STEP
from tests.torture import taken_out, voices_tree
from tests.torture.voices_tree import said

STORE = ("audio",)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Made once: most of these withdrawals change nothing, the others take out what is there already."""
    folder = voices_tree.build(tmp_path_factory.mktemp("idle"))
    voices_tree.make(folder, STORE)
    return folder


@pytest.fixture(autouse=True)
def records(tree):
    yield tree / ".snakemake/runs"
    with running.unlocking(tree / ".snakemake", print):  # nobody of the test lives any more
        pass
    for path in tree.glob(".snakemake/locks/*"):
        path.unlink()


@contextmanager
def process(code, *arguments, **environment):
    """A process at work, and the line that it printed."""
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code, *arguments], text=True, env={**os.environ, **environment}, **pipes) as started:
        try:
            yield started, started.stdout.readline().strip()
        finally:
            started.kill()


def a_run(tree):
    return process(LIVE, str(tree / ".snakemake"), "in", "out")


def kill(started):
    started.kill()
    started.wait()


def refused(tree, *expected):
    before = [voices_tree.hashes(tree / part) for part in ("voices", "results")]
    status, text = said(withdraw.main, *taken_out.command(tree, "clip_0_2"))
    assert status == 2 and text.count("\n") == 1 and "nothing was changed" in text, text
    assert all(re.search(part, text) for part in expected), text
    assert [voices_tree.hashes(tree / part) for part in ("voices", "results")] == before


def test_a_living_run_is_named(tree):
    with a_run(tree) as (run, _):
        (tree / ".snakemake/locks/0.input.lock").unlink()  # the end of any other run takes them away
        (tree / ".snakemake/locks/0.output.lock").unlink()
        refused(tree, f"process {run.pid} on .* is at work here; wait for it, or end it .kill {run.pid}.")


def test_a_step_of_a_killed_run_is_named(tree):
    with a_run(tree) as (run, record), process(STEP, **{running.RUN: record}) as (step, _):
        kill(run)
        refused(tree, f"process {step.pid} on .* is at work here")


def test_a_run_on_another_machine_may_live(tree):
    with a_run(tree) as (run, record):
        kill(run)
    path = tree / ".snakemake/runs" / record
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "node7", "boot": "another"}))
    refused(tree, f"process {run.pid} on node7", "make sure that it is gone, then run snakemake --unlock and this command again")


def test_what_a_dead_run_left_is_no_hindrance(tree):
    with a_run(tree) as (run, _):
        kill(run)
    assert len(list(tree.glob(".snakemake/locks/*.lock"))) == 2
    status, text = said(withdraw.main, *taken_out.command(tree, "clip_0_2"))
    assert status == 0, text
    assert len(list(tree.glob(".snakemake/locks/*.lock"))) == 2  # the next run says so and takes them away


def test_a_dry_run_looks_while_others_work(tree):
    with a_run(tree):
        assert said(withdraw.main, "--dry-run", *taken_out.command(tree, "clip_0_2"))[0] == 0


@pytest.mark.parametrize("held", [True, False])
def test_who_starts_meanwhile_waits(tree, monkeypatch, held):
    """Control: without the gate he would not."""
    seen, plain = [], withdraw.work

    def looking(place, gone):
        gate = locks.take(tree / ".snakemake/runs" / running.GATE)
        seen.append(gate is None)
        locks.release(gate)
        return plain(place, gone)

    monkeypatch.setattr(withdraw, "work", looking)
    if not held:
        monkeypatch.setattr(withdraw, "idle", lambda results: nullcontext())
    assert said(withdraw.main, *taken_out.command(tree, "clip_0_2"))[0] == 0
    assert seen == [held]
    gate = locks.take(tree / ".snakemake/runs" / running.GATE)
    assert gate is not None  # and not longer
    locks.release(gate)


def test_without_locks_snakemakes_own_must_do(tree, monkeypatch):
    def none(runs, say):
        raise locks.NoLocksError("No locks available")

    monkeypatch.setattr(running, "_gate", none)
    status, text = said(withdraw.main, *taken_out.command(tree, "clip_0_2"))
    assert status == 0 and "start no snakemake here before this command ends" in text
    (tree / ".snakemake/locks").mkdir(parents=True, exist_ok=True)
    (tree / ".snakemake/locks/0.input.lock").touch()
    refused(tree, "cannot be told on a file system without locks .No locks available.")
