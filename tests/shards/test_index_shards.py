"""INDEX is the twins of all shards, and of nothing else."""

from __future__ import annotations

import pytest

from pipeline.base import tables
from pipeline.base.errors import ShardError, UserError
from pipeline.base.files import digest_file
from shards import index_shards, pack_shard
from tests.shards import making


@pytest.fixture
def folder(tmp_path):
    making.make_store(tmp_path)
    return tmp_path


def test_index_is_the_twins_in_order(folder):
    index = tables.read(folder / "index.parquet", tables.INDEX).to_pylist()
    assert index == [row for n in (0, 1) for row in tables.read(folder / f"0000{n}.parquet", tables.INDEX).to_pylist()]
    read = {"tracklets": digest_file(folder / "t.parquet")}
    assert tables.read_meta(folder / "index.parquet") == {**tables.read_meta(folder / "00000.parquet"), "from": read}
    before = (folder / "index.parquet").read_bytes()
    out, option, tracklets, first, second = making.index_arguments(folder)
    index_shards.main([out, option, tracklets, second, first])  # the order of twins does not matter
    assert (folder / "index.parquet").read_bytes() == before


def test_missing_twice_and_foreign(folder):
    arguments = making.index_arguments(folder)
    with pytest.raises(ShardError, match="3 missing: 0000C1T0001, 0002C1T0001, 0002C2T0002"):
        index_shards.main(arguments[:-1])
    with pytest.raises(ShardError, match=r"00000.tar listed by more than one twin"):
        index_shards.main([*arguments, arguments[3]])
    rows = tables.read(folder / "t.parquet", tables.TRACKLETS).to_pylist()
    tables.write_rows(folder / "t.parquet", rows[1:], tables.TRACKLETS, {"dataset": "tiny", "cameras": 2})
    with pytest.raises(ShardError, match="1 not in TRACKLETS: 0000C1T0001"):
        index_shards.main(arguments)


def test_one_tracklet_in_two_shards(folder):
    twins = [tables.read(folder / f"0000{n}.parquet", tables.INDEX) for n in (0, 1)]
    rows = twins[1].to_pylist()
    rows[0]["key"] = "0001C1T0001"
    tracklets = tables.read(folder / "t.parquet", tables.TRACKLETS)
    with pytest.raises(ShardError, match="1 more than once: 0001C1T0001; 1 missing: 0000C1T0001"):
        index_shards.join([twins[0], tables.table(rows, tables.INDEX)], tracklets)
    assert index_shards.join(twins, tracklets).num_rows == 5


def test_shards_packed_unlike_each_other(folder):
    pack_shard.main(making.arguments(folder, 1, sound=False))
    with pytest.raises(ShardError, match=r"00001.parquet: companion is None, in 00000.parquet it is \{"):
        index_shards.main(making.index_arguments(folder))


def test_other_tracklets_meta(folder):
    rows = tables.read(folder / "t.parquet", tables.TRACKLETS).to_pylist()
    tables.write_rows(folder / "t.parquet", rows, tables.TRACKLETS, {"dataset": "tiny", "cameras": 3})
    with pytest.raises(ShardError, match="cameras is 2 in the twins and 3 in TRACKLETS"):
        index_shards.main(making.index_arguments(folder))


def test_a_tar_that_is_not_the_twins(folder):
    tar = folder / "00001.tar"
    whole = tar.read_bytes()
    for bad in (whole[:-512], whole + bytes(512), whole[:-1] + b"\1", b"x" * len(whole)):
        tar.write_bytes(bad)
        with pytest.raises(UserError, match=r"shard 00001.tar"):
            index_shards.main(making.index_arguments(folder))
    tar.unlink()
    with pytest.raises(ShardError, match="no such file"):
        index_shards.main(making.index_arguments(folder))
    tar.write_bytes(whole)
    index_shards.main(making.index_arguments(folder))
