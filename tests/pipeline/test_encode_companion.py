"""The items of one shard, each once, in the same bytes whatever the threads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.base.errors import ConfigError, SourceError
from pipeline.base.seeds import rng
from pipeline.base.tables import ALIGNMENT, FEATURES, PLAN, read, read_meta, write_rows
from pipeline.encode_companion import main
from pipeline.features import audio

SECONDS = {"x_0": 1.0, "x_1": 0.7, "y_0": 6.0}


def run(tracklet: str, first: int, item: str, **other: Any) -> dict[str, Any]:
    path = f"{item}.wav" if item in SECONDS else ""
    row = {"tracklet": tracklet, "first": first, "last": first + 5, "item": item, "owner": item[0], "path": path, "start": None}
    return {**row, "seconds": SECONDS.get(item, 5.0), **other}


@pytest.fixture
def shard(tmp_path):
    for name, seconds in SECONDS.items():
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng(0, name).standard_normal(round(seconds * 22050)), 22050, subtype="FLOAT")
    rows = [
        run("t1", 0, "x_0"),
        run("t1", 6, "x_1"),
        run("t2", 0, "x_0"),
        run("t2", 6, "silence"),
        run("t3", 0, "y_0"),
        run("t3", 6, "noise_1"),
    ]
    write_rows(tmp_path / "a.parquet", rows, ALIGNMENT)
    plan = [("t1", 0, 0), ("t2", 0, 1), ("t3", 1, 0), ("t4", 2, 0)]
    write_rows(tmp_path / "p.parquet", [{"tracklet": t, "shard": s, "order": o, "frames": 12} for t, s, o in plan], PLAN)
    return tmp_path


def step(folder: Path, number: int, threads: int = 1, seed: int = 0, config: dict[str, Any] | None = None, **audio_settings: Any) -> Path:
    out = folder / f"f{number}-{threads}-{seed}.parquet"
    arguments = [str(out), "--alignment", str(folder / "a.parquet"), "--plan", str(folder / "p.parquet"), "--shard", str(number)]
    main(
        [
            *arguments,
            "--root",
            str(folder),
            "--seed",
            str(seed),
            "--threads",
            str(threads),
            "--config",
            json.dumps({"audio": audio_settings, **(config or {})}),
        ]
    )
    return out


def arrays(path: Path) -> dict[str, np.ndarray]:
    rows = read(path, FEATURES).to_pylist()
    return {r["item"]: np.frombuffer(r["values"], r["dtype"]).reshape(r["length"], r["width"]) for r in rows}


def test_each_item_of_the_shard_once(shard):
    found = arrays(step(shard, 0))
    assert {item: a.shape for item, a in found.items()} == {"silence": (501, 80), "x_0": (101, 80), "x_1": (71, 80)}
    assert {a.dtype for a in found.values()} == {np.dtype("float16")}
    assert np.allclose(found["silence"], np.log(1e-10), atol=0.01)
    assert arrays(step(shard, 1)).keys() == {"y_0", "noise_1"}
    assert arrays(step(shard, 2)) == {}


def test_values_are_those_of_the_chain(shard):
    found = arrays(step(shard, 1))
    wave, rate, _ = audio.decode(shard / "y_0.wav")
    config = audio.AudioConfig()
    expected = audio.log_mel(audio.fit_rate(wave, rate, config), config).astype(np.float16)
    assert np.array_equal(found["y_0"], expected)
    assert expected.shape == (501, 80)  # six seconds, cut to five


def test_bytes_do_not_depend_on_threads(shard):
    assert step(shard, 0, 1).read_bytes() == step(shard, 0, 3).read_bytes()


def test_only_noise_depends_on_the_seed(shard):
    a, b = arrays(step(shard, 1, seed=0)), arrays(step(shard, 1, seed=1))
    assert np.array_equal(a["y_0"], b["y_0"])
    assert not np.array_equal(a["noise_1"], b["noise_1"])


def test_settings_and_versions_are_noted(shard):
    out = step(shard, 0, bands=40)
    meta = read_meta(out)
    assert {a.shape[1] for a in arrays(out).values()} == {40}
    assert (meta["audio"]["bands"], meta["audio"]["hop"], meta["shard"], meta["kind"]) == (40, 160, 0, "audio")
    assert (meta["form"], meta["bands"]) == ("log-mel", 40)
    assert meta["versions"].keys() == {"soundfile", "libsndfile", "soxr", "numpy"}
    assert str(shard) not in json.dumps(meta)


@pytest.mark.parametrize("kind", ["audio", "audio_tokens"])
def test_torch_is_not_needed(shard, repository, kind):
    """Importing it takes longer than a third of a shard's clips. With libsndfile out of reach, too, the step fails (negative control)."""
    arguments = ["out.parquet", "--alignment", "a.parquet", "--plan", "p.parquet", "--shard", "0", "--root", ".", "--seed", "0"]
    arguments += ["--config", json.dumps({"kind": kind})]

    def without(*blocked: str) -> int:
        code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); sys.path.insert(0, {str(repository)!r}); "
        code += f"from pipeline.encode_companion import main; main({arguments!r})"
        return subprocess.run([sys.executable, "-c", code], cwd=shard, capture_output=True, check=False).returncode

    assert without("torch", "torchaudio", "torchvision", "scipy") == 0
    assert arrays(shard / "out.parquet").keys() == {"silence", "x_0", "x_1"}
    assert without("torch", "torchaudio", "torchvision", "scipy", "soundfile") != 0


