"""Clips are averaged per tracklet however they are batched; who may hear; the network gets no sound it must not have."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from evaluate import embed
from evaluate.score import metrics
from model.registry import make
from model.weights import load, save
from pipeline.base import tables
from pipeline.base.build import plain
from pipeline.base.config import ClipConfig, MethodConfig, ModelConfig, ScoringConfig, StageConfig
from pipeline.base.errors import ConfigError, ShardError, UserError, WeightsError
from shards.read import Store
from tests.evaluate.stores import BANDS, ITEM_FRAMES, deafen, make_store
from tests.evaluate.test_score import RUN as BASE

TINY = ModelConfig(width=16, depth=2, heads=2, patch=16, stride=16, fusion_after_blocks=(0,), audio_tokens=2, audio_frames=8)
STAGE = StageConfig(network="dubbernet_visual")
RUN = dataclasses.replace(
    BASE, this=STAGE, settings=MethodConfig(stages={"student": STAGE}, companion="none", model=TINY, clip=ClipConfig(frames=2))
)


class Memory:
    """A store in memory, as much of shards.read.Store as the loader asks for; sound is not there to be read."""

    def __init__(self):
        self.meta = {"frames": {"height": 32, "width": 16}, "companion": None}
        random = np.random.default_rng(0)
        self.pictures = {}
        for number, count in enumerate((5, 2, 7, 1)):
            made = []
            for _ in range(count):
                out = io.BytesIO()
                Image.fromarray(random.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(out, "JPEG")
                made.append(out.getvalue())
            self.pictures[f"t{number}"] = made
        place = {"shard": "0.tar", "items": 0, "size": 512, "members": [], "digest": ""}
        rows = [
            {"key": key, "identity": "ab"[i % 2], "kind": "person", "camera": i // 2, "frames": len(made), "offset": 512 * i, **place}
            for i, (key, made) in enumerate(self.pictures.items())
        ]
        self.table = tables.table(rows, tables.INDEX)
        self.split = tables.table(
            [{"tracklet": f"t{i}", "role": role, "label": -1} for i, role in enumerate(["query", "query", "gallery", "gallery"])],
            tables.SPLIT,
        )

    def frames(self, key, indices):
        return [self.pictures[key][i] for i in indices]

    def companion(self, *_):
        raise AssertionError("sound was read")

    align = items = companion


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    network = make(RUN, 3, 2)
    path = tmp_path / "model.safetensors"
    save(path, network, {"classes": 3, "cameras": 2, "method": "m", "seed": 3})
    return path


def vectors_of(table):
    return np.array(table.column("vector").to_pylist())


def test_result_does_not_depend_on_batches_and_workers(weights):
    store = Memory()
    whole, meta = embed.embed(RUN, str(weights), store, store.split, batch_frames=64, workers=0)
    assert whole.column("clips").to_pylist() == [3, 1, 4, 1]  # ceil(frames / 2)
    assert whole.column("role").to_pylist() == ["query", "query", "gallery", "gallery"]
    assert (meta["modality"], meta["oracle"], meta["policy"]) == ("frames", False, None)
    for batch_frames, workers in ((2, 0), (6, 1)):
        other, _ = embed.embed(RUN, str(weights), store, store.split, batch_frames=batch_frames, workers=workers)
        assert np.abs(vectors_of(other) - vectors_of(whole)).max() < 1e-6
    assert np.abs(vectors_of(whole)[0] - vectors_of(whole)[2]).max() > 1e-4  # negative control: tracklets do differ


def test_no_tf32_in_products_or_convolutions(weights, monkeypatch):
    """Both are switched on first, which is torch's own choice for convolutions; the step has to switch them off."""
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    try:
        torch.set_float32_matmul_precision("high")
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        store = Memory()
        embed.embed(RUN, str(weights), store, store.split, batch_frames=64, workers=0)
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_weights_of_another_run_or_without_meta_are_refused(weights, tmp_path):
    with pytest.raises(WeightsError, match="seed 3"):
        embed.network_of(dataclasses.replace(RUN, seed=4), str(weights), "cpu")
    network, _ = embed.network_of(RUN, str(weights), "cpu")
    save(tmp_path / "bare.safetensors", network, {"classes": 3})
    with pytest.raises(WeightsError, match="how many cameras"):
        embed.network_of(RUN, str(tmp_path / "bare.safetensors"), "cpu")
    unknown = dataclasses.replace(RUN, this=StageConfig(network="dubbernet_visuel"))
    with pytest.raises(ConfigError, match="did you mean 'dubbernet_visual'"):
        embed.network_of(unknown, str(weights), "cpu")


