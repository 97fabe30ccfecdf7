"""Start a training where its machine settings say: in this process, in several on one node, or on several nodes of a cluster.

In:      the arguments of `train.fit`, of which --machine and --threads are looked at.   Out: what `train.fit` writes, its exit status.
Source:  torchrun's own launcher (torch.distributed.launcher); for nodes srun, within a Slurm job.

One process (the default) is `train.fit` in this one. Several are started by torchrun's launcher, each of which runs this module
again and so `train.fit` as one rank. On several nodes srun starts this module once per node, told in torchrun's own variables
where the nodes meet. `torchrun ... -m train.launch` by hand does the same. This module adds three things: the error of a user is
said once, not by every rank and then in a traceback; SIGTERM is passed on to the ranks, which get the time they need to save;
and CPU threads are shared out.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from pipeline.base import cli, locks, running
from pipeline.base.build import build
from pipeline.base.config import MachineConfig
from pipeline.base.errors import TrainError, UserError
from pipeline.base.files import read_json

RANK = "TORCHELASTIC_RUN_ID"
"""Variable that torchrun sets in every process it starts."""
ENDPOINT, RUN = "PET_RDZV_ENDPOINT", "PET_RDZV_ID"
"""torchrun's own variables for --rdzv-endpoint (host:port where the nodes meet) and --rdzv-id."""
FIRST_PORT, PORTS = 10000, 20000
"""Ports that are derived from a job's number: below those that Linux gives to outgoing connections (from 32768)."""
SAVED = 128 + signal.SIGTERM
"""Exit status of a rank that was told to end, and has saved."""
GONE = re.compile(r"\[\S*gloo/transport|ncclRemoteError|remote process exited|communicator was aborted")
"""What gloo and NCCL say in a rank of which another rank has gone; their errors have no type of their own."""
LAST_NODE_SECONDS = 120
"""Slurm ends what still runs so long after the first node's part has ended."""


def main(argv: list[str] | None = None) -> None:
    """Run `train.fit` with the same arguments, as often as --machine says."""
    argv = sys.argv[1:] if argv is None else argv
    if RANK in os.environ:
        run_rank(argv)
    looked_at = argparse.ArgumentParser(add_help=False)
    looked_at.add_argument("--machine", default="")
    looked_at.add_argument("--threads", type=int, default=0)
    args, _ = looked_at.parse_known_args(argv)
    machine = build(MachineConfig, read_json(args.machine), args.machine) if args.machine else MachineConfig()
    if machine.nodes > 1 and ENDPOINT not in os.environ:
        sys.exit(run_on_nodes(machine, argv, args.threads))
    elif machine.nodes * machine.ranks > 1:
        sys.exit(run_ranks(machine, argv, args.threads))
    else:
        from train import fit

        fit.main(argv)


# --- one rank ---------------------------------------------------------------------------------------------------------


class PartnerGoneError(Exception):
    """A rank's own part went well, but another rank ended, or cannot be reached."""


def run_rank(argv: list[str]) -> NoReturn:
    """`train.fit` as one of several processes. A UserError is handed to the process that started it, which says it once.

    So is the end of another rank, in which a collective of this one fails: its traceback would bury what the other says.

    Ends without Python's clearing away, in which a gloo group that has just been used can wait for its own thread for ever (it is
    destroyed with DistributedDataParallel under Python's lock, which that thread wants).
    """
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    from train import fit

    try:
        fit.main(argv)
    except UserError as error:
        get_error_handler().record_exception(error)
        leave(cli.USER_ERROR)
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else 1)
    except BaseException as error:
        if is_gone(error):
            get_error_handler().record_exception(PartnerGoneError(str(error).partition("\n")[0]))
        else:
            traceback.print_exc()
        leave(1)
    leave(0)


def is_gone(error: BaseException) -> bool:
    """Whether an error says that another rank has gone, not that something is wrong in this one."""
    lost = (torch.distributed.DistNetworkError, torch.distributed.DistStoreError)
    return isinstance(error, lost) or (isinstance(error, RuntimeError) and GONE.search(str(error)) is not None)


