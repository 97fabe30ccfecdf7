"""Reading by offset, and refusing every shard that is not what its index says (promise R5)."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline.base import tables
from pipeline.base.errors import ShardError, UserError
from shards import verify
from shards.read import Store
from tests.shards import making


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return making.make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def index(made, tmp_path):
    """A copy that may be broken."""
    for path in made.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / made.name


def test_frames_by_hand(made):
    store = Store(made)
    assert store.keys == [name for name, _ in making.PLAN] and len(store) == 5
    assert store.frames("0001C1T0001", [7, 0, 0]) == [making.frame("0001C1T0001", index) for index in (7, 0, 0)]
    for key in store.keys:
        assert store.frames(key, range(store.count(key))) == making.stored(key)
    assert store.frames("0001C1T0001", np.array([], np.int64)) == []


def test_companion_by_hand(made):
    store = Store(made)
    assert store.items("0001C1T0001") == ["clip_b", "clip_a"]
    assert store.align("0001C1T0001", "audio").tolist() == [0] * 6 + [1] * 2
    assert store.align("0001C2T0001", "audio").tolist() == [0] * 4  # one item for the whole tracklet
    assert store.align("0002C2T0002", "audio").tolist() == [0, 0, 0, -1, -1, -1]
    assert store.align("0000C1T0001", "audio") is None and store.align("0001C1T0001", "events") is None
    a, b = store.companion("0001C1T0001", "audio", [1, 0])
    assert (
        a.dtype == b.dtype == np.float16 and np.array_equal(a, making.FEATURES["clip_a"]) and np.array_equal(b, making.FEATURES["clip_b"])
    )
    a += 1  # the caller's own


def test_row_and_meta(made):
    store = Store(made)
    row = store.row("0002C2T0002")
    assert (row["shard"], row["identity"], row["kind"], row["camera"], row["frames"], row["items"]) == (
        "00001.tar",
        "0002",
        "person",
        1,
        6,
        1,
    )
    assert store.meta["companion"]["policy"] == "id_speaker" and store.table.num_rows == 5


def test_sentences(made):
    store = Store(made)
    for call, text in (
        (lambda: store.frames("nobody", [0]), "no sample 'nobody' among 5"),
        (lambda: store.frames("0001C1T0001", [8]), "shard 00000.tar, sample 0001C1T0001, frames.mjpeg: frame 8 was asked for, there are 8"),
        (lambda: store.frames("0001C1T0001", [-1]), "frame -1 was asked for"),
        (lambda: store.companion("0001C1T0001", "audio", [2]), "item 2 was asked for, there are 2"),
        (lambda: store.companion("0000C1T0001", "audio", [0]), "has no companion of kind 'audio'"),
    ):
        with pytest.raises(ShardError, match=text):
            call()


def test_a_twin_is_a_store_of_one_shard(made):
    assert Store(made.parent / "00001.parquet").keys == ["0000C1T0001", "0002C1T0001", "0002C2T0002"]


def test_pickle_and_fork_map_anew(made):
    store = Store(made)
    expected = store.frames("0001C1T0001", [3])
    again = pickle.loads(pickle.dumps(store))
    assert not again._maps and again.frames("0001C1T0001", [3]) == expected
    assert len(pickle.dumps(store)) < 500  # a path, not a map

    def child(out):
        got = store.frames("0001C1T0001", [3])
        out.send((got, store._pid == os.getpid(), len(store._maps)))

    store.frames("0000C1T0001", [0])
    assert len(store._maps) == 2
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    assert ours.recv() == (expected, True, 1)
    process.join()
    assert process.exitcode == 0 and len(store._maps) == 2


def test_frames_never_touch_companion_bytes(index):
    store = Store(index)
    row = tables.read(index, tables.INDEX).to_pylist()[0]
    with open(index.parent / row["shard"], "r+b") as tar:
        for member in row["members"]:
            if member["suffix"].startswith("audio"):
                tar.seek(member["offset"] - 512)
                tar.write(b"?" * (512 + member["size"]))
    assert store.frames(row["key"], range(8)) == making.stored(row["key"])
    with pytest.raises(ShardError):
        store.companion(row["key"], "audio", [0])


# --- damage ----------------------------------------------------------------------------------------------------------


def test_untouched_store_passes(made):
    """The negative control of every test below."""
    Store(made)
    assert verify.verify(made) == []


def test_cut_at_every_block(index):
    tar = index.parent / "00000.tar"
    whole = tar.read_bytes()
    assert len(whole) % 512 == 0
    for blocks in range(len(whole) // 512):
        tar.write_bytes(whole[: blocks * 512])
        with pytest.raises(ShardError, match=r"shard 00000.tar: its index implies"):
            Store(index)
        assert any("00000.tar" in line for line in verify.verify(index))
        tar.write_bytes(whole[: blocks * 512] + bytes(len(whole) - blocks * 512))  # cut, and filled up again
        lines = verify.verify(index)
        assert lines if blocks < len(whole) // 512 - 2 else not lines  # the last two blocks are zero anyway
    tar.write_bytes(whole + bytes(512))
    with pytest.raises(ShardError, match=r"00000.tar"):
        Store(index)


def test_one_bit_in_each_member_and_header(index):
    rows = tables.read(index, tables.INDEX).to_pylist()
    for row in rows:
        tar = index.parent / row["shard"]
        whole = tar.read_bytes()
        for member in row["members"]:
            for at in (member["offset"], member["offset"] + member["size"] - 1, member["offset"] - 512, member["offset"] - 364):
                broken = bytearray(whole)
                broken[at] ^= 1
                tar.write_bytes(broken)
                assert any(f"{row['shard']}, sample {row['key']}" in line for line in verify.verify(index)), (row["key"], member, at)
        tar.write_bytes(whole)
    assert verify.verify(index) == []


def test_every_bit_counts(index):
    """One bit of each byte of each sample: members, headers and padding."""
    rows = tables.read(index, tables.INDEX).to_pylist()
    found: dict[str, int] = {}
    for row in rows:
        tar = (index.parent / row["shard"]).read_bytes()
        data = bytearray(tar[row["offset"] : row["offset"] + row["size"]])
        assert verify.check_sample(row, bytes(data)) == []
        for at in range(len(data)):
            data[at] ^= 1 << at % 8
            lines = verify.check_sample(row, bytes(data))
            data[at] ^= 1 << at % 8
            assert lines and all(line.startswith(f"shard {row['shard']}, sample {row['key']}") for line in lines), (row["key"], at)
            what = next(part for part in ("header", "padding", "digest") if part in lines[0])
            found[what] = found.get(what, 0) + 1
    members = [member["size"] for row in rows for member in row["members"]]
    assert found["header"] == 512 * len(members) and found["digest"] == sum(members)
    assert found["padding"] == sum(-size % 512 for size in members)


def test_members_listed_with_gaps(index):
    """Each change alone would leave bytes of the tar that nobody looks at."""
    row = tables.read(index, tables.INDEX).to_pylist()[0]
    data = (index.parent / row["shard"]).read_bytes()[: row["size"]]
    members = row["members"]
    for wrong in (members[:-1], [*members[1:], members[0]], [{**members[0], "size": members[0]["size"] - 512}, *members[1:]]):
        lines = verify.check_sample({**row, "members": wrong}, data)
        assert lines[0] == "shard 00000.tar, sample 0001C1T0001: INDEX lists its members with gaps or with other sizes than the sample's"
    shorter = [{**members[0], "size": members[0]["size"] - 1}, *members[1:]]  # where padding hides it
    assert "json: the tar's header is not that of INDEX" in verify.check_sample({**row, "members": shorter}, data)[0]


def test_swapped_removed_and_renamed_shards(index):
    first, second = (index.parent / f"0000{n}.tar" for n in (0, 1))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(ShardError, match=r"00000.tar"):
        Store(index)
    assert len(verify.verify(index)) >= 2
    first.write_bytes(one)
    second.unlink()
    with pytest.raises(ShardError, match=r"shard 00001.tar: no such file"):
        Store(index)
    assert "no such file" in verify.verify(index)[0]


def test_same_size_but_other_samples(index):
    """Two samples of equal size trade places: the file's size is right, its names are not."""
    rows = tables.read(index, tables.INDEX).to_pylist()[2:4]
    tar = index.parent / "00001.tar"
    data = bytearray(tar.read_bytes())
    (a, b), size = (row["offset"] for row in rows), rows[0]["size"]
    assert rows[1]["size"] == size
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    tar.write_bytes(data)
    with pytest.raises(ShardError, match="sample 0000C1T0001 is not where its index says"):
        Store(index)


