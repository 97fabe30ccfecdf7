"""The step: waveforms -> tokens, the same bytes whatever the threads, without anything that decodes sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import encode_tokens, encoders
from model.encoders import make
from pipeline.base.errors import ConfigError, ShardError, TableError, WeightsError
from pipeline.base.files import digest_file
from pipeline.base.seeds import rng
from pipeline.base.tables import FEATURES, PLAN, read, read_meta, write_rows
from tests.model.encoders import small
from tests.test_imports import HEAVY

SAMPLES = {"a": 80_000, "b": 20_000, "c": 48_000, "silence": 80_000, "tiny": 100}
META = {"kind": "audio_tokens", "form": "waves", "bands": 1, "shard": 3, "seed": 7, "waves": {"rate": 16_000, "seconds": 5.0}}
META |= {"versions": {"soxr": "1"}}


def clip(name: str) -> np.ndarray:
    if name == "silence":
        return np.zeros(SAMPLES[name], np.int16)
    return (3000 * rng(0, name).standard_normal(SAMPLES[name])).astype(np.int16)


def row(item: str, values: np.ndarray) -> dict[str, Any]:
    return {"item": item, "values": values.tobytes(), "length": len(values), "width": 1, "dtype": str(values.dtype)}


@pytest.fixture
def waves(tmp_path):
    write_rows(tmp_path / "waves.parquet", [row(name, clip(name)) for name in SAMPLES], FEATURES, META)
    return tmp_path / "waves.parquet"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Small networks under the names of the real ones."""
    raw = lambda: encoders.RawWave(small.network())  # noqa: E731
    made = {"random_frozen": raw, "hubert_base": raw, "ast": small.spectrogram}
    monkeypatch.setattr(encoders, "ENCODERS", {**encoders.ENCODERS, **made})


def step(waves: Path, *more: str, seed: int = 0, out: str = "tokens.parquet", **config: Any) -> Path:
    made = waves.parent / out
    encode_tokens.main([str(made), "--waves", str(waves), "--config", json.dumps(config), "--seed", str(seed), *more])
    return made


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {r["item"]: np.frombuffer(r["values"], r["dtype"]).reshape(r["length"], r["width"]) for r in read(path, FEATURES).to_pylist()}


@pytest.mark.parametrize("encoder", ["logmel_stub", "random_frozen"])
def test_each_item_becomes_what_the_encoder_makes_of_it(waves, encoder):
    found = arrays(step(waves, encoder=encoder))
    assert found.keys() == SAMPLES.keys()
    frozen = make(encoder, 0, None)
    for name, values in found.items():
        wave = torch.from_numpy(clip(name).astype(np.float32) / 32768)[None]
        assert values.dtype == np.float16 and values.shape == (16, 768 if encoder == "logmel_stub" else 16)
        assert np.array_equal(values, frozen(wave, torch.tensor([SAMPLES[name]]), 16)[0].half().numpy())


def test_zero_means_all_tokens_of_the_padded_clip(waves):
    found = arrays(step(waves, encoder="logmel_stub", tokens=0))
    assert {values.shape for values in found.values()} == {(501, 768)}
    assert not found["b"][126:].any() and found["b"][:126].any()


def test_meta(waves):
    meta = read_meta(step(waves, seed=5))
    assert {**meta, "versions": None} == {
        **{"kind": "audio_tokens", "form": "tokens", "bands": 768, "shard": 3, "seed": 5, "versions": None},
        **{"schema": "features", "version": 1},
        "tokens": {"encoder": "logmel_stub", "weights_sha256": "", "length": 16, "rate": 16_000, "seconds": 5.0},
    }
    assert meta["versions"].keys() == {"soxr", "torch", "torchaudio", "timm"}
    assert read_meta(step(waves, tokens=0))["tokens"]["length"] == 501


def test_weights_are_named_by_their_digest(waves):
    file = small.written(waves.parent / "w.safetensors", small.raw_wave(seed=1).network.state_dict())
    out = step(waves, "--weights", str(file), encoder="hubert_base")
    assert read_meta(out)["tokens"]["weights_sha256"] == digest_file(file)
    assert str(waves.parent) not in json.dumps(read_meta(out))


def test_bytes_do_not_depend_on_threads_or_neighbours(waves):
    for encoder in ("logmel_stub", "random_frozen"):
        one, three = (step(waves, "--threads", n, encoder=encoder, out=n).read_bytes() for n in ("1", "3"))
        assert one == three
    whole = arrays(step(waves, encoder="random_frozen"))
    write_rows(waves, [row(name, clip(name)) for name in ("b", "c")], FEATURES, META)
    part = arrays(step(waves, encoder="random_frozen"))
    assert all(np.array_equal(part[name], whole[name]) for name in ("b", "c"))


