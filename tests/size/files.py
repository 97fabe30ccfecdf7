"""A few distinct files under very many names: hard links, so that a million names cost little disk and about ten seconds."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

REFUSED = {errno.EPERM, errno.EACCES, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What file systems without hard links say."""


class Names:
    """Gives names to distinct contents.

    Attributes:
        links: whether the file system took hard links so far; where it does not, every name gets a copy (said once, aloud).
    """

    def __init__(self, pool: Path, contents: Sequence[bytes]) -> None:
        """Args:
        pool: new folder that holds each content once; on the file system of the names.
        contents: the distinct files.
        """
        pool.mkdir(parents=True)
        self.links = True
        self._contents = list(contents)
        self._files = [pool / f"{number:05d}" for number in range(len(contents))]
        for file, content in zip(self._files, contents, strict=True):
            file.write_bytes(content)

    def put(self, folder: Path, names: Iterable[str], first: int = 0) -> None:
        """Make a folder with files of these names; the n-th has the content number (first + n) modulo the number of contents."""
        folder.mkdir(parents=True, exist_ok=True)
        count = len(self._files)
        # a name in an open folder is cheaper than a path
        at = os.open(folder, os.O_RDONLY)
        try:
            for number, name in enumerate(names, first):
                self._put(at, folder, name, number % count)
        finally:
            os.close(at)

    def _put(self, at: int, folder: Path, name: str, number: int) -> None:
        if self.links:
            try:
                os.link(self._files[number], name, dst_dir_fd=at)
                return
            except OSError as error:
                if error.errno == errno.EMLINK:  # ext4: 65,000 names per file; go on with a copy of it
                    file = self._files[number] = self._files[number].with_name(f"{self._files[number].name}x")
                    file.write_bytes(self._contents[number])
                    os.link(file, name, dst_dir_fd=at)
                    return
                if error.errno not in REFUSED:
                    raise
                self.links = False
                print(f"{folder}: hard links are refused here ({error.strerror}); every name gets a copy, which takes more time and disk")
        (folder / name).write_bytes(self._contents[number])