def test_tar_replaced_after_opening(index):
    store = Store(index)
    (index.parent / "00000.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"00000.tar"):
        store.frames("0001C1T0001", [0])


def test_an_index_that_contradicts_itself(index):
    rows = tables.read(index, tables.INDEX).to_pylist()
    meta = tables.read_meta(index)

    def broken(change) -> None:
        changed = [{**row, "members": [dict(member) for member in row["members"]]} for row in rows]
        change(changed)
        tables.write_rows(index, changed, tables.INDEX, {k: v for k, v in meta.items() if k not in ("schema", "version")})
        with pytest.raises(UserError):
            Store(index)

    broken(lambda r: r[0].update(size=r[0]["size"] + 512))
    broken(lambda r: r[1].update(offset=r[1]["offset"] - 512))
    broken(lambda r: r[0].update(shard="../00000.tar"))
    broken(lambda r: r[1].update(key=r[0]["key"]))
    broken(lambda r: r[0]["members"][1].update(offset=1 << 40))
    broken(lambda r: r[0]["members"][1].update(size=-1))
    broken(lambda r: r[0]["members"][1].update(suffix="cls.pkl"))
    broken(lambda r: r[0]["members"].pop(1))
    broken(lambda r: r[0]["members"].append(dict(r[0]["members"][0])))
    broken(lambda r: r.clear())


def test_index_that_lists_wrong_identity_is_named(index):
    rows = tables.read(index, tables.INDEX).to_pylist()
    rows[0]["identity"] = "0009"
    tables.write_rows(index, rows, tables.INDEX, {"companion": None})
    wrong, twin, *others = verify.verify(index)
    assert wrong == "shard 00000.tar, sample 0001C1T0001: identity is 0001 in the tar and 0009 in INDEX"
    assert twin.startswith(f"twin {index.with_name('00000.parquet')}: its dataset and cameras and frames and companion and samples differ")
    assert len(others) == 1 and "00001.parquet: its dataset and cameras and frames and companion differ" in others[0]


def test_verify_as_a_command(index, repository):
    command = [sys.executable, "-m", "shards.verify", str(index)]
    good = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert good.returncode == 0 and "every byte is as listed" in good.stdout
    tar = index.parent / "00001.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 4
    tar.write_bytes(data)
    bad = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert bad.returncode == 2 and "shard 00001.tar, sample 0000C1T0001" in bad.stderr and "Traceback" not in bad.stderr


def test_reading_imports_no_other_package(repository):
    code = "import sys, shards.read; assert not {'webdataset', 'torch', 'PIL', 'snakemake', 'soundfile'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)


@pytest.mark.parametrize("key", ["\u00e9", "x" * 99, "../x", ""])
def test_verify_names_a_row_that_cannot_be_and_goes_on(made, tmp_path, key):
    """A hostile INDEX, and a tar that is damaged elsewhere: both are in the report."""
    index = tables.read(made, tables.INDEX).to_pylist()
    for row in index:
        shutil.copyfile(made.parent / row["shard"], tmp_path / row["shard"])
    last = index[-1]
    data = bytearray((tmp_path / last["shard"]).read_bytes())
    data[last["members"][0]["offset"]] ^= 1
    (tmp_path / last["shard"]).write_bytes(bytes(data))
    index[1]["key"] = key
    tables.write_rows(tmp_path / "index.parquet", index, tables.INDEX, tables.read_meta(made))
    lines = verify.verify(tmp_path / "index.parquet")
    assert any(repr(key) in line for line in lines) and any(f"sample {last['key']}, json: its bytes differ" in line for line in lines)
