"""A seal in a Parquet file, so that damage is refused instead of read as another value.

In and out: Parquet files. Between the last page and the footer, where Parquet allows any bytes, lie `MARK`, the SHA-256 of all bytes
         before the seal, and the SHA-256 of all bytes after it. Any reader of Parquet opens a sealed file as it is.
Source:  ours; promise R5. Parquet's own page checksums leave out the pages' headers and the footer (schema, counts, notes), where a
         changed bit can read as another value (tests/torture/torture_store.py shows it).
"""

from __future__ import annotations

import hashlib
import os

import pyarrow as pa

from pipeline.base.errors import TableError

MARK = b"dubtrack seal 1\n"
SIZE = len(MARK) + 64
"""Bytes of a seal."""
_END = 8
"""Bytes behind the footer: its length, and Parquet's own mark."""
_BLOCK = 1 << 20

Files = str | os.PathLike[str]


def seal(path: Files) -> None:
    """Put the seal into a finished Parquet file, in place."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - _END)
        start = size - _END - int.from_bytes(file.read(4), "little")
        file.seek(0)
        before, left, block = hashlib.sha256(), start, memoryview(bytearray(min(_BLOCK, start)))
        while left:
            read = file.readinto(block[:left])
            before.update(block[:read])
            left -= read
        footer = file.read()
        file.seek(start)
        file.write(b"".join((MARK, before.digest(), hashlib.sha256(footer).digest(), footer)))


def read_sealed(path: Files) -> pa.Buffer:
    """The bytes of a sealed file, all of them checked.

    Raises:
        TableError: it is no Parquet file, was not sealed, or is damaged.
        OSError: it cannot be read.
    """
    with pa.OSFile(os.fspath(path)) as file:
        size = file.size()
        data = file.read_buffer(size)
    view = memoryview(data).cast("B")  # Arrow calls its bytes signed
    start = size - _length(path, size, view[size - min(size, _END) :]) - SIZE
    _check_footer(path, view[start:])
    if hashlib.sha256(view[:start]).digest() != view[start + len(MARK) : start + len(MARK) + 32]:
        raise TableError(f"{path}: damaged, its rows differ from the digest that was written with them; {AGAIN}")
    return data


def read_footer(path: Files) -> pa.Buffer:
    """The footer of a sealed file, checked, as the bytes of a Parquet file without pages: schema and notes can be read from it.

    Raises:
        TableError, OSError: as :func:`read_sealed`.
    """
    with pa.OSFile(os.fspath(path)) as file:
        size = file.size()
        file.seek(size - min(size, _END))
        start = size - _length(path, size, file.read()) - SIZE
        file.seek(start)
        data = file.read()
    _check_footer(path, memoryview(data))
    return pa.py_buffer(data)


AGAIN = "delete it and run again, or put a copy of it back"


def _length(path: Files, size: int, end: bytes | memoryview) -> int:
    """Bytes of the footer and what is behind it."""
    length = int.from_bytes(end[:4], "little") + _END
    if end[4:] != b"PAR1" or length + SIZE > size:
        raise TableError(f"{path}: not a readable Parquet file (it was cut, is damaged, or is something else); {AGAIN}")
    return length


def _check_footer(path: Files, data: memoryview) -> None:
    """Refuse a file whose seal, and what is behind it, is not what was written."""
    if data[: len(MARK)] != MARK:
        raise TableError(f"{path}: has no seal: it is damaged, or another version or program wrote it; {AGAIN}")
    if hashlib.sha256(data[SIZE:]).digest() != data[len(MARK) + 32 : SIZE]:
        raise TableError(f"{path}: damaged, its schema and notes differ from the digest that was written with them; {AGAIN}")