# --- a packed store -----------------------------------------------------------------------------------------------------


def run_of(network, *, kind="audio", companion="audio", test_companion="audio", hears=None, item_frames=ITEM_FRAMES, bands=BANDS):
    """A run whose stage has this network."""
    stage = StageConfig(network=network, hears=network in ("dubbernet_teacher", "audio_probe") if hears is None else hears)
    settings = dataclasses.replace(RUN.settings, stages={"student": stage}, companion="audio")
    about = {"companion": companion, "test_companion": test_companion, "kind": kind, "bands": bands, "item_frames": item_frames}
    return dataclasses.replace(RUN, this=stage, settings=settings, **about)


def embedded(index, run, weights):
    """(EMBEDDINGS, meta, metrics.json) of the test half; the network is made anew and written to `weights` if it is not there."""
    if not weights.exists():
        torch.manual_seed(0)
        save(weights, make(run, 2, 2), {"classes": 2, "cameras": 2})
    split = tables.read(index.parent / "split.parquet", tables.SPLIT)
    table, meta = embed.embed(run, str(weights), Store(index), split, batch_frames=8, workers=0)
    return table, meta, metrics(table, meta, run, ["market"], ScoringConfig())[0]


@pytest.mark.parametrize("network", ["dubbernet_student", "dubbernet_visual"])
def test_student_evaluation_never_opens_the_audio_members(tmp_path, network):
    """Packed without sound, or with every audio member overwritten: the same bits and the same scores (specs/dubbernet.md 5.4)."""
    run, weights = run_of(network), tmp_path / "w.safetensors"
    with_sound, without = make_store(tmp_path / "with", "training"), make_store(tmp_path / "without")
    expected, meta, scored = embedded(with_sound, run, weights)
    assert embedded(without, run, weights)[0].equals(expected) and embedded(without, run, weights)[1:] == (meta, scored)
    assert deafen(with_sound) == 2 * 3  # two training tracklets: values, lengths and alignment
    table, *rest = embedded(with_sound, run, weights)
    assert table.equals(expected) and rest == [meta, scored]
    assert (meta["modality"], meta["oracle"], meta["companion"], meta["trained_on"]) == ("frames", False, None, "audio")
    assert scored["modality"] == "frames only"


def test_student_evaluation_does_not_depend_on_the_sound_of_test_tracklets(tmp_path):
    """The same where test tracklets do have sound in the tars, and all of it is overwritten."""
    run, weights = run_of("dubbernet_student"), tmp_path / "w.safetensors"
    index = make_store(tmp_path / "s", "oracle")
    expected = embedded(index, run, weights)
    assert deafen(index) == 6 * 3
    found = embedded(index, run, weights)
    assert found[0].equals(expected[0]) and found[1:] == expected[1:] and not found[1]["oracle"]


def test_control_a_hearing_network_needs_the_audio_members(tmp_path):
    """Negative control of the two tests above: what the teacher hears changes its vectors, and it stops without its sound."""
    run, weights = run_of("dubbernet_teacher"), tmp_path / "w.safetensors"
    oracle = make_store(tmp_path / "oracle", "oracle")
    first, *_ = embedded(oracle, run, weights)
    second, *_ = embedded(make_store(tmp_path / "silence", "silence"), run, weights)
    assert np.abs(vectors_of(first) - vectors_of(second)).max() > 1e-3
    with pytest.raises(ShardError, match="have no companion"):
        embedded(make_store(tmp_path / "none"), run, weights)
    deafen(oracle)
    with pytest.raises(ShardError, match="the tar holds another member here"):
        embedded(oracle, run, weights)


