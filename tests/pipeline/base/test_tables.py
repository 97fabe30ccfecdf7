"""Tables: checked, sorted, byte-identical, with provenance."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.base import tables
from pipeline.base.errors import TableError
from pipeline.base.tables import PLAN, SPLIT, TRIALS

ROWS = [{"tracklet": name, "role": "train", "label": i} for i, name in enumerate("cab")]


def test_round_trip_is_sorted_by_key(tmp_path):
    tables.write_rows(tmp_path / "t", ROWS, SPLIT, {"seed": 3})
    made = tables.read(tmp_path / "t", SPLIT)
    assert made.column("tracklet").to_pylist() == ["a", "b", "c"] and made.column("label").to_pylist() == [1, 2, 0]
    assert tables.read_meta(tmp_path / "t") == {"schema": "split", "version": 1, "seed": 3}
    assert tables.read(tmp_path / "t", SPLIT, ["label"]).column_names == ["label"]


def test_same_rows_same_bytes(tmp_path):
    """Whatever their order, given as rows or as columns."""
    columns = {name: [row[name] for row in ROWS] for name in ("label", "role", "tracklet")}
    tables.write_rows(tmp_path / "a", ROWS, SPLIT, {"x": 1, "y": 2})
    tables.write_rows(tmp_path / "b", ROWS[::-1], SPLIT, {"y": 2, "x": 1})
    tables.write_rows(tmp_path / "c", columns, SPLIT, {"x": 1, "y": 2})
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
    tables.write_rows(tmp_path / "d", ROWS, SPLIT, {"x": 2, "y": 2})
    assert (tmp_path / "d").read_bytes() != (tmp_path / "a").read_bytes()  # negative control


def test_raw_columns_are_written_as_they_are(tmp_path):
    rows = [{"item": "a", "values": bytes(4000), "length": 20, "width": 100, "dtype": "float16"}]
    tables.write_rows(tmp_path / "f.parquet", rows, tables.FEATURES)
    columns = pq.ParquetFile(tmp_path / "f.parquet").metadata.row_group(0)
    found = {columns.column(k).path_in_schema: columns.column(k).compression for k in range(columns.num_columns)}
    assert found == {"item": "ZSTD", "values": "UNCOMPRESSED", "length": "ZSTD", "width": "ZSTD", "dtype": "ZSTD"}
    assert tables.read(tmp_path / "f.parquet", tables.FEATURES).to_pylist() == rows


def test_no_rows(tmp_path):
    tables.write_rows(tmp_path / "t", [], SPLIT)
    assert tables.read(tmp_path / "t", SPLIT).num_rows == 0


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 25])
def test_a_table_read_in_pieces_is_the_same_table(tmp_path, rows):
    made = tables.table([{"tracklet": f"t{i:02d}", "role": "train", "label": i} for i in range(rows)], SPLIT)
    tables.write(tmp_path / "t.parquet", made, SPLIT)
    found = tables.read(tmp_path / "t.parquet", SPLIT, rows_at_once=8)
    assert found.equals(made) and found.column("label").num_chunks == max(1, -(-rows // 8))
    assert tables.read(tmp_path / "t.parquet", SPLIT, ["label"], rows_at_once=8).equals(
        made.select(["label"]).replace_schema_metadata(None)
    )


def test_a_table_without_key_keeps_its_order(tmp_path):
    rows = [{"left": name, "right": "x", "same": True} for name in "cab"]
    tables.write_rows(tmp_path / "t", rows, TRIALS)
    assert tables.read(tmp_path / "t", TRIALS).to_pylist() == rows


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (pa.table({"tracklet": ["a"], "role": ["train"]}), "split: column label missing; a 'split' table has tracklet, role, label"),
        (pa.table({"tracklet": ["a"], "role": ["train"], "label": [1]}), "column label is int64, expected int32"),
        (pa.table({"tracklet": ["a"], "role": [None], "label": [1]}, schema=SPLIT.arrow), "column role has 1 empty cells"),
        (
            pa.table({"tracklet": ["a"] * 3, "role": ["x"] * 3, "label": [1] * 3}, schema=SPLIT.arrow),
            r"2 rows repeat the key \(tracklet\), which must be unique; first: a",
        ),
    ],
)
def test_check_refuses(made, message):
    with pytest.raises(TableError, match=message):
        tables.check(made, SPLIT)


def plan(*places: tuple[int, int]) -> pa.Table:
    rows = [{"tracklet": str(k), "shard": shard, "order": order, "frames": 1} for k, (shard, order) in enumerate(places)]
    return pa.Table.from_pylist(rows, PLAN.arrow)


@pytest.mark.parametrize("places", [[(3, 0), (1, 0), (3, 0)], [(0, 1), (1, 0), (1, 0)], [(2, 1), (2, 1)]])
def test_a_key_of_two_columns_is_unique_whether_rows_are_sorted_or_not(places):
    with pytest.raises(TableError, match=rf"1 rows repeat the key \(shard, order\), which must be unique; first: {places[-1][0]}"):
        tables.check(plan(*places), PLAN)
    tables.check(plan(*dict.fromkeys(places)), PLAN)


def test_rows_are_sorted_by_both_columns_of_a_key(tmp_path):
    tables.write(tmp_path / "t", plan((1, 0), (0, 1), (0, 0)), PLAN)
    made = tables.read(tmp_path / "t", PLAN)
    assert list(zip(*(made.column(name).to_pylist() for name in ("shard", "order")), strict=True)) == [(0, 0), (0, 1), (1, 0)]


def test_rows_that_do_not_fit():
    with pytest.raises(TableError, match="split: rows do not fit the schema"):
        tables.table([{"tracklet": "a", "role": "train", "label": "zero"}], SPLIT)


def test_reading_something_else(tmp_path):
    with pytest.raises(TableError, match="no such file; expected a 'split' table"):
        tables.read(tmp_path / "none", SPLIT)
    (tmp_path / "text").write_text("not a table")
    with pytest.raises(TableError, match="not a readable Parquet file"):
        tables.read(tmp_path / "text", SPLIT)
    tables.write_rows(tmp_path / "trials", [], TRIALS)
    with pytest.raises(TableError, match="found trials table, version 1; expected 'split', version 1"):
        tables.read(tmp_path / "trials", SPLIT)


def test_a_truncated_table_is_refused(tmp_path):
    tables.write_rows(tmp_path / "t", ROWS, SPLIT)
    data = (tmp_path / "t").read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "t").write_bytes(data[:size])
        with pytest.raises(TableError):
            tables.read(tmp_path / "t", SPLIT)


@pytest.mark.parametrize("schema", tables.SCHEMAS.values(), ids=lambda s: s.name)
def test_schemas_are_explained_and_keyed_by_their_columns(schema):
    names = [column.name for column in schema.columns]
    assert len(set(names)) == len(names) and set(schema.key) <= set(names)
    assert schema.row and all(column.meaning for column in schema.columns)


def test_bytes_do_not_depend_on_the_pieces_a_table_was_made_of(tmp_path):
    """More rows than a page holds, sorted already; a library that uses all cores gives as many pieces as it had cores."""
    rows = [{"tracklet": f"{number:06d}-{'x' * 60}", "role": "train", "label": number} for number in range(70_000)]
    whole = tables.table(rows, SPLIT)
    parts = pa.concat_tables([whole.slice(first, 9_000) for first in range(0, whole.num_rows, 9_000)])
    assert parts.column(0).num_chunks > 1
    tables.write(tmp_path / "a", whole, SPLIT)
    tables.write(tmp_path / "b", parts, SPLIT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    tables.write(tmp_path / "b", parts.slice(1), SPLIT)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
