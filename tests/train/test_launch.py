"""Where a training is started: in this process, as ranks of one node, as one task per node; and what is said when it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.base import running
from pipeline.base.build import plain
from pipeline.base.config import MachineConfig
from pipeline.base.errors import TrainError
from pipeline.base.files import write_json
from tests.conftest import REPOSITORY
from tests.train.tiny import pack, run_config
from train import fit, launch

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
out, what, *rest = sys.argv[1:]
rank = int(os.environ["RANK"])
def note(name, value):
    Path(out, f"{name}{rank}").write_text(json.dumps(value))
def stop(*_):
    time.sleep(1)  # saving takes a while
    note("saved", True)
    os._exit(143)
signal.signal(signal.SIGTERM, stop)
note("rank", [rest, os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"]])
if what == "fail" and rank == 1:
    sys.exit(3)
if what in ("fail", "wait"):
    time.sleep(60)
if what in ("sentence", "vanish", "bug"):
    import torch
    from pipeline.base.errors import ShardError
    from train import fit, launch
    from train.device import process_group
    def training(_):
        with process_group(torch.device("cpu")):
            for step in range(8):
                if step == 5 and rank == 1:
                    if what == "sentence":
                        raise ShardError("0.tar: a broken JPEG; pack it again")
                    if what == "vanish":
                        os._exit(0)
                torch.distributed.all_reduce(torch.zeros(2 if what == "bug" and step == 5 else 1, 1000))
                if what == "bug" and step == 5:
                    raise RuntimeError("a bug")
    fit.main = training
    launch.run_rank(rest)
"""
"""A training without its costs: says what it was given, waits, is told to stop, fails, loses its partner in the sixth step."""


def started(folder: Path, what: str, machine: MachineConfig, *more: str, **environment: str) -> subprocess.Popen[str]:
    """Ranks of the stand-in, from a process of their own."""
    (folder / "stand_in.py").write_text(STAND_IN)
    code = (
        "import sys; from pipeline.base import cli; from pipeline.base.config import MachineConfig; from train import launch;"
        f"cli.run(lambda: sys.exit(launch.run_ranks({machine!r}, {[str(folder), what, *more]!r}, 4, 'stand_in')))"
    )
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def noted(folder: Path, name: str) -> dict[int, object]:
    return {int(path.name.removeprefix(name)): json.loads(path.read_text() or "null") for path in sorted(folder.glob(f"{name}[0-9]"))}


def test_ranks_get_the_arguments_and_their_share_of_threads(tmp_path):
    done = started(tmp_path, "end", MachineConfig(ranks=2), "--config=a b.json", "--threads", "4")
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 0 and said == ""
    given = [["--config=a b.json", "--threads", "4", "--threads=2"], "2", "2"]  # the last --threads counts
    assert noted(tmp_path, "rank") == {0: given, 1: given}


def test_sigterm_reaches_the_ranks_which_may_save(tmp_path):
    running = started(tmp_path, "wait", MachineConfig(ranks=2))
    deadline = time.monotonic() + 60
    while len(noted(tmp_path, "rank")) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not noted(tmp_path, "saved")
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM and said == ""
    assert noted(tmp_path, "saved") == {0: True, 1: True}


def test_the_status_of_a_rank_comes_through_and_the_others_end(tmp_path):
    done = started(tmp_path, "fail", MachineConfig(ranks=2))
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 3
    assert said == "error: rank 1 ended with status 3; what it said stands above\n"


@pytest.mark.parametrize(
    ("what", "status", "line"),
    [
        ("sentence", 2, r"error: 0\.tar: a broken JPEG; pack it again"),
        (
            "vanish",
            1,
            r"error: rank 0 lost the other ranks \(\[.*gloo/transport.*\), of which none here said why; .* from the last checkpoint",
        ),
    ],
)
def test_a_rank_that_lost_its_partner_does_not_bury_what_that_says(what, status, line, tmp_path):
    """Nor is it silent, where the partner went without a word."""
    done = started(tmp_path, what, MachineConfig(ranks=2))
    said, _ = done.communicate(timeout=60)
    assert re.fullmatch(line + "\n", said), said
    assert done.returncode == status


