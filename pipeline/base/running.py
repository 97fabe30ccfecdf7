"""Who is at work in this folder: each run of the workflow and each of its steps holds a lock of its own for as long as it lives.

In:      `.snakemake/runs/`, one record for each run.   Out: one sentence about another run, and the locks of dead runs removed.
Source:  promise R9. Snakemake's own locks (`.snakemake/locks/`) are files that say which files a run reads and makes; a killed run leaves
         them, the end of any run deletes those of all. Ours: they are made equal to what the living runs have locked before one starts,
         and a run is refused by what the records of the living say, whatever has become of those files since.

A run is one `snakemake` that makes files: not a dry run, a listing, nor the jobs that it starts. Its steps keep it alive: where only
the run was killed, the next one waits for them, and a step that comes to itself after that does nothing. Locks are trusted on one
machine (same name, or same boot of the kernel); a lock that a run on another machine does not hold proves nothing, nor does that of
a run whose jobs are in the queue of a cluster: they outlive it. Such runs keep their files until `--unlock`.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shlex
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.base import disk, locks
from pipeline.base.errors import UserError
from pipeline.base.files import umask

RUN = "DUBTRACK_RUN"
"""Environment variable of local steps: the record of the run that started them."""
ALIVE, DEAD, STEP, NEW, GATE = ".run", ".dead", ".step", ".new", "starting"
"""How the names of records end: of a run, of one that is known to be dead, of a step, of one being written; and who starts holds this."""
KINDS = ("input", "output")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Process:
    """A run or a step, as its record tells."""

    process: int
    host: str
    boot: str
    """Of the kernel; empty where it cannot be told."""
    since: str
    command: str
    local: bool = True
    """Whether its jobs run where it does; else they may go on without it, in the queue of a cluster."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since} ({textwrap.shorten(self.command, 200, placeholder=' ...')})"

    def is_here(self) -> bool:
        """Whether it ran under this kernel or one of this name, so that its lock tells whether it lives."""
        return self.host == socket.gethostname() or (bool(self.boot) and self.boot == _boot())

    def in_doubt(self) -> str:
        """What to do about a run that may still be at work although nobody holds its lock."""
        then = "then run snakemake --unlock and this command again"
        if self.local:
            return f"{self}, may still be at work: its lock cannot be seen from {socket.gethostname()}; make sure that it is gone, {then}"
        return (
            f"{self}, has not ended well (was it killed?), and its jobs may still be in the queue; look with squeue, end them with scancel, "
            f"{then}"
        )


@dataclass(frozen=True, slots=True)
class Runs:
    """What was found in the records."""

    alive: dict[Path, Process]
    dead: dict[Path, Process]
    """Ended without cleaning up; their records now end in `DEAD`."""
    in_doubt: dict[Path, Process]
    """Nobody holds their locks, but they ran on another machine, or have jobs in a queue."""


def look(runs: Path) -> Runs:
    """Read the records of runs; call it with the gate held.

    Raises:
        NoLocksError: the file system has no locks.
    """
    found = Runs({}, {}, {})
    for path in sorted(runs.glob(f"*{ALIVE}")):
        handle = locks.take(path)
        if handle is None:  # a step that looks whether its run lives holds the lock for a moment
            time.sleep(0.1)
            handle = locks.take(path)
        told = _read(path)
        if told is None:  # it has just ended
            locks.release(handle)
        elif handle is None:
            found.alive[path] = told
        elif told.local and told.is_here():
            path.rename(path.with_suffix(DEAD))  # before its steps are looked for: see `step`
            locks.release(handle)
        else:
            locks.release(handle)
            found.in_doubt[path] = told
    for path in sorted(runs.glob(f"*{DEAD}")):
        if (told := _read(path)) is not None:
            found.dead[path] = told
    return found


def steps(record: Path) -> list[Process]:
    """Steps of a run that still live."""
    living = []
    for path in sorted(record.parent.glob(f"{record.stem}-*{STEP}")):
        handle = locks.take(path)
        if handle is None and (told := _read(path)) is not None:
            living.append(told)
        locks.release(handle)
    return living


# --- a run ------------------------------------------------------------------------------------------------------------