@pytest.mark.parametrize(
    ("network", "what", "modality", "words", "sounding"),
    [
        ("dubbernet_teacher", "oracle", "frames+audio", "oracle frames + label-derived audio", 4),
        ("dubbernet_teacher", "silence", "frames+audio", "frames + silence", 5),
        ("dubbernet_teacher", "recorded", "frames+audio", "frames + recorded sound", 5),
        ("audio_probe", "oracle", "audio", "oracle audio only: label-derived audio", 4),
        ("audio_probe", "silence", "audio", "audio only: silence", 5),
        ("audio_probe", "recorded", "audio", "audio only: recorded sound", 5),
    ],
)
def test_what_was_heard_is_told(tmp_path, network, what, modality, words, sounding):
    """The distractor is never dubbed: 4 of 5 test tracklets hear where sound is label-derived."""
    run = run_of(network, test_companion=f"audio_{what}")
    table, meta, scored = embedded(make_store(tmp_path / "s", what), run, tmp_path / "w.safetensors")
    assert set(table.column("modality").to_pylist()) == {modality} and meta["modality"] == modality
    assert (meta["companion"], meta["trained_on"]) == (f"audio_{what}", "audio")
    assert meta["oracle"] is meta["label_derived"] is (what == "oracle") and meta["heard"] == sounding
    assert scored["modality"] == words and scored["oracle"] is (what == "oracle")
    assert (scored["companion"], scored["trained_on"]) == (f"audio_{what}", "audio")
    assert scored["heard"] == {"tracklets": 5, "with_sound": sounding}


def test_taught_by_voices_and_evaluated_in_silence_is_not_oracle(tmp_path):
    """The weights come from dubbed training; at test time everybody hears the same silence, which tells nobody apart."""
    weights = tmp_path / "w.safetensors"
    _, heard, _ = embedded(make_store(tmp_path / "o", "oracle"), run_of("dubbernet_teacher", test_companion="audio_oracle"), weights)
    silent = run_of("dubbernet_teacher", test_companion="audio_silence")
    _, meta, scored = embedded(make_store(tmp_path / "s", "silence"), silent, weights)
    assert heard["oracle"] and not meta["oracle"] and (meta["trained_on"], meta["policy"]) == ("audio", "silence")
    assert "oracle" not in scored["modality"]


def test_silence_is_the_same_for_everybody(tmp_path):
    """The probe in silence gives every tracklet one vector; with label-derived sound one per identity, which is the leak."""
    weights = tmp_path / "w.safetensors"
    silent = vectors_of(embedded(make_store(tmp_path / "s", "silence"), run_of("audio_probe"), weights)[0])
    assert np.ptp(silent, axis=0).max() < 1e-5
    leaking, _, scored = embedded(make_store(tmp_path / "o", "oracle"), run_of("audio_probe"), weights)
    names = leaking.column("tracklet").to_pylist()
    assert len(np.unique(vectors_of(leaking).round(4), axis=0)) == 3  # 0002, 0004, and the distractor that hears nothing
    assert names[0] == "0000C1" and scored["protocols"]["market"]["R1"] == 1


def test_frozen_tokens_are_heard_alike(tmp_path):
    run = run_of("dubbernet_teacher", kind="audio_tokens", test_companion="stub")
    _, meta, scored = embedded(make_store(tmp_path / "s", "silence", "audio_tokens"), run, tmp_path / "w.safetensors")
    assert meta["modality"] == "frames+audio_tokens" and scored["modality"] == "frames + silence"


@pytest.mark.parametrize(
    ("what", "kind", "run", "error", "message"),
    [
        ("training", "audio", {}, ConfigError, "may not hear"),
        ("oracle", "audio", {"bands": BANDS + 1}, ShardError, f"hold audio of {BANDS} bands"),
        ("silence", "audio_tokens", {}, ShardError, "hold audio_tokens"),
        ("oracle", "audio", {"hears": False}, ConfigError, "evaluated on frames alone"),
    ],
)
def test_who_may_not_hear_at_test_time(tmp_path, what, kind, run, error, message):
    """Sound made for training only, other sound than the network learned, a stage that must not hear."""
    with pytest.raises(error, match=message):
        embedded(make_store(tmp_path / "s", what, kind), run_of("dubbernet_teacher", **run), tmp_path / "w.safetensors")


# --- another data set than the run was trained on -----------------------------------------------------------------------

TARGET = embed.Target("toy", "main")


