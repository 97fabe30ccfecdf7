"""Whatever the pieces and whatever the file system does with them, the file holds them one after another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.base import blocks
from pipeline.base.blocks import SIZE, BlockWriter
from pipeline.base.seeds import rng

PIECES = {
    "nothing": [],
    "empty": [b"", b""],
    "one byte": [b"x"],
    "a block": [bytes(range(256)) * (SIZE // 256)],
    "a block and a byte": [b"a", b"b" * SIZE],
    "three blocks at once": [b"c" * 100, bytes(range(256)) * (3 * SIZE // 256), b"d"],
    "many small ones": [bytes([number % 256]) * (number % 7) for number in range(5000)],
    "up to the edge": [b"e" * (SIZE - 1), b"f", b"g"],
}


def written(path: Path, pieces: list[bytes], size: int = 0) -> bytes:
    with open(path, "wb", buffering=0) as out:
        writer = BlockWriter(out, size)
        for piece in pieces:
            writer.write(piece)
        writer.flush()
    return path.read_bytes()


@pytest.mark.parametrize("name", PIECES)
def test_pieces_come_one_after_another(tmp_path, name):
    assert written(tmp_path / "f", PIECES[name]) == b"".join(PIECES[name])


def test_pieces_of_any_size(tmp_path):
    draw = rng(0, "blocks")
    for number in range(20):
        pieces = [draw.bytes(int(length)) for length in draw.geometric(1 / [300, 6000, 300_000][number % 3], size=12)]
        total = sum(map(len, pieces))
        for size in (0, 1, total):
            assert written(tmp_path / "f", pieces, size) == b"".join(pieces)
    assert written(tmp_path / "f", pieces[1:]) != b"".join(pieces)


def test_blocks_begin_at_multiples_and_views_are_taken(tmp_path, monkeypatch):
    sizes = []
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda file, parts: (sizes.append(writev(file, parts)), sizes[-1])[1])
    data = rng(0, "views").bytes(5 * SIZE + 77)
    view = memoryview(data)
    assert written(tmp_path / "f", [view[:1000], view[1000 : 2 * SIZE], view[2 * SIZE :]]) == data
    assert sizes == [SIZE] * 5 + [77]


def test_a_system_that_takes_a_part(tmp_path, monkeypatch):
    """As a disk does that is nearly full, or a file system that is interrupted."""
    writev, write = os.writev, os.write
    monkeypatch.setattr(os, "writev", lambda file, parts: writev(file, [memoryview(b"".join(parts))[:1000]]))
    monkeypatch.setattr(os, "write", lambda file, part: write(file, part[:300_000]))
    for pieces in PIECES.values():
        assert written(tmp_path / "f", pieces) == b"".join(pieces)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_no_success():
    with pytest.raises(OSError) as caught, open("/dev/full", "wb", buffering=0) as out:
        writer = BlockWriter(out)
        writer.write(b"x")
        writer.flush()
    assert caught.value.errno == errno.ENOSPC


def refuse(monkeypatch, number: int) -> None:
    def posix_fallocate(file: int, offset: int, size: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", posix_fallocate)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_takes_no_place_in_advance(tmp_path, monkeypatch, number):
    refuse(monkeypatch, number)
    assert written(tmp_path / "f", PIECES["many small ones"], size=100) == b"".join(PIECES["many small ones"])


def test_a_disk_without_the_place_says_so_before_the_work(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOSPC)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        written(tmp_path / "f", [], size=100)
    assert written(tmp_path / "f", [b"x"]) == b"x"  # nothing is asked for where nothing is known


def test_no_such_call(tmp_path, monkeypatch):
    monkeypatch.delattr(blocks.os, "posix_fallocate")
    assert written(tmp_path / "f", [b"x"], size=1) == b"x"
