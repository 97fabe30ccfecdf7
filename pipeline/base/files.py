"""Files: written beside and renamed into place, listed in sorted order, named by digest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.base import locks
from pipeline.base.errors import UserError


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder; rename it to `path` when the block ends well.

    The file is flushed to disk before the rename, so a finished name never holds half a file.
    A block that raises leaves nothing behind; what a killed process left of the same file is deleted, what a living one
    writes is not.

    Raises:
        UserError: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, lock = locks.beside(path)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            raise UserError(
                f"{path}: no space left to write it ({os.strerror(error.errno)}; {free / 1e6:.0f} MB are free there now that its beginning "
                "is deleted again); make room and run the same command again"
            ) from None
        raise
    finally:
        locks.release(lock)


@contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """As :func:`atomic`, with the temporary file open for writing bytes."""
    with atomic(path) as temporary, open(temporary, "wb") as out:
        yield out


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with sorted keys and a final line end (equal values give equal bytes)."""
    with atomic_open(path) as out:
        out.write((json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; a missing or broken file is one sentence."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def digest_bytes(data: bytes | memoryview) -> str:
    """SHA-256 as 64 hex characters."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes as 64 hex characters."""
    with open(path, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def digest_code(*paths: str | os.PathLike[str]) -> str:
    """16 hex characters over the bytes of Python files; folders are walked in sorted order.

    Rules pass it as a parameter, so that a step runs again when its code changed and not otherwise.
    """
    top = hashlib.sha256()
    for path in map(Path, paths):
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            top.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return top.hexdigest()[:16]


def sorted_names(folder: str | os.PathLike[str]) -> list[str]:
    """Names in a folder in byte order, whatever the file system says; hidden names are left out."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    if all(map(str.isascii, names)):
        names.sort()  # byte order, too, and in half the time
    else:
        names.sort(key=os.fsencode)
    return names
