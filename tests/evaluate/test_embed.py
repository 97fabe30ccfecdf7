"""Clips are averaged per tracklet however they are batched; who may hear; the network gets no sound it must not have."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from evaluate import embed
from model.registry import MODELS
from model.weights import save
from pipeline.base import tables
from pipeline.base.batch import Batch
from pipeline.base.config import ClipConfig, MethodConfig, ModelConfig, StageConfig
from pipeline.base.errors import ConfigError, ScoreError, WeightsError
from tests.evaluate.test_score import RUN as BASE

TINY = ModelConfig(width=16, depth=2, heads=2, patch=16, stride=16, fusion_after_blocks=(0,), audio_tokens=2, audio_frames=8)
STAGE = StageConfig(network="dubbernet_visual")
RUN = dataclasses.replace(
    BASE, this=STAGE, settings=MethodConfig(stages={"student": STAGE}, companion="none", model=TINY, clip=ClipConfig(frames=2))
)


class Stub:
    """The first pixel of the first frame is the feature."""

    hears, kind = False, ""

    def check(self, batch):
        assert not batch.companions

    def embed(self, batch):
        return batch.frames[:, 0, 0, 0, :2].float()


def batch(names, values):
    frames = torch.zeros(len(names), 2, 3, 32, 16, dtype=torch.uint8)
    frames[:, :, :, 0, 0] = torch.tensor(values, dtype=torch.uint8)[:, None, None]
    return Batch(frames, torch.full((len(names),), -1), torch.zeros(len(names), dtype=torch.int64), list(names))


def test_clips_of_a_tracklet_are_averaged_across_batches():
    vectors = embed.tracklet_vectors(Stub(), [batch("ba", [10, 1]), batch("aab", [2, 6, 20])], "cpu")
    assert vectors.tracklet == ["a", "b"] and vectors.clips.tolist() == [3, 2]
    assert vectors.values.dtype == np.float32 and vectors.values[:, 0].tolist() == [3, 15]


def test_a_feature_that_is_no_number_stops_the_step():
    class Broken(Stub):
        def embed(self, batch):
            return torch.full((len(batch.tracklet), 2), float("nan"))

    with pytest.raises(ScoreError, match=r"tracklet a: .* NaN"):
        embed.tracklet_vectors(Broken(), [batch("a", [1])], "cpu")
    with pytest.raises(ScoreError, match="no clip"):
        embed.tracklet_vectors(Stub(), [], "cpu")


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
    network = MODELS["dubbernet_visual"](TINY, classes=3, cameras=2, bands=0, height=32, width=16)
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


@pytest.mark.parametrize(
    ("companion", "allowed"),
    [
        (None, False),
        ({"oracle": False, "policy": "id_speaker"}, False),
        ({"oracle": False, "policy": "shuffled"}, False),
        ({"oracle": True, "policy": "id_speaker"}, True),
        ({"oracle": False, "policy": "recorded"}, True),
    ],
)
def test_who_may_hear_at_test_time(companion, allowed):
    if allowed:
        embed.check_may_hear(companion, RUN)
    else:
        with pytest.raises(ScoreError, match="evaluate a stage that only sees"):
            embed.check_may_hear(companion, RUN)
