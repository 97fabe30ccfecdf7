"""Reading drawn frames, and packing, against what one would do without this format."""

from __future__ import annotations

import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import tables
from pipeline.base.seeds import rng
from shards import pack_shard
from shards.read import Store

FRAMES, DRAWN, JPEG_BYTES = 60, 6, 6300
"""A mean MARS tracklet: frames, frames that a clip draws, bytes of a frame (stack.md section 4)."""
ROUNDS = 5


def rows(scale: float = 1.0) -> list[dict]:
    """Figures of one run, ours and the baseline taken in turns; medians of ROUNDS, processor time of one core, warm cache."""
    count = max(4, round(80 * scale))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = _inputs(folder, count)
        arguments = _pack_arguments(folder)
        pack_shard.main(arguments)
        _per_frame_tar(folder, keys)
        draw = rng(0, "bench").integers(FRAMES, size=(count, DRAWN))
        store = Store(folder / "00000.parquet")
        order = rng(0, "order").permutation(count).tolist()

        def ours() -> None:
            for _ in range(20):
                for at in order:
                    assert len(store.frames(keys[at], draw[at])) == DRAWN

        read, stream = _in_turns(ours, lambda: _webdataset(folder / "per_frame.tar", draw))
        tar = folder / "00000.tar"
        pack, copy = _in_turns(lambda: pack_shard.main(arguments), lambda: shutil.copyfile(tar, folder / "copy.tar"))
        megabytes = tar.stat().st_size / 1e6
    return [
        _row(
            f"read {DRAWN} drawn JPEGs of {FRAMES}, no decoding",
            20 * count / read,
            count / stream,
            "tracklets/s",
            "webdataset 1.0, one member per frame, in order of the tar",
        ),
        _row(
            "the same, ms per tracklet (baseline: the aim)",
            read / 20 / count * 1e3,
            0.05,
            "ms",
            "0.05 ms, which is what is asked for",
        )
        | {"ratio": 0.05 / (read / 20 / count * 1e3)},
        _row(
            "pack_shard: FRAMES to tar, digests and twin",
            megabytes / pack,
            megabytes / copy,
            "MB/s",
            "shutil.copyfile of the finished tar (a bound, not a rival)",
        ),
    ]


def _row(what: str, ours: float, baseline: float, unit: str, baseline_is: str) -> dict[str, Any]:
    return {"what": what, "ours": ours, "baseline": baseline, "unit": unit, "ratio": ours / baseline, "baseline_is": baseline_is}


def _in_turns(ours: Callable[[], object], baseline: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of processor time of both, one call each in turn, after one unmeasured call each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for kept, call in zip(seconds, (ours, baseline), strict=True):
            start = time.process_time()
            call()
            if number:
                kept.append(time.process_time() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _inputs(folder: Path, count: int) -> list[str]:
    """TRACKLETS, PLAN and FRAMES of one shard of `count` tracklets with random bytes for JPEGs; returns their names."""
    keys = [f"{number:04}C1T0001" for number in range(count)]
    noise = rng(0, "jpeg")
    tracklets = [
        {"tracklet": key, "dataset": "bench", "identity": key[:4], "kind": "person", "camera": 0}
        | {"frames": [f"{key[:4]}/{key}F{frame:03}.jpg" for frame in range(FRAMES)]}
        for key in keys
    ]
    tables.write_rows(folder / "t.parquet", tracklets, tables.TRACKLETS, {"dataset": "bench", "cameras": 1})
    plan = [{"tracklet": key, "shard": 0, "order": order, "frames": FRAMES} for order, key in enumerate(keys)]
    tables.write_rows(folder / "p.parquet", plan, tables.PLAN)
    frames = [
        {"tracklet": key, "values": noise.bytes(FRAMES * JPEG_BYTES), "lengths": [JPEG_BYTES] * FRAMES, "kept": list(range(FRAMES))}
        | {"resized": 0}
        for key in keys
    ]
    tables.write_rows(folder / "f.parquet", frames, tables.FRAMES, {"frames": {"height": 256, "width": 128}})
    return keys


def _pack_arguments(folder: Path) -> list[str]:
    out = [f"{folder}/00000.tar", "--twin", f"{folder}/00000.parquet", "--shard", "0"]
    return [*out, "--tracklets", f"{folder}/t.parquet", "--plan", f"{folder}/p.parquet", "--frames", f"{folder}/f.parquet"]


def _per_frame_tar(folder: Path, keys: list[str]) -> None:
    """The usual layout: every frame a member."""
    store = Store(folder / "00000.parquet")
    with tarfile.open(folder / "per_frame.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key in keys:
            for number, jpeg in enumerate(store.frames(key, range(FRAMES))):
                info = tarfile.TarInfo(f"{key}.{number:03}.jpg")
                info.size = len(jpeg)
                tar.addfile(info, BytesIO(jpeg))


def _webdataset(tar: Path, draw: np.ndarray) -> None:
    import webdataset

    for sample, drawn in zip(webdataset.WebDataset([str(tar)], shardshuffle=False), draw, strict=True):
        assert len([sample[f"{number:03}.jpg"] for number in drawn]) == DRAWN
