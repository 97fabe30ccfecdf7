"""Whatever the pieces and whatever the file system does with them, the file holds them one after another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

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


def written(path: Path, pieces: list[bytes]) -> bytes:
    with open(path, "wb", buffering=0) as out:
        writer = BlockWriter(out)
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
        assert written(tmp_path / "f", pieces) == b"".join(pieces)
    assert written(tmp_path / "f", pieces[1:]) != b"".join(pieces)


def test_parts_of_a_file(tmp_path):
    """In any order, of any size, between pieces."""
    data = rng(0, "parts").bytes(3 * SIZE + 77)
    (tmp_path / "from").write_bytes(data)
    parts = [(5, 100), (SIZE - 1, 2), (0, len(data)), (len(data) - 1, 1), (7, 0)]
    with open(tmp_path / "f", "wb", buffering=0) as out, open(tmp_path / "from", "rb", buffering=0) as file:
        writer = BlockWriter(out)
        for offset, size in parts:
            writer.write(b"head")
            writer.copy(file, offset, size)
        writer.flush()
    assert (tmp_path / "f").read_bytes() == b"".join(b"head" + data[offset : offset + size] for offset, size in parts)


def test_a_file_that_ends_early(tmp_path):
    (tmp_path / "from").write_bytes(b"abc")
    with (
        open(tmp_path / "f", "wb", buffering=0) as out,
        open(tmp_path / "from", "rb", buffering=0) as file,
        pytest.raises(EOFError, match="ends 2 bytes early"),
    ):
        BlockWriter(out).copy(file, 1, 4)


def test_blocks_begin_at_multiples(tmp_path, monkeypatch):
    sizes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, part: (sizes.append(write(file, part)), sizes[-1])[1])
    data = rng(0, "views").bytes(5 * SIZE + 77)
    assert written(tmp_path / "f", [data[:1000], data[1000 : 2 * SIZE], data[2 * SIZE :]]) == data
    assert sizes == [SIZE] * 5 + [77]


def test_a_system_that_takes_a_part(tmp_path, monkeypatch):
    """As a disk does that is nearly full, or a file system that is interrupted."""
    write = os.write
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
