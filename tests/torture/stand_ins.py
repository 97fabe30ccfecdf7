"""Stand-ins for `pipeline.base.files.atomic`, each broken on purpose in one way. Light: every step of a broken run imports them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.base.errors import DiskError


@contextmanager
def in_place(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Writes under the final name."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        yield Path(path)
    except OSError as error:
        raise DiskError(f"{path}: no space left to write it (full); make room and run the same command again") from error


@contextmanager
def swallowing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lets an error pass, and puts what is there under the final name."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(path).with_name(f".{Path(path).name}.part")
    with suppress(OSError):
        yield temporary
    temporary.touch()  # Arrow takes away what it could not finish
    temporary.replace(path)


@contextmanager
def untold(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Cleans up and says nothing of its own: the user sees a traceback."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(path).with_name(f".{Path(path).name}.part")
    try:
        yield temporary
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


@contextmanager
def littering(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Leaves its temporary file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(path).with_name(f".{Path(path).name}.part")
    try:
        yield temporary
    except OSError as error:
        temporary.touch()  # Arrow takes away what it could not finish
        raise DiskError(f"{path}: no space left to write it (full); make room and run the same command again") from error
    temporary.replace(path)


BROKEN: dict[str, Callable[..., object]] = {"in_place": in_place, "swallowing": swallowing, "untold": untold, "littering": littering}