def on_toy(index, run, weights, target=TARGET):
    """(EMBEDDINGS, meta, metrics.json) of the test half of the store, which is of another data set than the run's."""
    split = tables.read(index.parent / "split.parquet", tables.SPLIT)
    table, meta = embed.embed(run, str(weights), Store(index), split, batch_frames=8, workers=0, target=target)
    return table, meta, metrics(table, meta, run, ["market"], ScoringConfig())[0]


def test_another_data_set_is_named_beside_the_runs_own(tmp_path):
    run, weights = run_of("dubbernet_student"), tmp_path / "w.safetensors"
    index = make_store(tmp_path / "s")
    plain_meta = embedded(index, run, weights)[1]
    _, meta, scored = on_toy(index, run, weights)
    assert {name: meta[name] for name in plain_meta} == plain_meta  # what the network is and saw stays as it is
    added = {"test_dataset": "toy", "test_split": "main", "camera_embedding": "mean of the learned cameras"}
    assert {name: meta[name] for name in meta if name not in plain_meta} == added
    assert (scored["dataset"], scored["split"], scored["trained_on"]) == (run.dataset, run.split, "audio")
    assert (scored["test_dataset"], scored["test_split"]) == ("toy", "main")


@pytest.mark.parametrize("network", ["dubbernet_student", "dubbernet_visual"])
def test_cameras_of_another_data_set_count_as_the_mean_of_those_learned(tmp_path, network):
    """Whatever their index: the same bits from a store whose cameras are swapped; and as if every camera had been learned as the mean."""
    run, weights = run_of(network), tmp_path / "w.safetensors"
    index = make_store(tmp_path / "s")
    known = vectors_of(embedded(index, run, weights)[0])
    found = vectors_of(on_toy(index, run, weights)[0])
    assert np.abs(found - known).max() > 1e-3  # negative control: cameras matter to this network
    alike = make(run, 2, 2)
    load(weights, alike)
    alike.embedding.camera.weight.data[:] = alike.embedding.camera.weight.data.mean(0)
    save(tmp_path / "alike.safetensors", alike, {"classes": 2, "cameras": 2})
    assert np.abs(found - vectors_of(embedded(index, run, tmp_path / "alike.safetensors")[0])).max() < 1e-5
    swapped = Store(index)
    rows = swapped.table.to_pylist()
    swapped.table = tables.table([{**row, "camera": 1 - row["camera"]} for row in rows], tables.INDEX)
    split = tables.read(index.parent / "split.parquet", tables.SPLIT)
    again, _ = embed.embed(run, str(weights), swapped, split, batch_frames=8, workers=0, target=TARGET)
    assert (vectors_of(again) == found).all()
    other, _ = embed.embed(run, str(weights), swapped, split, batch_frames=8, workers=0)
    assert np.abs(vectors_of(other) - known).max() > 1e-3  # negative control: the swap is seen


def test_more_cameras_than_were_learned(tmp_path):
    run, weights = run_of("dubbernet_visual"), tmp_path / "one.safetensors"
    torch.manual_seed(0)
    save(weights, make(run, 2, 1), {"classes": 2, "cameras": 1})
    index = make_store(tmp_path / "s")
    with pytest.raises(UserError, match=r"camera index 1, but the network learned cameras 0\.\.0"):
        embedded(index, run, weights)
    assert on_toy(index, run, weights)[0].num_rows == 5


def test_a_network_without_cameras_is_left_as_it_is(tmp_path):
    run, weights = run_of("dubbernet_visual"), tmp_path / "w.safetensors"
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, model=dataclasses.replace(TINY, camera_scale=0.0)))
    index = make_store(tmp_path / "s")
    expected = embedded(index, run, weights)[0]
    table, meta, _ = on_toy(index, run, weights)
    assert table.equals(expected) and meta["camera_embedding"] is None


