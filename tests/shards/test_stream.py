"""Streams: the same samples as by offset, nothing that can run code."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.base import tables
from pipeline.base.errors import ConfigError, ShardError
from shards import codec, read
from shards.read import Index, Store
from shards.stream import Tars
from tests.shards import making

pytest.importorskip("webdataset")


@pytest.fixture
def index(tmp_path):
    return making.make_store(tmp_path)


def stream(index, *shards, **options):
    """Samples of some shards (default: all), undecoded."""
    opened = Tars(Index(index), **options)
    return [sample for shard in shards or sorted(opened.sizes) for sample in opened.samples(shard)]


def test_same_samples_as_by_offset(index):
    store, found = Store(index), stream(index)
    assert [key for key, _ in found] == store.keys
    for key, members in found:
        expected, sample = store.sample(key), codec.decode(members, key)
        assert sample.meta == expected.meta and sample.frames == expected.frames == making.stored(key)
        assert list(sample.companions) == list(expected.companions)
        for kind, items in sample.companions.items():
            assert np.array_equal(items.values, expected.companions[kind].values)


COMMANDS = ["pipe:touch {hit} {shard}", "http://host/{shard}", "https://host/{shard}", "file:{shard}", "-", "s3://bucket/{shard}"]


@pytest.mark.parametrize("urls", COMMANDS)
def test_nothing_starts_a_command_unless_it_is_allowed(index, urls, tmp_path):
    with pytest.raises(ConfigError, match=r"would start a command, which only machine\.commands=true allows"):
        Tars(Index(index), urls.replace("{hit}", str(tmp_path / "hit")))
    assert not (tmp_path / "hit").exists()


INJECTED = [
    "$(touch hit).tar",
    "a;touch hit;.tar",
    "`touch hit`.tar",
    "a b.tar",
    "a\n.tar",
    "-o.tar",
    ".tar",
    "..",
    "../00000.tar",
    "a/b",
    "",
]


def rename(index, name):
    """Name the first tar anew, as whoever made the INDEX might."""
    rows = tables.read(index, tables.INDEX).to_pylist()
    for row in rows:
        row["shard"] = name if row["shard"] == "00000.tar" else row["shard"]
    meta = {field: value for field, value in tables.read_meta(index).items() if field not in ("schema", "version")}
    tables.write_rows(index, rows, tables.INDEX, meta)


@pytest.mark.parametrize("name", INJECTED)
def test_an_index_cannot_make_a_name_into_a_command(index, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rename(index, name)
    with pytest.raises(ShardError, match="shard " + re.escape(repr(name)) + " is no file name of ") as caught:
        stream(index, name, urls=f"pipe:cat {index.parent}/{{shard}}", commands=True)
    assert "\n" not in str(caught.value) and not Path("hit").exists()


@pytest.mark.parametrize("name", INJECTED[:4])
def test_names_are_quoted_for_the_shell_as_well(index, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(read, "NAME", re.compile("(?s:.*)"))
    expected = stream(index)
    Path("00000.tar").rename(name)
    rename(index, name)
    found = stream(index, name, "00001.tar", urls=f"pipe:cat {index.parent}/{{shard}}", commands=True)
    assert found == expected and not Path("hit").exists()


def test_an_ordinary_name_is_taken(index, tmp_path):
    expected = stream(index)
    (tmp_path / "00000.tar").rename(tmp_path / "_Mars-v1.2.tar")
    rename(index, "_Mars-v1.2.tar")
    found = stream(index, "_Mars-v1.2.tar", "00001.tar", urls=f"pipe:cat {index.parent}/{{shard}}", commands=True)
    assert found == expected


def test_a_command_that_is_allowed_gives_the_same_samples(index):
    assert stream(index, urls=f"pipe:cat {index.parent}/{{shard}}", commands=True) == stream(index)
    assert stream(index, urls=f"file:{index.parent}/{{shard}}", commands=True) == stream(index)


@pytest.mark.parametrize("command", ["false", "cat {folder}/{shard}; exit 3", "head -c 1000 {folder}/{shard}", "cat {folder}/00001.tar"])
def test_a_command_that_fails_or_gives_another_tar_is_refused(index, command):
    urls = "pipe:" + command.replace("{folder}", str(index.parent))
    with pytest.raises(ShardError, match=r"shard 00000\.tar: "):
        stream(index, "00000.tar", urls=urls, commands=True)


def test_tars_may_lie_elsewhere(index, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    expected = stream(index)
    for tar in index.parent.glob("*.tar"):
        tar.rename(elsewhere / tar.name)
    assert stream(index, urls=f"{elsewhere}/{{shard}}") == expected
    with pytest.raises(ShardError, match=r"shard 00000\.tar: no such file"):
        stream(index)


def test_a_path_that_looks_like_a_pipe_is_only_a_path(index, tmp_path, monkeypatch):
    monkeypatch.setenv("GOPEN_REWRITE", f"{index.parent}=pipe:touch {tmp_path}/hit;")
    assert len(stream(index)) == 5 and not (tmp_path / "hit").exists()


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
        stream(index, tar.name)
    assert not (tmp_path / "hit").exists()


def test_a_tar_that_ends_early(index):
    tar = index.parent / "00000.tar"
    whole = tar.read_bytes()
    for cut in range(0, len(whole), 512):
        tar.write_bytes(whole[:cut])
        with pytest.raises(ShardError, match=r"00000.tar"):
            stream(index, tar.name)
    tar.write_bytes(whole)
    assert len(stream(index, tar.name)) == 2


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
        stream(index, tar.name)


def test_webdataset_is_imported_late(repository):
    code = "import sys, shards.stream; assert 'webdataset' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)


@pytest.mark.parametrize("pack", ["gzip -c", "xz -c", "bzip2 -c"])
def test_a_compressed_tar_is_not_unfolded(index, pack):
    with pytest.raises(ShardError, match=r"shard 00000\.tar: found the header of"):
        stream(index, "00000.tar", urls=f"pipe:{pack} {index.parent}/{{shard}}", commands=True)


def test_a_stream_that_goes_on_is_refused(index):
    urls = f"pipe:cat {index.parent}/{{shard}} /dev/zero"
    with pytest.raises(ShardError, match=r"shard 00000\.tar: goes on behind the 13312 bytes that its index implies"):
        stream(index, "00000.tar", urls=urls, commands=True)


def test_a_header_that_index_passes_over(index, monkeypatch):
    """A link between two members, all samples as packed: the stream itself would not see it, so INDEX must leave no gap."""
    rows, meta = tables.read(index, tables.INDEX).to_pylist(), tables.read_meta(index)
    tar = index.parent / rows[0]["shard"]
    data, gap = tar.read_bytes(), rows[0]["members"][1]["offset"] - codec.BLOCK
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/nowhere"
    tar.write_bytes(data[:gap] + link.tobuf(tarfile.GNU_FORMAT) + data[gap:])
    rows[0]["size"] += codec.BLOCK
    for row in rows:
        if row["shard"] == rows[0]["shard"]:
            row["offset"] += codec.BLOCK * (row["offset"] > 0)
            for member in row["members"]:
                member["offset"] += codec.BLOCK * (member["offset"] > gap)
    tables.write_rows(index, rows, tables.INDEX, {key: value for key, value in meta.items() if key not in ("schema", "version")})
    with pytest.raises(ShardError, match="members lie with gaps, or do not fill their sample"):
        stream(index)
    monkeypatch.setattr(read.Layout, "_unfilled", lambda *_: np.zeros(len(rows), bool))
    assert len(stream(index)) == len(rows)  # negative control


@pytest.mark.parametrize("block", [-2, -1])
def test_a_header_in_the_end_of_the_archive(index, block):
    """From elsewhere: nobody has looked at the end before."""
    tar = index.parent / "00000.tar"
    data = tar.read_bytes()
    at = len(data) + block * codec.BLOCK
    tar.write_bytes(data[:at] + tarfile.TarInfo("more").tobuf(tarfile.GNU_FORMAT) + data[at + codec.BLOCK :])
    with pytest.raises(ShardError, match="the end-of-archive blocks are not zero"):
        stream(index, urls=f"pipe:cat {index.parent}/{{shard}}", commands=True)
