"""Puts files through `tests.torture.media_child` and through the real steps, and says what went wrong: the checks, and nothing else.

In:      files with their claims.   Out: what happened to each (:class:`Result`), and complaints; none if the promise holds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.base import tables
from pipeline.base.files import write_json
from tests.torture import media_child
from tests.torture.media_fuzz import Hostile

ROOT = Path(__file__).resolve().parents[2]
HANG = 5.0
"""Seconds of computing that one file may take, with the decoder that it starts; by the clock it is given up after three times as long,
because the machine may have other work."""
CAP = 256.0
"""MB that one file may take, beyond what the process had before it; also of the decoder that it starts."""
BROKEN_HANG = 1.0
"""Seconds by the clock after which a product that hangs on purpose is given up: whoever waits longer learns nothing."""
CLIP_REASONS = ("unreadable", "truncated", "short", "silent", "missing")
FRAME_REASONS = ("empty", "unreadable", "truncated", "too large")


@dataclass(frozen=True, slots=True)
class Result:
    """What happened to one file."""

    name: str
    kind: str
    outcome: str
    """'used', 'refused', the reason of a quarantine, 'raised ...', 'hangs' or 'died ...'."""
    seconds: float
    """Of computing; by the clock where it never ended."""
    megabytes: float = 0.0
    decoder: float = 0.0
    """MB of ffmpeg, where this file drove it higher than those before."""
    detail: str = ""
    loader: str = ""
    check: str = ""

    def complaint(self) -> str:
        """'' if the promise held for this file."""
        reasons = {"clip": CLIP_REASONS, "picture": FRAME_REASONS}.get(self.kind, ("refused",))
        if self.outcome != "used" and (self.outcome not in reasons or not self.detail):
            return f"{self.name}: {self.outcome} ({self.detail or 'no detail'})"
        if self.outcome == "used" and self.kind in ("stored", "table", "tar"):
            return f"{self.name}: taken for good"
        if "\n" in self.detail + self.loader:
            return f"{self.name}: more than one line"
        if self.seconds > HANG:
            return f"{self.name}: {self.seconds:.1f} s"
        if max(self.megabytes, self.decoder) > CAP:
            return f"{self.name}: {max(self.megabytes, self.decoder):.0f} MB"
        said = self.loader or (self.detail if self.kind == "stored" else "")
        if said and not ("sample media: frame 7 " in said and ("frames.check" in said or "expected" in said)):
            return f"{self.name}: the loader does not name the frame, or not what to do ({said})"
        if self.loader and not self.check:
            return f"{self.name}: frames.check lets it pass, the loader does not ({self.loader})"
        return ""


@dataclass(frozen=True, slots=True)
class Job:
    """A file for the child."""

    name: str
    kind: str
    more: dict[str, Any]
    """What the child needs: path, claim; and which variant of the product (`broken`)."""


def lay_out(files: Iterable[Hostile], folder: Path, ending: str) -> list[tuple[str, Path]]:
    """Write files as 00000<ending> and on; (name, path) of each."""
    folder.mkdir(parents=True)
    out = []
    for number, file in enumerate(files):
        path = folder / f"{number:05d}{ending}"
        file.write(path)
        out.append((file.name, path))
    return out


def trial(jobs: Sequence[Job], folder: Path, patience: float = 3 * HANG) -> list[Result]:
    """Every job in a child that is started anew when a file killed it, or kept it busy for `patience` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "jobs.json", [{"kind": job.kind, **job.more} for job in jobs])
    results: list[Result] = []
    while len(results) < len(jobs):
        results += _until_it_ends(jobs, folder, len(results), patience)
    return results


def _until_it_ends(jobs: Sequence[Job], folder: Path, first: int, patience: float) -> list[Result]:
    out = folder / "out.jsonl"
    out.write_text("")
    command = [sys.executable, "-m", "tests.torture.media_child", "files", f"{folder}/jobs.json", str(out), str(first)]
    with open(folder / "said.txt", "wb") as said, subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said) as child:
        size, since, ended, begun = 0, time.monotonic(), "", first
        while child.poll() is None:
            time.sleep(0.02)
            if out.stat().st_size != size:
                size, since = out.stat().st_size, time.monotonic()
                begun = first + out.read_bytes().count(b'"outcome"')
            elif size and time.monotonic() - since > (
                BROKEN_HANG if jobs[min(begun, len(jobs) - 1)].more.get("broken") == "hangs" else patience
            ):
                ended = "hangs"
                child.kill()
            elif not size and time.monotonic() - since > 300:
                child.kill()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    if not lines:
        raise RuntimeError(f"the child did not start: {(folder / 'said.txt').read_text()[-2000:]}")
    known = {field.name for field in fields(Result)}
    results = [
        Result(jobs[line["job"]].name, jobs[line["job"]].kind, **{name: value for name, value in line.items() if name in known})
        for line in lines
        if "outcome" in line
    ]
    if first + len(results) < len(jobs):  # the last line says which file was begun and never ended
        job = jobs[first + len(results)]
        results.append(Result(job.name, job.kind, ended or f"died {child.returncode}", time.monotonic() - since))
    return results


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Decoders write what they think of a file to the process's standard error; nobody has to read that a thousand times."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def complaints(results: Iterable[Result]) -> list[str]:
    return [said for result in results if (said := result.complaint())]


