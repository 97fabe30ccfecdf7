"""Files: written beside and renamed into place, listed in sorted order, named by digest."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.base import disk, locks
from pipeline.base.errors import DiskError, SourceError, UserError


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


SPECIAL = {stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which no file can be written, or must not: what is renamed to the name of a device takes its place.

    A link to a file, or to nothing, is such a place; the file takes the place of the link, which is not followed.

    Raises:
        DiskError: there is a folder, a device, a pipe or a socket, or a link to one; a file where its folder should be; it lies among the
            system's own files (/dev, /proc, /sys).
    """
    path = Path(path)
    try:
        what = SPECIAL.get(stat.S_IFMT(path.stat().st_mode))
    except OSError:  # nothing there, or not to be seen: writing tells
        what = None
    if what:
        raise DiskError(f"{path}: is {what}, expected the name of a file to write; name another one")
    around = next((folder for folder in path.parents if folder.exists()), Path())
    if not around.is_dir():
        raise DiskError(f"{path}: {around} is a file, expected a folder to write into; name another one")
    within = around.resolve()
    if within == Path("/dev") or within.parts[1:2] in (("proc",), ("sys",)):
        raise DiskError(f"{path}: lies in {within}, among the system's own files, expected a folder to write into; name another one")


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder; rename it to `path` when the block ends well.

    The file is flushed to disk before the rename, so a finished name never holds half a file.
    A block that raises leaves nothing behind; what a killed process left of the same file is deleted, what a living one
    writes is not.

    Raises:
        DiskError: the disk is full, may not be written, or fails; as :func:`check_place`.
    """
    path = Path(path)
    check_place(path)
    with disk.writing(path):
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
        if told := disk.explain(path, error):
            raise told from None
        raise
    finally:
        locks.release(lock)


@contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """As :func:`atomic`, with the temporary file open for writing bytes."""
    with atomic(path) as temporary, open(temporary, "wb") as out:
        yield out


def json_bytes(value: Any) -> bytes:
    """JSON with sorted keys and a final line end: equal values give equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write :func:`json_bytes`."""
    with atomic_open(path) as out:
        out.write(json_bytes(value))


def parse_json(text: str | bytes) -> Any:
    """JSON of anybody: whatever cannot be read is a ValueError, also text whose brackets are nested beyond what Python follows."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; a missing or broken file is one sentence."""
    try:
        return parse_json(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def below(root: Path, path: str) -> Path:
    """A file that a table names, which must lie below the root.

    Links below the root are followed, wherever they lead: data sets are often put together of links, and whoever can make
    a link in the folder could put a file there.

    Raises:
        SourceError: `path` is absolute, or climbs out.
    """
    if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise SourceError(f"{path!r} is no path below {root}; a table holds relative paths without '..': make it again")
    return root / path


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
