"""Every byte is checked before the first batch: by parts, by threads, by ranks, by all loaders (tests/torture holds what is refused)."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluate import embed
from pipeline.base import tables
from pipeline.base.config import MachineConfig
from pipeline.base.errors import ShardError
from shards import loader, verify, whole
from shards.read import Index
from tests.shards import making
from tests.torture.small_store import make
from tests.torture.torture_store import run_of

LAST = ("00001.tar", "0002C2T0002")


@pytest.fixture
def index(tmp_path):
    return making.make_store(tmp_path)


def flip_last(index):
    row = tables.read(index, tables.INDEX).to_pylist()[-1]
    data = bytearray((index.parent / row["shard"]).read_bytes())
    data[row["members"][-1]["offset"] + row["members"][-1]["size"] - 1] ^= 1
    (index.parent / row["shard"]).write_bytes(data)


def check(index, *keys, threads=2, share=(0, 1)):
    opened = Index(index)
    return whole.check_tars(opened, keys or opened.keys, index.with_name, threads, share)


def test_what_was_checked_is_counted(index):
    done = check(index)
    size = sum((index.parent / f"0000{n}.tar").stat().st_size for n in (0, 1))
    assert (done.tars, done.bytes) == (2, size) and str(done).startswith("checked 0.0 GB of 2 tars in ")
    assert check(index, "0001C1T0001").tars == 1 and check(index, "nobody").tars == 0


def test_only_tars_that_will_be_read_are_checked(index):
    flip_last(index)
    check(index, "0001C1T0001")
    with pytest.raises(
        ShardError, match=r"00001.tar, sample 0002C2T0002, audio.align.npy: its bytes differ from the digest in INDEX; delete"
    ):
        check(index, "0001C1T0001", "0000C1T0001")  # of the same tar as the damaged one


def test_ranks_share_tars_out(index):
    flip_last(index)
    assert check(index, share=(0, 2)).tars == 1
    with pytest.raises(ShardError, match=LAST[0]):
        check(index, share=(1, 2))


@pytest.mark.parametrize("together", [1, 5000, 1 << 30])
def test_parts_cover_every_sample_once(index, monkeypatch, together):
    monkeypatch.setattr(whole, "TOGETHER", together)
    opened = Index(index)
    rows = [row for part in whole.parts(opened, [0, 1]) for row in range(part.first, part.last + 1)]
    assert rows == list(range(len(opened.keys)))
    count = len(list(whole.parts(opened, [0, 1])))
    assert count == {1: 5, 1 << 30: 2}.get(together, count) and 2 <= count <= 5
    flip_last(index)
    with pytest.raises(ShardError, match=LAST[1]):
        check(index)


def test_the_first_fault_in_the_order_of_index_is_named_whatever_the_threads(index, monkeypatch):
    monkeypatch.setattr(whole, "TOGETHER", 1)
    flip_last(index)
    data = bytearray((index.parent / "00000.tar").read_bytes())
    data[600] ^= 1
    (index.parent / "00000.tar").write_bytes(data)
    said = set()
    for threads in (1, 2, 5):
        with pytest.raises(ShardError) as refused:
            check(index, threads=threads)
        said.add(str(refused.value))
    assert len(said) == 1 and "shard 00000.tar, sample 0001C1T0001, json" in said.pop()


def test_threads_have_ended_when_a_check_returns(index):
    """Loaders fork afterwards."""
    before = threading.active_count()
    check(index, threads=4)
    assert threading.active_count() == before


def test_a_tar_that_cannot_be_read_is_a_sentence(index, monkeypatch):
    def failing(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(whole.os, "preadv", failing)
    with pytest.raises(ShardError, match=r"shard 00000.tar: cannot be read \(Input/output error\)"):
        check(index)


@pytest.mark.parametrize("data", ["indexed", "resident", "stream"])
def test_training_says_what_was_checked_before_anything_is_decoded(tmp_path, data):
    if data == "stream":
        pytest.importorskip("webdataset")
    store = make(tmp_path / "one", 1, 2)
    split, said, machine = tables.read(store.split, tables.SPLIT), list[str](), replace(MachineConfig(workers=0), data=data)

    def meet() -> None:
        said.append("met")

    cpu = torch.device("cpu")
    made = loader.train_loader(store.index, split, run_of(), True, machine, cpu, say=said.append, meet=meet)
    first = next(iter(made.epoch(0)))
    made.close()
    assert said[0].startswith("checked 0.0 GB of 3 tars in ") and said[1] == "met"
    said.clear()
    loose = replace(machine, check="sizes")
    made = loader.train_loader(store.index, split, run_of(), True, loose, cpu, say=said.append, meet=meet)
    again = next(iter(made.epoch(0)))
    made.close()
    assert said[0].startswith("machine.check=sizes: the bytes of the tars were not checked") and said[1] == "met"
    assert np.array_equal(np.asarray(first.frames), np.asarray(again.frames))


def test_tars_that_validation_reads_are_checked_with_those_of_training(tmp_path):
    store = make(tmp_path / "one", 1, 2)
    rows = tables.read(store.split, tables.SPLIT).to_pylist()
    place = {row["key"]: row["shard"] for row in store.rows}
    held = [row["tracklet"] for row in rows if place[row["tracklet"]] == "00002.tar"]
    labels = sorted({row["tracklet"][:4] for row in rows if row["role"] == "train" and row["tracklet"] not in held})
    for row in rows:
        trained = row["role"] == "train" and row["tracklet"] not in held
        row |= {"role": "train", "label": labels.index(row["tracklet"][:4])} if trained else {"role": "unused", "label": -1}
    split, cpu, said = tables.table(rows, tables.SPLIT), torch.device("cpu"), list[str]()
    for also, tars in (((), 2), (held, 3)):
        loader.train_loader(store.index, split, run_of(), True, MachineConfig(workers=0), cpu, say=said.append, also=also).close()
        assert f" of {tars} tars in " in said[-1]


def test_an_index_that_claims_more_than_any_memory(index):
    """Sizes of 2^50 bytes: a sentence for each sample, no MemoryError."""
    rows, meta = tables.read(index, tables.INDEX).to_pylist(), tables.read_meta(index)
    last = rows[-1]
    last["size"] += 1 << 50
    last["members"][-1]["size"] += 1 << 50
    tables.write_rows(index, rows, tables.INDEX, {key: value for key, value in meta.items() if key not in ("schema", "version")})
    wrong = verify.verify(index)
    assert any("00001.tar: its index implies" in line for line in wrong)
    assert any(re.search(rf"sample {LAST[1]}: the tar ends \d{{16}} bytes early", line) for line in wrong), wrong
    with pytest.raises(ShardError, match=r"00001\.tar: its index implies"):
        check(index)


def test_a_sample_larger_than_the_memory_is_a_sentence(index, monkeypatch):
    """Where the tar really has these bytes."""

    def none_left(size: int) -> bytearray:
        raise MemoryError

    monkeypatch.setattr(whole, "bytearray", none_left, raising=False)
    with pytest.raises(ShardError, match=r"00000\.tar: its samples are larger than the memory here"):
        check(index)


def test_embedding_checks_all_tars_whatever_torchrun_has_left_in_the_environment(tmp_path, monkeypatch):
    """It is one process always; a share of the check would let a flipped bit through."""
    store = make(tmp_path / "one", 1, 2)
    split = tables.read(store.split, tables.SPLIT)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert whole.own_share()[:2] == (int(rank), 2)
        assert whole.own_share(alone=True) == (0, 1, len(os.sched_getaffinity(0)))
        for name in store.tars:
            row = store.of(name)[-1]
            data = bytearray(store.files[name])
            data[row["members"][-1]["offset"]] ^= 1
            (store.folder / name).write_bytes(data)
            with pytest.raises(ShardError, match=f"shard {name}, sample {row['key']}"):
                embed.open_store(str(store.index), split, "bytes")
            (store.folder / name).write_bytes(store.files[name])
