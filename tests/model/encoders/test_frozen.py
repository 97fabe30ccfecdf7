"""What all encoders promise: frozen, deaf to padding, each clip by itself, averages over the part that is sound."""

import pytest
import torch
from torch import Tensor

from model.encoders.frozen import SAMPLES, FrozenEncoder
from tests.model.encoders.small import SMALL, noise


class Counting(FrozenEncoder):
    """Five steps of 16,000 samples; the token of step i holds i."""

    tokens = 5

    def all_tokens(self, wave_NS: Tensor, samples_N: Tensor) -> Tensor:
        assert wave_NS.shape[1] == SAMPLES
        return torch.arange(5.0)[None, :, None].expand(len(wave_NS), -1, 2)

    def valid_steps(self, samples_N: Tensor) -> Tensor:
        return samples_N // 16_000


@pytest.fixture(params=SMALL, scope="module")
def encoder(request):
    return SMALL[request.param]().freeze()


def test_averages_by_hand():
    wave, samples = noise(80_000, 48_000)
    found = Counting()(wave, samples, 2)
    assert found[:, :, 0].tolist() == [[1, 3], [0.5, 1.5]]  # 0 1 2 and 2 3 4; 0 1 and 1 2
    assert Counting()(wave, samples, 0)[:, :, 1].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert Counting()(wave, samples, 4)[1, :, 0].tolist() == [0, 0.5, 1.5, 2]  # three steps for four tokens: stretches overlap


def test_frozen(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    tokens = encoder(*noise(20_000), 4)
    assert tokens.is_inference() and tokens.dtype == torch.float32


@pytest.mark.parametrize("length", [0, 3, 16])
def test_shapes_and_finite_numbers(encoder, length):
    wave, samples = noise(80_000, 31_234)
    found = encoder(wave, samples, length)
    assert found.shape[:2] == (2, length or encoder.tokens)
    assert torch.isfinite(found).all() and not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("length", [0, 4])
def test_padding_changes_nothing(encoder, length):
    wave, samples = noise(33_333)
    alone = encoder(wave, samples, length)
    for behind in (torch.zeros(1, 1), torch.full((1, 30_000), torch.nan), torch.ones(1, 60_000)):
        assert torch.equal(encoder(torch.cat([wave, behind], dim=1), samples, length), alone)
    heard = encoder(torch.cat([wave, torch.zeros(1, 30_000)], dim=1), samples + 30_000, length)
    assert not torch.allclose(heard, alone, atol=1e-3)  # control: the same zeros as sound


@pytest.mark.parametrize("length", [0, 4])
def test_clips_do_not_see_each_other(encoder, length):
    wave, samples = noise(80_000, 9_000, 40_000)
    together = encoder(wave, samples, length)
    for i, n in enumerate(samples.tolist()):
        assert torch.allclose(encoder(wave[i : i + 1, :n], samples[i : i + 1], length)[0], together[i], atol=2e-5)


def test_tokens_follow_time(encoder):
    """The second half of a clip is another one, as loud: tokens of the second half move, those of the first hardly."""
    wave, samples = noise(80_000)
    other = torch.cat([wave[:, :40_000], noise(40_000, seed=1)[0]], dim=1)
    gap = (encoder(wave, samples, 16) - encoder(other, samples, 16))[0].square().mean(1)
    assert gap[9:].min() > 4 * gap[:7].max()


@pytest.mark.parametrize("count", [1, 160, 399])
def test_a_clip_shorter_than_one_step_counts_as_one(encoder, count):
    wave, samples = noise(count)
    found = encoder(wave, samples, 4)
    assert torch.equal(found, encoder(torch.nn.functional.pad(wave, (0, 400 - count)), torch.tensor([400]), 4))
    assert torch.isfinite(found).all()


def test_silence_is_finite(encoder):
    assert torch.isfinite(encoder(torch.zeros(1, 16_000), torch.tensor([16_000]), 16)).all()
