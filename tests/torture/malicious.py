"""The corpus of malicious files: what each one tries, who reads it, and what must come of it.

Every :class:`Attack` makes its files below `Trap.inside` and hands them to the reader that would meet them in real use. Beside
that folder lies `Trap.outside`, with files that are nobody's business and a name, `Trap.hit`, that code from a file would leave
there. :func:`spring` runs one attack and says what went wrong: it left a trace, read or wrote outside, started a program, opened
a connection, unpickled something, or did not end as the entry says.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from pipeline.base.errors import UserError
from tests.conftest import REPOSITORY

SECONDS = 60.0
"""A step that runs longer hangs."""


class StepRefusedError(UserError):
    """A step ended with status 2 and one sentence."""


@dataclass(frozen=True, slots=True)
class Trap:
    """The folders of one attack."""

    root: Path
    port: int
    """Of localhost; nobody may connect to it."""
    processes: bool = False
    """Steps run as `python -m`, else in this process."""

    @property
    def inside(self) -> Path:
        """Where the attack's files lie, and the outputs of steps."""
        return self.root / "inside"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    @property
    def hit(self) -> Path:
        """What code from a file leaves behind."""
        return self.outside / "HIT"

    @property
    def touch(self) -> str:
        """A shell command that leaves it."""
        return f"touch {self.hit}"

    @property
    def command(self) -> str:
        """A command that a user has allowed; no other may start."""
        return f"cat {self.inside}/00000.tar"

    def set(self) -> None:
        """Make the folders, and three files that are nobody's business."""
        self.inside.mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text("nobody's business")
        Image.new("RGB", (16, 32), (200, 30, 30)).save(self.outside / "secret.jpg")
        soundfile.write(self.outside / "secret.wav", 0.2 * np.sin(np.arange(16000) * 0.1), 16000)
        (self.outside / "secret.mp3").write_bytes(b"ID3 a voice that is nobody's business")

    def step(self, module: str, *arguments: object) -> str:
        """Run a step of the workflow; returns what it printed, where it is a process.

        Raises:
            UserError: it ended with one sentence.
        """
        given = [str(argument) for argument in arguments]
        if not self.processes:
            importlib.import_module(module).main(given)
            return ""
        done = subprocess.run(
            [sys.executable, "-m", module, *given], cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.strip().splitlines()[-1:]
        if done.returncode == 2 and "Traceback" not in done.stderr and said and said[0].startswith("error: "):
            raise StepRefusedError(said[0])
        raise AssertionError(f"{module} ended with status {done.returncode}: {done.stderr[-600:]}")


@dataclass(frozen=True, slots=True)
class Attack:
    """One file, or a few that belong together, and its reader."""

    name: str
    run: Callable[[Trap], object]
    refused: str = ""
    """Part of the one sentence (regular expression) with which it must end; '': the result is harmless, and it must not end so."""
    reads: bool = False
    """Files outside may be read: a link that the user has put into the folder is followed."""


@dataclass
class Watch:
    """Sees what this process does, by Python's audit events, and who connects to a port of localhost."""

    outside: str = ""
    """Path that nobody may touch; '': nothing is watched."""
    reads: bool = False
    command: str = ""
    """The one command of a shell that may be started."""
    seen: list[str] = field(default_factory=list)
    connected: int = 0
    port: int = 0

    def start(self) -> None:
        """Once for the whole process: an audit hook stays for ever."""
        server = socket.create_server(("127.0.0.1", 0))
        self.port = server.getsockname()[1]

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                self.connected += 1
                connection.close()

        threading.Thread(target=serve, name="canary", daemon=True).start()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.outside:
            return
        if event == "subprocess.Popen":
            program = Path(os.fsdecode(arguments[0] or arguments[1][0]))
            known = program.name.startswith("ffmpeg") or str(program) == sys.executable or list(arguments[1])[2:] == [self.command]
            if not known:
                self.seen.append(f"started {program}")
        elif event in ("os.system", "os.exec", "os.posix_spawn", "pickle.find_class"):
            self.seen.append(f"{event} {arguments}"[:200])
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            self.seen.append(f"connected to {arguments[1]}")
        elif event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir"):
            for path in arguments[:2]:
                if isinstance(path, str | bytes | os.PathLike) and self._is_outside(os.fsdecode(path)) and not self._may(event, arguments):
                    self.seen.append(f"{event} {os.fsdecode(path)}")

    def _is_outside(self, path: str) -> bool:
        return os.path.normpath(Path.cwd() / path).startswith(self.outside)

    def _may(self, event: str, arguments: tuple[Any, ...]) -> bool:
        return self.reads and event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


WATCH = Watch()


def watch() -> Watch:
    """The one that this process has."""
    if not WATCH.port:
        WATCH.start()
    return WATCH


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by its relative path; of links where they lead."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def spring(attack: Attack, root: Path, processes: bool = False) -> str:
    """Run one attack in a fresh folder; '' if it did no harm and ended as it must, else what went wrong."""
    seen = watch()
    trap = Trap(root, seen.port, processes)
    trap.set()
    before, connected = tree(trap.outside), seen.connected
    seen.seen.clear()
    ended = "ended well"
    wrong = ""
    seen.outside, seen.reads, seen.command = str(trap.outside), attack.reads, trap.command
    said = io.StringIO()
    try:
        with contextlib.chdir(trap.inside), contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attack.run(trap)
    except UserError as error:
        ended = str(error)
        wrong = "" if attack.refused else f"refused: {ended}"
    except Exception as error:  # whatever else ends a reader is not what was promised
        ended = f"{type(error).__name__}: {error}"
        wrong = f"not typed: {ended}"
    finally:
        seen.outside = ""
    if attack.refused and not wrong and not re.search(attack.refused, ended):
        wrong = f"{ended}; expected: {attack.refused}"
    harm = list(dict.fromkeys(seen.seen))
    if trap.hit.exists():
        harm.insert(0, "EXECUTED")
    if tree(trap.outside) != before:
        harm.append("outside: " + ", ".join(sorted(set(tree(trap.outside).items()) ^ set(before.items()))[0]))
    if obeyed := [c for c in said.getvalue() if not (c.isprintable() or c in "\n\t")]:
        harm.append(f"printed {obeyed[0]!r}, which a terminal obeys")
    if stray := sorted(path.name for path in root.iterdir() if path.name not in ("inside", "outside")):
        harm.append(f"wrote {', '.join(stray)}")
    if seen.connected != connected:
        harm.append("connected")
    return "; ".join([*(f"HARM {one}" for one in harm), *([wrong] if wrong else [])])


@contextlib.contextmanager
def replaced(target: object, name: str, value: object) -> Iterator[None]:
    """`target.name` is `value` for a while: how products are broken on purpose."""
    old = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, old)


class Runs:
    """Unpickled, it leaves a file behind: what every pickle of the corpus holds."""

    def __init__(self, hit: Path) -> None:
        self.hit = hit

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.hit}",)
