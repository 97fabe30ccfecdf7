"""The frames of one shard: kept, made, dropped, missing; the same whatever the threads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipeline import encode_frames
from pipeline.base import tables
from pipeline.base.errors import SourceError, UserError
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
    assert a["values"].startswith(GOOD + GOOD) and a["lengths"][:2] == [len(GOOD)] * 2 and sum(a["lengths"]) == len(a["values"])
    assert a["values"][2 * len(GOOD) :] == b["values"][len(GOOD) :]
    listed = tables.read(folder / "q.parquet", tables.QUARANTINE).to_pylist()
    assert [(row["path"], row["what"], row["reason"]) for row in listed] == [
        ("b/1.jpg", "frame", "unreadable"),
        ("b/3.jpg", "frame", "empty"),
    ]
    meta = tables.read_meta(folder / "f.parquet")
    assert meta["frames"] == {"height": 32, "width": 16, "quality": 95, "broken": "drop"} and meta["dropped"] == 2


def test_stop_lists_all_of_the_shard(folder):
    with pytest.raises(UserError) as caught:
        encode_frames.main(command(folder))
    text = "d, shard 0: 2 broken frames: b/1.jpg (unreadable), b/3.jpg (empty); mend them, or leave them out with datasets.d.frames.broken: drop"
    assert str(caught.value) == text
    assert not (folder / "f.parquet").exists() and tables.read(folder / "q.parquet", tables.QUARANTINE).num_rows == 2


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
        found[name] = (folder / "f.parquet").read_bytes()
    assert found["1"] == found["2"] == found["again"] != found["coarse"]


def test_step_ends_with_one_sentence(folder, repository):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.encode_frames", *command(folder)], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: d, shard 0: 2 broken frames") and len(done.stderr.splitlines()) == 1
    with pytest.raises(UserError, match="no tracklet in shard 9"):
        encode_frames.main(command(folder, shard=9))


@pytest.mark.real_data
def test_real_frames_come_back_from_the_shard_byte_for_byte(real_data, tmp_path):
    from pipeline import plan_shards
    from shards import index_shards, pack_shard
    from shards.read import Store

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
        common = ["--tracklets", str(t), "--plan", str(p), "--shard", shard]
        encode_frames.main([str(f), "--quarantine", str(tmp_path / "q.parquet"), "--root", str(root), "--threads", "2", *common])
        pack_shard.main([str(twin.with_suffix(".tar")), "--twin", str(twin), "--frames", str(f), *common])
        twins.append(str(twin))
    index_shards.main([str(tmp_path / "index.parquet"), "--tracklets", str(t), *twins])
    store = Store(tmp_path / "index.parquet")
    for name, frames in paths.items():
        assert store.frames(name, range(len(frames))) == [(root / frame).read_bytes() for frame in frames]
