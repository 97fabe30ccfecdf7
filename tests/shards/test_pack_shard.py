"""Tars: the same bytes always, readable by everyone, listed correctly."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pytest

from pipeline.base import tables
from pipeline.base.errors import ShardError
from shards import codec, pack_shard, verify
from tests.shards import making


@pytest.fixture
def folder(tmp_path):
    making.make_store(tmp_path)
    return tmp_path


def packed(folder, shard=0, turn=lambda table: table):
    """Tar bytes straight from tables, which `turn` may shuffle."""
    read = {
        name: turn(tables.read(folder / f"{file}.parquet", schema))
        for name, file, schema in (
            ("frames", f"f{shard}", tables.FRAMES),
            ("alignment", "a", tables.ALIGNMENT),
            ("features", f"e{shard}", tables.FEATURES),
        )
    }
    with open(folder / "x.tar", "wb", buffering=0) as out, open(folder / f"f{shard}.mjpeg", "rb", buffering=0) as stream:
        pack_shard.write_tar(out, "x.tar", pack_shard.samples(kind="audio", **read), stream)
    return (folder / "x.tar").read_bytes()


def test_format_is_pinned(folder):
    """Any change of the format shows here: bytes by bytes it must stay, or the schema version of INDEX must rise."""
    data = (folder / "00000.tar").read_bytes()
    assert data[:512].startswith(b"0001C1T0001.json\0") and data[-1024:] == bytes(1024)
    assert hashlib.sha256(data).hexdigest() == "bdbfb94d2561f60955244076e5fa260ba7224e8e3e46575c059a347f6c930e03"


def test_rows_in_any_order_give_the_same_bytes(folder):
    def turn(table: pa.Table) -> pa.Table:
        return table.take(list(range(table.num_rows))[::-1])

    for shard in (0, 1):
        data = (folder / f"0000{shard}.tar").read_bytes()
        assert packed(folder, shard) == packed(folder, shard, turn) == data


def test_environment_does_not_matter(folder, repository):
    expected = {name: (folder / name).read_bytes() for name in ("00000.tar", "00000.parquet")}
    command = "umask 077 && exec " + " ".join([sys.executable, "-m", "shards.pack_shard", *making.arguments(folder, 0)])
    env = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "123", "LC_ALL": "C", "PYTHONPATH": str(repository)}
    subprocess.run(["sh", "-c", command], check=True, env=env, cwd=repository)
    assert {name: (folder / name).read_bytes() for name in expected} == expected


def test_negative_control_other_inputs_give_other_bytes(folder, monkeypatch):
    expected = packed(folder)
    header = codec.tar_header

    def later(name: str, size: int) -> bytes:
        made = header(name, size).replace(b"00000000000\0", b"00000000001\0")
        return made[:148] + b"%06o\0 " % (sum(made[:148]) + sum(made[156:]) + 8 * 32) + made[156:]

    monkeypatch.setattr(codec, "tar_header", later)
    assert packed(folder) != expected
    monkeypatch.undo()
    assert packed(folder) == expected


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command")
def test_tar_command_reads_it(folder, tmp_path):
    listed = subprocess.run(["tar", "-tvf", folder / "00001.tar"], check=True, capture_output=True, text=True)
    assert listed.stderr == "" and listed.stdout.splitlines()[0].startswith("-rw-r--r-- 0/0")
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    assert names[:3] == ["0000C1T0001.json", "0000C1T0001.frames.mjpeg", "0000C1T0001.frames.lengths.npy"] and len(names) == 3 + 3 + 6
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xf", folder / "00001.tar", "-C", out], check=True)
    assert (out / "0002C1T0001.frames.mjpeg").read_bytes() == b"".join(making.stored("0002C1T0001"))


def test_python_and_webdataset_read_it(folder):
    webdataset = pytest.importorskip("webdataset")
    with tarfile.open(folder / "00000.tar") as tar:
        assert len(tar.getmembers()) == 12
    found = list(webdataset.WebDataset([str(folder / "00000.tar")], shardshuffle=False))
    assert [sample["__key__"] for sample in found] == ["0001C1T0001", "0001C2T0001"]
    assert found[0]["frames.mjpeg"] == b"".join(making.stored("0001C1T0001"))
    values = np.load(io.BytesIO(found[0]["audio.values.npy"]), allow_pickle=False)
    assert np.array_equal(values, np.concatenate([making.FEATURES["clip_b"], making.FEATURES["clip_a"]]))


def test_twin_by_hand(folder):
    twin = tables.read(folder / "00001.parquet", tables.INDEX).to_pylist()
    data = (folder / "00001.tar").read_bytes()
    assert [(row["key"], row["kind"], row["camera"], row["frames"], row["items"]) for row in twin] == [
        ("0000C1T0001", "distractor", 0, 3, 0), ("0002C1T0001", "person", 0, 6, 0), ("0002C2T0002", "person", 1, 6, 1)]  # fmt: skip
    assert [row["offset"] for row in twin] == [0, 3072, 6144]  # three members of two blocks each
    for row in twin:
        lines = ""
        for name, at, size in ((m["suffix"], m["offset"], m["size"]) for m in row["members"]):
            lines += f"{name} {size} {hashlib.sha256(data[at : at + size]).hexdigest()}\n"
        assert hashlib.sha256(lines.encode()).hexdigest() == row["digest"]
    member = twin[1]["members"][1]
    assert member["suffix"] == "frames.mjpeg"
    assert data[member["offset"] : member["offset"] + member["size"]] == b"".join(making.stored("0002C1T0001"))


def test_meta(folder):
    meta = tables.read_meta(folder / "00000.parquet")
    assert meta["dataset"] == "tiny" and meta["cameras"] == 2 and meta["frames"] == {"height": 32, "width": 16}
    facts = {"policy": "id_speaker", "oracle": False, "label_derived": True, "seed": 7, "test": False}
    assert meta["companion"] == {"kind": "audio", "bands": 2, "tokens": None, **facts}
    pack_shard.main(making.arguments(folder, 0, sound=False))
    assert tables.read_meta(folder / "00000.parquet")["companion"] is None


def test_paths_of_dropped_frames_are_left_out(folder):
    with tarfile.open(folder / "00001.tar") as tar:
        meta = codec.decode_meta(tar.extractfile("0002C1T0001.json").read(), "")
    assert meta["frames"] == [f"0002C1T0001/{index}.jpg" for index in (0, 1, 3, 4, 5, 6)]


def test_a_failed_pack_leaves_no_twin(folder):
    tables.write_rows(folder / "e0.parquet", [], tables.FEATURES, making.FEATURES_META | {"shard": 0})
    before = (folder / "00000.tar").read_bytes()
    with pytest.raises(ShardError, match=r"0001C1T0001: item 'clip_b' has no feature \(2 missing\); run encode_companion"):
        pack_shard.main(making.arguments(folder, 0))
    assert not (folder / "00000.parquet").exists() and (folder / "00000.tar").read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_frames_are_copied_with_the_digest_they_were_given(folder):
    """Nothing is looked at here; what happened to a frame after it was encoded is found in the tar."""
    stream = folder / "f1.mjpeg"
    data = bytearray(stream.read_bytes())
    data[5] ^= 1
    stream.write_bytes(data)
    pack_shard.main(making.arguments(folder, 1))
    assert (folder / "00001.tar").read_bytes().count(data[:20]) == 1
    assert verify.verify(folder / "00001.parquet") == [
        "shard 00001.tar, sample 0000C1T0001, frames.mjpeg: its bytes differ from the digest in INDEX"
    ]


FRAMES_META = {"dataset": "tiny", "shard": 0, "cameras": 1, "frames": {"height": 32, "width": 16}}


def test_a_stream_that_is_not_the_one_of_frames(folder):
    arguments, stream = making.arguments(folder, 0), folder / "f0.mjpeg"
    data = stream.read_bytes()
    for wrong in (data[:-1], data + b"\0", b"", (folder / "f1.mjpeg").read_bytes()):
        stream.write_bytes(wrong)
        with pytest.raises(ShardError, match=rf"f0.mjpeg: {len(wrong)} bytes, the 2 tracklets of FRAMES fill {len(data)} without a gap"):
            pack_shard.main(arguments)
    stream.unlink()
    with pytest.raises(ShardError, match=r"f0.mjpeg: no such file, though FRAMES lists what it holds; run encode_frames again"):
        pack_shard.main(arguments)
    stream.mkdir()
    with pytest.raises(ShardError, match=r"f0.mjpeg: cannot be read .*; it should be the stream"):
        pack_shard.main(arguments)
    stream.rmdir()
    rows = tables.read(folder / "f0.parquet", tables.FRAMES).to_pylist()
    rows[1]["offset"] += 1
    rows[1]["size"] -= 1
    tables.write_rows(folder / "f0.parquet", rows, tables.FRAMES, FRAMES_META)
    stream.write_bytes(data)
    with pytest.raises(ShardError, match="without a gap"):
        pack_shard.main(arguments)


def test_lengths_that_do_not_fill_a_tracklet(folder):
    rows = tables.read(folder / "f0.parquet", tables.FRAMES).to_pylist()
    rows[0]["lengths"][0] += 1
    tables.write_rows(folder / "f0.parquet", rows, tables.FRAMES, FRAMES_META)
    with pytest.raises(ShardError, match=r"sample 0001C1T0001, frames.lengths.npy: lengths must be positive and add up to"):
        pack_shard.main(making.arguments(folder, 0))


def test_inputs_that_do_not_belong_together(folder):
    arguments = making.arguments(folder, 0)
    with pytest.raises(ShardError, match="belong together"):
        pack_shard.main(arguments[:-2])
    with pytest.raises(ShardError, match="of kind 'audio', asked for 'events'"):
        pack_shard.main([*arguments[:-1], "events"])
    with pytest.raises(ShardError, match=r"FRAMES is of shard 1, whose tar is called 00001.tar"):
        pack_shard.main([text.replace("/f0.", "/f1.") for text in arguments])
    with pytest.raises(ShardError, match=r"FEATURES is of shard 1, FRAMES of shard 0"):
        pack_shard.main([text.replace("/e0.", "/e1.") for text in arguments])
    alignment = tables.read(folder / "a.parquet", tables.ALIGNMENT)
    tables.write(folder / "a.parquet", alignment, tables.ALIGNMENT, making.ALIGNMENT_META | {"dataset": "other"})
    with pytest.raises(ShardError, match=r"ALIGNMENT is of other, FRAMES of tiny"):
        pack_shard.main(arguments)


def test_a_clip_without_feature(folder):
    features = tables.read(folder / "e0.parquet", tables.FEATURES)
    tables.write(folder / "e0.parquet", features.slice(1), tables.FEATURES, making.FEATURES_META | {"shard": 0})
    with pytest.raises(ShardError, match=r"item 'clip_a' has no feature \(1 missing\); run encode_companion again"):
        pack_shard.main(making.arguments(folder, 0))


@pytest.mark.parametrize("change", [{"kept": []}, {"kept": [0, 0]}, {"kept": [0, 99]}, {"kept": [-1, 0]}, {"paths": ["x"]}])
def test_frames_that_contradict_themselves(folder, change):
    """Rows that no encode_frames writes; unseen, they would end in a traceback, or let a frame hear another one's voice."""
    rows = tables.read(folder / "f0.parquet", tables.FRAMES).to_pylist()
    if "kept" in change and len(rows[0]["lengths"]) > 2 and change["kept"]:
        change = {"kept": [*change["kept"], *range(100, 98 + len(rows[0]["lengths"]))]}
    rows[0] |= change
    tables.write_rows(folder / "f0.parquet", rows, tables.FRAMES, FRAMES_META)
    for sound in (True, False):
        with pytest.raises(ShardError, match=rf"FRAMES of tracklet {rows[0]['tracklet']}: .*; run encode_frames again"):
            pack_shard.main(making.arguments(folder, 0, sound))