def test_sound_of_another_data_set_is_not_taken(tmp_path):
    """A network that only sees does not depend on the companion packed there; one that hears is refused, even where it could hear."""
    run, weights = run_of("dubbernet_student"), tmp_path / "w.safetensors"
    index = make_store(tmp_path / "s", "silence")
    embedded(index, run, weights)
    expected = on_toy(make_store(tmp_path / "none"), run, weights)
    assert deafen(index) == 7 * 3
    found = on_toy(index, run, weights)
    assert found[0].equals(expected[0]) and found[1:] == expected[1:]
    for network in ("dubbernet_teacher", "audio_probe"):
        hearing, heard = run_of(network, test_companion="audio_silence"), make_store(tmp_path / network, "silence")
        assert embedded(heard, hearing, tmp_path / f"{network}.safetensors")[0].num_rows == 5
        with pytest.raises(ConfigError, match=r"hears, and sound of another data set \(toy\) is not taken"):
            on_toy(heard, hearing, tmp_path / f"{network}.safetensors")


def test_frames_of_another_size_say_what_to_set(tmp_path):
    run, weights = dataclasses.replace(run_of("dubbernet_visual"), height=64, width=32), tmp_path / "w.safetensors"
    torch.manual_seed(0)
    save(weights, make(run, 2, 2), {"classes": 2, "cameras": 2})
    with pytest.raises(ShardError, match=r"shards of toy hold frames of 32x16 .* datasets\.toy\.frames set to \{height: 64, width: 32\}"):
        on_toy(make_store(tmp_path / "s"), run, weights)