@pytest.mark.parametrize(
    ("damage", "message"), [("cut", "x_1.wav: changed"), ("gone", "x_1.wav: missing"), ("broken", "x_1.wav: unreadable")]
)
def test_a_clip_that_changed_since_it_was_probed_stops_the_step(shard, damage, message):
    path = shard / "x_1.wav"
    if damage == "cut":
        soundfile.write(path, np.full(15000, 0.1), 22050)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"broken")
    with pytest.raises(SourceError, match=rf"{message}.*run align_companion again"):
        step(shard, 0, 2)
    assert list(shard.glob("f*")) == []


def test_an_empty_filter_is_refused(shard):
    with pytest.raises(ConfigError, match=r"audio\.bands=128"):
        step(shard, 0, bands=128)


# --- audio tokens ----------------------------------------------------------------------------------------------------

TOKENS = {"kind": "audio_tokens"}


def test_waves_of_each_item(shard, capsys):
    out = step(shard, 0, config=TOKENS)
    found = arrays(out)
    assert {item: (a.shape, str(a.dtype)) for item, a in found.items()} == {
        "silence": ((80_000, 1), "int16"),
        "x_0": ((16_000, 1), "int16"),
        "x_1": ((11_200, 1), "int16"),
    }
    meta = read_meta(out)
    assert (meta["kind"], meta["form"], meta["bands"], meta["shard"]) == ("audio_tokens", "waves", 1, 0)
    assert meta["waves"] == {"rate": 16_000, "seconds": 5.0}
    assert meta["versions"].keys() == {"soundfile", "libsndfile", "soxr", "numpy"}
    assert "encode_companion: 3 items as waves, 107200 x 1 values" in capsys.readouterr().out
    assert arrays(step(shard, 1, config=TOKENS))["y_0"].shape == (80_000, 1)  # six seconds, cut to five
    assert read_meta(step(shard, 2, config=TOKENS))["form"] == "waves"


def test_bytes_of_waves_do_not_depend_on_threads_or_mel_settings(shard):
    waves = step(shard, 0, 1, config=TOKENS)
    assert waves.read_bytes() == step(shard, 0, 3, config=TOKENS, bands=128, n_fft=400).read_bytes()


def precomputed(folder: Path, **tokens: Any) -> dict[str, Any]:
    store = folder / "store"
    store.mkdir(exist_ok=True)
    return {"kind": "audio_tokens", "tokens": {"encoder": "precomputed", "store": str(store), "tokens": 2, "width": 3, **tokens}}


def test_precomputed_tokens_of_each_item(shard):
    config = precomputed(shard)
    for k, name in enumerate(("x_0", "x_1", "silence")):
        np.save(shard / "store" / f"{name}.npy", np.arange(4 * 3, dtype=np.float32).reshape(4, 3) + 100 * k)
    (shard / "x_1.wav").unlink()  # nobody decodes it here
    out = step(shard, 0, 2, config=config)
    found = arrays(out)
    assert found["x_1"].tolist() == [[101.5, 102.5, 103.5], [107.5, 108.5, 109.5]]
    assert {str(a.dtype) for a in found.values()} == {"float16"} and found.keys() == {"x_0", "x_1", "silence"}
    meta = read_meta(out)
    assert (meta["kind"], meta["form"], meta["bands"]) == ("audio_tokens", "tokens", 3)
    assert meta["tokens"] == {"encoder": "precomputed", "weights_sha256": "", "length": 2, "rate": None, "seconds": None}
    assert str(shard) not in json.dumps(meta)


def test_precomputed_tokens_that_are_missing_stop_the_step(shard):
    config = precomputed(shard)
    for name in ("x_0", "x_1"):
        np.save(shard / "store" / f"{name}.npy", np.zeros((4, 3), np.float32))
    with pytest.raises(SourceError, match=r"store/silence\.npy: no such file"):
        step(shard, 0, config=config)
    assert list(shard.glob("f*")) == []


def test_settings_of_tokens_are_checked_first(shard):
    with pytest.raises(ConfigError, match=r"audio\.rate=8000: 'logmel_stub' hears 16000"):
        step(shard, 0, config=TOKENS, rate=8000, high_hz=4000)
    with pytest.raises(ConfigError, match=r"tokens\.store is empty"):
        step(shard, 0, config={"kind": "audio_tokens", "tokens": {"encoder": "precomputed"}})