def test_frames_without_a_row(folder):
    tables.write_rows(folder / "f0.parquet", [], tables.FRAMES, FRAMES_META)
    (folder / "f0.mjpeg").write_bytes(b"")
    with pytest.raises(ShardError, match=r"f0.parquet: FRAMES lists no tracklet; run encode_frames again"):
        pack_shard.main(making.arguments(folder, 0))


def test_a_stream_that_is_cut_while_it_is_read(folder, monkeypatch):
    """No crash, no tar, no twin."""
    opened = pack_shard.open_stream

    def cut(path, frames):
        file = opened(path, frames)
        os.truncate(path, path.stat().st_size - 1)
        return file

    monkeypatch.setattr(pack_shard, "open_stream", cut)
    (folder / "00000.tar").unlink()
    with pytest.raises(ShardError, match=r"f0.mjpeg, frames of tracklet \w+: the file ends 1 bytes early; run encode_frames again"):
        pack_shard.main(making.arguments(folder, 0))
    assert not [path.name for path in folder.iterdir() if path.name.startswith(("00000", ".00000"))]


# --- audio tokens ----------------------------------------------------------------------------------------------------

TOKENS = {"encoder": "hubert_base", "weights_sha256": "ab", "length": 3, "rate": 16000, "seconds": 5.0}


