"""Kill a run of the workflow, run it again, and compare what is there with what an uninterrupted run makes.

A *finished name* is the name of a file below results/ of which no part begins with a dot (temporary files do). Right after a kill, every
file under a finished name must be the uninterrupted run's, to the byte: also those that Snakemake holds for incomplete. After the next
run, everything below results/ must be, and nothing else may be there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.base.running import GATE
from tests.conftest import REPOSITORY
from tests.workflow.conftest import jobs

TARGET = "pack_demo"
SETTINGS = {
    "demo": {
        "train_identities": 2,
        "test_identities": 2,
        "cameras": 2,
        "tracklets": 1,
        "distractors": 1,
        "junk": 1,
        "frames": [2, 4],
        "pairs": 4,
        "speakers": 4,
        "seconds": [0.6, 0.8],
    },
    "datasets": {"demo": {"shards": 1}},
}
KINDS = ("open", "fsync", "rename")
HANG_SECONDS = 300
LATE_SECONDS = 20
"""So long a step that outlived its run may take to see it."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One kill."""

    empty: bool
    """Begins in an empty folder; else in one where the generated data are."""
    victim: str
    """'tree': the whole run; 'head': snakemake alone, so that its step goes on; 'step': the process of the step alone."""
    kind: str = ""
    """Point of the kill; empty: any instant."""
    share: float = 0.0
    """Where in the run, 0..1: of its time, or of its points of this kind."""
    after: bool = False
    """After the call rather than before it."""
    broken: str = ""
    """What is broken on purpose (see killer/sitecustomize.py)."""


@dataclass(slots=True)
class Outcome:
    """What was seen."""

    wrong: list[str] = field(default_factory=list)
    """Finished names with other bytes right after the kill."""
    again: int = 0
    """Exit status of the next run."""
    differs: list[str] = field(default_factory=list)
    """Names below results/ that are missing, of other bytes or too many after the next run."""
    redone: int = 0
    """Jobs that had been reported as finished and were done again."""
    left: list[str] = field(default_factory=list)
    """Temporary files, records of runs and living processes after the next run."""
    stale: bool = False
    """The kill left a lock of Snakemake's."""
    orphans: int = 0
    """Processes that outlived snakemake; they were stopped until the next run had begun."""
    waited: bool = False
    """The next run had to wait for an orphaned step."""
    late: int = 0
    """Runs that ended before they could be killed; each was tried anew."""
    kept: int = 0
    """Snakemake's own temporary folders and the files of its scheduler's solver, which nobody but Snakemake deletes."""
    said: str = ""
    """End of what the next run printed."""

    def survived(self) -> bool:
        return not (self.wrong or self.again or self.differs or self.redone > 0)


@dataclass(frozen=True, slots=True)
class Whole:
    """Uninterrupted runs."""

    settings: Path
    ready: Path
    """A folder where the generated data are finished."""
    files: dict[str, str]
    """Path below results/ -> SHA-256."""
    seconds: dict[bool, float]
    """Length of a run that begins in an empty folder (True) or in a copy of `ready` (False), two at a time, nothing counted;
    corrected by those that end before they could be killed, since each has to be tried anew."""
    points: dict[bool, dict[str, int]]
    """How many points of each kind such a run has."""


def prepare(folder: Path) -> Whole:
    """Make the uninterrupted runs: their files, their length and their points."""
    settings, ready = folder / "settings.yaml", folder / "ready"
    settings.write_text(json.dumps(SETTINGS))
    ready.mkdir()
    run = start(ready, settings, "results/demo/demo.json")
    if run.wait(HANG_SECONDS):
        raise RuntimeError(f"an uninterrupted run failed:\n{said(ready)}")
    seconds, points, files = {}, {}, []
    for empty in (True, False):
        places = [folder / f"whole-{empty}-{number}" for number in range(2)]
        for place in places:
            begin(place, None if empty else ready)
        counting = start(places[0], settings, TARGET, counts=places[0] / "count")
        started = time.monotonic()
        timed = start(places[1], settings, TARGET)
        status = timed.wait(HANG_SECONDS)
        seconds[empty] = time.monotonic() - started
        if counting.wait(HANG_SECONDS) or status:
            raise RuntimeError(f"an uninterrupted run failed:\n{said(places[0])}{said(places[1])}")
        points[empty] = {kind: (places[0] / f"count.{kind}").stat().st_size for kind in KINDS}
        files += [digests(place / "run" / "results") for place in places]
        for place in places:
            shutil.rmtree(place)
    if any(other != files[0] for other in files) or not all(all(some.values()) for some in points.values()):
        raise RuntimeError("uninterrupted runs differ from each other, or have no points to kill them at")
    return Whole(settings, ready, files[0], seconds, points)