def leave(status: int) -> NoReturn:
    """End this process as it is, with nothing destroyed: not even what an exception holds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# --- one node ---------------------------------------------------------------------------------------------------------


def run_ranks(machine: MachineConfig, argv: list[str], threads: int = 0, module: str = "train.launch") -> int:
    """Start this node's ranks and wait for them.

    Args:
        threads: CPU threads of all ranks of this node together; 0: as many as this process may use.
        module: what each rank runs.

    Returns:
        0, or the exit status of the rank that failed first (128 + N where signal N ended it, or this process).

    Raises:
        TrainError: there are fewer GPUs than ranks, or the nodes do not find each other.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    check_gpus(machine.ranks)
    each = max(1, (threads or len(os.sched_getaffinity(0))) // machine.ranks)
    os.environ["OMP_NUM_THREADS"] = str(each)
    # for what ranks say when they fail; torchrun's own would stay
    folder, lock = locks.folder(Path(tempfile.gettempdir()), f"dubtrack_{os.getuid()}_{socket.gethostname()}_")
    alone = machine.nodes == 1
    config = LaunchConfig(
        min_nodes=machine.nodes,
        max_nodes=machine.nodes,
        nproc_per_node=machine.ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0" if alone else os.environ[ENDPOINT],
        run_id=str(uuid.uuid4()) if alone else os.environ.get(RUN, "dubtrack"),
        local_addr="127.0.0.1" if alone else None,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        max_restarts=0,  # a training that failed goes on from its checkpoint when it is started again, by whoever started it
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT",  # SIGTERM: see `pass_on`
    )
    logging.disable(logging.CRITICAL)  # the launcher's reports, of which `explain` says what matters
    signal.signal(signal.SIGTERM, pass_on)
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *argv, f"--threads={each}")
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        status, line = explain(error.failures)
        if line:
            print(cli.printable(line), file=sys.stderr, flush=True)
        return status
    except RendezvousError as error:
        raise TrainError(
            f"machine.nodes={machine.nodes}: the nodes did not meet at {config.rdzv_endpoint} ({error}); look whether all were started "
            "and reach that host and port"
        ) from None
    finally:
        locks.discard(folder, lock)
    return 0


def check_gpus(ranks: int) -> None:
    """Every rank has a GPU of its own, or there is none at all.

    Raises:
        TrainError: otherwise.
    """
    if torch.cuda.is_available() and torch.cuda.device_count() < ranks:
        there = torch.cuda.device_count()
        raise TrainError(
            f"machine.ranks={ranks}: this job sees {there} GPU{'s'[: there > 1]}; ask for {ranks}, or set machine.ranks to {there}"
        )


def pass_on(number: int, _: Any) -> None:
    """SIGTERM for the ranks, who save and end when they have; torchrun's launcher would kill them after 30 seconds."""
    ranks = children()
    if not ranks:
        sys.exit(128 + number)
    for process in ranks:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(process, number)