@pytest.mark.slow
def test_a_bug_keeps_its_traceback(tmp_path):
    done = started(tmp_path, "bug", MachineConfig(ranks=2))
    said, _ = done.communicate(timeout=60)
    assert "Traceback" in said and "RuntimeError: a bug" in said and done.returncode == 1
    assert re.search(r"^error: rank \d ended with status 1; what it said stands above$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:31981"), True),
        (torch.distributed.DistBackendError("NCCL error ...: remote process exited or there was a network error"), True),
        (torch.distributed.DistNetworkError("Connection reset by peer"), True),
        (RuntimeError("[enforce fail at /pytorch/gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4"), False),
        (torch.distributed.DistBackendError("NCCL error ...: invalid usage"), False),
        (RuntimeError("shapes do not fit"), False),
        (OSError("Connection reset by peer"), False),
    ],
)
def test_what_says_that_a_partner_has_gone(error, gone):
    assert launch.is_gone(error) == gone


@pytest.mark.parametrize("what", ["end", "fail"])
def test_a_launch_leaves_nothing_behind(what, tmp_path):
    (tmp_path / "tmp").mkdir()
    started(tmp_path, what, MachineConfig(ranks=2), TMPDIR=str(tmp_path / "tmp")).communicate(timeout=60)
    assert len(noted(tmp_path, "rank")) == 2 and list((tmp_path / "tmp").iterdir()) == []


