"""What a disk refuses, as one sentence: no room, a quota, a limit on files, no right to write, a fault of the device.

In:      the error that a writer met, and the file it was about.   Out: a DiskError that says what to do.
Source:  promise R3 (a full disk is a clean stop). Errors of Rust libraries (safetensors) carry no number of their own, but end
         in '(os error 28)'; Arrow's are OSError with theirs.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base.errors import DiskError, UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room: on the disk (space or entries), in the quota, within the largest file that may be."""
REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
BROKEN = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV})
LITTLE, FEW = 1 << 20, 64
"""Bytes and files below which a disk is nearly full: a hundred jobs' logs and notes take as much."""
_RUST = re.compile(r"\(os error (\d+)\)")


def number_of(error: BaseException) -> int | None:
    """The operating system's number of an error; None where it comes from somewhere else."""
    if isinstance(error, OSError):
        return error.errno
    found = _RUST.search(str(error))
    return int(found[1]) if found else None


def explain(path: str | os.PathLike[str] | None, error: BaseException) -> DiskError | None:
    """What to tell a user; None where the error is none of the disk.

    Args:
        path: the file or folder that was being written; None: whatever the error names.
    """
    number = number_of(error)
    if isinstance(error, UserError) or number is None or number not in FULL | REFUSED | BROKEN:
        return None
    why = os.strerror(number)
    names = [name for name in (getattr(error, "filename2", None), getattr(error, "filename", None)) if isinstance(name, str | bytes)]
    if path is None and not names:
        if number in FULL:
            return DiskError(
                f"the log of this step or another file: no space left to write it ({why}); make room and run the same command again"
            )
        return DiskError(f"a file cannot be read or written ({why}); mend the disk or get the right to, and run the same command again")
    at = Path(os.fsdecode(names[0]) if path is None else path)
    if number == errno.EFBIG:
        return DiskError(
            f"{at}: no space left to write it ({why}: longer than this process or this file system lets a file be); raise the limit "
            "(`ulimit -f`) or work on another file system, and run the same command again"
        )
    if number in FULL:
        return DiskError(f"{at}: no space left to write it ({why}; {_left(at, number)}); make room and run the same command again")
    other = [name for name in map(os.fsdecode, names) if not _belongs(Path(name), at)]
    what = f"{at}: cannot be written"
    if path is None or other:  # the block that writes a file may read others
        at = Path(other[0] if other else at)
        what = f"{at}: cannot be read or written"
    if number in REFUSED:
        return DiskError(f"{what} ({why}); get the right to, or work in another folder, and run the same command again")
    return DiskError(f"{what} ({why}: the disk or the file system fails); mend it and run the same command again")


def trouble(folder: str | os.PathLike[str]) -> str:
    """A sentence where a folder may not be written, or so little is free that not even logs and Snakemake's notes fit; else ''."""
    if not os.access(folder, os.W_OK):
        return f"{folder}: must not be written; get the right to, or work in another folder, and run the same command again"
    try:
        found = os.statvfs(folder)
    except OSError:
        return ""
    if found.f_bavail * found.f_frsize >= LITTLE and not (found.f_files and found.f_favail < FEW):
        return ""
    return f"{folder}: only {_free(found)} are free here; make room and run the same command again"


@contextmanager
def writing(path: str | os.PathLike[str], comfort: str = "") -> Iterator[None]:
    """A block that writes `path`.

    Args:
        comfort: what a user may want to know besides.

    Raises:
        DiskError: the disk refused.
    """
    try:
        yield
    except Exception as error:
        told = error if isinstance(error, DiskError) else explain(path, error)
        if told is None:
            raise
        raise DiskError(f"{told}; {comfort}" if comfort else str(told)) from None


def _left(at: Path, number: int) -> str:
    """What is free where a file lies; temporary files are deleted by now."""
    folder = next((folder for folder in at.parents if folder.is_dir()), Path())
    try:
        left = f"{_free(os.statvfs(folder))} are free in {folder.resolve()} now"
    except OSError:
        return f"what is free in {folder} is unknown"
    return f"{left}, but not to you" if number == errno.EDQUOT else left


def _free(found: os.statvfs_result) -> str:
    files = f" and {found.f_favail:,} files" if found.f_files else ""  # some file systems do not count them
    return f"{found.f_bavail * found.f_frsize / 1e6:.1f} MB{files}"


def _belongs(name: Path, at: Path) -> bool:
    """Whether a file is `at`, its temporary form, lies in it, or is a folder around it."""
    name, at = name.absolute(), at.absolute()
    return name == at or name in at.parents or at in name.parents or (name.parent == at.parent and name.name.startswith(f".{at.name}."))