@pytest.fixture
def tokens(folder):
    """The same store with tokens, three of width 2 per clip; returns the folder and a command line per shard."""
    meta = {**making.ALIGNMENT_META, "kind": "audio_tokens"}
    tables.write(folder / "a.parquet", tables.read(folder / "a.parquet", tables.ALIGNMENT), tables.ALIGNMENT, meta)
    for shard, names in ((0, ("clip_a", "clip_b")), (1, ("clip_c",))):
        write_features(folder, shard, {name: np.full((3, 2), k + 1, np.float16) for k, name in enumerate(names)})
    return folder


def write_features(folder, shard, arrays, **meta):
    rows = [
        {"item": name, "values": array.tobytes(), "length": len(array), "width": array.shape[1], "dtype": "float16"}
        for name, array in arrays.items()
    ]
    about = {"kind": "audio_tokens", "form": "tokens", "bands": 2, "tokens": TOKENS}
    tables.write_rows(folder / f"e{shard}.parquet", rows, tables.FEATURES, {"shard": shard, **about, **meta})


def pack(folder, shard):
    pack_shard.main([*making.arguments(folder, shard)[:-1], "audio_tokens"])
    return tables.read_meta(folder / f"0000{shard}.parquet")["companion"]


def test_tokens_go_through_the_same_codec(tokens):
    assert pack(tokens, 0) == pack(tokens, 1)
    with tarfile.open(tokens / "00000.tar") as tar:
        names = [name for name in tar.getnames() if "audio" in name and name.startswith("0001C1")]
        values = np.load(io.BytesIO(tar.extractfile("0001C1T0001.audio_tokens.values.npy").read()), allow_pickle=False)
    assert names == [f"0001C1T0001.audio_tokens.{part}.npy" for part in ("values", "lengths", "align")]
    assert values.tolist() == [[2, 2]] * 3 + [[1, 1]] * 3  # clip_b, then clip_a


