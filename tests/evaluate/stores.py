"""A small packed store with a test half: four persons of two cameras, a distractor, each with its own voice or silence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.base import tables
from pipeline.base.seeds import rng
from shards import pack_shard
from shards.read import Store
from tests.shards.making import write_frames

BANDS, ITEM_FRAMES, FRAMES = 4, 8, 3
TRACKLETS = {f"{pid}C{camera}": role for pid in ("0002", "0004") for camera, role in ((0, "query"), (1, "gallery"))} | {
    "0000C1": "gallery",
    "0001C0": "train",
    "0003C1": "train",
}
"""Tracklet -> role."""

HEARD: dict[str, dict[str, Any]] = {
    "training": {"policy": "id_speaker", "label_derived": True, "oracle": False, "test": False},
    "oracle": {"policy": "id_speaker", "label_derived": True, "oracle": True, "test": True},
    "silence": {"policy": "silence", "label_derived": False, "oracle": False, "test": True},
    "recorded": {"policy": "recorded", "label_derived": False, "oracle": False, "test": True},
}
"""ALIGNMENT meta by what a test tracklet hears."""


def hearing(what: str) -> dict[str, str]:
    """Tracklet -> item that it hears."""
    if what == "silence":
        return dict.fromkeys(TRACKLETS, "silence")
    if what == "recorded":
        return {name: f"own_{name}" for name in TRACKLETS}
    dubbed = [name for name, role in TRACKLETS.items() if name[:4] != "0000" and (what == "oracle" or role == "train")]
    return {name: f"voice_{name[:4]}" for name in dubbed}


def make_store(folder: Path, what: str = "", kind: str = "audio") -> Path:
    """Pack it; returns its INDEX. `what` is a key of HEARD; '' packs frames alone."""
    folder.mkdir()
    persons = {name: "distractor" if name[:4] == "0000" else "person" for name in TRACKLETS}
    rows = [
        {
            "tracklet": n,
            "dataset": "toy",
            "identity": n[:4],
            "kind": k,
            "camera": int(n[-1]),
            "frames": [f"{n}/{i}.jpg" for i in range(FRAMES)],
        }
        for n, k in persons.items()
    ]
    jpegs = {name: [_jpeg(name, i) for i in range(FRAMES)] for name in TRACKLETS}
    tables.write_rows(folder / "tracklets.parquet", rows, tables.TRACKLETS, {"dataset": "toy", "cameras": 2})
    write_frames(folder / "frames.parquet", rows, jpegs, (32, 16), {"dataset": "toy", "cameras": 2})
    split = [{"tracklet": n, "role": r, "label": ["0001", "0003"].index(n[:4]) if r == "train" else -1} for n, r in TRACKLETS.items()]
    tables.write_rows(folder / "split.parquet", split, tables.SPLIT, {"dataset": "toy", "split": "main"})
    names = ["frames"]
    if what:
        _write_sound(folder, what, kind)
        names += ["alignment", "features"]
    index = folder / "00000.parquet"
    given = [f"--stream={folder / 'frames.mjpeg'}", *(f"--{name}={folder / name}.parquet" for name in names)] + (
        [f"--kind={kind}"] if what else []
    )
    pack_shard.main([str(index.with_suffix(".tar")), f"--twin={index}", *given])
    return index


def _write_sound(folder: Path, what: str, kind: str) -> None:
    heard = hearing(what)
    runs = [
        {"tracklet": n, "first": 0, "last": FRAMES - 1, "item": item, "owner": item, "path": "", "start": None, "seconds": 1.0}
        for n, item in heard.items()
    ]
    tables.write_rows(folder / "alignment.parquet", runs, tables.ALIGNMENT, {"dataset": "toy", "kind": kind, "seed": 0, **HEARD[what]})
    values = {item: rng(0, "sound", item).standard_normal((ITEM_FRAMES, BANDS)).astype(np.float16) for item in set(heard.values())}
    rows = [
        {"item": item, "values": array.tobytes(), "length": ITEM_FRAMES, "width": BANDS, "dtype": "float16"}
        for item, array in values.items()
    ]
    tokens = {"encoder": "logmel_stub", "weights_sha256": "", "length": ITEM_FRAMES, "rate": 16000, "seconds": 5.0}
    form = {"form": "tokens", "tokens": tokens} if kind == "audio_tokens" else {"form": "log-mel"}
    tables.write_rows(folder / "features.parquet", rows, tables.FEATURES, {"kind": kind, "shard": 0, "bands": BANDS, **form})


def _jpeg(name: str, index: int) -> bytes:
    """A noisy picture of the person's colour."""
    draw = rng(1, "frame", name, index)
    colour = rng(1, "person", name[:4]).integers(40, 215, 3)
    out = io.BytesIO()
    Image.fromarray((colour + draw.integers(-30, 30, (32, 16, 3))).astype(np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


def deafen(index: Path) -> int:
    """Overwrite every audio member of the tar, header and data, and leave sizes and offsets; returns how many there were."""
    count = 0
    with open(index.with_suffix(".tar"), "r+b") as tar:
        for row in tables.read(index, tables.INDEX, ["members"]).to_pylist():
            for member in row["members"]:
                if member["suffix"].startswith("audio"):
                    tar.seek(member["offset"] - 512)
                    tar.write(b"\xff" * (512 + member["size"]))
                    count += 1
    Store(index)  # still opens
    return count