class Registered:
    """This run, while it lives."""

    def __init__(self, folder: Path, record: Path, gate: int) -> None:
        self.folder, self.record, self.gate = folder, record, gate

    def claim(self, inputs: Iterable[str] = (), outputs: Iterable[str] = ()) -> None:
        """Remember the files that this run reads and makes, just before Snakemake locks them; others still wait to start.

        Raises:
            UserError: a run that was here first makes one of them, or reads one that this makes.
        """
        mine = {kind: set(names) for kind, names in zip(KINDS, (inputs, outputs), strict=True)}
        found = look(self.record.parent)
        working = {path: run for path, run in found.alive.items() if path != self.record}
        working |= {path: run for path, run in found.dead.items() if steps(path)}  # killed since this run looked around
        for path, run in (working | found.in_doubt).items():
            made = _keys(path, "output")
            shared = (mine["output"] & (made | _keys(path, "input"))) | (mine["input"] & made)
            if shared and path in found.in_doubt:
                raise UserError(f"{min(shared)}: cannot be locked; {run.in_doubt()}")
            if shared:
                raise UserError(
                    f"{min(shared)}: cannot be locked, since {run}, is at work here, too; wait for it, then run the same command again, "
                    f"or end it: kill {run.process}; do not use --unlock while it lives"
                )
        for kind, names in mine.items():
            if names:
                self.record.with_suffix(f".{kind}").write_text("".join(f"{name}\n" for name in sorted(names)))
        (self.folder / "locks").mkdir(exist_ok=True)  # the end of another run deletes it, with our locks

    def open(self) -> None:
        """Snakemake has locked the files: let others start."""
        if self.gate >= 0:
            os.close(self.gate)
            self.gate = -1


@contextmanager
def registered(folder: Path, say: Say, command: str, *, local: bool = True) -> Iterator[Registered]:
    """Be known as a run while the block lasts; clear up after dead runs and say who else is at work.

    Args:
        folder: Snakemake's own, `.snakemake`.
        say: gets one sentence about each other run.
        command: what was typed.
        local: whether its jobs run where it does.

    Raises:
        NoLocksError: the file system has no locks.
    """
    runs = folder / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        gate = _gate(runs, say)
        try:
            found = look(runs)
            waiting = [(run, step) for path, run in found.dead.items() for step in steps(path)]
            if not waiting:
                _clear(folder, found, say)
                record, lock = _record(runs, f"{os.getpid()}-{os.urandom(4).hex()}", ALIVE, _this(command, local))
                break
        except BaseException:
            os.close(gate)
            raise
        os.close(gate)
        _wait(runs, waiting, say)
    this = Registered(folder, record, gate)
    try:
        yield this
    finally:
        this.open()
        _clear_steps(runs)
        if steps(record):  # they go on without us: whoever comes next waits for them
            record.rename(record.with_suffix(DEAD))
        else:
            _forget(record)
        os.close(lock)


@contextmanager
def unlocking(folder: Path, say: Say) -> Iterator[None]:
    """The user says that no run is at work here: if so, the records of all go after the block. Nobody starts while it lasts.

    Raises:
        UserError: a run, or a step of one that was killed, is at work here.
    """
    runs = folder / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(locks.NoLocksError):
            stack.callback(os.close, _gate(runs, say))
            found = look(runs)
            living = [*found.alive.values(), *(step for path in found.dead for step in steps(path))]
            if living:
                raise UserError(f"--unlock: not done, {living[0]} is at work here; wait for it, or end it: kill {living[0].process}")
        yield
        for path in (*runs.glob(f"*{ALIVE}"), *runs.glob(f"*{DEAD}")):
            try:
                held = locks.take(path)
            except locks.NoLocksError:
                _forget(path)
                continue
            if held is not None:  # else it has begun since: where there are no locks for the gate, say
                _forget(path)
            locks.release(held)


