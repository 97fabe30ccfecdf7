"""A small store made by hand: five tracklets in two shards, three voices. Frames are short fake JPEGs one can read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
ALIGNMENT_META = {
    "kind": "audio",
    "policy": "id_speaker",
    "oracle": False,
    "label_derived": True,
    "seed": 7,
    "test": False,
    "run": 6,
    "dataset": "tiny",
}
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
        rows = [row for name in names for row in tracklets if row["tracklet"] == name]
        write_frames(folder / f"f{shard}.parquet", rows, {name: stored(name) for name in names}, (32, 16), {**about, "shard": shard}, KEPT)
        used = {run[3] for run in RUNS if run[0] in names}
        features = [
            {"item": item, "values": array.tobytes(), "length": len(array), "width": 2, "dtype": "float16"}
            for item, array in FEATURES.items()
            if item in used
        ]
        tables.write_rows(folder / f"e{shard}.parquet", features, tables.FEATURES, FEATURES_META | {"shard": shard})


def write_frames(
    path: Path,
    tracklets: Sequence[Mapping[str, Any]],
    jpegs: Mapping[str, Sequence[bytes]],
    size: tuple[int, int],
    about: Mapping[str, Any],
    kept: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """FRAMES of a shard, and the stream of JPEGs beside it.

    Args:
        path: of FRAMES.
        tracklets: rows of TRACKLETS in the order of the shard.
        jpegs: by tracklet.
        size: height and width.
        about: meta: dataset, cameras, and shard where it is not 0.
        kept: indices of the frames, of tracklets that have not all.
    """
    rows: list[dict[str, Any]] = []
    with open(path.with_suffix(".mjpeg"), "wb") as stream:
        for order, facts in sorted(enumerate(tracklets), key=lambda pair: pair[1]["tracklet"]):
            data = b"".join(jpegs[facts["tracklet"]])
            numbers = list((kept or {}).get(facts["tracklet"], range(len(facts["frames"]))))
            place = {"order": order, "offset": stream.tell(), "size": len(data), "digest": hashlib.sha256(data).hexdigest()}
            shape = {"lengths": [len(jpeg) for jpeg in jpegs[facts["tracklet"]]], "paths": [facts["frames"][index] for index in numbers]}
            rows.append({**facts, "frames": len(facts["frames"]), **place, **shape, "kept": numbers, "resized": 0})
            stream.write(data)
    tables.write_rows(path, rows, tables.FRAMES, {"shard": 0, **about, "frames": {"height": size[0], "width": size[1]}})


def write_tar(tar: Path, frames: Path, names: Sequence[str], *sound: Any) -> list[dict[str, Any]]:
    """A tar of some tracklets of what `write_frames` wrote, in their order there; `sound` as in `samples`; returns rows of INDEX."""
    encoded = tables.read(frames, tables.FRAMES)
    chosen = encoded.filter(pc.is_in(encoded.column("tracklet"), pa.array(names)))
    with open(tar, "wb", buffering=0) as out, pack_shard.open_stream(frames.with_suffix(".mjpeg"), encoded) as stream:
        return pack_shard.write_tar(out, tar.name, pack_shard.samples(chosen, *sound), stream)


def arguments(folder: Path, shard: int, sound: bool = True) -> list[str]:
    """Command line of pack_shard."""
    out = [f"{folder}/0000{shard}.tar", "--twin", f"{folder}/0000{shard}.parquet"]
    out += ["--frames", f"{folder}/f{shard}.parquet", "--stream", f"{folder}/f{shard}.mjpeg"]
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
