"""How many training clips one core prepares from packed shards, against what code of this field does.

Clips are 6 of 60 frames of 256x128, about 6 kB each, flipped, padded and cropped, erased. The rows that say so compare the same
uint8 values in the same memory order (checked once); other baselines do what their row says. "augmented on the device": the loader
reads, decodes and draws, as it does in front of a GPU; "augmented here": all on this core.
"""

from __future__ import annotations

import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

from pipeline.base import tables
from pipeline.base.config import AugmentConfig, MachineConfig, MethodConfig, RunConfig, SamplerConfig, StageConfig
from pipeline.base.seeds import rng
from shards.augment import rectangle
from shards.balance import Batches
from shards.draw import train_indices
from shards.loader import TrainLoader
from shards.order import Order
from shards.read import Index, Store
from shards.resident import ResidentLoader
from shards.streamed import StreamLoader
from tests.bench.timing import row
from tests.shards import making

H, W, FRAMES, T, P, K = 256, 128, 60, 6, 4, 2
REPEATS = 5
CPU = torch.device("cpu")
MARS = 625, 8298
"""Training identities and tracklets."""


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Medians of several interleaved runs, processor time of one core; `scale` changes the number of tracklets (32)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [*_measure(Path(folder), max(round(16 * scale), 2 * P)), _restore()]
    finally:
        torch.set_num_threads(threads)


def _run(**sampler: int) -> RunConfig:
    return RunConfig(
        method="m", dataset="d", split="0", seed=0, stage="student", companion="none", test_companion="none", kind="", bands=0,
        item_frames=0, height=H, width=W, this=StageConfig(network="dubbernet_student"),
        settings=MethodConfig(stages={}, companion="none", sampler=SamplerConfig(**{"identities": P, "tracklets": K, **sampler})),
    )  # fmt: skip