def attack(one: Attack, whole: Whole, place: Path, draw: np.random.Generator) -> Outcome:
    """Kill one run in a folder of its own, look, run again, look again."""
    seen = Outcome()
    share = one.share
    while True:
        begin(place, None if one.empty else whole.ready)
        if one.kind:
            number = 1 + int(share * whole.points[one.empty][one.kind])
            delay = float(draw.uniform(0, 0.01)) if one.kind == "open" else 0.0
            at = f"{one.kind} {number} {int(one.after)} {one.victim} {delay:.4f}"
            killed = start(place, whole.settings, TARGET, counts=place / "count", at=at, broken=one.broken)
            killed.wait(HANG_SECONDS)
            hit = killed.returncode != 0
        else:
            killed = start(place, whole.settings, TARGET, broken=one.broken)
            started = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                killed.wait(share * whole.seconds[one.empty])
                # shorter than it was taken for: so are others, and each that is killed too late is a run for nothing
                whole.seconds[one.empty] = (whole.seconds[one.empty] + time.monotonic() - started) / 2
            hit = kill(killed, place, one.victim)
        if hit:
            orphans = stop(killed.pid)
            break
        seen.late += 1
        share = float(draw.random())
        shutil.rmtree(place)
    first = said(place)
    results = place / "run" / "results"
    now = digests(results) if results.is_dir() else {}
    seen.wrong = sorted(name for name, digest in now.items() if finished(name) and whole.files.get(name) != digest)
    seen.stale = any((place / "run" / ".snakemake" / "locks").glob("*.lock"))
    again = start(place, whole.settings, TARGET, broken=one.broken)
    if orphans:
        seen.orphans = len(orphans)
        go_on(orphans, again, place)
    seen.again = again.wait(HANG_SECONDS)
    limit = time.monotonic() + HANG_SECONDS
    while orphans and members(killed.pid) and time.monotonic() < limit:  # what is left of them counts in `sweep`
        time.sleep(0.05)
    second = said(place)
    seen.said = second[-3000:]
    seen.waited = "waiting for it" in second
    now = digests(results) if results.is_dir() else {}
    seen.differs = sorted(name for name in {*now, *whole.files} if now.get(name) != whole.files.get(name))
    if counted := re.findall(r"^(\d+) of (\d+) steps", first, re.MULTILINE):
        done, planned = map(int, counted[-1])
        seen.redone = sum(jobs(second).values()) - (planned - done)
    seen.left = [f"file {name}" for name in seen.differs if name in now and not finished(name)]
    sweep(seen, place, (killed.pid, again.pid))
    return seen


def stop(session: int) -> list[int]:
    """Stop what outlived the kill of a run's head, so that it is in the way of the next run."""
    left = members(session)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
    return left


def go_on(orphans: list[int], again: subprocess.Popen[bytes], place: Path) -> None:
    """Let them go on once the next run waits for them, or has started work of its own (they had not registered)."""
    limit = time.monotonic() + HANG_SECONDS
    while again.poll() is None and time.monotonic() < limit:
        if "waiting for it" in said(place) or re.search("^(local)?rule ", said(place), re.MULTILINE):
            break
        time.sleep(0.05)
    for process in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def sweep(seen: Outcome, place: Path, sessions: tuple[int, ...]) -> None:
    """What is left of these runs, besides what they are for: by now, or once a step that came to itself late has seen that its run is gone."""
    limit = time.monotonic() + LATE_SECONDS
    while any(map(members, sessions)) and time.monotonic() < limit:
        time.sleep(0.05)
    runs = place / "run" / ".snakemake" / "runs"
    seen.left += [f"record {path.name}" for path in sorted(runs.iterdir()) if path.name != GATE]
    for path in sorted((place / "tmp").iterdir()):
        if re.fullmatch(r"snakemake\w+|\w+-pulp\.\w+", path.name):
            seen.kept += 1
        else:
            seen.left.append(f"temporary {path.name}")
    living = [process for session in sessions for process in members(session)]
    seen.left += [f"process {process}" for process in living]
    for process in living:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


# --- two at once ------------------------------------------------------------------------------------------------------


def twice(whole: Whole, place: Path, after: float, broken: str = "") -> list[str]:
    """Two runs in one folder, the second so many seconds after the first. Returns what is wrong: nothing, as a rule."""
    begin(place, whole.ready)
    runs, outs = [], [place / "said-0", place / "said-1"]
    for out, pause in zip(outs, (after, 0.0), strict=True):
        runs.append(start(place, whole.settings, TARGET, broken=broken, out=out))
        time.sleep(pause)
    ended = [run.wait(HANG_SECONDS) for run in runs]
    wrong = []
    if all(ended):
        wrong.append("neither run came to its end")
    for status, out, other in zip(ended, outs, reversed(runs), strict=True):
        text = out.read_text(errors="replace")
        if status and not (f"process {other.pid} on" in text and "cannot be locked, since" in text):
            wrong.append(f"ended with status {status} and did not name the other run:\n{text[-2000:]}")
        if "ended without cleaning up" in text:
            wrong.append("a living run was taken for a dead one")
    return wrong + unlike(whole, place, [run.pid for run in runs])