def children() -> list[int]:
    """Processes that this one has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # state, parent, ...; the name before may hold anything
        except OSError:  # it has just ended
            continue
        if fields[1] == str(os.getpid()) and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def explain(failures: Mapping[int, Any]) -> tuple[int, str]:
    """Exit status and one line about ranks that failed: the sentence that one has left, else what ended the first.

    Args:
        failures: rank -> torchrun's ProcessFailure. One failure ends the other ranks, which are then listed, too.
    """

    def said(failure: Any) -> tuple[str, str]:
        """Type and text of the error that a rank has handed over; '' where it has not."""
        left = failure.error_file_data.get("message")
        kind, _, text = left["message"].partition(": ") if isinstance(left, dict) else ("", "", "")
        return kind, text

    def order(item: tuple[int, Any]) -> tuple[int, float, int]:
        """A sentence first, then what a rank died of by itself, then what befell it."""
        rank, failure = item
        if gone(failure):
            likely = 3
        elif said(failure)[1]:
            likely = 0
        else:
            likely = {SAVED: 2, -signal.SIGTERM: 4}.get(failure.exitcode, 1)  # torchrun ends ranks by SIGTERM when one has failed
        return likely, failure.timestamp, rank

    def gone(failure: Any) -> bool:
        return said(failure)[0] == PartnerGoneError.__name__

    rank, first = min(failures.items(), key=order)
    text = said(first)[1]
    if gone(first):
        return first.exitcode, (
            f"error: rank {rank} lost the other ranks ({text}), of which none here said why; look at the other nodes' logs and the network; "
            "the same command goes on from the last checkpoint"
        )
    if text:
        return cli.USER_ERROR, f"error: {text}"
    if first.exitcode in (-signal.SIGTERM, SAVED):
        return SAVED, ""
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        why = " (often: no memory left)" if name == "SIGKILL" else ""
        return 128 - first.exitcode, f"error: rank {rank} was ended by {name}{why}; the same command goes on from the last checkpoint"
    return first.exitcode, f"error: rank {rank} ended with status {first.exitcode}; what it said stands above"


# --- several nodes ----------------------------------------------------------------------------------------------------


def run_on_nodes(machine: MachineConfig, argv: list[str], threads: int) -> int:
    """Let srun run this module once on every node of this Slurm job, and wait.

    SIGTERM goes on to the tasks through Slurm: srun itself would kill them.

    Returns:
        Exit status of srun: 0, or the highest of the nodes.

    Raises:
        TrainError: this is no Slurm job, or one of fewer nodes.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise TrainError(
            f"machine.nodes={machine.nodes}, but this is no Slurm job; run it in one, set machine.nodes to 1, or type on each node: "
            f"torchrun --nnodes {machine.nodes} --nproc-per-node {machine.ranks} --rdzv-backend c10d --rdzv-id one "
            f"--rdzv-endpoint FIRST_NODE:29500 -m train.launch {shlex.join(argv)}"
        )
    hosts = nodes_of(job)
    if len(hosts) < machine.nodes:
        raise TrainError(
            f"machine.nodes={machine.nodes}: Slurm job {job} has {len(hosts)} ({', '.join(hosts)}); ask for {machine.nodes}, e.g. with "
            f"sbatch --nodes={machine.nodes}"
        )
    meeting = {ENDPOINT: f"{hosts[0]}:{FIRST_PORT + int(job) % PORTS}", RUN: job}
    command = [*srun(machine, threads, os.environ, torch.cuda.is_available()), sys.executable, "-u", "-m", "train.launch", *argv]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: subprocess.run(["scancel", "--signal=TERM", job], check=False))
    environment = {**os.environ, **meeting}
    environment.pop(running.RUN, None)  # this process is the step; on another node the lock of its run may not be seen
    return subprocess.Popen(command, env=environment, start_new_session=True).wait()


def nodes_of(job: str) -> list[str]:
    """Host names of a Slurm job, in its order."""
    names = os.environ.get("SLURM_JOB_NODELIST") or ask("squeue", "--noheader", "--jobs", job, "--format", "%N")  # Snakemake drops it
    return ask("scontrol", "show", "hostnames", names).split()


def ask(*command: str) -> str:
    """What a Slurm command prints.

    Raises:
        TrainError: it is not there, or fails; with what it said.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise TrainError(f"`{shlex.join(command)}` failed ({said}); machine.nodes > 1 needs Slurm's commands on every node") from None


def srun(machine: MachineConfig, threads: int, environment: Mapping[str, str], cuda: bool) -> list[str]:
    """srun and its options: one task per node, which gets the node's share of CPUs and GPUs.

    Args:
        threads: CPUs of each node; 0: those that the job has there.
        cuda: whether this node has GPUs; then all have.
    """
    cpus = threads or int(environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE") or 1)
    return [
        "srun",
        f"--nodes={machine.nodes}",
        f"--ntasks={machine.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={cpus}",  # a step does not inherit it
        *([f"--gpus-per-node={machine.ranks}"] if cuda else []),
        "--export=ALL",
        "--kill-on-bad-exit=0",  # rank 0 may still be saving when the first node's part ends
        f"--wait={LAST_NODE_SECONDS}",
    ]


if __name__ == "__main__":
    cli.run(main)
