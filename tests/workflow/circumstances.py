"""The same work in other circumstances: what must not matter (and, broken on purpose, does), and what a process may not do.

A *piece* is code that each Python process of a run executes before anything else, as its `sitecustomize`. Each piece writes a line
into a file of its own name in the folder of the pieces when it comes into force, so that a test can ask whether it did.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

STAGES = ("demo", "tracklets", "splits", "items", "alignment", "plans", "features", "shards")
"""Folders of results/ whose bytes are promised."""

HEAD = """
import os, sys

def mark(name, line=""):
    with open(os.path.join(os.environ["DUBTRACK_PIECES"], name), "a") as file:
        file.write(f"{os.getpid()} {line}\\n")
"""

SHUFFLED = """
import random
_listdir, _scandir = os.listdir, os.scandir

def listdir(*arguments):
    names = _listdir(*arguments)
    random.shuffle(names)
    return names

class scandir:
    def __init__(self, *arguments):
        with _scandir(*arguments) as entries:
            self.entries = list(entries)
        random.shuffle(self.entries)
        mark("shuffled")
    def __iter__(self):
        return iter(self.entries)
    def __next__(self):
        if not self.entries:
            raise StopIteration
        return self.entries.pop()
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def close(self):
        pass

os.listdir, os.scandir = listdir, scandir
"""
"""Directories are listed in another order at each look."""

CLOCK = """
import time
_time, _time_ns, _gmtime, _localtime, YEARS = time.time, time.time_ns, time.gmtime, time.localtime, 9 * 365 * 86400
time.time = lambda: _time() + YEARS
time.time_ns = lambda: _time_ns() + YEARS * 10**9
time.gmtime = lambda at=None: _gmtime(time.time() if at is None else at)
time.localtime = lambda at=None: _localtime(time.time() if at is None else at)
mark("clock")
"""
"""It is nine years later, for whoever asks the module time."""

WRITTEN = """
try:
    from pipeline.base import tables
except ImportError:
    pass
else:
    _write = tables.write
    def write(path, made, schema, meta=None):
        _write(path, made, schema, {**(meta or {}), "made": MADE} if schema.name == "items" else meta)
    tables.write = write
    mark("written")
"""
BROKEN = {
    "the time in a table": "import time\n" + WRITTEN.replace("MADE", "time.time_ns()"),
    "the order of a set in a table": WRITTEN.replace("MADE", "list({*'a b c d e f g h'.split()})"),
    "the order of a listing in a table": WRITTEN.replace("MADE", "os.listdir(os.path.dirname(tables.__file__))"),
    "the time zone in a table": "import time\n" + WRITTEN.replace("MADE", "time.strftime('%z', time.gmtime(0)) + str(time.timezone)"),
    "the working directory in a table": WRITTEN.replace("MADE", "os.getcwd()"),
    "the processor in a table": WRITTEN.replace("MADE", "os.environ.get('OPENBLAS_CORETYPE', '')"),
}
"""Pieces of steps that let in what must not matter, by what a table then says."""

OFFLINE = """
def _refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # of a Unix socket, or none
            return
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"):
        address = arguments[:2]
    else:
        return
    mark("asked", f"{event} {address} {' '.join(sys.argv[:2])}")
    raise OSError(f"offline: {event} {address}")

mark("offline", " ".join(sys.argv[:2]))
sys.addaudithook(_refuse)
"""
"""Whoever connects, sends, or asks for the address of a name is refused and written down. An audit hook sees what C code does through
Python's sockets as well, and cannot be taken away."""


def site(folder: Path, *pieces: str) -> dict[str, str]:
    """Environment in which every Python process begins with these pieces; `folder` is new."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(HEAD + "".join(pieces))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, "DUBTRACK_PIECES": str(folder)}


def marks(folder: Path, name: str) -> list[str]:
    """Lines that the pieces in `folder` have written under a name."""
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def digests(folder: Path, stages: Sequence[str] = STAGES) -> dict[str, str]:
    """SHA-256 of every file of some stages, by its path below results/."""
    results = folder / "results"
    files = [path for stage in stages for path in sorted((results / stage).rglob("*")) if path.is_file()]
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differing(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Files that are not the same in both, or not in both."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def aged(source: Path, target: Path, seed: int) -> None:
    """Copy a folder: its files are made in another order and bear other dates (1995 to 2020)."""
    draw = random.Random(seed)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    draw.shuffle(files)
    for path in files:
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        when = draw.randrange(788_918_400, 1_577_836_800)
        os.utime(to, (when, when))