def test_a_shard_in_which_nobody_hears_is_described_alike(tokens):
    expected = pack(tokens, 0)
    assert expected["tokens"] == TOKENS and expected["bands"] == 2 and expected["kind"] == "audio_tokens"
    runs = tables.read(tokens / "a.parquet", tables.ALIGNMENT).slice(0, 3)  # none of shard 1
    tables.write(tokens / "a.parquet", runs, tables.ALIGNMENT, tables.read_meta(tokens / "a.parquet"))
    write_features(tokens, 1, {})
    assert pack(tokens, 1) == expected
    assert tables.read(tokens / "00001.parquet", tables.INDEX).column("items").to_pylist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("array", "meta", "message"),
    [
        (np.zeros((3, 2)), {"form": "waves"}, "FEATURES hold waveforms; run model.encode_tokens"),
        (np.zeros((4, 2)), {}, r"\[4\] tokens beside 3 of their settings"),
        (np.zeros((1, 2)), {"tokens": {**TOKENS, "length": 1}}, "1 token per clip; at least 2, because attention over one key"),
        (np.zeros((3, 5)), {}, r"widths \[5\] beside 2"),
        (np.zeros((3, 2)), {"kind": "audio"}, "FEATURES of kind 'audio', asked for 'audio_tokens'"),
    ],
)
def test_tokens_that_cannot_be_packed(tokens, array, meta, message):
    write_features(tokens, 1, {"clip_c": array.astype(np.float16)}, **meta)
    with pytest.raises(ShardError, match=message):
        pack(tokens, 1)


def test_features_of_an_older_form_are_refused(folder):
    features = tables.read(folder / "e0.parquet", tables.FEATURES)
    tables.write(folder / "e0.parquet", features, tables.FEATURES, {"kind": "audio", "shard": 0, "audio": {"bands": 2}})
    with pytest.raises(ShardError, match="an older form; run encode_companion again"):
        pack_shard.main(making.arguments(folder, 0))