def _measure(folder: Path, identities: int) -> list[dict[str, Any]]:
    labels = {f"p{i:04d}t{j}": i for i in range(identities) for j in range(K)}
    split, run, index = _make(folder, labels), _run(), folder / "index.parquet"
    machine = MachineConfig(workers=0, resident_share=1)
    indexed = TrainLoader(Store(index), split, run, False, 0)
    streamed = StreamLoader(Index(index), split, _run(window=2), False, machine)
    resident = ResidentLoader(Store(index), split, run, False, machine, CPU)
    batches = Batches(labels, P, K, run.seed)
    keys = sorted(labels)
    preprocess = _usual_transforms()

    def epoch(loader: Any) -> Callable[[int], int]:
        return lambda number: sum(len(batch.tracklet) for batch in loader.epoch(number))

    def here(number: int) -> int:
        return sum(len(batch.tracklet) for batch in indexed.batches(number, 0, CPU))

    def described(number: int) -> int:
        return sum(len(resident._described(numbers).tracklet) for numbers in resident.epoch(number))

    def loose(number: int) -> int:
        return sum(len(_loose_batch(folder, batches, run, number, step)) for step in range(batches.steps))

    def loose_float(number: int) -> int:
        made = (_loose_batch(folder, batches, run, number, step) for step in range(batches.steps))
        return sum(len(frames.float().div(255).sub(0.5).div(0.5)) for frames in made)

    def usual(number: int) -> int:
        return sum(len(_usual_clip(folder, key, preprocess, rng(0, number, key))) for key in keys) // T

    def webdataset(decoded: bool) -> Callable[[int], int]:
        return lambda number: sum(len(clip) // T for clip in _webdataset(folder / "per_frame.tar", rng(0, number), decoded))

    pairs = zip(indexed.batches(0, 0, CPU), (_loose_batch(folder, batches, run, 0, step) for step in range(batches.steps)), strict=True)
    if not all(torch.equal(batch.frames, frames) for batch, frames in pairs):
        raise AssertionError("both sides must give the same values")
    sides = {
        "indexed": epoch(indexed),
        "here": here,
        "stream": epoch(streamed),
        "resident": described,
        "loose": loose,
        "loose_float": loose_float,
        "usual": usual,
        "all": webdataset(True),
        "lazy": webdataset(False),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(REPEATS + 1):
        for name, side in sides.items():
            start = time.process_time()
            clips = side(number)
            if number:
                rates[name].append(clips / (time.process_time() - start))
    rate = {name: statistics.median(found) for name, found in rates.items()}
    clip = f"training clip: {T} of {FRAMES} frames"
    device, all_here = f"{clip}, augmented on the device", f"{clip}, augmented here"
    per_frame, lazy = "webdataset, one member per frame, .decode('rgb8'), 6 picked", "the same, only the 6 picked frames decoded"
    pil = "loose files, PIL and torchvision transforms (resize, flip, pad, crop, normalise, erase)"
    step = P * K * 1000
    return [
        row(device, rate["indexed"], rate["all"], "tracklets/s", per_frame + ", no augmentation"),
        row(device, rate["indexed"], rate["lazy"], "tracklets/s", lazy),
        row(device, rate["indexed"], rate["usual"], "tracklets/s", pil),
        row(all_here, rate["here"], rate["all"], "tracklets/s", per_frame + ", no augmentation"),
        row(all_here, rate["here"], rate["usual"], "tracklets/s", pil),
        row(all_here, rate["here"], rate["loose"], "tracklets/s", "loose JPEG files, Pillow, the same augmentation and uint8 bytes"),
        row(all_here, rate["here"], rate["loose_float"], "tracklets/s", "the same, normalised to float in the loader"),
        row(
            f"{clip}, streamed tars",
            rate["stream"],
            rate["indexed"],
            "tracklets/s",
            "the same clips from indexed tars (a bound, not a rival)",
        ),
        row(
            f"host work of a batch of {P}x{K}, resident",
            step / rate["resident"],
            step / rate["indexed"],
            "ms",
            "the same from indexed tars",
        ),
    ]


def _restore() -> dict[str, Any]:
    """The batch of step one million of a training set of the size of MARS, against replaying the order (extrapolated)."""
    identities, tracklets = MARS
    owners = [*range(identities), *rng(0, "owners").integers(identities, size=tracklets - identities).tolist()]
    held = {f"{number:05d}": {"label": owner, "frames": FRAMES, "items": 0} for number, owner in enumerate(owners)}
    order = Order(held, _run(identities=8, tracklets=4), "")
    seconds = []
    for number in range(REPEATS):
        start = time.process_time()
        order.part(*divmod(10**6 + number * order.steps, order.steps))
        seconds.append(time.process_time() - start)
    start = time.process_time()
    for number in range(REPEATS):
        for step in range(order.steps):
            order._batches.batch(number, step)
    replayed = (time.process_time() - start) / REPEATS / order.steps * 10**6
    return row("order restored at step 1,000,000, MARS", statistics.median(seconds) * 1e3, replayed * 1e3, "ms", "replayed (from 5 epochs)")


def _usual_transforms() -> Callable[[Image.Image], torch.Tensor]:
    """specs/dubbernet.md section 3.2, written as all code of this field does."""
    return transforms.Compose(
        [
            transforms.Resize((H, W), transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.Pad(10),
            transforms.RandomCrop((H, W)),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
            transforms.RandomErasing(0.5, (0.02, 0.4), (0.3, 1 / 0.3), (0.485, 0.456, 0.406)),
        ]
    )


def _usual_clip(folder: Path, key: str, preprocess: Callable[[Image.Image], torch.Tensor], draw: np.random.Generator) -> torch.Tensor:
    """float32 [T, 3, H, W]."""
    frames = []
    for t in train_indices(FRAMES, T, draw):
        with Image.open(folder / key / f"{t:03d}.jpg") as opened:
            frames.append(preprocess(opened.convert("RGB")))
    return torch.stack(frames)


def _webdataset(tar: Path, draw: np.random.Generator, decoded: bool) -> Any:
    """Clips uint8 [T, H, W, 3] in the order of the tar; every frame decoded, or the picked ones alone."""
    import webdataset

    data = webdataset.WebDataset([str(tar)], shardshuffle=False)
    for sample in data.decode("rgb8") if decoded else data:
        picked = [sample[f"{t:03d}.jpg"] for t in train_indices(FRAMES, T, draw)]
        yield np.stack(picked if decoded else [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in picked])


def _make(folder: Path, labels: dict[str, int]) -> pa.Table:
    """Loose files, packed shards and a tar of one member per frame, of the same JPEG bytes; returns the SPLIT."""
    pictures = [_picture(i) for i in range(FRAMES)]
    facts: list[dict[str, Any]] = []
    jpegs: dict[str, list[bytes]] = {}
    for number, (key, label) in enumerate(labels.items()):
        own = pictures[number % FRAMES :] + pictures[: number % FRAMES]
        paths = [f"{key}/{t:03d}.jpg" for t in range(FRAMES)]
        for path, jpeg in zip(paths, own, strict=True):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(jpeg)
        facts.append({"tracklet": key, "dataset": "d", "identity": f"{label:04d}", "kind": "person", "camera": 0, "frames": paths})
        jpegs[key] = own
    making.write_frames(folder / "frames.parquet", facts, jpegs, (H, W), {"dataset": "d", "cameras": 1})
    made, index = list(labels), []
    for number, part in enumerate((made[: len(made) // 2], made[len(made) // 2 :])):
        index += making.write_tar(folder / f"{number:05d}.tar", folder / "frames.parquet", part)
    with tarfile.open(folder / "per_frame.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key in made:
            for t, jpeg in enumerate(jpegs[key]):
                info = tarfile.TarInfo(f"{key}.{t:03d}.jpg")
                info.size = len(jpeg)
                tar.addfile(info, io.BytesIO(jpeg))
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
