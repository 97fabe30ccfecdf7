"""DubberNet with its default settings: ViT-B/16 on 256x128 frames, clips of 6, takes one step on a CPU, through the real path."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model import weights
from model.pretrained import resize_positions
from pipeline.base import tables
from pipeline.base.build import build, plain
from pipeline.base.config import CompanionConfig, DatasetConfig, MethodConfig, ModelConfig
from pipeline.base.files import digest_file, write_json
from pipeline.base.seeds import rng
from pipeline.resolve_config import Sections, resolve
from shards import pack_shard
from tests.shards.making import write_frames
from train import fit
from train.tasks import Task
from train.trainer import Training

pytestmark = pytest.mark.slow

METHOD: dict[str, Any] = {
    "stages": {
        "teacher": {"network": "dubbernet_teacher", "hears": True, "evaluate": False, "epochs": 1},
        "student": {
            "network": "dubbernet_student",
            "task": "distill",
            "teacher": "teacher",
            "epochs": 1,
        },
        "untrained": {"network": "dubbernet_visual", "epochs": 0},
    },
    "sampler": {"identities": 2, "tracklets": 2},
    "pretrained": "vit_base_patch16_224",
    "machine": {"workers": 0},
}
FRAMES, SECONDS = 6, 2
TRUNK = ("embedding.patches.weight", "embedding.position", "blocks.0.attn.qkv.weight", "blocks.10.mlp.fc2.weight", "head.norm.weight")


class Data(NamedTuple):
    index: Path
    split: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    """A store of 2 identities x 2 cameras x 6 frames, each tracklet with its own voice; made by the real packing step."""
    folder, draw, companion = tmp_path_factory.mktemp("data"), rng(1, "full size"), CompanionConfig()
    names = [f"{identity:04d}C{camera}" for identity in (0, 1) for camera in (0, 1)]
    length, bands = SECONDS * 100 - 2, companion.bands
    shared = {"dataset": "toy", "kind": "person"}
    jpegs = {name: [jpeg(draw) for _ in range(FRAMES)] for name in names}
    whose = {"path": "x.mp3", "start": None, "seconds": float(SECONDS), "first": 0, "last": FRAMES - 1}
    write = {
        "tracklets": (
            tables.TRACKLETS,
            [
                shared | {"tracklet": n, "identity": n[:4], "camera": int(n[-1]), "frames": [f"{n}/{i}.jpg" for i in range(FRAMES)]}
                for n in names
            ],
            {"dataset": "toy", "cameras": 2},
        ),
        "split": (tables.SPLIT, [{"tracklet": n, "role": "train", "label": int(n[:4])} for n in names], {"dataset": "toy", "split": "0"}),
        "alignment": (
            tables.ALIGNMENT,
            [whose | {"tracklet": n, "item": f"voice_{n}", "owner": f"spk_{n[:4]}"} for n in names],
            {"dataset": "toy", "kind": "audio", "policy": "id_speaker", "oracle": False, "label_derived": True, "seed": 0, "test": False},
        ),
        "features": (
            tables.FEATURES,
            [
                {"item": f"voice_{n}", "values": values.tobytes(), "length": length, "width": bands, "dtype": "float16"}
                for n, values in zip(names, draw.standard_normal((len(names), length, bands)).astype(np.float16), strict=True)
            ],
            {"kind": "audio", "shard": 0, "form": "log-mel", "bands": bands, "audio": plain(companion.audio)},
        ),
    }
    for name, (schema, rows, meta) in write.items():
        tables.write_rows(folder / f"{name}.parquet", rows, schema, meta)
    write_frames(folder / "frames.parquet", write["tracklets"][1], jpegs, (256, 128), {"dataset": "toy", "cameras": 2})
    index = folder / "store" / "00000.parquet"
    index.parent.mkdir()
    files = [f"--{name}={folder / name}.parquet" for name in ("frames", "alignment", "features")]
    files.append(f"--stream={folder / 'frames.mjpeg'}")
    pack_shard.main([str(index.with_suffix(".tar")), f"--twin={index}", "--kind=audio", *files])
    return Data(index, folder / "split.parquet")


def jpeg(draw: np.random.Generator) -> bytes:
    out = io.BytesIO()
    coarse = draw.integers(0, 256, (16, 8, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((128, 256), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture(scope="module")
def trunk() -> dict[str, Tensor]:
    """Random numbers under the names of timm's ViT-B/16 for 224x224 pixels."""
    torch.manual_seed(3)
    return timm.create_model("vit_base_patch16_224", pretrained=False).state_dict()


