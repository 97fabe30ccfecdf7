"""A method and data small enough for tests: 2 identities x 2 tracklets per batch, a ViT of width 16, frames of 32x32."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from model.api import Network, Outputs
from model.registry import make
from pipeline.base import tables
from pipeline.base.batch import Batch, Companion
from pipeline.base.build import build, merge
from pipeline.base.config import (
    AlignmentConfig,
    AudioConfig,
    CompanionConfig,
    DatasetConfig,
    FramesConfig,
    MethodConfig,
    RunConfig,
    TokensConfig,
)
from pipeline.base.seeds import rng
from pipeline.resolve_config import Sections, resolve
from shards import pack_shard
from tests.shards.making import write_frames

BANDS = 8
CLASSES, CAMERAS = 3, 2

SOUND = AlignmentConfig(oracle_test_audio=True)
"""Sound for everybody, so that any stage may be evaluated."""

METHOD: dict[str, Any] = {
    "stages": {
        "teacher": {"network": "dubbernet_teacher", "hears": True, "epochs": 2},
        "student": {
            "network": "dubbernet_student",
            "task": "distill",
            "teacher": "teacher",
            "epochs": 4,
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
    "machine": {"workers": 0, "checkpoint_seconds": 0},
}


def run_config(stage: str, seed: int = 0, **method: Any) -> RunConfig:
    """The resolved settings of one stage (and of its teacher); `method` is laid over METHOD. Companions: audio, tokens."""
    tokens = TokensConfig(encoder="precomputed", store="/nowhere", tokens=2, width=BANDS)
    sections = Sections(
        method=build(MethodConfig, merge(METHOD, method)),
        dataset=DatasetConfig(source="manifest", splits=("0", "1"), frames=FramesConfig(height=32, width=32)),
        companions={
            "audio": CompanionConfig(audio=AudioConfig(bands=BANDS), alignment=SOUND),
            "tokens": CompanionConfig(kind="audio_tokens", tokens=tokens, alignment=SOUND),
        },
    )
    return resolve(sections, method="tiny", dataset="toy", split="0", seed=seed, stage=stage)


def network(run: RunConfig, seed: int = 0) -> Network:
    """The network of a run with reproducible weights, in training mode."""
    torch.manual_seed(seed)
    return make(run, CLASSES, CAMERAS)


def batch(seed: int = 0, clips: int = 4, hears: bool = True) -> Batch:
    """Random clips of identities 0, 0, 1, 1, ..., two frames each; each clip hears its own item, some frames are erased."""
    draw = rng(seed, "batch")
    values = torch.from_numpy(draw.standard_normal((clips, 8, BANDS), np.float32))
    align = torch.arange(clips).repeat_interleave(2).reshape(clips, 2)
    return Batch(
        frames=torch.from_numpy(draw.integers(0, 256, (clips, 2, 3, 32, 32), np.uint8)),
        label=torch.arange(clips) // 2,
        camera=torch.arange(clips) % CAMERAS,
        tracklet=[f"t{i}" for i in range(clips)],
        companions={"audio": Companion(values, torch.full((clips,), 8), align)} if hears else {},
        erased=torch.from_numpy(draw.random((clips, 2)) < 0.5),
    )


class Saying(Network):
    """Gives fixed Outputs, so that what a task makes of them can be worked out by hand; one parameter, which is not used."""

    def __init__(self, out: Outputs) -> None:
        super().__init__(hears=False, kind="", classes=CLASSES, cameras=0, bands=0, height=32, width=32)
        self.out, self.unused = out, nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Outputs:
        return self.out


class BatchLoader:
    """Random batches as a function of (seed, epoch, step), like `shards.loader.TrainLoader`."""

    def __init__(self, seed: int = 0, steps: int = 3, hears: bool = True) -> None:
        self.seed, self.steps, self.hears = seed, steps, hears

    def batches(self, epoch: int, first_step: int, device: torch.device, check: Callable[[Batch], object]) -> Iterator[Batch]:
        for step in range(first_step, self.steps):
            made = self.batch(epoch, step)
            check(made)
            yield made.to(device)

    def batch(self, epoch: int, step: int) -> Batch:
        return batch(self.seed * 10_000 + epoch * 100 + step, hears=self.hears)


ENCODED = {
    "audio": (10, {"form": "log-mel", "audio": {"bands": BANDS}}),
    "audio_tokens": (2, {"form": "tokens", "tokens": {"encoder": "precomputed", "weights_sha256": "", "length": 2}}),
}
"""By kind of companion: frames of an item as packed, and what FEATURES meta says about them."""


def pack(folder: Path, kind: str = "audio", classes: int = CLASSES) -> tuple[Path, Path]:
    """INDEX and SPLIT of a store of 3 training identities (at most 4) x 2 tracklets x 3 frames, each with its own voice.

    Grey frames whose brightness tells the identity; made by the real packing step.
    """
    length, about = ENCODED[kind]
    names = [f"{identity:04d}C{camera}" for identity in range(classes) for camera in (0, 1)]
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
    features = draw.standard_normal((len(names), length, BANDS)).astype(np.float16)
    write = {
        "tracklets": (tables.TRACKLETS, tracklets, {"dataset": "toy", "cameras": CAMERAS}),
        "split": (tables.SPLIT, [{"tracklet": n, "role": "train", "label": int(n[:4])} for n in names], {"dataset": "toy", "split": "0"}),
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
            {"dataset": "toy", "kind": kind, "policy": "id_speaker", "oracle": False, "label_derived": True, "seed": 0, "test": False},
        ),
        "features": (
            tables.FEATURES,
            [
                {"item": f"voice_{n}", "values": values.tobytes(), "length": length, "width": BANDS, "dtype": "float16"}
                for n, values in zip(names, features, strict=True)
            ],
            {"kind": kind, "shard": 0, "bands": BANDS, **about},
        ),
    }
    for name, (schema, rows, meta) in write.items():
        tables.write_rows(folder / f"{name}.parquet", rows, schema, meta)
    write_frames(folder / "frames.parquet", tracklets, jpegs, (32, 32), {"dataset": "toy", "cameras": CAMERAS})
    index = folder / "store" / "00000.parquet"
    index.parent.mkdir()
    files = [f"--{name}={folder / name}.parquet" for name in ("frames", "alignment", "features")]
    files.append(f"--stream={folder / 'frames.mjpeg'}")
    pack_shard.main([str(index.with_suffix(".tar")), f"--twin={index}", f"--kind={kind}", *files])
    return index, folder / "split.parquet"


def _jpeg(draw: np.random.Generator, level: int) -> bytes:
    out = io.BytesIO()
    noisy = np.clip(level + draw.integers(-20, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(out, "JPEG", quality=95)
    return out.getvalue()
