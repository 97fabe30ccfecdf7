"""Streams: the same samples as by offset, each shard once, nothing that can run code."""

from __future__ import annotations

import subprocess
import sys
import tarfile

import numpy as np
import pytest

from pipeline.base.errors import ConfigError, ShardError
from shards import codec
from shards.read import Store
from shards.stream import shard_order, stream
from tests.shards import making

pytest.importorskip("webdataset")


@pytest.fixture
def index(tmp_path):
    return making.make_store(tmp_path)


def tars(index):
    return sorted(index.parent.glob("*.tar"))


def test_same_samples_as_by_offset(index):
    store = Store(index)
    found = list(stream(tars(index), index))
    assert [sample["key"] for sample in found] == store.keys
    for sample in found:
        expected = store.sample(sample["key"])
        assert sample["meta"] == expected.meta and sample["frames"] == expected.frames == making.stored(sample["key"])
        assert ("audio" in sample) == bool(expected.companions)
        if "audio" in sample:
            assert np.array_equal(sample["audio"].values, expected.companions["audio"].values)


def test_readers_share_the_shards_out(index):
    for ranks, workers in ((1, 1), (2, 1), (1, 2)):
        parts = [
            [s["key"] for s in stream(tars(index), index, seed=3, epoch=1, rank=rank, ranks=ranks, worker=worker, workers=workers)]
            for rank in range(ranks)
            for worker in range(workers)
        ]
        assert sorted(key for part in parts for key in part) == sorted(Store(index).keys)
    with pytest.raises(ConfigError, match="2 shards do not suffice for 2 x 2 readers"):
        list(stream(tars(index), index, rank=1, ranks=2, worker=1, workers=2))


def test_order_of_shards_is_seeded():
    orders = [shard_order(20, seed, epoch) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert orders[0] == orders[1] and orders[0] != orders[2] and orders[0] != orders[3]
    assert all(sorted(order) == list(range(20)) for order in orders) and shard_order(3, None, 5) == [0, 1, 2]


@pytest.mark.parametrize("url", ["pipe:touch hit", "http://host/00000.tar", "-", "file:00000.tar"])
def test_only_local_paths(index, url, tmp_path):
    with pytest.raises(ConfigError, match="only local tars"):
        list(stream([url], index))
    assert not (tmp_path / "hit").exists()


def test_a_path_that_looks_like_a_pipe_is_only_a_path(index, tmp_path, monkeypatch):
    monkeypatch.setenv("GOPEN_REWRITE", f"{index.parent}=pipe:touch {tmp_path}/hit;")
    assert len(list(stream(tars(index), index))) == 5 and not (tmp_path / "hit").exists()


def test_unknown_shard(index, tmp_path):
    with pytest.raises(ShardError, match=r"shard 00007.tar: not in"):
        list(stream([tmp_path / "00007.tar"], index))


def test_pickle_member_is_refused_unread(index, tmp_path):
    tar = index.parent / "00000.tar"
    row = Store(index).table.to_pylist()[0]
    member = next(m for m in row["members"] if m["suffix"] == "frames.lengths.npy")
    data = bytearray(tar.read_bytes())
    data[member["offset"] - 512 : member["offset"]] = codec.tar_header("0001C1T0001.lengths.pyd", member["size"])
    bomb = f"cos\nsystem\n(S'touch {tmp_path}/hit'\ntR.".encode()
    data[member["offset"] : member["offset"] + len(bomb)] = bomb
    tar.write_bytes(data)
    with pytest.raises(ShardError, match=r"00000.tar, sample 0001C1T0001: member 'lengths.pyd' is not part of this format"):
        list(stream([tar], index))
    assert not (tmp_path / "hit").exists()


def test_a_tar_that_ends_early(index):
    tar = index.parent / "00000.tar"
    whole = tar.read_bytes()
    for cut in range(0, len(whole), 512):
        tar.write_bytes(whole[:cut])
        with pytest.raises(ShardError, match=r"00000.tar"):
            list(stream([tar], index))
    tar.write_bytes(whole)
    assert len(list(stream([tar], index))) == 2


def test_a_tar_with_a_hole(index):
    """Size, first and last sample are right, but readers stop at a zero block, without an error: the count tells."""
    tar = index.parent / "00001.tar"
    data = bytearray(tar.read_bytes())
    middle = Store(index).table.to_pylist()[3]
    data[middle["offset"] : middle["offset"] + 1024] = bytes(1024)
    tar.write_bytes(data)
    with tarfile.open(tar) as quiet:
        assert len(quiet.getmembers()) == 3
    with pytest.raises(ShardError, match=r"shard 00001.tar: index lists 3 samples, file holds 1; delete it"):
        list(stream([tar], index))


def test_webdataset_is_imported_late(repository):
    code = "import sys, shards.stream; assert 'webdataset' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)