def watch(workflow: Any, say: Say) -> None:
    """Register whatever this Snakemake workflow executes, and guard `--unlock`.

    Args:
        workflow: Snakemake's own object. Its `execute` is called when files are to be made, whatever the command line says otherwise;
            its `_build_dag` in it, after which come `persistence.lock` and the jobs.
        say: gets sentences for the user.
    """
    from snakemake.exceptions import WorkflowError

    execute, build, unlock = workflow.execute, workflow._build_dag, workflow.unlock
    this: list[Registered] = []

    def executing(*arguments: Any, executor_plugin: Any, **named: Any) -> Any:
        about = executor_plugin.common_settings
        with contextlib.ExitStack() as stack:
            if about.dryrun_exec:
                return execute(*arguments, executor_plugin=executor_plugin, **named)
            try:
                if not workflow.is_main_process:
                    stack.enter_context(step())
                    return executed(*arguments, executor_plugin=executor_plugin, **named)
                run = stack.enter_context(
                    registered(Path(".snakemake").absolute(), say, shlex.join(sys.argv), local=bool(about.local_exec))
                )
            except UserError as error:
                raise WorkflowError(str(error)) from None
            except OSError as error:
                raise refused(error) from None
            except locks.NoLocksError as error:
                say(
                    f"this file system has no locks ({error}): two runs at once are told apart by Snakemake alone; after a kill add --unlock once"
                )
            else:
                this.append(run)
                if about.local_exec:  # on other machines the lock of this one may not be seen
                    os.environ[RUN] = str(run.record)
            return executed(*arguments, executor_plugin=executor_plugin, **named)

    def executed(*arguments: Any, **named: Any) -> Any:
        """What a disk refuses Snakemake itself (its notes, old outputs that it takes away) is one sentence, too."""
        try:
            return execute(*arguments, **named)
        except OSError as error:
            raise refused(error) from None

    def refused(error: OSError) -> Exception:
        told = disk.explain(None if error.filename else Path.cwd(), error)
        return error if told is None else WorkflowError(str(told))

    def building() -> None:
        build()
        for run in this:
            claim(run)

    def claim(run: Registered) -> None:
        files = workflow.persistence
        lock = files.lock
        keys = (files.all_inputfiles(), files.all_outputfiles()) if workflow.execution_settings.lock else ()
        try:
            run.claim(*(map(str, some) for some in keys))
        except UserError as error:
            raise WorkflowError(str(error)) from None

        @contextmanager
        def locking() -> Iterator[None]:
            with lock():
                run.open()
                yield

        files.lock = locking

    def unlock_all() -> None:
        try:
            with unlocking(Path(".snakemake").absolute(), say):
                unlock()
        except UserError as error:
            raise WorkflowError(str(error)) from None

    workflow.execute, workflow._build_dag, workflow.unlock = executing, building, unlock_all


# --- a step -----------------------------------------------------------------------------------------------------------


@contextmanager
def step() -> Iterator[None]:
    """Be known as a step of the run that started this process, if one did, while the block lasts.

    The step is registered before it looks whether its run lives, and a run that finds another dead renames its record before it
    looks for steps: so either the step is seen, or it sees.

    Raises:
        UserError: that run has ended, so another may be making the same files.
    """
    record = Path(os.environ.get(RUN, ""))
    if record.suffix != ALIVE:
        yield
        return
    try:
        mine, lock = _record(record.parent, f"{record.stem}-{os.getpid()}", STEP, _this(shlex.join(sys.argv)))
    except FileNotFoundError:
        raise _ended() from None
    held = None
    try:
        held = locks.take(record)
        told = _read(record)
        if told is None or (held is not None and told.is_here()):  # on another machine the lock of a living run may not be seen
            raise _ended()
        locks.release(held)
        held = None
        yield
    finally:
        locks.release(held)
        mine.unlink(missing_ok=True)
        os.close(lock)


def _ended() -> UserError:
    return UserError("the snakemake that started this step has ended (was it killed?); nothing was done, run the same command again")


# --- parts ------------------------------------------------------------------------------------------------------------


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _this(command: str, local: bool = True) -> Process:
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return Process(os.getpid(), socket.gethostname(), _boot(), now, command, local)