# --- the real steps --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """A step that has ended."""

    status: int
    said: str
    """stdout"""
    complained: str
    """stderr"""


def step(module: str, *arguments: object, broken: str = "", inside: bool = False) -> Done:
    """A step of the workflow, in a process of its own or (`inside`) in this one, which is faster."""
    words = [str(argument) for argument in arguments]
    if not inside:
        command = [sys.executable, "-m", "tests.torture.media_child", "step", module, broken, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        return Done(done.returncode, done.stdout, done.stderr)
    said, complained, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained), quiet():
        try:
            media_child.step(module, broken, words)
        except SystemExit as left:
            status = int(left.code or 0)
    return Done(status, said.getvalue(), complained.getvalue())


def _ended(done: Done, what: str, status: int = 0) -> list[str]:
    if done.status == status and "Traceback" not in done.complained:
        return []
    return [f"{what}: status {done.status}: {done.complained[-300:]}"]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a step made of files: reason by number of the file ('' if it is used), and complaints."""

    reasons: dict[int, str]
    complaints: list[str]


def voices(files: Sequence[Path], claims: Sequence[float | None], folder: Path, inside: bool = False) -> Path:
    """A Common Voice tree of one speaker whose clips are these files, read by read_items; the folder of its tables."""
    clips = folder / "cv" / "clips"
    clips.mkdir(parents=True)
    names = [f"common_voice_en_{number}.mp3" for number in range(len(files))]
    for name, path in zip(names, files, strict=True):
        (clips / name).symlink_to(path)
    rows = "".join(f"one speaker\t{name}\t{number:09d}\ten\n" for number, name in enumerate(names))
    (folder / "cv/train.tsv").write_text("client_id\tpath\tsentence_id\tlocale\n" + rows)
    told = "".join(f"{name}\t{round(1000 * claim)}\n" for name, claim in zip(names, claims, strict=True) if claim is not None)
    (folder / "cv/clip_durations.tsv").write_text("clip\tduration[ms]\n" + told)
    done = step(
        "pipeline.read_items", folder / "i.parquet", "--name", "cv", "--root", folder / "cv", "--source", "common_voice", inside=inside
    )
    if said := _ended(done, "read_items"):
        raise RuntimeError(said[0])
    paths = [f"{number}.jpg" for number in range(6 * len(files))]  # six frames hear one clip: as many runs as clips
    row = {"tracklet": "t", "dataset": "d", "identity": "a", "kind": "person", "camera": 0, "frames": paths}
    tables.write_rows(folder / "t.parquet", [row], tables.TRACKLETS, {"dataset": "d", "cameras": 1})
    tables.write_rows(folder / "s.parquet", [{"tracklet": "t", "role": "train", "label": 0}], tables.SPLIT)
    tables.write_rows(folder / "p.parquet", [{"tracklet": "t", "shard": 0, "order": 0, "frames": len(paths)}], tables.PLAN)
    return folder


def dub(folder: Path, threads: int, broken: str = "", inside: bool = False) -> Verdicts:
    """align_companion (every clip is asked for) and encode_companion on what :func:`voices` made; each clip must be accounted for."""
    config = json.dumps({"kind": "audio", "alignment": {"policy": "single_speaker"}})
    common = ["--root", folder / "cv", "--seed", 1, "--threads", threads, "--config", config]
    heard, probed, made = (folder / f"{name}{threads}.parquet" for name in ("a", "q", "f"))
    sources = ["--tracklets", folder / "t.parquet", "--splits", folder / "s.parquet", "--items", folder / "i.parquet"]
    said = _ended(
        step("pipeline.align_companion", heard, "--probes", probed, *sources, *common, broken=broken, inside=inside), "align_companion"
    )
    if said:
        return Verdicts({}, said)
    said = _ended(
        step(
            "pipeline.encode_companion",
            made,
            "--alignment",
            heard,
            "--plan",
            folder / "p.parquet",
            "--shard",
            0,
            *common,
            broken=broken,
            inside=inside,
        ),
        "encode_companion",
    )
    if said:
        return Verdicts({}, said)
    given = set(tables.read(folder / "i.parquet", tables.ITEMS).column("item").to_pylist())
    probes = {row["item"]: row for row in tables.read(probed, tables.PROBES).to_pylist()}
    usable = {item for item, row in probes.items() if row["usable"]}
    used = set(tables.read(heard, tables.ALIGNMENT).column("item").to_pylist())
    encoded = set(tables.read(made, tables.FEATURES).column("item").to_pylist())
    said = [f"{item}: neither used nor quarantined" for item in sorted(given - probes.keys())]
    said += [f"{item}: usable, and not in ALIGNMENT and FEATURES" for item in sorted(usable ^ used | usable ^ encoded)]
    said += [
        f"{item}: quarantined for '{row['reason']}' ({row['detail']})"
        for item, row in probes.items()
        if not row["usable"] and not (row["reason"] in CLIP_REASONS and row["detail"])
    ]
    return Verdicts({int(item.rpartition("_")[2]): row["reason"] for item, row in probes.items()}, said)


TRACKLET = 20
"""Files of one tracklet."""


def film(files: Sequence[Path], good: bytes, folder: Path) -> Path:
    """TRACKLETS whose frames are these files, in their order; each tracklet begins with a good one, because of none nothing is left."""
    root = folder / "frames"
    root.mkdir(parents=True)
    (root / "good.jpg").write_bytes(good)
    for path in files:
        (root / path.name).symlink_to(path)
    rows, plan = [], []
    for number, first in enumerate(range(0, len(files), TRACKLET)):
        name, paths = f"t{number:04d}", ["good.jpg", *(path.name for path in files[first : first + TRACKLET])]
        rows.append({"tracklet": name, "dataset": "d", "identity": "a", "kind": "person", "camera": 0, "frames": paths})
        plan.append({"tracklet": name, "shard": 0, "order": number, "frames": len(paths)})
    tables.write_rows(folder / "t.parquet", rows, tables.TRACKLETS, {"dataset": "d", "cameras": 1})
    tables.write_rows(folder / "p.parquet", plan, tables.PLAN)
    return folder


def pack(folder: Path, threads: int, settings: dict[str, Any], broken: str = "", inside: bool = False) -> Verdicts:
    """encode_frames on what :func:`film` made: with `broken: drop` each picture must be accounted for, with `stop` each named."""
    stops = settings["broken"] == "stop"
    names = [folder / f"{settings['broken']}{threads}.{ending}" for ending in ("parquet", "mjpeg", "quarantine")]
    rest = ["--tracklets", folder / "t.parquet", "--plan", folder / "p.parquet", "--shard", 0, "--root", folder / "frames"]
    config = ["--threads", threads, "--config", json.dumps(settings)]
    done = step(
        "pipeline.encode_frames", names[0], "--stream", names[1], "--quarantine", names[2], *rest, *config, broken=broken, inside=inside
    )
    said = _ended(done, "encode_frames", 2 if stops else 0)
    if said:
        return Verdicts({}, said)
    listed = tables.read(names[2], tables.QUARANTINE).to_pylist()
    bad = {row["path"]: row["reason"] for row in listed}
    said = [f"{row['path']}: quarantined for '{row['reason']}'" for row in listed if not (row["reason"] in FRAME_REASONS and row["detail"])]
    said += [f"{path}: not in the log" for path in bad if f"broken frame: {path}: " not in done.said]
    given = {path for paths in tables.read(folder / "t.parquet", tables.TRACKLETS).column("frames").to_pylist() for path in paths}
    if stops:
        last = done.complained.splitlines()[-1] if done.complained else ""
        if not last.startswith(f"error: d, shard 0: {len(bad)} broken frames: ") or names[0].exists() or names[1].exists():
            said.append(f"encode_frames: ends with '{last[:200]}', or leaves something that looks finished")
        kept = given - bad.keys()
    else:
        kept = {path for paths in tables.read(names[0], tables.FRAMES).column("paths").to_pylist() for path in paths}
    said += [
        f"{path}: {'both used and quarantined' if path in kept else 'neither used nor quarantined'}"
        for path in given
        if (path in kept) == (path in bad)
    ]
    return Verdicts({int(path[:5]): bad.get(path, "") for path in given - {"good.jpg"}}, said)


def stored_frames(folder: Path, threads: int) -> list[tuple[str, bytes]]:
    """(path, JPEG) of every frame in the stream that :func:`pack` made with `broken: drop`."""
    stream = (folder / f"drop{threads}.mjpeg").read_bytes()
    out = []
    for row in tables.read(folder / f"drop{threads}.parquet", tables.FRAMES).to_pylist():
        at = row["offset"]
        for path, length in zip(row["paths"], row["lengths"], strict=True):
            out.append((path, stream[at : at + length]))
            at += length
    return out


def differences(one: dict[int, str], other: dict[int, str], what: str) -> list[str]:
    """Files with two verdicts."""
    return [
        f"file {n}: '{one.get(n)}' and '{other.get(n)}' ({what})" for n in sorted(one.keys() | other.keys()) if one.get(n) != other.get(n)
    ]
