"""The process that meets hostile media: `python -m tests.torture.media_child files JOBS OUT FIRST` or `... step MODULE BROKEN ARGUMENTS`.

`files` runs the product's functions on one file after another and writes, before and after each, one line of JSON to OUT: whoever
started it can tell which file killed it or keeps it busy. `step` runs a step of the workflow. BROKEN (and "broken" of a job) names a
variant of the product that is broken on purpose, '' the product itself.

Nothing is reported about a file but what happened: the outcome, seconds, and how far its peak lies above the memory of the process before.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipeline.base import cli, pictures
from pipeline.base.config import CompanionConfig, DatasetConfig, FramesConfig
from pipeline.base.errors import MediaError, ShardError, UserError
from pipeline.features import audio, frames

ROOM = 4 << 30
"""Bytes of address space that a file may have beyond what the process has before: the machine that tests must survive."""


# --- what happens to one file ----------------------------------------------------------------------------------------


def clip(job: dict[str, Any]) -> dict[str, Any]:
    """A clip as align_companion and encode_companion treat it."""
    path, config = Path(job["path"]), CompanionConfig()
    found = audio.probe(path, None, job["claim"], config.audio)
    if found.reason:
        return {"outcome": found.reason, "detail": found.detail}
    values = audio.encode("clip", path, None, found.seconds, config, 0)
    if values.dtype != np.float16 or values.shape[1] != config.audio.bands or not np.isfinite(values).all():
        return {"outcome": f"odd values {values.dtype} {values.shape}"}
    return {"outcome": "used", "detail": f"{found.samples} samples at {found.rate} Hz"}


def picture(job: dict[str, Any]) -> dict[str, Any]:
    """A picture as encode_frames treats it; `loader` says what the loader makes of the stored frame, `check` what `frames.check` says."""
    config = FramesConfig()
    data = pictures.read(job["path"])
    try:
        stored, made = frames.encode(data, config)
    except MediaError as error:
        return {"outcome": error.reason, "detail": error.detail}
    out: dict[str, Any] = {"outcome": "used", "detail": "made" if made else "taken", "loader": load(stored)}
    try:
        frames.encode(data, replace(config, check=True))
        out["check"] = ""
    except MediaError as error:
        out["check"] = error.reason
    return out


def shown(job: dict[str, Any]) -> dict[str, Any]:
    """A picture as the report shrinks it."""
    from evaluate.report_page.media import Media

    media = Media()
    media.thumbnail(Path(job["path"]), 112, "a person")
    return {"outcome": "refused", "detail": media.refused[0]} if media.refused else {"outcome": "used"}


def load(jpeg: bytes) -> str:
    """'' if the loader decodes a stored frame, else its sentence."""
    import torch

    from shards.prepare.frames import decode

    room = torch.empty((1, 3, FramesConfig().height, FramesConfig().width), dtype=torch.uint8)
    try:
        decode([jpeg], room, "shard 00000.tar, sample media", [7])
    except ShardError as error:
        return str(error)
    return ""


def stored(job: dict[str, Any]) -> dict[str, Any]:
    """A file that stands in a shard in the place of a frame: what the loader says."""
    said = load(Path(job["path"]).read_bytes())
    return {"outcome": "refused" if said else "used", "detail": said}


def table(job: dict[str, Any]) -> dict[str, Any]:
    """A .mat file in the place of MARS's table of tracklets and of iLIDS-VID's table of splits."""
    from pipeline.sources import ilidsvid, mars
    from pipeline.sources.listing import read_mat

    root = Path(job["folder"])
    said = []
    if job["source"] == "mars":
        with contextlib.suppress(UserError):
            read_mat(Path(job["path"]), "track_train_info")
        config = DatasetConfig(source="mars")
        calls: list[Callable[[], Any]] = [lambda: mars.read_tracklets(root, config)]
    else:
        config = DatasetConfig(source="ilidsvid", subset=True)
        calls = [lambda: ilidsvid.read_split(root, config, "0", ilidsvid.read_tracklets(root, config)[0])]
    for call in calls:
        try:
            call()
        except UserError as error:
            said.append(str(error))
    return {"outcome": "refused" if len(said) == len(calls) else "used", "detail": " | ".join(said)}


def tar(job: dict[str, Any]) -> dict[str, Any]:
    """A tar in the place of a shard: read as a local file, through a command (where nobody knows its size), and verified."""
    from shards.read import Index
    from shards.stream import Tars
    from shards.verify import verify

    index = Index(job["index"])
    shard = index.layout.names[0]
    said = []
    for urls, commands in (("", False), (f"pipe:cat {index.path.parent}/{{shard}}", True)):
        try:
            list(Tars(index, urls, commands).samples(shard))
        except ShardError as error:
            said.append(str(error))
    said += verify(job["index"])[:1]
    return {"outcome": "refused" if len(said) == 3 and all(shard in line for line in said) else "used", "detail": " | ".join(said)}


KINDS = {"clip": clip, "picture": picture, "shown": shown, "stored": stored, "table": table, "tar": tar}


# --- broken on purpose -----------------------------------------------------------------------------------------------


def _before(act: Callable[[], Any]) -> contextlib.ExitStack:
    """`act` is called before each clip and each picture is decoded, each .mat read and each tar opened."""
    from pipeline.sources import listing
    from shards.stream import Tars

    stack = contextlib.ExitStack()
    for owner, name in ((audio, "_decode"), (pictures, "decode"), (listing, "read_mat"), (Tars, "_open")):
        real = getattr(owner, name)
        stack.enter_context(mock.patch.object(owner, name, lambda *given, real=real, **named: (act(), real(*given, **named))[1]))
    return stack


def _raise() -> None:
    raise ZeroDivisionError("broken on purpose")


def _deaf() -> AbstractContextManager[Any]:
    """Reports a clip that was cut as usable."""
    real = audio.judge
    return mock.patch.object(audio, "judge", lambda *given: ("", "") if (said := real(*given))[0] == "truncated" else said)


def _forgets_clips() -> AbstractContextManager[Any]:
    """A quarantined clip gets no row."""
    from pipeline.voices import Prober

    real = Prober.rows
    return mock.patch.object(Prober, "rows", lambda self: sorted(real(self), key=lambda row: row["usable"])[1:])


def _forgets_frames() -> AbstractContextManager[Any]:
    """Broken pictures are left out without a row."""
    from pipeline import encode_frames

    real = encode_frames.encode_tracklet
    return mock.patch.object(encode_frames, "encode_tracklet", lambda *given: replace(real(*given), broken=[]))


def _unsteady() -> AbstractContextManager[Any]:
    """The verdict depends on how many clips were heard before."""
    real, turns = audio.probe, itertools.count()

    def probe(*given: Any) -> audio.Probe:
        found = real(*given)
        return found if found.reason or next(turns) % 7 else replace(found, reason="silent", detail="by chance")

    return mock.patch.object(audio, "probe", probe)


BROKEN: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "": contextlib.nullcontext,
    "hangs": lambda: _before(lambda: time.sleep(3600)),
    "eats memory": lambda: _before(lambda: np.ones(600 << 20, np.uint8)),
    "raises": lambda: _before(_raise),
    "dies": lambda: _before(os.abort),
    "takes cut clips": _deaf,
    "forgets clips": _forgets_clips,
    "forgets frames": _forgets_frames,
    "unsteady": _unsteady,
}
"""Variants of the product, by what is wrong with them."""


# --- the process -----------------------------------------------------------------------------------------------------


def memory(what: str) -> float:
    """A line of /proc/self/status in MB, or the highest ever where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:"))


