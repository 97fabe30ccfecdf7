"""A finished run in the layout of the workflow, made by its steps one after another in this process: seconds instead of a minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluate import embed, score
from pipeline import align_companion, encode_companion, encode_frames, plan_shards, read_items, read_split, read_tracklets, resolve_config
from pipeline.base.build import build, plain
from pipeline.base.config import CompanionConfig, DatasetConfig, DemoConfig, FramesConfig, MethodConfig, VoicesConfig
from pipeline.base.files import write_json
from pipeline.demo import make_demo
from shards import index_shards, pack_shard
from tests.train.tiny import METHOD
from train import fit

DEMO = DemoConfig(
    train_identities=2,
    test_identities=2,
    cameras=2,
    tracklets=2,
    distractors=1,
    junk=1,
    frames=(2, 3),
    pairs=4,
    speakers=5,
    seconds=(0.6, 0.7),
)
DATASET = DatasetConfig(
    source="mars",
    splits=("official",),
    voices="voices",
    generated=True,
    shards=2,
    frames=FramesConfig(height=32, width=32),
    protocols=("mars_torchreid",),
)
OTHER = DatasetConfig(
    source="prid2011", splits=("0",), generated=True, shards=1, frames=FramesConfig(height=32, width=32), protocols=("two_camera",)
)
"""A data set that stages are tested on and not trained on."""
STAGES = {"teacher": {"network": "dubbernet_teacher", "hears": True, "epochs": 1, "evaluate": False}}
STAGES |= {"student": {"network": "dubbernet_student", "task": "distill", "teacher": "teacher", "epochs": 1}}
STAGES |= {"plain": {"network": "dubbernet_student", "epochs": 1}}
RUN = "runs/small/set-official/seed0"


def make(folder: Path) -> Path:
    """results/ with one data set, one companion, a teacher and two scored stages; returns the run folder that holds the stages."""
    results = folder / "results"
    make_demo.main([str(results / "demo"), "--config", _text(DEMO), "--threads", "1"])
    frames_root, voices_root = results / "demo/MARS", results / "demo/common_voice/en"
    tracklets, split, items = (results / name for name in ("tracklets/set.parquet", "splits/set/official.parquet", "items/voices.parquet"))
    dataset, voices = (
        ["--dataset", "set", f"--root={frames_root}", "--config", _text(DATASET)],
        VoicesConfig(source="common_voice", generated=True),
    )
    read_tracklets.main([str(tracklets), *dataset])
    read_split.main([str(split), "--split", "official", f"--tracklets={tracklets}", *dataset])
    read_items.main([str(items), "--name", "voices", f"--root={voices_root}", "--source", "common_voice", "--config", _text(voices)])
    plan, alignment = results / "plans/set.parquet", results / "alignment/set-audio.parquet"
    plan_shards.main([str(plan), f"--tracklets={tracklets}", "--shards", "2"])
    heard = [f"--root={voices_root}", "--config", _text(CompanionConfig()), "--seed", "0"]
    probes = f"--probes={results / 'alignment/set-audio-probes.parquet'}"
    align_companion.main([str(alignment), probes, f"--tracklets={tracklets}", "--splits", str(split), f"--items={items}", *heard])
    twins = [_pack(results, shard, tracklets, plan, alignment, frames_root, heard) for shard in ("00000", "00001")]
    index_shards.main([str(twins[0].with_name("index.parquet")), f"--tracklets={tracklets}", f"--alignment={alignment}", *map(str, twins)])
    for stage in STAGES:
        _train(results, stage)
    for stage in ("student", "plain"):
        evaluate(results / RUN / stage)
    roots = {"set": "results/demo/MARS", "other": "results/demo/PRID-2011", "voices": "results/demo/common_voice/en"}
    write_json(results / "report/inputs.json", {"settings": {"roots": roots, "methods": {}}})
    return results / RUN


def make_other(results: Path) -> None:
    """The shards of OTHER, frames alone, and its split, beside what :func:`make` made."""
    root, tracklets, plan = results / "demo/PRID-2011", results / "tracklets/other.parquet", results / "plans/other.parquet"
    frames, twin = results / "features/other/frames/00000.parquet", results / "shards/other-none/00000.parquet"
    dataset = ["--dataset", "other", f"--root={root}", "--config", _text(OTHER)]
    read_tracklets.main([str(tracklets), *dataset])
    read_split.main([str(results / "splits/other/0.parquet"), "--split", "0", f"--tracklets={tracklets}", *dataset])
    plan_shards.main([str(plan), f"--tracklets={tracklets}", "--shards", "1"])
    stream = f"--stream={frames.with_suffix('.mjpeg')}"
    beside = [stream, f"--quarantine={frames.with_suffix('.quarantine.parquet')}", f"--tracklets={tracklets}", f"--plan={plan}"]
    encode_frames.main([str(frames), *beside, "--shard", "00000", f"--root={root}", "--config", _text(OTHER.frames)])
    twin.parent.mkdir(parents=True)
    pack_shard.main([str(twin.with_suffix(".tar")), f"--twin={twin}", f"--frames={frames}", stream])
    index_shards.main([str(twin.with_name("index.parquet")), f"--tracklets={tracklets}", str(twin)])


def across(folder: Path) -> Path:
    """EMBEDDINGS and metrics.json of a trained stage on OTHER; returns the last."""
    results, made = folder.parents[4], folder / "on/other-0"
    config, vectors = f"--config={folder / 'config.json'}", str(made / "embeddings.parquet")
    given = [f"--index={results / 'shards/other-none/index.parquet'}", f"--split={results / 'splits/other/0.parquet'}"]
    target = ["--test-dataset", "other", "--test-split", "0"]
    embed.main([vectors, config, f"--weights={folder / 'model.safetensors'}", *given, *target])
    out = [str(made / "metrics.json"), f"--queries={made / 'queries.parquet'}"]
    score.main([*out, f"--embeddings={vectors}", config, "--protocols", *OTHER.protocols])
    return made / "metrics.json"


def _pack(results: Path, shard: str, tracklets: Path, plan: Path, alignment: Path, root: Path, heard: list[str]) -> Path:
    """One tar and its twin; returns the twin."""
    frames, features = results / f"features/set/frames/{shard}.parquet", results / f"features/set/audio/{shard}.parquet"
    stream, twin = frames.with_suffix(".mjpeg"), results / f"shards/set-audio/{shard}.parquet"
    planned = [f"--plan={plan}", "--shard", shard]
    beside = [f"--stream={stream}", f"--quarantine={frames.with_suffix('.quarantine.parquet')}"]
    encode_frames.main([str(frames), *beside, f"--tracklets={tracklets}", *planned, f"--root={root}", "--config", _text(DATASET.frames)])
    encode_companion.main([str(features), f"--alignment={alignment}", *planned, *heard])
    twin.parent.mkdir(parents=True, exist_ok=True)
    sound = [f"--alignment={alignment}", f"--features={features}", "--kind", "audio"]
    pack_shard.main([str(twin.with_suffix(".tar")), f"--twin={twin}", f"--frames={frames}", f"--stream={stream}", *sound])
    return twin


def _train(results: Path, stage: str) -> None:
    folder = results / RUN / stage
    method = build(MethodConfig, {**METHOD, "stages": STAGES})
    sections = {"method": plain(method), "dataset": plain(DATASET), "companions": {"audio": plain(CompanionConfig())}}
    names = ["--method", "small", "--dataset", "set", "--split", "official", "--seed", "0", "--stage", stage]
    resolve_config.main([str(folder / "config.json"), *names, "--config", json.dumps(sections)])
    teacher = [f"--teacher={folder.with_name('teacher') / 'model.safetensors'}"] if stage == "student" else []
    machine = folder / "machine.json"
    write_json(machine, METHOD["machine"])
    fit.main([str(folder), *_inputs(folder), *teacher, f"--machine={machine}", "--threads", "1"])


def evaluate(folder: Path) -> None:
    """EMBEDDINGS and metrics.json of a trained stage."""
    vectors = str(folder / "embeddings.parquet")
    embed.main([vectors, *_inputs(folder), f"--weights={folder / 'model.safetensors'}"])
    config = f"--config={folder / 'config.json'}"
    score.main(
        [
            str(folder / "metrics.json"),
            f"--queries={folder / 'queries.parquet'}",
            f"--embeddings={vectors}",
            config,
            "--protocols",
            *DATASET.protocols,
        ]
    )


def _inputs(folder: Path) -> list[str]:
    results = folder.parents[4]
    tables = [f"--index={results / 'shards/set-audio/index.parquet'}", f"--split={results / 'splits/set/official.parquet'}"]
    return [f"--config={folder / 'config.json'}", *tables]


def _text(settings: Any) -> str:
    return json.dumps(plain(settings))
