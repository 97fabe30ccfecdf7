"""Seals: any reader of Parquet takes the file as it is, and every changed bit is refused."""

import hashlib

import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.base import seal, tables
from pipeline.base.errors import TableError
from pipeline.base.tables import SPLIT

ROWS = [{"tracklet": name, "role": "train", "label": i} for i, name in enumerate("abc")]


@pytest.fixture
def path(tmp_path):
    tables.write_rows(tmp_path / "t.parquet", ROWS, SPLIT, {"seed": 3})
    return tmp_path / "t.parquet"


def test_a_seal_by_hand(path):
    """Mark, digest of what is before it, digest of what is behind it; behind it is Parquet's footer with its length."""
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little") - seal.SIZE
    before, sealed, behind = data[:start], data[start : start + seal.SIZE], data[start + seal.SIZE :]
    assert sealed == seal.MARK + hashlib.sha256(before).digest() + hashlib.sha256(behind).digest()
    made = path.with_name("plain.parquet")
    made.write_bytes(before + behind)
    assert pq.read_table(made).equals(pq.read_table(path))


def test_other_programs_read_a_sealed_table(path):
    assert polars.read_parquet(path).to_dicts() == pq.read_table(path).to_pylist() == ROWS


def test_every_bit_counts(path):
    data = path.read_bytes()
    for at in range(8 * len(data)):
        path.write_bytes(data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :])
        with pytest.raises(TableError, match=str(path)):
            seal.read_sealed(path)
        if at % 50 == 0:
            with pytest.raises(TableError, match=str(path)):
                tables.read(path, SPLIT)


def test_notes_are_checked_without_the_rows(path):
    data = path.read_bytes()
    path.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
    assert tables.read_meta(path)["seed"] == 3
    with pytest.raises(TableError, match="its rows differ from the digest that was written with them; delete it and run again"):
        tables.read(path, SPLIT)
    at = data.index(b'"seed"') + 1
    path.write_bytes(data[:at] + b"z" + data[at + 1 :])
    for read in (tables.read_meta, lambda path: tables.read(path, SPLIT)):
        with pytest.raises(TableError, match="its schema and notes differ"):
            read(path)


def test_a_table_without_a_seal_is_refused(path):
    pq.write_table(pa.Table.from_pylist(ROWS, SPLIT.arrow), path)
    with pytest.raises(TableError, match="has no seal: it is damaged, or another version or program wrote it"):
        tables.read(path, SPLIT)
