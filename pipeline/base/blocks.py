"""Writing a long file at the speed of a copy: many small pieces leave in few calls, and nothing is copied on the way.

In:      bytes, and views of files that are mapped into memory.   Out: their bytes one after another.
Source:  measured (docs/performance.md). Blocks of a MiB that begin at multiples of a MiB go into the page cache twice as fast
         as pieces of 0.4 MB that begin anywhere, sent by sendfile or copy_file_range or not.
"""

from __future__ import annotations

import errno
import os
from typing import IO

SIZE = 1 << 20
"""Bytes of a block."""
_PIECES = 512
"""Pieces of one call; Linux and macOS take 1,024."""


class BlockWriter:
    """Gathers pieces, and writes a block once it is full; call :meth:`flush` at the end.

    Args:
        out: an empty file opened for writing without a buffer.
        size: bytes that will be written, where that is known. Their place is taken now, in few long pieces, which saves the
            file system a quarter of its work; a disk that has not that much left says so before the work. The file is never
            shorter than that.
    """

    def __init__(self, out: IO[bytes], size: int = 0) -> None:
        self._out = out.fileno()
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._out, 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # what file systems say that cannot do it
                    raise
        self._pieces: list[bytes | memoryview] = []
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, which must not change before the next block is written."""
        while len(data) >= (room := SIZE - self._size):
            view = memoryview(data)
            self._append(view[:room])
            self.flush()
            data = view[room:]
        if len(data):
            self._append(data)

    def flush(self) -> None:
        """Write what was gathered."""
        done = os.writev(self._out, self._pieces) if self._pieces else 0
        if done < self._size:  # a full disk takes a part, and then raises
            left = memoryview(b"".join(self._pieces))[done:]
            while left:
                left = left[os.write(self._out, left) :]
        self._pieces, self._size = [], 0

    def _append(self, data: bytes | memoryview) -> None:
        if len(self._pieces) == _PIECES:
            self._pieces = [b"".join(self._pieces)]
        self._pieces.append(data)
        self._size += len(data)