def _read(path: Path) -> Process | None:
    """A record; None if it has gone."""
    try:
        return Process(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise UserError(f"{path}: not the record of a run; if no snakemake is at work here, delete it") from None


def _record(runs: Path, name: str, ending: str, about: Process) -> tuple[Path, int]:
    """A record that appears whole and held."""
    new = runs / f"{name}{NEW}"
    new.unlink(missing_ok=True)  # of a process that was killed here and had our number
    while (lock := locks.create(new)) is None:
        pass
    os.write(lock, json.dumps(asdict(about)).encode())
    os.fchmod(lock, 0o666 & ~umask())  # another user of this folder reads it
    record = runs / f"{name}{ending}"
    new.rename(record)
    return record, lock


def _gate(runs: Path, say: Say) -> int:
    """Wait until nobody else is between looking around and having its lock."""
    gate = os.open(runs / GATE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another run is just starting in {runs.parent.parent}; waiting until it has said which files it makes")
        fcntl.flock(gate, fcntl.LOCK_EX)
    except OSError as error:
        os.close(gate)
        raise locks.NoLocksError(os.strerror(error.errno or 0)) from None
    return gate


def _wait(runs: Path, waiting: list[tuple[Process, Process]], say: Say) -> None:
    """Until the steps of dead runs have ended."""
    for run, left in waiting:
        say(
            f"process {run.process} (since {run.since}) was killed, but a step of it goes on: {left}; "
            f"waiting for it (to end it: kill {left.process})"
        )
    for path in sorted(runs.glob(f"*{STEP}")):
        if any(path.name.endswith(f"-{left.process}{STEP}") for _, left in waiting):
            with contextlib.suppress(FileNotFoundError), open(path) as held:
                fcntl.flock(held, fcntl.LOCK_SH)


def _clear(folder: Path, found: Runs, say: Say) -> None:
    """Make Snakemake's locks those of the living, take away what dead runs left, and say so."""
    _sort_locks(folder / "locks", found, say)
    for path, run in found.dead.items():
        say(f"{run}, ended without cleaning up (was it killed?); its lock is taken away; what it had not finished is made again")
        _forget(path)
    for path in (folder / "runs").glob(f"*{NEW}"):  # nobody else is starting
        if (lock := locks.take(path)) is not None:
            path.unlink(missing_ok=True)
            os.close(lock)
    for run in found.alive.values():
        say(
            f"{run}, is at work here, too; if both make the same files, this one is refused: wait for it or end it: "
            f"kill {run.process}; do not use --unlock while it lives"
        )
    for run in found.in_doubt.values():
        say(run.in_doubt())


def _sort_locks(folder: Path, found: Runs, say: Say) -> None:
    """`.snakemake/locks`: those of dead runs go, those of living ones that the end of another run has deleted come back."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        there = {path: path.read_text() for path in sorted(folder.glob(f"*.{kind}.lock"))}
        living = [_keys(record, kind) for record in (*found.alive, *found.in_doubt)]
        dead = [_keys(record, kind) for record in found.dead]
        for path, text in there.items():
            names = set(text.splitlines())
            if names in living:
                continue
            # a dead run that was not known as such when its lock came back, or had no time to say its files, left one that nobody claims
            if names in dead or (found.dead and not living):
                path.unlink()
            elif not living:
                say(f"{path}: a lock that no known run has left; if no snakemake is at work here, run it with --unlock once")
        kept = [set(text.splitlines()) for path, text in there.items() if path.exists()]
        for names in living:
            if names and names not in kept:
                number = 0
                while (path := folder / f"{number}.{kind}.lock").exists():
                    number += 1
                path.write_text("".join(f"{name}\n" for name in sorted(names)))


def _keys(record: Path, kind: str) -> set[str]:
    try:
        return set(record.with_suffix(f".{kind}").read_text().splitlines())
    except FileNotFoundError:
        return set()


def _clear_steps(runs: Path) -> None:
    """Records of steps that were killed when their run had been forgotten already: they had come to themselves after it."""
    for path in runs.glob(f"*{STEP}"):
        run = path.name.rpartition("-")[0]
        if not any((runs / f"{run}{ending}").exists() for ending in (ALIVE, DEAD)) and (lock := locks.take(path)) is not None:
            path.unlink(missing_ok=True)
            os.close(lock)


def _forget(record: Path) -> None:
    """Delete all that a run has left in the folder of records, itself last."""
    for path in (*record.parent.glob(f"{record.stem}-*{STEP}"), *(record.with_suffix(f".{kind}") for kind in KINDS), record):
        path.unlink(missing_ok=True)


# --- no run -----------------------------------------------------------------------------------------------------------


@contextmanager
def alone(folder: Path, say: Say) -> Iterator[None]:
    """Nobody is at work while the block lasts: a run that starts waits until its end. What dead runs have left is no hindrance.

    Args:
        folder: Snakemake's own, `.snakemake`.
        say: gets a sentence where another process is just starting, or alone itself.

    Raises:
        UserError: a run, or a step of one that was killed, is at work here, or may be, on another machine.
        NoLocksError: the file system has no locks.
    """
    runs = folder / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    gate = _gate(runs, say)
    try:
        found = look(runs)
        for living in (*found.alive.values(), *(step for path in found.dead for step in steps(path))):
            raise UserError(
                f"{folder.parent}: {living} is at work here; wait for it, or end it (kill {living.process}), then type the same command "
                "again; nothing was changed"
            )
        for other in found.in_doubt.values():
            raise UserError(f"{folder.parent}: {other.in_doubt()}; nothing was changed")
        yield
    finally:
        os.close(gate)
