"""R3, a full disk is a clean stop: whole runs on a disk that fills up at chosen sizes, and every writer alone.

A run that is stopped must end with a nonzero status and one sentence of ours (the file, that no space is left, what to do), without a
traceback through our code; every file under a final name in results/ must be that of an uninterrupted run, and no temporary file may be
left. Then room is made, and the same command must end well and give the same tree, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture import writers
from tests.torture.disks import PAGE, no_mounting, tmpfs
from tests.torture.figures import Figure
from tests.torture.stand_ins import BROKEN

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
demo: {train_identities: 2, test_identities: 2, cameras: 2, tracklets: 1, distractors: 1, junk: 1, frames: [2, 4], pairs: 4, speakers: 4, seconds: [0.6, 0.8]}
datasets: {demo: {shards: 2}}
methods:
  dubbernet_demo:
    model: {width: 16, depth: 3, heads: 2, fusion_after_blocks: [0], audio_tokens: 2, audio_frames: 60}
    sampler: {identities: 2, tracklets: 2}
    machine: {checkpoint_epochs: 1}
    stages: {teacher: {epochs: 2}}
"""
PACK, TRAIN = "pack_demo", "train_teacher_demo"
SIZES, WHOLE_SIZES, TRAIN_SIZES = 12, 6, 4
AT_ONCE = 2
"""Runs side by side, each on one core."""

SENTENCE = re.compile(r"^error: .*results/\S*: no space left to write it .*run the same command again", re.MULTILINE)
NOTE = re.compile(r"^note: .*(are free here; make room|must not be written; get the right to).* run the same command again$", re.MULTILINE)
OURS = re.compile(rf'File "{re.escape(str(ROOT))}/(pipeline|shards|model|train|evaluate)/')
NOTICED = {"swallowing": "looks finished and is not", "untold": "no sentence", "littering": "left "}
"""What the check of a whole run must find where the steps have a broken `atomic`; `in_place` is mended by Snakemake, which deletes
what a failed step has made, and is tried with the writers alone."""
CHANGING = ("results/tensorboard/", "results/checkpoints/")
"""Parts of a training's tree whose bytes hold dates and host names; checkpoints are checked by the digests that they carry."""


@dataclass(slots=True)
class Outcome:
    """One run that was stopped and went on."""

    where: str
    faults: list[str] = field(default_factory=list)
    step: str = ""
    """Rule that failed; '' where Snakemake itself did."""