def reset() -> None:
    """Forget the peak; without it, peaks are those of the whole process, which can only be too high."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def run(jobs: list[dict[str, Any]], out: Path, first: int) -> None:
    """Each job from `first` on; a line before and a line after it."""
    if any(job["kind"] in ("picture", "stored", "tar") for job in jobs[first:]):
        load(b"")  # imports torch, which no file shall pay for (and no ffmpeg: its peak begins with that of the process that starts it)
    limit = int(memory("VmSize") * (1 << 20)) + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with open(out, "a", buffering=1) as lines:
        for number in range(first, len(jobs)):
            print(json.dumps({"job": number}), file=lines)
            reset()
            before, started, children = memory("VmRSS"), _computed(), _children()
            try:
                with BROKEN[jobs[number].get("broken", "")]():
                    found = KINDS[jobs[number]["kind"]](jobs[number])
            except Exception as error:
                found = {"outcome": f"raised {type(error).__name__}", "detail": str(error)}
            seconds, peak = _computed() - started, memory("VmHWM") - before
            decoder = _children() if jobs[number]["kind"] == "clip" and _children() > children else 0.0
            print(json.dumps({"job": number, "seconds": seconds, "megabytes": peak, "decoder": decoder, **found}), file=lines)


def _computed() -> float:
    """Seconds that this process and its children have computed: what other work the machine has does not count."""
    return sum(os.times()[:4])


def _children() -> float:
    """Peak of the largest ffmpeg so far, MB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def step(module: str, broken: str, arguments: list[str]) -> None:
    """Run a step as its command line does."""
    main: Callable[[list[str]], None] = importlib.import_module(module).main
    with BROKEN[broken]():
        cli.run(lambda: main(arguments))


def main() -> None:
    mode, *arguments = sys.argv[1:]
    if mode == "files":
        jobs, out, first = arguments
        run(json.loads(Path(jobs).read_text()), Path(out), int(first))
    else:
        step(arguments[0], arguments[1], arguments[2:])


if __name__ == "__main__":
    main()
