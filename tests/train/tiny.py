"""A method and data small enough for tests: 2 identities x 2 tracklets per batch, a ViT of width 16, frames of 32x32."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.base import tables
from pipeline.base.batch import Batch, Companion
from pipeline.base.build import build, merge
from pipeline.base.config import RunConfig
from pipeline.base.seeds import rng
from shards import pack_shard

BANDS = 8
CLASSES = 3
FACTS = {"classes": CLASSES, "cameras": 2, "bands": BANDS, "height": 32, "width": 32}

METHOD: dict[str, Any] = {
    "stages": {
        "teacher": {"network": "dubbernet_teacher", "hears": True, "epochs": 2},
        "student": {
            "network": "dubbernet_student",
            "task": "distill",
            "teacher": "teacher",
            "epochs": 4,
            "weights": {"identity": 1.0, "triplet": 1.0, "tokens": 1.0, "logits": 1.0, "budget": 1.0},
        },
        "untrained": {"network": "dubbernet_student", "epochs": 0},
        "visual": {"network": "dubbernet_visual", "epochs": 4},
    },
    "model": {
        "width": 16,
        "depth": 3,
        "heads": 2,
        "stride": 16,
        "fusion_after_blocks": [0, 1],
        "audio_tokens": 2,
        "audio_frames": 8,
        "drop_path": 0.5,
    },
    "clip": {"frames": 2},
    "augment": {"pad": 2},
    "sampler": {"identities": 2, "tracklets": 2},
    "schedule": {"warmup_epochs": 1},
    "workers": 0,
}


def run_config(stage: str, seed: int = 0, **method: Any) -> RunConfig:
    """The resolved settings of one stage; `method` is laid over METHOD."""
    settings = merge(METHOD, method)
    return build(
        RunConfig,
        {
            "method": "tiny",
            "dataset": "toy",
            "split": "0",
            "seed": seed,
            "stage": stage,
            "companion": "audio",
            "kind": "audio",
            "bands": BANDS,
            "height": 32,
            "width": 32,
            "this": settings["stages"][stage],
            "settings": settings,
        },
    )


def batch(seed: int = 0, clips: int = 4, hears: bool = True) -> Batch:
    """Random clips of identities 0, 0, 1, 1, ..., two frames each; each clip hears its own item."""
    draw = rng(seed, "batch")
    values = torch.from_numpy(draw.standard_normal((clips, 8, BANDS), np.float32))
    align = torch.arange(clips).repeat_interleave(2).reshape(clips, 2)
    return Batch(
        frames=torch.from_numpy(draw.integers(0, 256, (clips, 2, 3, 32, 32), np.uint8)),
        label=torch.arange(clips) // 2,
        camera=torch.arange(clips) % 2,
        tracklet=[f"t{i}" for i in range(clips)],
        companions={"audio": Companion(values, torch.full((clips,), 8), align)} if hears else {},
    )


class BatchLoader:
    """Random batches as a function of (seed, epoch, step), like `shards.loader.TrainLoader`."""

    def __init__(self, seed: int = 0, steps: int = 3, hears: bool = True) -> None:
        self.seed, self.steps, self.hears = seed, steps, hears

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        for step in range(first_step, self.steps):
            yield batch(self.seed * 10_000 + epoch * 100 + step, hears=self.hears)


def pack(folder: Path) -> tuple[Path, Path]:
    """INDEX and SPLIT of a store of 3 training identities x 2 tracklets x 3 frames, each with its own voice.

    Grey frames whose brightness tells the identity; made by the real packing step.
    """
    names = [f"{identity:04d}C{camera}" for identity in range(CLASSES) for camera in (0, 1)]
    draw = rng(1, "pack")
    jpegs = {name: [_jpeg(draw, 60 + 60 * int(name[:4])) for _ in range(3)] for name in names}
    tracklets = [
        {
            "tracklet": n,
            "dataset": "toy",
            "identity": n[:4],
            "kind": "person",
            "camera": int(n[-1]),
            "frames": [f"{n}/{i}.jpg" for i in range(3)],
        }
        for n in names
    ]
    features = draw.standard_normal((len(names), 10, BANDS)).astype(np.float16)
    write = {
        "tracklets": (tables.TRACKLETS, tracklets, {"dataset": "toy", "cameras": 2}),
        "plan": (tables.PLAN, [{"tracklet": n, "shard": 0, "order": i, "frames": 3} for i, n in enumerate(names)], {}),
        "split": (tables.SPLIT, [{"tracklet": n, "role": "train", "label": int(n[:4])} for n in names], {}),
        "frames": (
            tables.FRAMES,
            [
                {"tracklet": n, "values": b"".join(j), "lengths": [len(b) for b in j], "kept": [0, 1, 2], "resized": 0}
                for n, j in jpegs.items()
            ],
            {"frames": {"height": 32, "width": 32}},
        ),
        "alignment": (
            tables.ALIGNMENT,
            [
                {
                    "tracklet": n,
                    "first": 0,
                    "last": 2,
                    "item": f"voice_{n}",
                    "owner": f"spk_{n[:4]}",
                    "path": f"{n}.mp3",
                    "start": None,
                    "seconds": 1.0,
                }
                for n in names
            ],
            {"kind": "audio", "policy": "id_speaker", "oracle": False, "label_derived": True, "seed": 0},
        ),
        "features": (
            tables.FEATURES,
            [
                {"item": f"voice_{n}", "values": values.tobytes(), "length": 10, "width": BANDS, "dtype": "float16"}
                for n, values in zip(names, features, strict=True)
            ],
            {"kind": "audio", "audio": {"bands": BANDS}},
        ),
    }
    for name, (schema, rows, meta) in write.items():
        tables.write_rows(folder / f"{name}.parquet", rows, schema, meta)
    index = folder / "store" / "00000.parquet"
    index.parent.mkdir()
    files = [f"--{name}={folder / name}.parquet" for name in ("tracklets", "plan", "frames", "alignment", "features")]
    pack_shard.main([str(index.with_suffix(".tar")), f"--twin={index}", "--shard=0", "--kind=audio", *files])
    return index, folder / "split.parquet"


def _jpeg(draw: np.random.Generator, level: int) -> bytes:
    out = io.BytesIO()
    noisy = np.clip(level + draw.integers(-20, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(out, "JPEG", quality=95)
    return out.getvalue()
