"""Bytes of members and of tar headers, both ways, and what the format refuses."""

from __future__ import annotations

import hashlib
import io
import tarfile

import numpy as np
import pytest

from pipeline.base.errors import ShardError
from shards import codec
from shards.codec import NONE, WHOLE

META = {
    "tracklet": "t-1_A",
    "dataset": "d",
    "identity": "0001",
    "kind": "person",
    "camera": 2,
    "frames": ["b.jpg", "a.jpg"],
    "items": ["x", "y"],
}


def sample() -> codec.Sample:
    items = codec.Items(np.arange(10, dtype=np.float16).reshape(5, 2), np.array([2, 3], np.int32), np.array([1, 0], np.int16))
    return codec.Sample(dict(META), [b"\xff\xd8one\xff\xd9", b"\xff\xd8three\xff\xd9"], {"audio": items})


def test_members_by_hand():
    members = codec.encode(sample())
    assert list(members) == ["json", "frames.mjpeg", "frames.lengths.npy", "audio.values.npy", "audio.lengths.npy", "audio.align.npy"]
    assert members["frames.mjpeg"] == b"\xff\xd8one\xff\xd9\xff\xd8three\xff\xd9"
    assert members["json"].startswith(b'{"camera":2,"dataset":"d","frames":["b.jpg","a.jpg"],')
    for suffix, expected in {
        "frames.lengths.npy": np.array([7, 9], "<i4"),
        "audio.values.npy": np.arange(10).astype("<f2").reshape(5, 2),
        "audio.lengths.npy": np.array([2, 3], "<i4"),
        "audio.align.npy": np.array([1, 0], "<i2"),
    }.items():
        found = np.load(io.BytesIO(members[suffix]), allow_pickle=False)  # everyone else's reader
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_decode_is_the_inverse():
    back = codec.decode(codec.encode(sample()), "here")
    assert back.meta == META and back.frames == sample().frames
    assert np.array_equal(back.companions["audio"].values, sample().companions["audio"].values)
    alone = codec.Sample({**META, "items": []}, sample().frames)
    assert list(codec.encode(alone)) == list(codec.REQUIRED) and codec.decode(codec.encode(alone), "").companions == {}


@pytest.mark.parametrize("array", [np.zeros((0,), np.int16), np.arange(3, dtype=">i4"), np.asfortranarray(np.eye(3, dtype=np.float32))])
def test_own_npy_reader_agrees_with_numpys(array):
    data = codec.npy_bytes(array)
    found = codec.npy_array(data, "")
    assert found.dtype.byteorder in "=<|" and np.array_equal(found, array)
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), array)


def test_npy_reader_refuses_pickles_and_wrong_sizes():
    out = io.BytesIO()
    np.save(out, np.array([{"run": "me"}], object), allow_pickle=True)
    good = codec.npy_bytes(np.arange(4, dtype=np.int32))
    for bad in (
        out.getvalue(),
        good[:-1],
        good + b"\0",
        b"",
        good.replace(b"(4,)", b"(5,)"),
        good.replace(b"False", b"True "),
        b"\x93NUMPY\x02" + good[7:],
    ):
        with pytest.raises(ShardError, match="here"):
            codec.npy_array(bad, "here")
    assert codec.npy_array(good, "here").tolist() == [0, 1, 2, 3]
    with pytest.raises(ShardError, match="cannot be stored"):
        codec.npy_bytes(np.array([object()], object))


@pytest.mark.parametrize(
    ("runs", "kept", "total", "items", "align"),
    [
        ([(0, 5, "b"), (6, 7, "a")], range(8), 8, ["b", "a"], [0] * 6 + [1] * 2),
        ([(6, 7, "a"), (0, 5, "b")], range(8), 8, ["b", "a"], [0] * 6 + [1] * 2),  # rows in any order
        ([(0, 1, "a"), (2, 3, "b"), (4, 5, "a")], range(6), 6, ["a", "b"], [0, 0, 1, 1, 0, 0]),  # each distinct item once
        ([(0, 3, "a")], range(4), 4, ["a"], [WHOLE] * 4),
        ([(0, 3, "a")], [0, 2, 3], 4, ["a"], [WHOLE] * 3),
        ([(0, 2, "a")], range(4), 4, ["a"], [0, 0, 0, NONE]),
        ([(0, 1, "a"), (2, 3, "b")], [2, 3], 4, ["b"], [0, 0]),  # 'a' was heard by dropped frames alone
        ([], range(3), 3, [], [NONE] * 3),
    ],
)
def test_align_runs_by_hand(runs, kept, total, items, align):
    found_items, found = codec.align_runs(runs, list(kept), total)
    assert found_items == items and found.tolist() == align and found.dtype == np.int16


@pytest.mark.parametrize("runs", [[(0, 3, "a"), (3, 4, "b")], [(0, 5, "a")], [(-1, 2, "a")], [(3, 2, "a")]])
def test_runs_that_overlap_or_leave_the_tracklet(runs):
    with pytest.raises(ShardError, match="align_companion again"):
        codec.align_runs(runs, range(5), 5)


def test_resolve_by_hand():
    assert codec.resolve(np.array([WHOLE, WHOLE], np.int16)).tolist() == [0, 0]
    assert codec.resolve(np.array([1, NONE, 0], np.int16)).tolist() == [1, -1, 0]