def living(whole: Whole, place: Path, broken: str = "") -> list[str]:
    """Nothing takes the lock of a run at work: not `--unlock`, not a dry run. Returns what is wrong: nothing, as a rule."""
    begin(place, whole.ready)
    run = start(place, whole.settings, TARGET, broken=broken, out=place / "said-0")
    state = place / "run" / ".snakemake"
    limit = time.monotonic() + HANG_SECONDS
    while not (list(state.glob("runs/*.output")) and open_gate(state / "runs" / GATE)):  # before that nobody gets past it, nor `--unlock`
        if run.poll() is not None or time.monotonic() > limit:
            raise RuntimeError(f"the run has no lock:\n{(place / 'said-0').read_text()}")
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGSTOP)  # it is at work as long as we look
    try:
        locks = sorted(path.name for path in state.glob("locks/*"))
        dry = start(place, whole.settings, TARGET, "--dry-run", broken=broken, out=place / "said-1").wait(HANG_SECONDS)
        unlocked = start(place, whole.settings, TARGET, "--unlock", broken=broken, out=place / "said-2").wait(HANG_SECONDS)
        kept = sorted(path.name for path in state.glob("locks/*"))
    finally:
        os.kill(run.pid, signal.SIGCONT)
    wrong = []
    if dry:
        wrong.append("a dry run beside it failed")
    if not unlocked or f"process {run.pid} on" not in (place / "said-2").read_text():
        wrong.append("--unlock was not refused by name")
    if locks != kept or not locks:
        wrong.append(f"its locks were {locks}, and then {kept}")
    if run.wait(HANG_SECONDS):
        wrong.append("the run at work did not come to its end")
    return wrong + unlike(whole, place, [run.pid])


def open_gate(gate: Path) -> bool:
    """Whether no run is between looking around and having its locks."""
    with open(gate) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def unlike(whole: Whole, place: Path, sessions: list[int]) -> list[str]:
    """Run once more, and compare with an uninterrupted run."""
    again = start(place, whole.settings, TARGET)
    wrong = [f"the next run failed:\n{said(place)[-2000:]}"] if again.wait(HANG_SECONDS) else []
    now = digests(place / "run" / "results")
    wrong += [f"{name} differs" for name in sorted({*now, *whole.files}) if now.get(name) != whole.files.get(name)]
    seen = Outcome()
    sweep(seen, place, (*sessions, again.pid))
    return wrong + seen.left


# --- runs -------------------------------------------------------------------------------------------------------------


def begin(place: Path, ready: Path | None) -> None:
    """An empty place, or one where the generated data are, with the times of their files."""
    (place / "tmp").mkdir(parents=True)
    if ready is None:
        (place / "run").mkdir()
    else:
        shutil.copytree(ready / "run", place / "run", symlinks=True)


def start(
    place: Path,
    settings: Path,
    target: str,
    *options: str,
    counts: Path | None = None,
    at: str = "",
    broken: str = "",
    out: Path | None = None,
) -> subprocess.Popen[bytes]:
    """`snakemake` with one core in a session of its own; what it prints goes into `out` (default: `place/said`)."""
    (place / "run").mkdir(exist_ok=True)
    (place / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(place / "tmp")}
    environment.pop("DUBTRACK_RUN", None)
    if counts or broken:
        environment["PYTHONPATH"] = str(REPOSITORY / "tests" / "torture" / "killer")
        environment["KILLER_BROKEN"] = broken
    if counts:
        environment |= {"KILLER_ROOT": str(place / "run"), "KILLER_COUNTS": str(counts), "KILLER_AT": at}
    command = ["-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(place / "run"), "--cores", "1"]
    with (out or place / "said").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *command, "--configfile", str(settings), *options, "--", target],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def said(place: Path) -> str:
    """What the last run printed."""
    return (place / "said").read_text(errors="replace")


def kill(run: subprocess.Popen[bytes], place: Path, victim: str) -> bool:
    """Kill a run, its head, or the process of its step (all of it where it has none); False if it had ended."""
    step = living_step(place) if victim == "step" else None
    if run.poll() is not None:
        return False
    if step is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(step, signal.SIGKILL)
    elif victim == "head":
        os.kill(run.pid, signal.SIGKILL)
    else:
        os.killpg(run.pid, signal.SIGKILL)
    return run.wait(HANG_SECONDS) != 0


def living_step(place: Path) -> int | None:
    """Process of the step that is at work, as its record says."""
    for path in sorted((place / "run" / ".snakemake" / "runs").glob("*.step")):
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(json.loads(path.read_text())["process"])
    return None


def members(session: int) -> list[int]:
    """Living processes of a session (Linux; elsewhere none can be told)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(path.parent.name))
    return found


def finished(name: str) -> bool:
    """Whether a path below results/ is a finished name."""
    return not any(part.startswith(".") for part in Path(name).parts)


def digests(results: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file below a folder, hidden ones too; files that go while we look are left out."""
    found = {}
    for path in sorted(results.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found[path.relative_to(results).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
