"""How many training clips one core prepares: packed shards against loose files read with Pillow.

Both sides draw 6 of 60 frames of 256x128, flip, pad and crop, erase, and give the same uint8 values in the same memory
order (checked once).
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageFilter, ImageOps

from pipeline.base import tables
from pipeline.base.config import AugmentConfig, MethodConfig, RunConfig, SamplerConfig, StageConfig
from pipeline.base.seeds import rng
from shards import pack_shard
from shards.augment import rectangle
from shards.balance import Batches
from shards.draw import train_indices
from shards.loader import TrainLoader
from shards.read import Store

H, W, FRAMES, T, P, K = 256, 128, 60, 6, 4, 2
REPEATS = 5


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Tracklets per second and core, median of several interleaved runs; `scale` changes the number of tracklets (32)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder), max(round(16 * scale), P))
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path, identities: int) -> list[dict[str, Any]]:
    labels = {f"p{i:04d}t{j}": i for i in range(identities) for j in range(K)}
    split = _make(folder, labels)
    run = RunConfig(
        method="m", dataset="d", split="0", seed=0, stage="student", companion="none", test_companion="none", kind="", bands=0,
        item_frames=0, height=H, width=W, this=StageConfig(network="dubbernet_student"),
        settings=MethodConfig(stages={}, companion="none", sampler=SamplerConfig(identities=P, tracklets=K)),
    )  # fmt: skip
    loader = TrainLoader(Store(folder / "index.parquet"), split, run, hears=False, workers=0)
    batches = Batches(labels, P, K, run.seed)

    def packed(epoch: int) -> list[torch.Tensor]:
        return [batch.frames for batch in loader.batches(epoch, 0, torch.device("cpu"))]

    def loose(epoch: int) -> list[torch.Tensor]:
        return [_loose_batch(folder, batches, run, epoch, step) for step in range(batches.steps)]

    def loose_float(epoch: int) -> list[torch.Tensor]:
        return [frames.float().div(255).sub(0.5).div(0.5) for frames in loose(epoch)]

    if not all(torch.equal(a, b) for a, b in zip(packed(0), loose(0), strict=True)):
        raise AssertionError("both sides must give the same values")
    sides: list[Callable[[int], list[torch.Tensor]]] = [packed, loose, loose_float]
    rates: list[list[float]] = [[], [], []]
    for epoch in range(1, REPEATS + 1):
        for side, found in zip(sides, rates, strict=True):
            start = time.process_time()
            made = side(epoch)
            found.append(sum(len(frames) for frames in made) / (time.process_time() - start))
    ours, plain, normalised = (statistics.median(found) for found in rates)
    what = f"training clips: {T} of {FRAMES} frames, decode, augment"
    return [
        _row(what, ours, plain, "loose JPEG files, Pillow, the same augmentation and uint8 bytes"),
        _row(what + ", against float", ours, normalised, "the same, normalised to float in the loader, as training code usually does"),
    ]


def _row(what: str, ours: float, baseline: float, baseline_is: str) -> dict[str, Any]:
    unit = "tracklets/s per core"
    return {"what": what, "ours": ours, "baseline": baseline, "unit": unit, "ratio": ours / baseline, "baseline_is": baseline_is}


def _make(folder: Path, labels: dict[str, int]) -> pa.Table:
    """Loose files and a packed shard of the same JPEG bytes; returns the SPLIT."""
    pictures = [_picture(i) for i in range(FRAMES)]
    facts, encoded = [], []
    for number, (key, label) in enumerate(labels.items()):
        own = pictures[number % FRAMES :] + pictures[: number % FRAMES]
        paths = [f"{key}/{t:03d}.jpg" for t in range(FRAMES)]
        for path, jpeg in zip(paths, own, strict=True):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(jpeg)
        facts.append({"tracklet": key, "dataset": "d", "identity": f"{label:04d}", "kind": "person", "camera": 0, "frames": paths})
        lengths = [len(jpeg) for jpeg in own]
        encoded.append({"tracklet": key, "values": b"".join(own), "lengths": lengths, "kept": list(range(FRAMES)), "resized": 0})
    samples = pack_shard.samples(tables.table(facts, tables.TRACKLETS), list(labels), tables.table(encoded, tables.FRAMES))
    with open(folder / "00000.tar", "wb") as out:
        index = pack_shard.write_tar(out, "00000.tar", samples)
    meta = {"dataset": "d", "cameras": 1, "frames": {"height": H, "width": W}, "companion": None}
    tables.write_rows(folder / "index.parquet", index, tables.INDEX, meta)
    return tables.table([{"tracklet": key, "role": "train", "label": label} for key, label in labels.items()], tables.SPLIT)


def _picture(number: int) -> bytes:
    """A JPEG of about 6 kB, as MARS frames are: noise, blurred."""
    noise = rng(0, "picture", number).integers(0, 256, (H, W, 3), dtype=np.uint8)
    picture = ImageOps.autocontrast(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3)))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


def _loose_batch(folder: Path, batches: Batches, run: RunConfig, epoch: int, step: int) -> torch.Tensor:
    clips = []
    for slot, key in enumerate(batches.batch(epoch, step)):
        draw = rng(run.seed, "draw", epoch, step, slot)
        paths = [folder / key / f"{t:03d}.jpg" for t in train_indices(FRAMES, T, draw)]
        clips.append(_loose_clip(paths, run.settings.augment, draw))
    return torch.stack([clip.permute(0, 2, 3, 1) for clip in clips]).permute(0, 1, 4, 2, 3)


def _loose_clip(paths: list[Path], settings: AugmentConfig, draw: np.random.Generator) -> torch.Tensor:
    flip = draw.random() < settings.flip
    top, left = draw.integers(0, 2 * settings.pad, size=2, endpoint=True).tolist()
    frames = []
    for path in paths:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        if flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = ImageOps.expand(picture, settings.pad).crop((left, top, left + W, top + H))
        frames.append(np.asarray(picture))
    clip = np.stack(frames)
    row = np.full((W, 3), settings.erase_level, np.uint8)
    for frame in clip:
        if draw.random() < settings.erase:
            y, x, h, w = rectangle(H, W, settings, draw)
            frame[y : y + h, x : x + w] = row[:w]
    return torch.from_numpy(clip).permute(0, 3, 1, 2)