def test_nodes_meet_where_torchruns_own_variables_say(tmp_path):
    """Two nodes, both of them this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {launch.ENDPOINT: f"127.0.0.1:{free.getsockname()[1]}", launch.RUN: "test"}
    nodes = [started(tmp_path, "end", MachineConfig(ranks=1, nodes=2), **meeting) for _ in range(2)]
    assert [(node.communicate(timeout=90)[0], node.returncode) for node in nodes] == [("", 0), ("", 0)]
    assert {rank: given[1:] for rank, given in noted(tmp_path, "rank").items()} == {0: ["2", "4"], 1: ["2", "4"]}  # type: ignore[index]


def failure(exitcode: int, message: str = "", timestamp: int = 0, kind: str = "TrainError") -> SimpleNamespace:
    left = {"message": f"{kind}: {message}"} if message else "<NONE>"
    return SimpleNamespace(exitcode=exitcode, timestamp=timestamp, error_file_data={"message": left})


GONE = failure(1, "closed by peer", 1, "PartnerGoneError")
LOST = (
    "error: rank 0 lost the other ranks (closed by peer), of which none here said why; look at the other nodes' logs and the network; "
    "the same command goes on from the last checkpoint"
)


@pytest.mark.parametrize(
    ("failures", "status", "line"),
    [
        ({0: failure(2, "a: no"), 1: failure(2, "a: no")}, 2, "error: a: no"),
        ({0: failure(1, timestamp=1), 1: failure(2, "NaN: lower lr", 2)}, 2, "error: NaN: lower lr"),  # rank 0 lost its partner
        ({0: failure(-15, timestamp=5), 1: failure(3, timestamp=4)}, 3, "error: rank 1 ended with status 3; what it said stands above"),
        ({0: GONE, 1: failure(2, "NaN: lower lr", 2)}, 2, "error: NaN: lower lr"),
        ({0: GONE, 1: failure(3, timestamp=2)}, 3, "error: rank 1 ended with status 3; what it said stands above"),
        ({0: GONE, 1: failure(-15, timestamp=2)}, 1, LOST),  # it was ended because of rank 0
        ({0: GONE, 1: failure(143, timestamp=2)}, 143, ""),  # it had been told to end, and had
        ({0: GONE}, 1, LOST),  # its partner is on another node
        ({0: failure(143)}, 143, ""),
        ({0: failure(-15)}, 143, ""),
        (
            {1: failure(-9)},
            137,
            "error: rank 1 was ended by SIGKILL (often: no memory left); the same command goes on from the last checkpoint",
        ),
    ],
)
def test_what_is_said_about_ranks_that_failed(failures, status, line):
    assert launch.explain(failures) == (status, line)


def machine_file(folder: Path, **settings: object) -> str:
    write_json(folder / "machine.json", plain(MachineConfig(**settings)))  # type: ignore[arg-type]
    return str(folder / "machine.json")


def test_one_process_is_this_one(tmp_path, monkeypatch):
    given: list[list[str]] = []
    monkeypatch.setattr(fit, "main", given.append)
    argv = [str(tmp_path), "--config=c.json", "--threads=3"]
    launch.main(argv)
    launch.main([*argv, "--machine", machine_file(tmp_path)])
    assert given == [argv, [*argv, "--machine", str(tmp_path / "machine.json")]]


def test_every_rank_needs_a_gpu_where_there_are_any(monkeypatch):
    launch.check_gpus(64)  # none: CPUs
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launch.check_gpus(2)
    with pytest.raises(TrainError, match=r"machine\.ranks=3: this job sees 2 GPUs; ask for 3, or set machine\.ranks to 2"):
        launch.check_gpus(3)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm's commands as far as they are asked: a job of two nodes. srun notes what it got, and has this process told to end."""
    for name, text in {
        "squeue": '[ "$3" = 4711 ] && echo "gpu[7-8]"',
        "scontrol": '[ "$3" = "gpu[7-8]" ] && printf "gpu7\\ngpu8\\n"',
        "srun": f'printf "%s\\n" "$PET_RDZV_ENDPOINT" "$PET_RDZV_ID" "${{{running.RUN}-no run}}" "$@" > "{tmp_path}/started"\n'
        f'kill -TERM $PPID\nuntil [ -e "{tmp_path}/told" ]; do sleep 0.05; done; exit 143',
        "scancel": f'echo "$@" > "{tmp_path}/told"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_several_nodes_are_one_task_each_which_are_told_to_save(tmp_path, monkeypatch, slurm):
    """By Slurm: a SIGTERM to srun would kill them."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv(running.RUN, "1-x.run")
    argv = ["out", "--threads=8", "--machine", machine_file(tmp_path, nodes=2, ranks=4)]
    with pytest.raises(SystemExit) as ended:
        launch.main(argv)
    endpoint, run, started_by, *words = (slurm / "started").read_text().splitlines()
    assert (endpoint, run, started_by) == ("gpu7:14711", "4711", "no run")
    assert words == [
        *("--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=8"),
        *("--export=ALL", "--kill-on-bad-exit=0", "--wait=120"),
        *(sys.executable, "-u", "-m", "train.launch", *argv),
    ]
    assert (slurm / "told").read_text() == "--signal=TERM 4711\n" and ended.value.code == 143


def test_nodes_have_gpus_and_cpus_of_the_job():
    command = launch.srun(MachineConfig(nodes=2, ranks=4), 0, {"SLURM_CPUS_ON_NODE": "32"}, cuda=True)
    assert {"--cpus-per-task=32", "--gpus-per-node=4"} <= set(command)


def test_nodes_that_are_not_there_are_one_sentence(tmp_path, monkeypatch, slurm):
    argv = ["out", "--machine", machine_file(tmp_path, nodes=3, ranks=2)]
    with pytest.raises(
        TrainError,
        match=r"this is no Slurm job; .* type on each node: torchrun --nnodes 3 --nproc-per-node 2 .* -m train\.launch out",
    ):
        launch.main(argv)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with pytest.raises(TrainError, match=r"machine\.nodes=3: Slurm job 4711 has 2 \(gpu7, gpu8\); ask for 3"):
        launch.main(argv)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with pytest.raises(TrainError, match=r"`squeue .*` failed"):
        launch.main(argv)
    assert not (slurm / "started").exists()


# --- with the real training -------------------------------------------------------------------------------------------


def command_of(folder: Path, index: Path, split: Path, epochs: int = 4, **machine: object) -> list[str]:
    """`python -m train.launch` on the toy store."""
    folder.mkdir()
    run = run_config("visual", stages={"visual": {"epochs": epochs}})
    write_json(folder / "config.json", plain(run))
    words = [str(folder), f"--config={folder / 'config.json'}", f"--index={index}", f"--split={split}", "--threads=2"]
    return [sys.executable, "-m", "train.launch", *words, "--machine", machine_file(folder, workers=0, **machine)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_two_ranks_train_as_one_does(tmp_path):
    data = pack(tmp_path)
    losses = {}
    for ranks in (1, 2):
        done = run(command_of(tmp_path / f"ranks{ranks}", *data, ranks=ranks))
        assert done.returncode == 0, done.stdout
        lines = (tmp_path / f"ranks{ranks}/metrics.jsonl").read_text().splitlines()
        losses[ranks] = [json.loads(line)["loss"] for line in lines[:-1]]
        assert done.stdout.count("starts from random numbers") == 1  # said by rank 0
    assert len(losses[1]) == 4 and losses[2] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_what_a_user_can_mend_is_said_once(tmp_path):
    """Not by every rank, not in a traceback of the launcher."""
    data = pack(tmp_path)
    for name, more, ranks, sentence in (
        ("gone", ["--split=nowhere.parquet"], 2, "error: nowhere.parquet: no such file; expected a 'split' table"),
        ("thirds", [], 3, "error: 3 processes cannot share batches of 2 x 2 = 4 clips equally; train with 1, 2 or 4"),
    ):
        done = run([*command_of(tmp_path / name, *data, ranks=ranks), *more])
        assert done.returncode == 2, done.stdout
        assert [line for line in done.stdout.splitlines() if line.startswith("error")] == [sentence]
        assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_a_broken_frame_of_one_rank_is_said_once(tmp_path):
    """The other rank waits for its gradients meanwhile, and loses its partner."""
    index, split = pack(tmp_path)
    tar = index.with_suffix(".tar")
    packed = tar.read_bytes()
    frames = [found.start() for found in re.finditer(rb"\xff\xd8\xff\xe0", packed)][-3:]  # those of the last tracklet
    for at in frames:
        packed = packed[:at] + bytes(4) + packed[at + 4 :]
    tar.write_bytes(packed)
    done = run(command_of(tmp_path / "run", index, split, ranks=2))
    assert done.returncode == 2, done.stdout
    (said,) = (line for line in done.stdout.splitlines() if "0002C1" in line or line.startswith("error"))
    assert said.startswith("error: ") and "0002C1" in said
    assert "Traceback" not in done.stdout and "gloo" not in done.stdout, done.stdout


@pytest.mark.slow
def test_two_ranks_that_are_told_to_end_save_and_go_on(tmp_path):
    command = command_of(tmp_path / "run", *pack(tmp_path), epochs=100_000, ranks=2, checkpoint_epochs=100_000)
    for begins in ("starts from random numbers", "resumed after epoch"):
        log = tmp_path / "log"
        with log.open("w") as out:
            running = subprocess.Popen([*command, f"--checkpoints={tmp_path / 'state'}"], cwd=REPOSITORY, stdout=out, stderr=out)
            deadline = time.monotonic() + 120
            while begins not in log.read_text() or not (tmp_path / "run/metrics.jsonl").exists():
                assert running.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            time.sleep(1)
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=60) == 128 + signal.SIGTERM
        assert log.read_text().count("terminated from outside (SIGTERM), saved after epoch") == 1
        assert "Traceback" not in log.read_text() and len(list((tmp_path / "state").iterdir())) == 1
