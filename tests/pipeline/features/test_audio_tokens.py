"""Waveforms for a frozen encoder; tokens that somebody else has made, good and bad."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from model.blocks.audio_tokens import pool_frames
from pipeline.base.build import build
from pipeline.base.config import CompanionConfig
from pipeline.base.errors import ConfigError, MediaError, SourceError
from pipeline.base.seeds import rng
from pipeline.features import ENCODERS, audio_tokens
from pipeline.features.audio_tokens import pool, precomputed


def companion(**settings: Any) -> CompanionConfig:
    return build(CompanionConfig, {"kind": "audio_tokens", **settings})


def waves(item: str, path: Path | None, seconds: float, seed: int = 0) -> np.ndarray:
    return ENCODERS["audio_tokens"].encode(item, path, None, seconds, companion(), seed)


# --- waveforms -------------------------------------------------------------------------------------------------------


def test_16_bit_sound_at_16_khz_comes_through_bit_by_bit(tmp_path):
    samples = rng(0, "pcm").integers(-32_768, 32_767, 20_000, dtype=np.int16, endpoint=True)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="PCM_16")
    found = waves("a", tmp_path / "a.wav", 1.25)
    assert found.dtype == np.int16 and found.shape == (20_000, 1)
    assert np.array_equal(found[:, 0], samples)


def test_sound_beyond_full_scale_is_cut_off_there(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.tile(np.float32([1.5, -1.5, 0.5, 1.0]), 4000), 16_000, subtype="FLOAT")
    assert waves("a", tmp_path / "a.wav", 1.0)[:4, 0].tolist() == [32_767, -32_768, 16_384, 32_767]


def test_other_rates_are_resampled_and_long_clips_cut(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * rng(0, "x").standard_normal(48_000 * 6), 48_000)
    assert waves("a", tmp_path / "a.wav", 6.0).shape == (80_000, 1)


def test_synthetic_items():
    assert waves("silence", None, 5.0).shape == (80_000, 1) and not waves("silence", None, 5.0).any()
    noise = waves("noise_1", None, 5.0)
    assert np.std(noise / 32_768) == pytest.approx(10 ** (-25 / 20), rel=0.01)
    assert not np.array_equal(noise, waves("noise_1", None, 5.0, seed=1))


def test_a_clip_that_changed_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
    with pytest.raises(MediaError, match="changed: 16000 samples"):
        waves("a", tmp_path / "a.wav", 1.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"audio": {"rate": 22_050}}, "audio.rate=22050: 'logmel_stub' hears 16000 samples per second"),
        ({"audio": {"max_seconds": 6.0}, "tokens": {"encoder": "ast"}}, "audio.max_seconds=6: 'ast' hears at most 5 s"),
        ({"tokens": {"encoder": "precomputed"}}, "tokens.store is empty"),
    ],
)
def test_settings_that_no_encoder_can_work_with(settings, message):
    with pytest.raises(ConfigError, match=message):
        audio_tokens.check(companion(**settings))


def test_mel_settings_do_not_matter():
    audio_tokens.check(companion(audio={"bands": 128, "max_seconds": 3.0}))  # kind 'audio' would refuse the empty band
    audio_tokens.check(companion(audio={"rate": 8000, "high_hz": 4000}, tokens={"encoder": "precomputed", "store": "x"}))


# --- precomputed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "length"), [(4, 2), (5, 2), (7, 3), (7, 7), (249, 16), (1214, 16)])
def test_pooled_as_the_encoders_that_run_here_pool(tokens, length):
    values = rng(0, tokens).standard_normal((tokens, 3))
    expected = pool_frames(torch.from_numpy(values)[None], torch.tensor([tokens]), length)[0]
    assert np.abs(pool(values, length) - expected.numpy()).max() < 1e-6


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(4, 3), (1, 4, 3)])
def test_a_file_in_either_shape_and_any_float(tmp_path, dtype, shape):
    np.save(tmp_path / "a.npy", np.arange(12, dtype=dtype).reshape(shape))
    found = precomputed(tmp_path / "a.npy", 2, 3)
    assert found.dtype == np.float16
    assert found.tolist() == [[1.5, 2.5, 3.5], [7.5, 8.5, 9.5]]


def test_column_order_does_not_matter(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(np.arange(12.0).reshape(4, 3)))
    assert precomputed(tmp_path / "a.npy", 2, 3).tolist() == [[1.5, 2.5, 3.5], [7.5, 8.5, 9.5]]


def spoil(path: Path, how: str) -> None:
    good = np.ones((4, 3), np.float32)
    arrays = {
        "width": np.ones((4, 5), np.float32),
        "one": good[:1],
        "few": good[:2],
        "nan": np.where(np.arange(12).reshape(4, 3) == 5, np.nan, good),
        "inf": good * np.inf,
        "large": good.astype(np.float64) * 1e6,
        "whole": good.astype(np.int32),
        "two": np.stack([good, good]),
        "flat": good.ravel(),
        "none": good[:0],
        "text": np.array(["a", "b"]),
        "complex": good.astype(np.complex64),
    }
    if how in arrays:
        np.save(path, arrays[how])
    elif how == "objects":
        np.save(path, np.array([[1, None]], object), allow_pickle=True)
    elif how == "archive":
        with open(path, "wb") as out:
            np.savez(out, a=good)
    elif how == "folder":
        path.mkdir()
    elif how != "gone":
        np.save(path, good)
        data = path.read_bytes()
        claim = data.replace(b"(4, 3), }" + b" " * 13, b"(4000000000000, 3), } ")
        changed = {"cut": data[:-1], "head": data[:40], "empty": b"", "pickle": pickle.dumps({"a": 1}), "claim": claim}
        changed["syntax"] = data.replace(b"(4, 3), }", b"(4, 3, {[")
        path.write_bytes(changed[how])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("gone", "no such file; every clip that is heard needs its tokens there"),
        ("width", r"tokens of width 5, expected 3; set companion\.tokens\.width"),
        ("one", "one token; at least 2 are needed, because attention over one key"),
        ("few", r"2 tokens, 3 wanted; set companion\.tokens\.tokens"),
        ("none", r"0 tokens, 3 wanted"),
        ("nan", "not finite, or beyond the 65504"),
        ("inf", "not finite, or beyond the 65504"),
        ("large", "not finite, or beyond the 65504"),
        ("whole", r"int32 \[4, 3\], expected floating point \[tokens, 3\] or \[1, tokens, 3\]"),
        ("two", r"float32 \[2, 4, 3\], expected floating point"),
        ("flat", r"float32 \[12\], expected floating point"),
        ("text", r"<U1 \[2\], expected floating point"),
        ("complex", r"complex64 \[4, 3\], expected floating point"),
        ("objects", r"no whole array of plain numbers"),
        ("archive", r"no \.npy file \(it begins with b'PK"),
        ("folder", r"no whole array of plain numbers \(Is a directory\)"),
        ("cut", r"no whole array of plain numbers"),
        ("head", r"no whole array of plain numbers"),
        ("empty", r"no \.npy file \(it begins with b'"),
        ("pickle", r"no \.npy file \(it begins with b'"),
        ("claim", r"no whole array of plain numbers"),
        ("syntax", r"no whole array of plain numbers"),
    ],
)
def test_bad_files_are_one_sentence_each(tmp_path, how, message):
    path = tmp_path / "a.npy"
    spoil(path, how)
    with pytest.raises(SourceError, match=message) as error:
        precomputed(path, 3, 3)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_files_are_named_like_the_clips(tmp_path):
    config = companion(tokens={"encoder": "precomputed", "store": str(tmp_path), "tokens": 2, "width": 3})
    folder = audio_tokens.folder(config, Path("voices"))
    assert folder == tmp_path and audio_tokens.folder(companion(), Path("voices")) == Path("voices")
    (tmp_path / "clips").mkdir()
    for name in ("clips/a.b.npy", "silence.npy"):
        np.save(tmp_path / name, np.ones((2, 3), np.float32))
    for item, path in (("a", folder / "clips/a.b.mp3"), ("silence", None)):
        assert audio_tokens.encode(item, path, None, 1.0, config, 0).tolist() == [[1, 1, 1]] * 2
    with pytest.raises(SourceError, match=r"noise_2\.npy: no such file"):
        audio_tokens.encode("noise_2", None, None, 5.0, config, 0)
    with pytest.raises(SourceError, match=r"item a: a part of .* \(from 1\.5 s\), but precomputed tokens belong to whole files"):
        audio_tokens.encode("a", folder / "clips/a.b.mp3", 1.5, 1.0, config, 0)