@pytest.fixture(scope="module")
def vit(trunk, tmp_path_factory) -> Callable[[str], Path]:
    """The same trunk as a file of each layout."""
    folder = tmp_path_factory.mktemp("vit")
    fc = {"weight": torch.zeros(768, 768), "bias": torch.zeros(768)}
    cls, patches = trunk["pos_embed"][:, :1], trunk["pos_embed"][:, 1:]
    more = {
        "timm": {},
        "jx": {f"pre_logits.fc.{name}": tensor for name, tensor in fc.items()},
        "deit_distilled": {
            "dist_token": torch.zeros(1, 1, 768),
            "pos_embed": torch.cat([cls, torch.ones(1, 1, 768), patches], dim=1),
            "head_dist.weight": torch.zeros(1000, 768),
            "head_dist.bias": torch.zeros(1000),
        },
    }

    def written(layout: str) -> Path:
        path = folder / f"{layout}.safetensors"
        if not path.exists():
            save_file(trunk | more[layout], path)
        return path

    return written


class Made(NamedTuple):
    path: Path
    beside: dict[str, nn.Module]
    """What a task that distils has beside the student, as it was when the training was over."""
    records: list[dict[str, Any]]


def train(folder: Path, data: Data, stage: str, *more: str) -> Made:
    sections = Sections(
        method=build(MethodConfig, METHOD),
        dataset=DatasetConfig(source="manifest", splits=("0",)),
        companions={"audio": CompanionConfig()},
    )
    run = resolve(sections, method="full", dataset="toy", split="0", seed=0, stage=stage)
    assert run.settings.model == ModelConfig() and (run.height, run.width, run.settings.clip.frames) == (256, 128, 6)
    write_json(folder / "config.json", plain(run))
    beside: dict[str, nn.Module] = {}

    class Watched(Training):
        def __init__(self, task: Task, *args: Any, **settings: Any) -> None:
            super().__init__(task, *args, **settings)
            beside.update((name, getattr(task, name)) for name in ("teacher", "masks") if hasattr(task, name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "Training", Watched)
        patch.setattr(fit, "choose_device", lambda: torch.device("cpu"))
        fit.main(
            [str(folder), f"--config={folder / 'config.json'}", f"--index={data.index}", f"--split={data.split}", "--threads=2", *more]
        )
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Made(folder / "model.safetensors", beside, records)


@pytest.fixture(scope="module")
def teacher(data, vit, tmp_path_factory) -> Made:
    return train(tmp_path_factory.mktemp("teacher"), data, "teacher", f"--pretrained={vit('timm')}")


def as_started(trunk: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the tensors named in TRUNK are before the first step."""
    return {
        "embedding.patches.weight": trunk["patch_embed.proj.weight"],
        "embedding.position": resize_positions(trunk["pos_embed"], (21, 10)),
        "blocks.0.attn.qkv.weight": trunk["blocks.0.attn.qkv.weight"],
        "blocks.10.mlp.fc2.weight": trunk["blocks.10.mlp.fc2.weight"],
        "head.norm.weight": trunk["norm.weight"],
    }


def check_one_step(made: Made, trunk: dict[str, Tensor]) -> None:
    """One step was taken: a finite loss, and weights that lie near the pretrained ones and are not equal to them."""
    (epoch,) = [record for record in made.records if "loss" in record]
    assert epoch["steps"] == 1 and math.isfinite(epoch["loss"])
    after = load_file(made.path)
    assert trunk["pos_embed"].shape == (1, 197, 768) and after["embedding.position"].shape == (1, 211, 768)
    for name, before in as_started(trunk).items():
        moved = float((after[name] - before).norm() / before.norm())
        assert 0 < moved < 0.1, name
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())


def test_the_teacher_takes_a_step_from_a_file_of_timm(teacher, trunk, vit):
    check_one_step(teacher, trunk)
    meta = weights.read_meta(teacher.path)
    assert meta["from"]["pretrained"] == digest_file(vit("timm"))
    assert (meta["hears"], meta["classes"], meta["cameras"], meta["bands"]) == (True, 2, 2, 80)


def test_the_student_learns_from_it_and_starts_from_an_older_file(teacher, data, trunk, vit, tmp_path):
    taught, digest = load_file(teacher.path), digest_file(teacher.path)
    student = train(tmp_path, data, "student", f"--teacher={teacher.path}", f"--pretrained={vit('jx')}")
    check_one_step(student, trunk)
    meta = weights.read_meta(student.path)
    assert (meta["from"]["pretrained"], meta["from"]["teacher"]) == (digest_file(vit("jx")), digest)
    assert meta["from"]["pretrained"] != digest_file(vit("timm"))
    assert digest_file(teacher.path) == digest
    its_teacher, masks = student.beside["teacher"], student.beside["masks"]
    assert all(torch.equal(tensor, taught[name]) for name, tensor in its_teacher.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in its_teacher.parameters())
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in masks.parameters())


def test_a_distilled_file_gives_the_same_start(data, trunk, vit, tmp_path):
    made = train(tmp_path, data, "untrained", f"--pretrained={vit('deit_distilled')}")
    after = load_file(made.path)
    assert all(torch.equal(after[name], before) for name, before in as_started(trunk).items())
