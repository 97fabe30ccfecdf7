"""Encoders by name: those that settings accept, with the numbers that settings promise."""

from typing import get_args

import pytest
import torch

from model import encoders
from model.encoders import ENCODERS, make
from pipeline.base.config import ALL_TOKENS, NEEDS_WEIGHTS, Encoder
from pipeline.base.errors import WeightsError
from tests.model.encoders import small
from tests.model.encoders.small import noise, written


@pytest.fixture
def few(monkeypatch):
    """The registry with small networks."""
    raw = lambda: encoders.RawWave(small.network())  # noqa: E731
    made = {"random_frozen": raw, "wav2vec2_base": raw, "hubert_base": raw, "ast": small.spectrogram}
    monkeypatch.setattr(encoders, "ENCODERS", {**ENCODERS, **made})


def test_names_and_numbers_are_those_of_the_settings():
    assert {*ENCODERS, "precomputed"} == set(get_args(Encoder))
    assert ENCODERS.keys() == ALL_TOKENS.keys()
    with torch.device("meta"):
        assert {name: ENCODERS[name]().tokens for name in ("ast",)} == {"ast": ALL_TOKENS["ast"]}
    assert ENCODERS["logmel_stub"]().tokens == ALL_TOKENS["logmel_stub"]
    assert {ALL_TOKENS[name] for name in ("random_frozen", "wav2vec2_base", "hubert_base")} == {small.raw_wave().tokens}


@pytest.mark.parametrize("name", NEEDS_WEIGHTS)
def test_weights_that_are_not_given_are_asked_for(name):
    with pytest.raises(WeightsError, match=rf"'{name}' needs weights: set companions\.<name>\.tokens\.weights .*model\.convert_weights"):
        make(name, 0, None)


@pytest.mark.parametrize("name", ["logmel_stub", "random_frozen"])
def test_weights_that_nobody_reads_are_refused(tmp_path, name):
    with pytest.raises(WeightsError, match=f"'{name}' reads no weights"):
        make(name, 0, tmp_path / "w.safetensors")


def test_the_stub_has_no_seed():
    assert torch.equal(make("logmel_stub", 0, None).matrix, make("logmel_stub", 1, None).matrix)


def test_random_frozen_follows_the_seed_and_leaves_torchs_generator_alone(few):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    wave, samples = noise(20_000)
    first, again, other = (make("random_frozen", seed, None)(wave, samples, 4) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)
    assert torch.equal(torch.rand(3), expected)


def test_a_file_decides_whatever_the_seed(few, tmp_path):
    path = written(tmp_path / "w.safetensors", small.raw_wave(seed=3).network.state_dict())
    wave, samples = noise(20_000)
    expected = small.raw_wave(seed=3).freeze()(wave, samples, 4)
    for name, seed in (("wav2vec2_base", 0), ("hubert_base", 1)):
        made = make(name, seed, path)
        assert torch.equal(made(wave, samples, 4), expected)
        assert not made.training and not any(parameter.requires_grad for parameter in made.parameters())
