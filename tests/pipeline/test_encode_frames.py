"""The frames of one shard: kept, made, dropped, missing; the same whatever the threads."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image, ImageFile

from pipeline import encode_frames, plan_shards
from pipeline.base import pictures, tables
from pipeline.base.config import FramesConfig
from pipeline.base.errors import SourceError, UserError
from pipeline.features import frames
from shards import index_shards, pack_shard, verify
from shards.read import Store
from tests.pipeline.features.test_frames import picture, saved

GOOD, SMALL, BROKEN = saved(picture()), saved(picture(8, 16), "PNG"), b"<html>"
FILES = {"a": [GOOD, GOOD, SMALL], "b": [GOOD, BROKEN, SMALL, b""], "c": [GOOD]}


@pytest.fixture
def folder(tmp_path):
    rows = []
    for name, contents in FILES.items():
        (tmp_path / "root" / name).mkdir(parents=True)
        paths = [f"{name}/{index}.jpg" for index in range(len(contents))]
        for path, data in zip(paths, contents, strict=True):
            (tmp_path / "root" / path).write_bytes(data)
        rows.append({"tracklet": name, "dataset": "d", "identity": name, "kind": "person", "camera": 0, "frames": paths})
    tables.write_rows(tmp_path / "t.parquet", rows, tables.TRACKLETS, {"dataset": "d", "cameras": 1})
    plan = [("a", 0, 0), ("b", 0, 1), ("c", 1, 0)]
    plan_rows = [{"tracklet": t, "shard": s, "order": o, "frames": len(FILES[t])} for t, s, o in plan]
    tables.write_rows(tmp_path / "p.parquet", plan_rows, tables.PLAN)
    return tmp_path


def command(folder, shard=0, threads=1, **config) -> list[str]:
    out = [
        f"{folder}/f.parquet",
        "--stream",
        f"{folder}/f.mjpeg",
        "--quarantine",
        f"{folder}/q.parquet",
        "--tracklets",
        f"{folder}/t.parquet",
        "--plan",
        f"{folder}/p.parquet",
    ]
    settings = json.dumps({"height": 32, "width": 16, **config})
    return [*out, "--shard", str(shard), "--root", f"{folder}/root", "--config", settings, "--threads", str(threads)]


def test_drop_by_hand(folder):
    encode_frames.main(command(folder, broken="drop"))
    a, b = tables.read(folder / "f.parquet", tables.FRAMES).to_pylist()
    assert (a["tracklet"], a["kept"], a["resized"]) == ("a", [0, 1, 2], 1) and (b["tracklet"], b["kept"], b["resized"]) == ("b", [0, 2], 1)
    stream = (folder / "f.mjpeg").read_bytes()
    assert (a["offset"], b["offset"]) == (0, a["size"]) and a["size"] + b["size"] == len(stream)
    values = [stream[row["offset"] : row["offset"] + row["size"]] for row in (a, b)]
    assert values[0].startswith(GOOD + GOOD) and a["lengths"][:2] == [len(GOOD)] * 2
    assert values[0][2 * len(GOOD) :] == values[1][len(GOOD) :]
    for row, value in zip((a, b), values, strict=True):
        assert sum(row["lengths"]) == len(value) and row["digest"] == hashlib.sha256(value).hexdigest()
    assert a["paths"] == ["a/0.jpg", "a/1.jpg", "a/2.jpg"] and b["paths"] == ["b/0.jpg", "b/2.jpg"]
    listed = tables.read(folder / "q.parquet", tables.QUARANTINE).to_pylist()
    assert [(row["path"], row["what"], row["reason"]) for row in listed] == [
        ("b/1.jpg", "frame", "unreadable"),
        ("b/3.jpg", "frame", "empty"),
    ]
    for row, order in ((a, 0), (b, 1)):
        assert (row["dataset"], row["identity"], row["kind"], row["camera"]) == ("d", row["tracklet"], "person", 0)
        assert (row["order"], row["frames"]) == (order, len(FILES[row["tracklet"]]))
    meta = tables.read_meta(folder / "f.parquet")
    assert meta["dataset"] == "d" and meta["cameras"] == 1
    assert meta["frames"] == {"height": 32, "width": 16, "quality": 95, "broken": "drop", "check": False} and meta["dropped"] == 2


def test_stop_lists_all_of_the_shard(folder):
    with pytest.raises(UserError) as caught:
        encode_frames.main(command(folder))
    text = "d, shard 0: 2 broken frames: b/1.jpg (unreadable), b/3.jpg (empty); mend them, or leave them out with datasets.d.frames.broken: drop"
    assert str(caught.value) == text
    assert (
        not (folder / "f.parquet").exists()
        and not (folder / "f.mjpeg").exists()
        and tables.read(folder / "q.parquet", tables.QUARANTINE).num_rows == 2
    )


def test_long_lists_are_counted():
    assert encode_frames._some([str(n) for n in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_quarantine_is_written_when_nothing_is_wrong(folder):
    encode_frames.main(command(folder, shard=1))
    assert tables.read(folder / "q.parquet", tables.QUARANTINE).num_rows == 0


def test_nothing_left_of_a_tracklet(folder):
    (folder / "root" / "c" / "0.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match="all frames of tracklet c are broken and nothing is left"):
        encode_frames.main(command(folder, shard=1, broken="drop"))


def test_missing_files_are_no_broken_frames(folder):
    (folder / "root" / "a" / "1.jpg").unlink()
    (folder / "root" / "b" / "0.jpg").unlink()
    with pytest.raises(SourceError, match=r"d, shard 0: 2 frames of TRACKLETS are not below .*: a/1.jpg, b/0.jpg; complete the data set"):
        encode_frames.main(command(folder, broken="drop"))


@pytest.mark.parametrize("path", ["../out.jpg", "/etc/hostname", "a/../../x.jpg"])
def test_paths_stay_below_the_root(folder, path):
    rows = tables.read(folder / "t.parquet", tables.TRACKLETS).to_pylist()
    rows[2]["frames"] = [path]
    tables.write_rows(folder / "t.parquet", rows, tables.TRACKLETS, {"dataset": "d"})
    with pytest.raises(SourceError, match="leaves the data set's root"):
        encode_frames.main(command(folder, shard=1))


def test_threads_do_not_matter_but_quality_does(folder):
    found = {}
    for name, options in {"1": {}, "2": {"threads": 2}, "again": {"threads": 2}, "coarse": {"quality": 40}}.items():
        encode_frames.main(command(folder, broken="drop", **options))
        found[name] = (folder / "f.parquet").read_bytes(), (folder / "f.mjpeg").read_bytes()
    assert found["1"] == found["2"] == found["again"] != found["coarse"]


@pytest.mark.parametrize("threads", [1, 2])
def test_one_tracklet_is_in_memory(monkeypatch, threads):
    started: list[str] = []

    def tracklet(name, paths, root, config, submit=None):
        started.append(name)
        return encode_frames.Encoded({"tracklet": name}, [], [], [])

    monkeypatch.setattr(encode_frames, "encode_tracklet", tracklet)
    names = [str(number) for number in range(100)]
    done = encode_frames.encode_all(((name, []) for name in names), folder, None, threads)
    for number, one in enumerate(done):
        assert one.row["tracklet"] == names[number] and len(started) == number + 1


def test_only_frames_that_are_made_are_handed_over(folder, monkeypatch):
    handed = []
    encode = frames.encode

    def noted(data, config):
        handed.append((data, threading.current_thread() is threading.main_thread()))
        return encode(data, config)

    monkeypatch.setattr(frames, "encode", noted)
    for threads in (1, 2):
        handed.clear()
        encode_frames.main(command(folder, broken="drop", threads=threads))
        assert sorted(handed) == sorted((data, threads == 1) for name in "ab" for data in FILES[name] if data != GOOD)


@pytest.mark.parametrize(("waiting", "bounded"), [(encode_frames.WAITING, True), (1000, False)])
def test_few_source_files_are_held_at_once(tmp_path, monkeypatch, waiting, bounded):
    """The second is the control: all 40 of a tracklet are read before the first is done."""
    (tmp_path / "a.bmp").write_bytes(saved(picture(), "BMP"))
    encode, lock, held, most = frames.encode, threading.Lock(), 0, 0

    def count(change):
        nonlocal held, most
        with lock:
            held += change
            most = max(most, held)

    def slow(data, config):
        time.sleep(0.005)
        try:
            return encode(data, config)
        finally:
            count(-1)

    read = pictures.read
    monkeypatch.setattr(pictures, "read", lambda path: (count(1), read(path))[1])
    monkeypatch.setattr(frames, "encode", slow)
    monkeypatch.setattr(encode_frames, "WAITING", waiting)
    made = list(encode_frames.encode_all([("t", ["a.bmp"] * 40)], tmp_path, FramesConfig(height=32, width=16), 2))
    assert len(made[0].jpegs) == 40
    assert (most <= 5) == bounded


def test_a_file_larger_than_one_read_and_what_is_none(tmp_path):
    data = bytes(range(256)) * 1000 + b"end"
    (tmp_path / "f").write_bytes(data)
    assert pictures.read(str(tmp_path / "f")) == data
    (tmp_path / "empty").write_bytes(b"")
    assert pictures.read(str(tmp_path / "empty")) == b""
    (tmp_path / "a" / "0.jpg").mkdir(parents=True)
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    found = encode_frames.encode_tracklet("t", ["a/0.jpg", "b/1.jpg", "c.jpg"], tmp_path, FramesConfig(height=32, width=16))
    assert found.missing == ["a/0.jpg", "b/1.jpg", "c.jpg"] and not found.broken and not found.jpegs
    with pytest.raises(SourceError, match=r"tracklet t: 'loop' below .* cannot be read"):
        encode_frames.encode_tracklet("t", ["loop"], tmp_path, FramesConfig(height=32, width=16))


def test_a_failed_step_leaves_no_table(folder, monkeypatch):
    """An older table must not vouch for whatever stream is there; an older stream stays whole."""
    encode_frames.main(command(folder, broken="drop"))
    stream = (folder / "f.mjpeg").read_bytes()
    (folder / "root" / "b" / "0.jpg").unlink()
    with pytest.raises(SourceError, match="1 frames of TRACKLETS are not below"):
        encode_frames.main(command(folder, broken="drop"))
    assert not (folder / "f.parquet").exists() and (folder / "f.mjpeg").read_bytes() == stream
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_stream_is_one_that_players_open(folder):
    """A raw MJPEG stream: each frame begins where the one before ends."""
    encode_frames.main(command(folder, broken="drop"))
    stream = (folder / "f.mjpeg").read_bytes()
    rows = tables.read(folder / "f.parquet", tables.FRAMES).to_pylist()
    at = 0
    for length in (length for row in rows for length in row["lengths"]):
        assert stream[at : at + 2] == b"\xff\xd8" and stream[at + length - 2 : at + length] == b"\xff\xd9"
        assert Image.open(io.BytesIO(stream[at : at + length])).size == (16, 32)
        at += length
    assert at == len(stream)


def decoders(monkeypatch) -> list[str]:
    """Names of the decoders that are used from now on: all ways of Pillow to open a picture, and to make one of bytes."""
    used: list[str] = []

    def note(owner, name):
        real = getattr(owner, name)

        def noted(*arguments, **named):
            used.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, noted)

    for name in ("open", "frombytes", "frombuffer", "fromarray", "new"):
        note(Image, name)
    note(ImageFile.ImageFile, "load")
    note(Image, "_getdecoder")
    return used


def test_frames_of_the_stored_size_are_never_decoded(folder, monkeypatch):
    """Issue 5, through both real steps: loose files to tar. The negative control is one frame of another size."""

    def steps(shard):
        encode_frames.main(command(folder, shard=shard, broken="drop"))
        tar = folder / f"{shard:05d}.tar"
        out = [f"{tar}", "--twin", f"{tar.with_suffix('.parquet')}", "--frames", f"{folder}/f.parquet"]
        pack_shard.main([*out, "--stream", f"{folder}/f.mjpeg"])
        return Store(tar.with_suffix(".parquet"))

    (folder / "root" / "c" / "0.jpg").write_bytes(GOOD)
    used = decoders(monkeypatch)
    assert steps(1).frames("c", [0]) == [GOOD] and used == []
    (folder / "root" / "c" / "0.jpg").write_bytes(SMALL)
    assert steps(1).frames("c", [0]) != [SMALL] and {"open", "load", "_getdecoder"} <= set(used)


def test_step_ends_with_one_sentence(folder, repository):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.encode_frames", *command(folder)], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: d, shard 0: 2 broken frames") and len(done.stderr.splitlines()) == 1
    with pytest.raises(UserError, match="no tracklet in shard 9"):
        encode_frames.main(command(folder, shard=9))


@pytest.mark.real_data
def test_real_frames_come_back_from_the_shard_byte_for_byte(real_data, tmp_path):
    root = real_data / "real_mini" / "mars" / "bbox_train"
    paths: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.jpg")):
        paths.setdefault(path.name[:11], []).append(str(path.relative_to(root)))
    assert len(paths) == 17
    rows = [
        {"tracklet": t, "dataset": "mars", "identity": t[:4], "kind": "person", "camera": int(t[5]) - 1, "frames": frames}
        for t, frames in paths.items()
    ]
    t, p, twins = tmp_path / "t.parquet", tmp_path / "p.parquet", []
    tables.write_rows(t, rows, tables.TRACKLETS, {"dataset": "mars", "cameras": 6})
    plan_shards.main([str(p), "--tracklets", str(t), "--shards", "2"])
    for shard in ("0", "1"):
        f, twin = tmp_path / f"f{shard}.parquet", tmp_path / f"0000{shard}.parquet"
        given, stream = ["--tracklets", str(t), "--plan", str(p), "--shard", shard], ["--stream", str(f.with_suffix(".mjpeg"))]
        encode_frames.main([str(f), "--quarantine", str(tmp_path / "q.parquet"), "--root", str(root), "--threads", "2", *given, *stream])
        pack_shard.main([str(twin.with_suffix(".tar")), "--twin", str(twin), "--frames", str(f), *stream])
        twins.append(str(twin))
    index_shards.main([str(tmp_path / "index.parquet"), "--tracklets", str(t), *twins])
    assert verify.verify(tmp_path / "index.parquet") == []
    store = Store(tmp_path / "index.parquet")
    for name, shipped in paths.items():
        assert store.frames(name, range(len(shipped))) == [(root / frame).read_bytes() for frame in shipped]
