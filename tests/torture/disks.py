"""Small disks for tests: a tmpfs of a given size, or, where mounting is not allowed, a limit on how long a file may be.

A tmpfs counts pages: a file of one byte takes 4096. Quotas are not made here, because that needs a file system with quotas switched
on; what `EDQUOT` becomes is tested by raising it (tests/pipeline/base/test_files.py).
"""

from __future__ import annotations

import functools
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = 4096
"""Bytes that a tmpfs hands out at once."""


class Tmpfs:
    """A file system of some pages, and at most so many names if `files` is given, at a folder.

    Raises:
        OSError: it could not be mounted.
    """

    def __init__(self, folder: Path, pages: int, files: int = 0) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # size=0 would be no limit
        _mount("-t", "tmpfs", "-o", f"size={max(pages, 1) * PAGE}" + (f",nr_inodes={files}" if files else ""), "tmpfs", str(folder))

    def again(self, options: str) -> None:
        """Mount it once more with other options, such as 'ro' or 'size=1g'."""
        _mount("-o", f"remount,{options}", str(self.folder))

    def close(self) -> None:
        """Take it away with all that lies in it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=True)


def _mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"mount: status {done.returncode}")


@contextmanager
def tmpfs(folder: Path, pages: int, files: int = 0) -> Iterator[Tmpfs]:
    """A :class:`Tmpfs` for the length of a block."""
    disk = Tmpfs(folder, pages, files)
    try:
        yield disk
    finally:
        disk.close()


@functools.cache
def no_mounting() -> str:
    """Why nothing can be mounted here; '' where it can."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tmpfs(Path(folder), 1):
                return ""
        except OSError as error:
            return str(error)


@contextmanager
def short_files(size: int) -> Iterator[None]:
    """No file of this process gets longer than `size` bytes (errors are EFBIG, not ENOSPC)."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@contextmanager
def full(folder: Path, pages: int) -> Iterator[Path]:
    """A folder in which only so many pages can be written: of all files together, or of each where nothing can be mounted."""
    if no_mounting():
        folder.mkdir(parents=True, exist_ok=True)
        with short_files(pages * PAGE):
            yield folder
    else:
        with tmpfs(folder, pages) as disk:
            yield disk.folder
