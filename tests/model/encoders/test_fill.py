"""Weight files that cannot be used: one sentence each, and the encoder stays as it was."""

import pickle

import pytest
import torch

from model.encoders.fill import fill
from pipeline.base.errors import WeightsError
from tests.model.encoders.small import raw_wave, spectrogram, written


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "w.safetensors", raw_wave(seed=1).network.state_dict())


def untouched(encoder):
    return all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), raw_wave().state_dict().values(), strict=True))


def test_a_whole_file_is_copied(file):
    encoder = raw_wave()
    fill(file, encoder)
    assert not untouched(encoder)


def spoil(file, how):
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "pickle":
        file.write_bytes(pickle.dumps({"weight": 1}))
    elif how == "torch":
        torch.save({"weight": torch.zeros(1)}, file)
    elif how == "gone":
        file.unlink()
    elif how == "other":
        written(file, spectrogram().state_dict())
    elif how == "wider":
        tensors = raw_wave().network.state_dict()
        tensors["encoder.feature_projection.projection.bias"] = torch.zeros(17)
        written(file, tensors)
    else:
        tensors = raw_wave().network.state_dict()
        tensors["encoder.feature_projection.projection.bias"] = torch.zeros(16, dtype=torch.int32)
        written(file, tensors)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "no whole safetensors file"),
        ("empty", "no whole safetensors file"),
        ("pickle", "a pickle"),
        ("torch", "a pickle"),
        ("gone", "cannot be read"),
        ("other", r"missing: feature_extractor.* unexpected: blocks"),
        ("wider", r"1 different: encoder\.feature_projection\.projection\.bias is float32 \[17\] instead of float32 \[16\]"),
        ("whole numbers", r"1 different: .* is int32 \[16\]"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(file, how, message):
    spoil(file, how)
    encoder = raw_wave()
    with pytest.raises(WeightsError, match=message) as error:
        fill(file, encoder)
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)
    assert untouched(encoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(file, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in raw_wave(seed=1).network.state_dict().items()}
    encoder = raw_wave()
    fill(written(file, tensors), encoder)
    expected = raw_wave(seed=1).state_dict()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, expected[name].to(dtype).float())