def test_batches_give_the_same_tokens_to_rounding(waves):
    alone, together = (arrays(step(waves, "--batch", n, encoder="random_frozen")) for n in ("1", "2"))
    for name in SAMPLES:
        assert np.abs(alone[name].astype(np.float32) - together[name].astype(np.float32)).max() < 4e-3  # two steps of float16 at 2


def test_only_random_frozen_depends_on_the_seed(waves):
    stub, network = ([arrays(step(waves, seed=seed, encoder=name))["a"] for seed in (0, 1)] for name in ("logmel_stub", "random_frozen"))
    assert np.array_equal(*stub) and not np.allclose(*network, atol=1e-2)


def test_a_shard_without_items(waves, capsys):
    write_rows(waves, [], FEATURES, META)
    out = step(waves)
    assert read(out, FEATURES).num_rows == 0 and read_meta(out)["tokens"]["length"] == 16
    assert capsys.readouterr().out.startswith("encode_tokens: 0 items by logmel_stub on cpu, 16 tokens of 768 each, ")


def test_one_line_at_the_end(waves, capsys):
    step(waves, tokens=4)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("encode_tokens: 5 items by logmel_stub on cpu, 4 tokens of 768 each, ") and line.endswith(
        " s of audio per second"
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"dtype": "float32"}, r"item a: 160000 bytes as float32 \[80000, 1\], expected int16 \[1\.\.80000, 1\]"),
        ({"width": 2}, r"as int16 \[80000, 2\]"),
        ({"length": 79_999}, r"160000 bytes as int16 \[79999, 1\]"),
        ({"values": b"", "length": 0}, r"0 bytes as int16 \[0, 1\]"),
        ({"values": bytes(160_002), "length": 80_001}, r"int16 \[80001, 1\]"),
    ],
)
def test_rows_that_are_no_waveforms(waves, bad, message):
    write_rows(waves, [{**row("a", clip("a")), **bad}], FEATURES, META)
    with pytest.raises(ShardError, match=message):
        step(waves)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"form": "log-mel"}, "hold log-mel, expected waves"),
        ({"form": "tokens"}, "hold tokens, expected waves"),
        ({"waves": {"rate": 8000, "seconds": 5.0}}, "8000 samples per second, expected 16000"),
    ],
)
def test_other_features_are_refused(waves, meta, message):
    write_rows(waves, [], FEATURES, {**META, **meta})
    with pytest.raises(ShardError, match=message):
        step(waves)
    write_rows(waves, [], PLAN)
    with pytest.raises(TableError, match="found plan table"):
        step(waves)


def test_settings_that_cannot_work(waves):
    with pytest.raises(ConfigError, match="precomputed: these tokens are there already"):
        step(waves, encoder="precomputed")
    with pytest.raises(ConfigError, match=r"tokens\.encodr: unknown setting; did you mean 'encoder'"):
        step(waves, encodr="ast")
    with pytest.raises(ConfigError, match="--batch -1"):
        step(waves, "--batch", "-1")
    with pytest.raises(WeightsError, match=r"'ast' needs weights: set companions\.<name>\.tokens\.weights"):
        step(waves, encoder="ast")
    with pytest.raises(WeightsError, match=r"'logmel_stub' reads no weights"):
        step(waves, "--weights", "w.safetensors")
    assert not (waves.parent / "tokens.parquet").exists()


@pytest.mark.parametrize("value", [torch.nan, 1e30])
def test_damaged_weights_are_noticed(waves, value):
    tensors = small.raw_wave().network.state_dict()
    tensors["encoder.transformer.layers.1.final_layer_norm.bias"].fill_(value)
    file = small.written(waves.parent / "w.safetensors", tensors)
    with pytest.raises(WeightsError, match=r"item a: tokens that are not finite or too large for float16"):
        step(waves, "--weights", str(file), encoder="hubert_base")


def test_it_runs_without_what_gpu_nodes_lack(waves, repository):
    out = waves.parent / "t.parquet"
    arguments = ["encode_tokens", str(out), "--waves", str(waves), "--seed", "0"]
    code = f"import sys, runpy\nfor name in {HEAVY!r}: sys.modules[name] = None\nsys.argv = {arguments!r}\n"
    code += "runpy.run_module('model.encode_tokens', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert out.read_bytes() == step(waves).read_bytes()