def test_the_step_refuses_what_is_not_said_or_was_trained_on(tmp_path):
    run, weights = run_of("dubbernet_student"), tmp_path / "w.safetensors"
    index = make_store(tmp_path / "s")
    embedded(index, run, weights)
    (tmp_path / "config.json").write_text(json.dumps(plain(run)))
    split, out = index.parent / "split.parquet", tmp_path / "e.parquet"
    rows = tables.read(split, tables.SPLIT)
    files = ["--config", tmp_path / "config.json", "--weights", weights, "--index", index, "--split", split]

    def step(dataset, name):
        embed.main([str(out), *map(str, files), "--test-dataset", dataset, "--test-split", name, "--batch-frames", "8"])

    for dataset, name, said in (
        (run.dataset, "main", "the run was trained on it, and persons who train in one of its splits are tested in another"),
        ("other", "main", "--index: is of dataset 'toy', but --test-dataset=other"),
        ("", "main", "--test-dataset= and --test-split=main: give both, or neither to test the run's own split"),
        ("toy", "1", "--split: is of split 'main', but --test-split=1"),
        ("toy", "", "--test-dataset=toy and --test-split=: give both"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            step(dataset, name)
    tables.write(split, rows, tables.SPLIT, {"dataset": "other", "split": "main"})
    with pytest.raises(ConfigError, match=r"--split: is of dataset 'other', but --test-dataset=toy"):
        step("toy", "main")
    assert not out.exists()
    tables.write(split, rows, tables.SPLIT, {"dataset": "toy", "split": "main"})
    step("toy", "main")  # negative control
    meta = tables.read_meta(out)
    assert (meta["dataset"], meta["test_dataset"], meta["test_split"]) == (run.dataset, "toy", "main")
    assert tables.read(out, tables.EMBEDDINGS).equals(on_toy(index, run, weights)[0])


class Step:
    """The step with a run of the store's own data set, which can be changed file by file."""

    def __init__(self, folder, **meta):
        self.run = dataclasses.replace(run_of("dubbernet_student"), dataset="toy", split="main")
        self.index, self.config, self.weights, self.out = (
            folder / n for n in ("s/00000.parquet", "config.json", "w.safetensors", "e.parquet")
        )
        make_store(folder / "s")
        self.split = self.index.with_name("split.parquet")
        torch.manual_seed(0)
        save(self.weights, make(self.run, 2, 2), {"classes": 2, "cameras": 2, **meta})

    def __call__(self, *more, **run):
        self.config.write_text(json.dumps(plain(dataclasses.replace(self.run, **run))))
        files = ("config", "weights", "index", "split")
        embed.main([str(self.out), *(f"--{name}={getattr(self, name)}" for name in files), *more])
        return tables.read_meta(self.out)

    def say(self, name, schema, **meta):
        """Write a table's meta anew."""
        path = getattr(self, name)
        kept = {key: value for key, value in tables.read_meta(path).items() if key not in ("schema", "version")}
        tables.write(path, tables.read(path, schema), schema, {key: value for key, value in {**kept, **meta}.items() if value is not None})


def test_the_runs_own_data_have_to_be_the_runs_own(tmp_path):
    """Else persons who train could be queries and gallery under the run's name."""
    step = Step(tmp_path)
    assert step()["dataset"] == "toy"  # negative control
    step.out.unlink()
    for run, said in (
        ({"dataset": "d"}, "--index: is of dataset 'toy', but config.json is for dataset 'd'; give those of the run"),
        ({"split": "0"}, "--split: is of split 'main', but config.json is for split '0'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            step(**run)
    for meta, said in (
        ({"dataset": "d"}, "--split: is of dataset 'd', but config.json is for dataset 'toy'"),
        ({"dataset": "toy", "split": None}, "--split: is of split None, but config.json is for split 'main'"),
    ):
        step.say("split", tables.SPLIT, **meta)
        with pytest.raises(ConfigError, match=re.escape(said)):
            step()
    assert not step.out.exists()


@pytest.mark.parametrize("name", ["index", "split"])
def test_data_that_were_trained_on_under_another_name(tmp_path, name):
    """Meta renamed: the digest of TRACKLETS still tells."""
    step = Step(tmp_path, tracklets="ab" * 32)
    schema = {"index": tables.INDEX, "split": tables.SPLIT}[name]
    target = ("--test-dataset=toy", "--test-split=main")
    for digest in ("cd" * 32, None):  # negative controls: made from others, or nobody noted from which
        step.say(name, schema, **{"from": digest and {"tracklets": digest}})
        assert step(*target, dataset="d")["test_dataset"] == "toy"
    step.say(name, schema, **{"from": {"tracklets": "ab" * 32}})
    with pytest.raises(
        ConfigError, match=rf"--{name}: says that it is of 'toy', but was made from the very TRACKLETS .*abababababababab\)"
    ):
        step(*target, dataset="d")
    assert step()["dataset"] == "toy"  # negative control: the run's own test half


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--workers=-1"], "--workers=-1: expected 0 or more"),
        (["--batch-frames=0"], "--batch-frames=0: expected 1 or more"),
        (["--threads=-2"], "--threads=-2: expected 0 or more"),
        (["--test-dataset=x"], "--test-dataset=x and --test-split=: give both"),
        (["--test-split=x"], "--test-dataset= and --test-split=x: give both"),
        (["--test-dataset=", "--test-split="], "give both, or neither"),
    ],
)
def test_arguments_are_refused_before_anything_is_read(given, said):
    files = ["out", "--config=a", "--weights=b", "--index=c", "--split=d"]
    with pytest.raises(ConfigError, match=re.escape(said)):
        embed.main([*files, *given])
    with pytest.raises(UserError, match="a: no such file"):  # negative control
        embed.main([*files, "--workers=0", "--batch-frames=1", "--threads=0", "--test-dataset=x", "--test-split=y"])


def test_the_step_leaves_its_inputs_alone(tmp_path):
    step = Step(tmp_path)
    step()  # negative control
    given = {name: getattr(step, name) for name in ("config", "weights", "index", "split")}
    for name, path in (*given.items(), ("a tar of --index", step.index.with_suffix(".tar"))):
        before, step.out = path.read_bytes(), path
        with pytest.raises(ConfigError, match=rf"OUT=.* is the same file as (--)?{name}=.*, which this step reads; name another file"):
            step()
        assert path.read_bytes() == before


def test_step_writes_the_word_into_the_table(tmp_path):
    """The whole step: oracle stands in the meta of EMBEDDINGS."""
    run, weights = run_of("dubbernet_teacher", test_companion="audio_oracle"), tmp_path / "w.safetensors"
    run = dataclasses.replace(run, dataset="toy", split="main")
    index = make_store(tmp_path / "s", "oracle")
    embedded(index, run, weights)
    (tmp_path / "config.json").write_text(json.dumps(plain(run)))
    files = ["--config", tmp_path / "config.json", "--weights", weights, "--index", index, "--split", index.parent / "split.parquet"]
    embed.main([str(tmp_path / "e.parquet"), *map(str, files)])
    assert tables.read_meta(tmp_path / "e.parquet")["oracle"] is True
    assert tables.read(tmp_path / "e.parquet", tables.EMBEDDINGS).num_rows == 5
