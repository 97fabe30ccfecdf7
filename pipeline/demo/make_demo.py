"""Render a small data set of every grammar: MARS, iLIDS-VID, PRID-2011 and Common Voice, with nobody real in them.

In:      DemoConfig as JSON.   Out: OUT_DIR/{MARS,iLIDS-VID,PRID-2011,common_voice/en}/... and, last, OUT_DIR/demo.json
         (settings, counts, and one digest over all files).
Source:  specs/datasets.md 1, 2, 3, 7. Ours: the same settings give the same bytes, whatever the number of processes.

The folder is filled beside its place and then put there as a whole. A folder that this step did not make is never replaced.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.base import cli, disk, locks
from pipeline.base.build import plain
from pipeline.base.config import DemoConfig
from pipeline.base.errors import UserError
from pipeline.base.files import digest_file, write_json
from pipeline.demo import common_voice, ilidsvid, mars, prid2011
from pipeline.demo.parts import Film
from pipeline.demo.shots import encode, frames
from pipeline.demo.voices import Clip, render

MARK = ".dubtrack-demo"
"""Lies in every folder this step made; only such a folder, or an empty one, is replaced."""

NOTE = "demo.json"
PART, OLD = ".part", ".old"
"""How the names of folders end that are being filled, or that another takes the place of."""

Job = tuple[Path, Film | tuple[str, Clip]]


def make(out: Path, config: DemoConfig, threads: int = 1) -> dict[str, Any]:
    """Fill `out` and return what demo.json holds.

    Args:
        out: folder to make; an earlier demo there is replaced as a whole.
        threads: processes that render (1: none beside this one).

    Raises:
        UserError: `out` holds something that this step did not make, or (DiskError) the disk is full.
    """
    parts = {"mars": mars.plan(config), "ilidsvid": ilidsvid.plan(config), "prid2011": prid2011.plan(config)}
    voices = common_voice.plan(config, [part.needs for part in parts.values()])
    with disk.writing(out), _replacing(out) as folder:
        for files in (*(part.files for part in parts.values()), voices.files):
            for path, data in files.items():
                _write(folder / path, data)
        jobs: list[Job] = [(folder, film) for part in parts.values() for film in part.films]
        jobs += [(folder, clip) for clip in voices.clips]
        _do_all(jobs, threads)
        note = {
            "config": plain(config),
            "counts": {**{name: part.counts for name, part in parts.items()}, "common_voice": voices.counts},
            "files": len(_files(folder)),
            "digest": digest(folder),
        }
        write_json(folder / NOTE, note)
    return note


def digest(folder: Path) -> str:
    """SHA-256 over (relative path, SHA-256 of the file) of all files but demo.json and hidden ones, in order of the path."""
    top = hashlib.sha256()
    for path in _files(folder):
        top.update(path.encode() + b"\0" + digest_file(folder / path).encode() + b"\n")
    return top.hexdigest()


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in found if path != NOTE)


def _do_all(jobs: list[Job], threads: int) -> None:
    if threads <= 1:
        for job in jobs:
            _do(job)
        return
    with ProcessPoolExecutor(threads, initializer=_end_with_parent) as pool:
        _drain(pool.map(_do, jobs, chunksize=8))


def _end_with_parent() -> None:
    """A worker whose parent is killed would wait for work for ever: it ends as well."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _drain(results: Iterable[None]) -> None:
    """Wait for all; the first failure is raised here."""
    for _ in results:
        pass


def _do(job: Job) -> None:
    """Render one tracklet or one clip into its files."""
    folder, what = job
    if isinstance(what, Film):
        for path, picture in zip(what.paths, frames(what.shot), strict=True):
            _write(folder / path, encode(picture, what.how, what.shot.camera))
    else:
        path, clip = what
        _write(folder / path, render(clip))


def _write(path: Path, data: bytes) -> None:
    # Plain writes: the whole folder is renamed into place when everything is there.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A fresh folder beside `out` that takes its place when the block ends well; a block that raises leaves `out` as it was."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).exists())):
        raise UserError(f"{out}: holds files that make_demo did not make ({MARK} is missing); name another folder or empty this one")
    out.parent.mkdir(parents=True, exist_ok=True)
    locks.clear(out.parent, f".{out.name}.", OLD)
    part, lock = locks.folder(out.parent, f".{out.name}.", PART)
    try:
        fresh = part / out.name
        fresh.mkdir()
        (fresh / MARK).touch()
        yield fresh
        if out.exists():
            old, held = locks.folder(out.parent, f".{out.name}.", OLD)
            try:
                out.rename(old / out.name)
                try:
                    fresh.rename(out)
                except BaseException:
                    (old / out.name).rename(out)
                    raise
            finally:
                locks.discard(old, held)
        else:
            fresh.rename(out)
    finally:
        locks.discard(part, lock)


def main(argv: list[str] | None = None) -> None:
    """Command line of the step."""
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path, help="folder to make; an earlier demo there is replaced")
    cli.config_argument(arguments)
    arguments.add_argument("--threads", type=int, default=1, help="processes that render; the bytes do not depend on it")
    args = arguments.parse_args(argv)
    make(args.out, cli.load(DemoConfig, args.config, "demo"), args.threads)


if __name__ == "__main__":
    cli.run(main)
