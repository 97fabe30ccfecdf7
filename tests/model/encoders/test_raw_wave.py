"""wav2vec 2.0: number of tokens, normalisation, attention to the clip alone, published names."""

import pytest
import torch
from torch import Tensor
from torchaudio.models import hubert_base, wav2vec2_base, wav2vec2_model
from torchaudio.pipelines import HUBERT_BASE, WAV2VEC2_BASE

from model.encoders.fill import fill
from model.encoders.raw_wave import RawWave, normalise_waves
from pipeline.base.errors import WeightsError
from tests.model.encoders.small import network, noise, raw_wave, written


def published(encoder: RawWave) -> dict[str, Tensor]:
    """Weights under the names of torchaudio's files."""
    normed = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    out = {}
    for name, tensor in encoder.network.state_dict().items():
        for ours, theirs in normed.items():
            name = name.replace(ours, theirs)
        out[name] = tensor
    return out


@pytest.mark.parametrize(("samples", "steps"), [(400, 1), (719, 1), (720, 2), (16_000, 49), (80_000, 249)])
def test_one_token_every_20_ms(samples, steps):
    encoder = raw_wave()
    assert encoder.valid_steps(torch.tensor([samples])).tolist() == [steps]
    assert encoder.network(torch.zeros(1, samples))[0].shape[1] == steps
    assert encoder.tokens == 249


def test_normalised_by_hand():
    found = normalise_waves(torch.tensor([[1.0, 3.0, 9.0], [2.0, 2.0, 2.0]]), torch.tensor([2, 3]))
    assert found[0].tolist() == pytest.approx([-1, 1, 0], abs=1e-6)
    assert found[1].tolist() == [0, 0, 0]


def test_a_whole_clip_gives_the_last_layer():
    encoder = raw_wave().eval()
    wave, samples = noise(80_000)
    layers, _ = encoder.network.extract_features((wave - wave.mean()) / wave.std(unbiased=False))
    assert len(layers) == 2
    assert torch.allclose(encoder(wave, samples, 0), layers[-1], atol=1e-4)


def test_the_level_of_a_recording_does_not_matter():
    encoder = raw_wave().freeze()
    wave, samples = noise(30_000)
    assert torch.allclose(encoder(wave, samples, 4), encoder(0.2 * wave + 0.1, samples, 4), atol=1e-3)


def test_the_transformer_does_not_attend_to_padding():
    encoder = raw_wave().freeze()
    wave, samples = noise(30_000)
    padded = torch.nn.functional.pad(normalise_waves(wave, samples), (0, 50_000))
    deaf, everything = (encoder.network(padded, lengths)[0][:, :93] for lengths in (samples, None))
    assert torch.equal(encoder(wave, samples, 0)[:, :93], deaf)
    assert not torch.allclose(deaf, everything, atol=1e-3)


def test_freezing_changes_no_token():
    wave, samples = noise(80_000)
    assert torch.allclose(raw_wave().eval()(wave, samples, 4), raw_wave().freeze()(wave, samples, 4), atol=1e-6)
    assert "network.encoder.transformer.pos_conv_embed.conv.weight" in raw_wave().freeze().state_dict()


@pytest.mark.parametrize("names", ["published", "current"])
def test_files_of_torchaudio_are_read(tmp_path, names):
    source = raw_wave(seed=1)
    tensors = published(source) if names == "published" else source.network.state_dict()
    assert ("encoder.transformer.pos_conv_embed.conv.weight_g" in tensors) == (names == "published")
    encoder = raw_wave()
    fill(written(tmp_path / "w.safetensors", tensors), encoder)
    wave, samples = noise(20_000)
    assert torch.equal(encoder.freeze()(wave, samples, 4), source.freeze()(wave, samples, 4))
    assert not torch.allclose(encoder(wave, samples, 4), raw_wave().freeze()(wave, samples, 4), atol=1e-2)


def test_letters_of_a_recogniser_are_left_unread_and_nothing_else(tmp_path):
    torch.manual_seed(0)
    recogniser = RawWave(network(aux_num_out=29))
    tensors = published(recogniser)
    assert [name for name in tensors if name.startswith("aux")] == ["aux.weight", "aux.bias"]
    fill(written(tmp_path / "w.safetensors", tensors), raw_wave())
    tensors["mask_embedding"] = torch.zeros(16)
    with pytest.raises(WeightsError, match="1 unexpected: mask_embedding"):
        fill(written(tmp_path / "w.safetensors", tensors), raw_wave())


def test_base_networks_are_those_of_the_published_files():
    """Shapes alone, without memory: what the bundles describe is what is built."""
    for build, bundle in ((wav2vec2_base, WAV2VEC2_BASE), (hubert_base, HUBERT_BASE)):
        with torch.device("meta"):
            ours, theirs = build().state_dict(), wav2vec2_model(**bundle._params).state_dict()
        assert {name: tensor.shape for name, tensor in ours.items()} == {name: tensor.shape for name, tensor in theirs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("build", [wav2vec2_base, hubert_base])
def test_base_networks_give_249_tokens_of_width_768(build):
    torch.manual_seed(0)
    encoder = RawWave(build()).freeze()
    wave, samples = noise(80_000)
    assert encoder(wave, samples, 0).shape == (1, 249, 768)
    assert encoder(wave, samples, 16).shape == (1, 16, 768)