def snakemake(folder: Path, target: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and all output of one run of the workflow; the configuration lies beside `folder`."""
    config = folder.parent / "mini.yaml"
    if not config.exists():
        config.write_text(CONFIG)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    done = subprocess.run(
        [*command, "--cores", "1", "--configfile", str(config), "--", target],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stdout


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in results/ by its path; hidden names, too."""
    paths = sorted(path for path in (folder / "results").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def wrong_tree(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Files that a stopped run must not leave: temporary ones, and those that an uninterrupted run does not have or has otherwise."""
    temporary = [name for name in found if re.search(r"/\.(?!dubtrack-demo$)", name)]
    other = [
        name for name, digest in found.items() if name not in temporary and not name.startswith(CHANGING) and wanted.get(name) != digest
    ]
    return [f"left {name}" for name in temporary] + [f"looks finished and is not: {name}" for name in other]


def wrong_checkpoints(folder: Path) -> list[str]:
    """Checkpoints whose files are not those that they list."""
    found = []
    for state in sorted((folder / "results/checkpoints").rglob("state.json")):
        for name, digest in json.loads(state.read_text())["digests"].items():
            file = state.parent / (name if (state.parent / name).exists() else f"{name}.safetensors")
            if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                found.append(f"not whole: {file.relative_to(folder)}")
    return found


def wrong_stop(status: int, output: str, *, alone: bool) -> list[str]:
    """What is wrong with how a run ended.

    Args:
        alone: only results/ lies on the full disk; else Snakemake's own files do, too, and it may be the one that stops.
    """
    found = [] if status else ["status 0 on a full disk"]
    if status and not SENTENCE.search(output) and (alone or not NOTE.search(output)):
        found.append(f"no sentence in: {output[-1500:]}")
    signs = ("Traceback" in output, OURS.search(output) is not None)
    if any(signs) if alone else all(signs):  # Snakemake itself adds to a sentence the line that it came from
        found.append(f"a traceback: {output[-1500:]}")
    return found


def comparable(found: dict[str, str]) -> dict[str, str]:
    """The part of a tree that two uninterrupted runs have in common: metrics.jsonl holds speeds, and origin.json the digest of it."""
    uncommon = ("metrics.jsonl", "origin.json")
    return {name: digest for name, digest in found.items() if not name.startswith(CHANGING) and not name.endswith(uncommon)}


def stopped(
    outcome: Outcome,
    folder: Path,
    target: str,
    wanted: dict[str, str],
    make_room: Callable[[], None],
    *,
    alone: bool = True,
    environment: dict[str, str] | None = None,
) -> Outcome:
    """Run until the disk is full, look, make room, run again, look."""
    status, output = snakemake(folder, target, environment)
    found = outcome.faults
    found += wrong_stop(status, output, alone=alone) + wrong_tree(tree(folder), wanted) + wrong_checkpoints(folder)
    failed = re.search(r"Error in rule (\w+):", output)
    outcome.step = failed[1] if failed else ""
    make_room()
    status, output = snakemake(folder, target)
    if status:
        found.append(f"with room again: status {status}: {output[-1500:]}")
    left, goal = comparable(tree(folder)), comparable(wanted)
    found += [f"with room again: {name} differs" for name in sorted(left.keys() | goal.keys()) if left.get(name) != goal.get(name)]
    found += wrong_checkpoints(folder) + [fault for fault in wrong_tree(tree(folder), wanted) if fault.startswith("left ")]
    return outcome


def on_full_results(
    folder: Path, pages: int, wanted: dict[str, str], *, files: int = 0, environment: dict[str, str] | None = None
) -> Outcome:
    """One run with results/ on a disk of so many pages, or of so many names."""
    with tmpfs(folder / "results", pages, files) as disk:
        where = f"{files} names" if files else f"{pages} pages"
        return stopped(
            Outcome(where),
            folder,
            PACK,
            wanted,
            lambda: disk.again("size=64m,nr_inodes=100k" if files else "size=64m"),
            environment=environment,
        )


def on_full_directory(folder: Path, pages: int, wanted: dict[str, str]) -> Outcome:
    """One run with the whole working directory on a disk of so many pages: logs, benchmarks, Snakemake's notes."""
    with tmpfs(folder, pages) as disk:
        return stopped(Outcome(f"{pages} pages"), folder, PACK, wanted, lambda: disk.again("size=64m"), alone=False)


def training_on_full(folder: Path, packed: Path, pages: int, wanted: dict[str, str]) -> Outcome:
    """One training on packed data, with so many pages left for it."""
    with tmpfs(folder / "results", 1 << 14) as disk:
        shutil.copytree(packed, folder, dirs_exist_ok=True, symlinks=True)
        used = os.statvfs(disk.folder)
        disk.again(f"size={(used.f_blocks - used.f_bfree + pages) * PAGE}")
        return stopped(Outcome(f"{pages} pages"), folder, TRAIN, wanted, lambda: disk.again("size=64m"))


def read_only(folder: Path, packed: Path, wanted: dict[str, str]) -> Outcome:
    """The last step wants to write where nothing may be written: one sentence, too."""
    with tmpfs(folder / "results", 1 << 14) as disk:
        shutil.copytree(packed, folder, dirs_exist_ok=True, symlinks=True)
        (folder / "results/shards/demo-audio/index.parquet").unlink()
        disk.again("ro")
        status, output = snakemake(folder, PACK)
        outcome = Outcome("read-only", [] if status else ["status 0 on a read-only disk"], "")
        if not NOTE.search(output) or (
            "Traceback" in output and OURS.search(output)
        ):  # Snakemake stops before the step: it cannot take the old file away
            outcome.faults.append(f"no sentence in: {output[-1500:]}")
        disk.again("rw")
        status, output = snakemake(folder, PACK)
        outcome.faults += [] if status == 0 and tree(folder) == wanted else [f"writable again: status {status}: {output[-1500:]}"]
        return outcome


def with_short_files(folder: Path, kilobytes: int, wanted: dict[str, str]) -> Outcome:
    """Where nothing can be mounted: one run whose steps may write no file longer than so many kB."""
    limit = folder.parent / f"{folder.name}.sh"
    limit.write_text(f"ulimit -f {kilobytes}\n")  # every shell that Snakemake starts reads it; Snakemake itself is not limited
    return stopped(Outcome(f"files of {kilobytes} kB"), folder, PACK, wanted, lambda: None, environment={"BASH_ENV": str(limit)})


def sizes(folder: Path, count: int) -> list[int]:
    """Pages of disks on which a run of `folder` stops in different places: a quarter in the demo, the rest each in another file.

    Files are taken in the order in which they were written; each disk ends in the middle of one.
    """
    files = sorted((path for path in (folder / "results").rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    pages = [-(-path.stat().st_size // PAGE) for path in files]
    demo = [path for path in files if path.relative_to(folder / "results").parts[0] == "demo"]
    first = sum(-(-path.stat().st_size // PAGE) for path in demo)
    later = [size for path, size in zip(files, pages, strict=True) if path not in demo]
    ends, total = [], first
    for size in later:
        ends.append(total + size // 2)
        total += size
    within = max(1, count // 4)
    picked = [max(1, first * number // within) for number in range(within)]
    return picked + spread(ends, count - within)


def spread(values: Sequence[int], count: int) -> list[int]:
    """`count` of the values, evenly spaced, the last among them."""
    return [values[(number + 1) * len(values) // count - 1] for number in range(count)]


# --- broken on purpose ------------------------------------------------------------------------------------------------


def broken(folder: Path, name: str) -> dict[str, str]:
    """Environment in which every step has another `atomic`: see `stand_ins.BROKEN`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            try:
                from pipeline.base import files
            except ImportError:  # not in a step
                pass
            else:
                from tests.torture.stand_ins import BROKEN
                files.atomic = BROKEN[{name!r}]
        """)
    )
    return {"PYTHONPATH": str(folder)}


def noticed(outcome: Outcome, kind: str) -> bool:
    """Whether the check has found what it must with this broken `atomic`."""
    return any(NOTICED[kind] in fault for fault in outcome.faults)


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    """The full form; about four minutes on two cores."""
    done = folder / "done"
    status, output = snakemake(done, PACK)
    if status:
        raise RuntimeError(f"an undisturbed run failed: {output[-3000:]}")
    wanted = tree(done)
    count = max(2, round(SIZES * scale))
    refused = no_mounting()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        if refused:
            yield _limited(folder, done, wanted, count, pool, refused)
        else:
            yield from _mounted(folder, done, wanted, count, scale, pool)
    yield alone(folder / "writers")


def _limited(folder: Path, done: Path, wanted: dict[str, str], count: int, pool: ThreadPoolExecutor, refused: str) -> Figure:
    lengths = sorted({path.stat().st_size >> 10 for path in (done / "results").rglob("*") if path.stat().st_size >= 2048})
    limits = [max(1, size - 1) for size in spread(lengths, count)]
    outcomes = list(pool.map(lambda pair: with_short_files(folder / f"short{pair[0]}", pair[1], wanted), enumerate(limits)))
    kinds = ("swallowing", "untold")
    caught = 0
    for kind in kinds:
        environment = broken(folder / kind, kind)
        limit = folder / f"{kind}.sh"
        limit.write_text(f"ulimit -f {limits[-1]}\n")
        outcome = stopped(
            Outcome(kind), folder / f"run-{kind}", PACK, wanted, lambda: None, environment={**environment, "BASH_ENV": str(limit)}
        )
        caught += noticed(outcome, kind)
    promise = (
        "a step that may not write a file of its length stops with one sentence, leaves nothing half done, and goes on to the same bytes"
    )
    seen = f"nothing can be mounted here ({refused}), so files were limited (EFBIG, `ulimit -f`) instead of a full disk; {_steps(outcomes)}"
    return _figure(promise, outcomes, caught, kinds, seen)


def _mounted(folder: Path, done: Path, wanted: dict[str, str], count: int, scale: float, pool: ThreadPoolExecutor) -> Iterator[Figure]:
    small = sizes(done, count)
    outcomes = list(pool.map(lambda pair: on_full_results(folder / f"full{pair[0]}", pair[1], wanted), enumerate(small)))
    kinds = tuple(NOTICED)
    # with the largest of these disks the last step of all is refused: on smaller ones it depends on the order of jobs which file is,
    # and a swallowed error may make the step fall over what it lacks instead of leaving half a file
    caught = [
        pool.submit(on_full_results, folder / f"run-{kind}", small[-1], wanted, environment=broken(folder / kind, kind)) for kind in kinds
    ]
    promise = (
        "a disk that fills up (results/ alone) stops the run with one sentence, nothing half done, and the same bytes once there is room"
    )
    seen = f"disks of {small[0] * PAGE >> 10} to {small[-1] * PAGE >> 10} KiB; {_steps(outcomes)}"
    yield _figure(promise, outcomes, sum(noticed(one.result(), kind) for kind, one in zip(kinds, caught, strict=True)), kinds, seen)

    used = sum(-(-path.stat().st_size // PAGE) for path in done.rglob("*") if path.is_file())
    number = max(2, round(WHOLE_SIZES * scale))
    small = [1, *spread([used * part // 100 for part in range(78, 98)], number - 1)]
    outcomes = list(pool.map(lambda pair: on_full_directory(folder / f"whole{pair[0]}", pair[1], wanted), enumerate(small)))
    note = "note: /x: only 0.0 MB are free here; make room and run the same command again\n"
    lies = (
        (1, "WorkflowError: [Errno 28] No space left on device"),
        (0, note),
        (1, f'Traceback (most recent call last):\n  File "{ROOT}/pipeline/x.py"\n{note}'),
    )
    told = [not wrong_stop(*one, alone=False) for one in lies]
    promise = "the same where the whole working directory is on that disk, logs and Snakemake's notes, too"
    seen = f"disks of {small[0] * PAGE >> 10} to {small[-1] * PAGE >> 10} KiB; {_steps(outcomes)}"
    yield Figure(
        promise,
        len(outcomes),
        _held(outcomes),
        "output without our sentence, status 0, a traceback of ours",
        len(told),
        told.count(False),
        seen,
    )

    names = sum(1 for _ in (done / "results").rglob("*")) + 1
    runs = [pool.submit(on_full_results, folder / f"names{number}", 1 << 14, wanted, files=number) for number in (names // 2, names - 4)]
    runs.append(pool.submit(read_only, folder / "read-only", done, wanted))
    outcomes = [run.result() for run in runs]
    control = on_full_results(folder / "run-names", 1 << 14, wanted, files=names - 4, environment=broken(folder / "names-untold", "untold"))
    promise = "no names left on the disk (inodes), and a disk that may not be written, are said the same way"
    yield _figure(promise, outcomes, noticed(control, "untold"), ("untold",), f"{names} names are needed; {_steps(outcomes)}")

    trained = folder / "trained"
    shutil.copytree(done, trained, symlinks=True)
    status, output = snakemake(trained, TRAIN)
    if status:
        raise RuntimeError(f"an undisturbed training failed: {output[-3000:]}")
    goal = tree(trained)
    more = sum(-(-(trained / name).stat().st_size // PAGE) for name in goal.keys() - wanted.keys())
    number = max(2, round(TRAIN_SIZES * scale))
    small = [more * part // number for part in range(number)]
    outcomes = list(pool.map(lambda pair: training_on_full(folder / f"train{pair[0]}", done, pair[1], goal), enumerate(small)))
    control = halves(trained, folder / "halves", goal)
    promise = "a training on a full disk stops the same way; its checkpoints stay whole, and its weights come out the same"
    seen = f"{small[0] * PAGE >> 10} to {small[-1] * PAGE >> 10} KiB left for it; {_steps(outcomes)}"
    yield Figure(promise, len(outcomes), _held(outcomes), "half a weight file, half a checkpoint", len(control), sum(control), seen)


def halves(trained: Path, folder: Path, goal: dict[str, str]) -> list[bool]:
    """Whether the checks see half a weight file and half a file of a checkpoint, in a copy of a trained tree that they find whole."""
    shutil.copytree(trained, folder, symlinks=True)
    if found := wrong_tree(tree(folder), goal) + wrong_checkpoints(folder):
        raise RuntimeError(f"a tree that nobody has touched: {found}")
    weights = next((folder / "results/runs").rglob("model.safetensors"))
    state = next((folder / "results/checkpoints").rglob("state.json"))
    kept = next(path for path in sorted(state.parent.iterdir()) if path.suffix == ".safetensors")
    for path in (weights, kept):
        os.truncate(path, path.stat().st_size // 2)
    weights_named = f"looks finished and is not: {weights.relative_to(folder)}"
    return [weights_named in wrong_tree(tree(folder), goal), wrong_checkpoints(folder) == [f"not whole: {kept.relative_to(folder)}"]]


def alone(folder: Path) -> Figure:
    """Every writer by itself, and four broken ones."""
    found = {name: writers.faults(name, folder / name) for name in writers.WRITERS}
    _say([fault for one in found.values() for fault in one])
    caught = 0
    for kind, stand_in in BROKEN.items():
        with writers.standing_in(stand_in):
            caught += bool(writers.faults("BlockWriter", folder / kind))
    promise = "every writer by itself ends in one sentence on a full disk, and leaves nothing"
    seen = f"{', '.join(found)}; {'files limited (EFBIG)' if no_mounting() else 'tmpfs of one page (ENOSPC)'}"
    held = sum(not one for one in found.values())
    return Figure(promise, len(found), held, f"an `atomic` that is {', '.join(BROKEN)}", len(BROKEN), caught, seen)


def _held(outcomes: Sequence[Outcome]) -> int:
    _say([f"{one.where}, {one.step or 'snakemake'}: {fault}" for one in outcomes for fault in one.faults])
    return sum(not one.faults for one in outcomes)


def _say(faults: Sequence[str]) -> None:
    for fault in faults:
        print(fault, file=sys.stderr, flush=True)


def _steps(outcomes: Sequence[Outcome]) -> str:
    counted: dict[str, int] = {}
    for one in outcomes:
        counted[one.step or "Snakemake itself"] = counted.get(one.step or "Snakemake itself", 0) + 1
    return "stopped in " + ", ".join(f"{name} {count}" for name, count in counted.items())


def _figure(promise: str, outcomes: Sequence[Outcome], caught: int, kinds: Sequence[str], seen: str) -> Figure:
    return Figure(promise, len(outcomes), _held(outcomes), f"an `atomic` that is {', '.join(kinds)}", len(kinds), caught, seen)