@pytest.mark.parametrize("key", ["", "a.b", "../a", "a/b", "a b", "é", "a\n", "k" * 81])
def test_keys_that_cannot_be_file_names(key):
    with pytest.raises(ShardError, match="sample key"):
        codec.encode(codec.Sample({**META, "tracklet": key, "items": []}, sample().frames))
    assert codec.check_key("k" * 80) and codec.check_key("0001C1T0001-a_b")


@pytest.mark.parametrize("kind", ["frames", "Audio", "a.b", "", "a/b"])
def test_kinds_that_cannot_be_suffixes(kind):
    with pytest.raises(ShardError, match="companion kind"):
        codec.companion_suffixes(kind)


def test_each_relation_between_members_is_checked():
    good = codec.encode(sample())
    codec.decode(good, "here")
    for suffix, data in {
        "json": b"{}",
        "frames.mjpeg": good["frames.mjpeg"] + b"x",
        "frames.lengths.npy": codec.npy_bytes(np.array([16, 0], np.int32)),
        "audio.values.npy": codec.npy_bytes(np.zeros((6, 2), np.float16)),
        "audio.lengths.npy": codec.npy_bytes(np.array([5], np.int32)),
        "audio.align.npy": codec.npy_bytes(np.array([0, 2], np.int16)),
        "cls.pkl": b"cos\nsystem\n",
        "audio.pyd": b"",
    }.items():
        with pytest.raises(ShardError, match="here"):
            codec.decode({**good, suffix: data}, "here")
    for suffix in good:
        with pytest.raises(ShardError, match="here"):
            codec.decode({name: data for name, data in good.items() if name != suffix}, "here")


def test_tar_header_is_what_tarfile_writes():
    info = tarfile.TarInfo("0001C1T0001.json")
    info.size, info.mode, info.mtime = 12345, 0o644, 0
    header = codec.tar_header("0001C1T0001.json", 12345)
    back = tarfile.TarInfo.frombuf(header, "ascii", "strict")  # checks the checksum
    assert (back.name, back.size, back.mode, back.mtime, back.uid, back.gid, back.uname, back.gname) == (
        info.name,
        12345,
        0o644,
        0,
        0,
        0,
        "",
        "",
    )
    assert back.isreg() and len(header) == codec.BLOCK and header[257:265] == b"ustar\x0000"
    with pytest.raises(ShardError, match="8 GiB"):
        codec.tar_header("a.json", 8 << 30)


def test_longest_names():
    key, suffixes = "k" * 80, codec.companion_suffixes("a" * 7)
    assert len(f"{key}.{suffixes[1]}") == 100
    assert codec.tar_header(f"{key}.{suffixes[1]}", 1)[:101] == f"{key}.{suffixes[1]}".encode() + b"0"  # no zero ends it: it is full
    with pytest.raises(ShardError, match="101 characters, a ustar name has at most 100"):
        codec.tar_header(f"{key}.a{suffixes[1]}", 1)


def test_tar_parts_by_hand():
    parts, members, size = codec.tar_parts("k", {"json": b"x" * 10, "frames.mjpeg": b"y" * 512}, 2048)
    assert members == [
        {"suffix": "json", "offset": 2560, "size": 10, "digest": hashlib.sha256(b"x" * 10).hexdigest()},
        {"suffix": "frames.mjpeg", "offset": 3584, "size": 512, "digest": hashlib.sha256(b"y" * 512).hexdigest()},
    ]
    assert size == len(b"".join(parts)) == 4 * 512
    assert b"".join(parts)[512:1024] == b"x" * 10 + bytes(502)


def test_frames_in_a_file_take_the_place_of_their_bytes():
    """The parts around them and the list of members, digests included, are those of a sample whose frames are at hand."""
    made = codec.encode(sample())
    frames = made["frames.mjpeg"]
    extent = codec.Extent(100, len(frames), hashlib.sha256(frames).hexdigest())
    aside = codec.members(META, extent, np.array([7, 9], np.int32), sample().companions)
    assert list(aside) == list(made) and aside["frames.mjpeg"] is extent
    parts, members, size = codec.tar_parts("t-1_A", aside, 1024)
    whole, *rest = codec.tar_parts("t-1_A", made, 1024)
    assert [type(part) for part in parts] == [bytes, codec.Extent, bytes] and [members, size] == rest
    assert parts[0] + frames + parts[2] == b"".join(whole)


def test_digest_by_hand():
    lines = (
        b"json 2 " + hashlib.sha256(b"{}").hexdigest().encode() + b"\nframes.mjpeg 0 " + hashlib.sha256(b"").hexdigest().encode() + b"\n"
    )
    expected = hashlib.sha256(lines).hexdigest()
    found = [
        codec.tar_parts("k", members, 0)[1] for members in ({"json": b"{}", "frames.mjpeg": b""}, {"frames.mjpeg": b"", "json": b"{}"})
    ]
    assert codec.digest(found[0]) == expected != codec.digest(found[1])
    for other in ({"json": b"{} ", "frames.mjpeg": b""}, {"json": b"{}"}):
        assert codec.digest(codec.tar_parts("k", other, 0)[1]) != expected
