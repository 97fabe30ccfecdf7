"""Put on PYTHONPATH by `tests.torture.killing`: counts writes, flushes and renames of every process of a run, and kills at one of them.

Python imports a module of this name when it starts. What it does comes in environment variables:

KILLER_ROOT     only names below this folder count (open for writing: through Python; Arrow's own are between them)
KILLER_COUNTS   beginning of the counters' names, one for each kind: 'open', 'fsync', 'rename'
KILLER_AT       'kind number after victim delay': what to count, at which count to kill, whether after the call (1) or before it (0), whom
                ('tree', 'head' or 'step'), and how many seconds later
KILLER_BROKEN   product broken on purpose: 'copies' (the finished file is copied to its name, not renamed), 'forgets' (leftovers of dead
                writers stay), 'lets_go' (a run does not hold its lock) or 'stays' (a run leaves its record, a process and a temporary folder)
"""

from __future__ import annotations

import fcntl
import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT, COUNTS, BROKEN = (os.environ.get(f"KILLER_{name}", "") for name in ("ROOT", "COUNTS", "BROKEN"))
KIND, NUMBER, AFTER, VICTIM, DELAY = (os.environ.get("KILLER_AT") or "none 0 0 tree 0").split()


def kill() -> None:
    if VICTIM == "tree":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getsid(0) if VICTIM == "head" else os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP)  # a step that outlives its snakemake: it goes on when the next run has begun


def kill_later() -> None:
    time.sleep(float(DELAY))
    kill()


def is_hit(kind: str) -> bool:
    """Count one more of a kind, over all processes."""
    counter = os.open(f"{COUNTS}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(counter, fcntl.LOCK_EX)
        os.write(counter, b".")
        return kind == KIND and os.fstat(counter).st_size == int(NUMBER)
    finally:
        os.close(counter)


def counted(kind: str, function: Callable) -> Callable:
    def call(*arguments, **named):
        hit = is_hit(kind)
        if hit and AFTER == "0":
            kill()
        done = function(*arguments, **named)
        if hit:
            kill()
        return done

    return call


def opened(event: str, arguments: tuple) -> None:
    if event != "open" or not isinstance(arguments[0], str) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    path = str(Path(arguments[0]).absolute())
    if path.startswith(f"{ROOT}/") and "/.snakemake/log/" not in path and is_hit("open"):
        threading.Thread(target=kill_later, daemon=True).start()


# --- broken on purpose ------------------------------------------------------------------------------------------------


@contextmanager
def copies(path: str | os.PathLike[str]) -> Iterator[Path]:
    """In place of `files.atomic`: written beside, then copied to the finished name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    yield beside
    data = beside.read_bytes()
    beside.unlink()
    with path.open("wb", buffering=0) as out:
        out.write(data[: len(data) // 2])
        os.fsync(out.fileno())
        out.write(data[len(data) // 2 :])


class Breaks:
    """Finds one module of the product and changes it when it has been loaded."""

    def __init__(self, name: str, change: Callable) -> None:
        self.name, self.change = name, change

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_change(module: object) -> None:
            load(module)
            self.change(module)

        spec.loader.exec_module = load_and_change
        return spec


def forgets(module: object) -> None:
    """Temporary files of a random name, of which nobody can tell whether anybody writes them."""

    def beside(path: Path) -> tuple[Path, None]:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        return Path(name), None

    module.beside = beside


def lets_go(module: object) -> None:
    """The record of a run or step is not held."""
    record = module._record

    def unheld(*arguments) -> tuple[Path, int]:
        path, lock = record(*arguments)
        os.close(lock)
        return path, os.open(os.devnull, os.O_RDONLY)

    module._record = unheld


def stays(module: object) -> None:
    """A run that ends leaves its record, a process and a temporary folder."""

    def forget(record: Path) -> None:
        if record.suffix == module.ALIVE:
            tempfile.mkdtemp(prefix="dubtrack_")
            subprocess.Popen(["sleep", "600"])

    module._forget = forget


if ROOT:
    os.fsync, os.replace, os.rename = counted("fsync", os.fsync), counted("rename", os.replace), counted("rename", os.rename)
    sys.addaudithook(opened)
if BROKEN == "copies":
    sys.meta_path.insert(0, Breaks("pipeline.base.files", lambda module: setattr(module, "atomic", copies)))
elif BROKEN == "forgets":
    sys.meta_path.insert(0, Breaks("pipeline.base.locks", forgets))
elif BROKEN == "lets_go":
    sys.meta_path.insert(0, Breaks("pipeline.base.running", lets_go))
elif BROKEN == "stays":
    sys.meta_path.insert(0, Breaks("pipeline.base.running", stays))
elif BROKEN:
    sys.exit(f"KILLER_BROKEN={BROKEN}: unknown")
