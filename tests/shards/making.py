"""A small store made by hand: five tracklets in two shards, three voices. Frames are short fake JPEGs one can read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.base import tables
from shards import index_shards, pack_shard

COUNTS = {"0001C1T0001": 8, "0001C2T0001": 4, "0000C1T0001": 3, "0002C1T0001": 7, "0002C2T0002": 6}
PLAN = [("0001C1T0001", 0), ("0001C2T0001", 0), ("0000C1T0001", 1), ("0002C1T0001", 1), ("0002C2T0002", 1)]
KEPT = {"0002C1T0001": [0, 1, 3, 4, 5, 6]}  # its frame 2 was broken
RUNS = [
    ("0001C1T0001", 0, 5, "clip_b"),
    ("0001C1T0001", 6, 7, "clip_a"),
    ("0001C2T0001", 0, 3, "clip_a"),  # one run for the whole tracklet
    ("0002C2T0002", 0, 2, "clip_c"),  # frames 3 to 5 hear nothing
]
FEATURES = {
    "clip_a": np.full((3, 2), 1, np.float16),
    "clip_b": np.full((2, 2), 2, np.float16),
    "clip_c": np.arange(8, dtype=np.float16).reshape(4, 2),
}
ALIGNMENT_META = {"kind": "audio", "policy": "id_speaker", "oracle": False, "label_derived": True, "seed": 7, "test": False, "run": 6}
FEATURES_META = {"kind": "audio", "form": "log-mel", "bands": 2, "audio": {"bands": 2}}


def frame(tracklet: str, index: int) -> bytes:
    """A fake JPEG; frames differ in length."""
    return b"\xff\xd8" + f"{tracklet} frame {index}".encode() + b"." * index + b"\xff\xd9"


def stored(tracklet: str) -> list[bytes]:
    """The frames a store must give back."""
    return [frame(tracklet, index) for index in KEPT.get(tracklet, range(COUNTS[tracklet]))]


def write_tables(folder: Path) -> None:
    """t, p, f0, f1, a, e0, e1 .parquet: TRACKLETS, PLAN, FRAMES (with f0, f1 .mjpeg), ALIGNMENT and FEATURES."""
    about = {"dataset": "tiny", "cameras": 2}
    tracklets = [
        {"tracklet": name, "dataset": "tiny", "identity": name[:4], "kind": "distractor" if name[:4] == "0000" else "person"}
        | {"camera": int(name[5]) - 1, "frames": [f"{name}/{index}.jpg" for index in range(count)]}
        for name, count in COUNTS.items()
    ]
    tables.write_rows(folder / "t.parquet", tracklets, tables.TRACKLETS, about)
    order: dict[int, int] = {}
    plan = []
    for name, shard in PLAN:
        plan.append({"tracklet": name, "shard": shard, "order": order.setdefault(shard, 0), "frames": COUNTS[name]})
        order[shard] += 1
    tables.write_rows(folder / "p.parquet", plan, tables.PLAN)
    runs = [
        {"tracklet": t, "first": a, "last": b, "item": i, "owner": "", "path": "", "start": None, "seconds": 1.0} for t, a, b, i in RUNS
    ]
    tables.write_rows(folder / "a.parquet", runs, tables.ALIGNMENT, ALIGNMENT_META)
    for shard in (0, 1):
        names = [name for name, at in PLAN if at == shard]
        write_frames(folder / f"f{shard}.parquet", {name: stored(name) for name in names}, 32, 16, KEPT)
        used = {run[3] for run in RUNS if run[0] in names}
        features = [
            {"item": item, "values": array.tobytes(), "length": len(array), "width": 2, "dtype": "float16"}
            for item, array in FEATURES.items()
            if item in used
        ]
        tables.write_rows(folder / f"e{shard}.parquet", features, tables.FEATURES, FEATURES_META)


def write_frames(
    path: Path, jpegs: Mapping[str, Sequence[bytes]], height: int, width: int, kept: Mapping[str, Sequence[int]] | None = None
) -> None:
    """FRAMES, and the stream of JPEGs beside it, of tracklets by name; `kept` where not all frames were, paths as in `tracklet`."""
    rows: list[dict[str, Any]] = []
    with open(path.with_suffix(".mjpeg"), "wb") as stream:
        for name in sorted(jpegs):
            data = b"".join(jpegs[name])
            numbers = list((kept or {}).get(name, range(len(jpegs[name]))))
            place = {"offset": stream.tell(), "size": len(data), "digest": hashlib.sha256(data).hexdigest()}
            shape = {"lengths": [len(jpeg) for jpeg in jpegs[name]], "paths": [f"{name}/{index}.jpg" for index in numbers]}
            rows.append({"tracklet": name, **place, **shape, "kept": numbers, "resized": 0})
            stream.write(data)
    tables.write_rows(path, rows, tables.FRAMES, {"frames": {"height": height, "width": width}})


def write_tar(tar: Path, tracklets: pa.Table, names: Sequence[str], frames: Path, *sound: Any) -> list[dict[str, Any]]:
    """A tar of the tracklets `names`, whose frames `write_frames` wrote; `sound` as in `pack_shard.samples`; returns rows of INDEX."""
    encoded = tables.read(frames, tables.FRAMES)
    counts = dict(zip(tracklets.column("tracklet").to_pylist(), map(len, tracklets.column("frames").to_pylist()), strict=True))
    samples = pack_shard.samples(tracklets, {name: counts[name] for name in names}, encoded, *sound)
    with open(tar, "wb", buffering=0) as out:
        return pack_shard.write_tar(out, tar.name, samples, pack_shard.map_stream(frames.with_suffix(".mjpeg"), encoded))


def arguments(folder: Path, shard: int, sound: bool = True) -> list[str]:
    """Command line of pack_shard."""
    out = [f"{folder}/0000{shard}.tar", "--twin", f"{folder}/0000{shard}.parquet", "--shard", str(shard)]
    out += ["--tracklets", f"{folder}/t.parquet", "--plan", f"{folder}/p.parquet", "--frames", f"{folder}/f{shard}.parquet"]
    out += ["--stream", f"{folder}/f{shard}.mjpeg"]
    return out + (["--alignment", f"{folder}/a.parquet", "--features", f"{folder}/e{shard}.parquet", "--kind", "audio"] if sound else [])


def make_store(folder: Path, sound: bool = True) -> Path:
    """The whole store; returns its INDEX."""
    write_tables(folder)
    for shard in (0, 1):
        pack_shard.main(arguments(folder, shard, sound))
    index_shards.main(index_arguments(folder))
    return folder / "index.parquet"


def index_arguments(folder: Path) -> list[str]:
    """Command line of index_shards."""
    return [f"{folder}/index.parquet", "--tracklets", f"{folder}/t.parquet", f"{folder}/00000.parquet", f"{folder}/00001.parquet"]
