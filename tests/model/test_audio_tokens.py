import pytest
import torch
from torch import nn

from model.blocks.audio_tokens import GivenTokens, LogMelTokens, audio_encoder, heard_by_frames, normalise_clips, pool_frames


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return LogMelTokens(bands=6, width=16, tokens=4).eval()


def test_normalised_by_hand():
    mel = torch.tensor([[[1.0, 3.0], [5.0, 7.0], [99.0, 99.0]]])  # two valid frames: mean 4, variance 5
    found = normalise_clips(mel, torch.tensor([2]))
    assert found[0].flatten().tolist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 3 / 5**0.5, 0, 0], abs=1e-5)


def test_the_recording_level_is_taken_out():
    mel = torch.randn(2, 9, 6)
    lengths = torch.tensor([9, 5])
    assert torch.allclose(normalise_clips(mel + 7.0, lengths), normalise_clips(mel, lengths), atol=1e-4)


def test_silence_is_zero_not_nan():
    assert not normalise_clips(torch.full((1, 9, 6), -23.0), torch.tensor([9])).any()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 13])
def test_pooling_is_torchs_adaptive_pooling_of_the_valid_part(length):
    torch.manual_seed(0)
    x = torch.randn(1, 13, 3)
    expected = nn.AdaptiveAvgPool1d(4)(x[:, :length].transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(pool_frames(x, torch.tensor([length]), 4), expected, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 21, 22, 23, 24, 37])
def test_padding_does_not_change_the_tokens(encoder, length):
    torch.manual_seed(length)
    clip = torch.randn(1, length, 6) * 3 - 8
    alone = encoder(clip, torch.tensor([length]))
    for padding in (torch.zeros(1, 9, 6), torch.full((1, 1, 6), torch.inf)):
        padded = torch.cat([clip, padding], dim=1)
        assert torch.allclose(encoder(padded, torch.tensor([length])), alone, atol=1e-5)
    cut = encoder(torch.cat([clip, torch.zeros(1, 9, 6)], dim=1), torch.tensor([length + 9]))  # control: as if padding were sound
    assert not torch.allclose(cut, alone, atol=1e-3)


def test_clips_do_not_see_each_other(encoder):
    torch.manual_seed(0)
    clips, lengths = torch.randn(3, 20, 6), torch.tensor([20, 11, 3])
    together = encoder(clips, lengths)
    for i in range(3):
        assert torch.allclose(encoder(clips[i : i + 1], lengths[i : i + 1])[0], together[i], atol=1e-5)


def test_tokens_follow_time(encoder):
    torch.manual_seed(0)
    clip, lengths = torch.randn(1, 64, 6), torch.tensor([64])
    changed = torch.cat([clip[:, :56], clip[:, 56:].flip(1)], dim=1)  # the same values: the same normalisation
    moved = (encoder(clip, lengths) - encoder(changed, lengths))[0].abs().amax(1) > 1e-3
    assert moved.tolist() == [False, False, False, True]


def test_every_parameter_gets_a_gradient(encoder):
    encoder(torch.randn(3, 20, 6), torch.tensor([20, 11, 3])).square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in encoder.parameters())


def test_no_clip_at_all(encoder):
    tokens = encoder(torch.zeros(0, 20, 6), torch.zeros(0, dtype=torch.int64))
    assert tokens.shape == (0, 4, 16)


def test_given_tokens_of_the_right_width_are_not_touched():
    encoder, tokens = audio_encoder("audio_tokens", bands=16, width=16, tokens=4), torch.randn(3, 5, 16)
    assert encoder(tokens, torch.tensor([5, 5, 5])) is tokens
    assert isinstance(encoder, GivenTokens) and not list(encoder.parameters())


def test_given_tokens_of_another_width_pass_one_linear_layer():
    encoder, tokens = audio_encoder("audio_tokens", bands=6, width=16, tokens=4), torch.randn(3, 5, 6)
    found = encoder(tokens, torch.tensor([5, 5, 5]))
    assert found.shape == (3, 5, 16)  # L is that of the companion, not the setting
    weight, bias = encoder.to_width.weight, encoder.to_width.bias
    assert torch.allclose(found[1, 2], weight @ tokens[1, 2] + bias, atol=1e-6)
    assert sum(p.numel() for p in encoder.parameters()) == 6 * 16 + 16


def test_log_mel_pictures_get_the_trained_encoder():
    encoder = audio_encoder("audio", bands=6, width=16, tokens=4)
    assert isinstance(encoder, LogMelTokens)
    assert encoder(torch.randn(2, 20, 6), torch.tensor([20, 9])).shape == (2, 4, 16)


def test_each_frame_gets_the_tokens_of_its_item_or_zeros():
    tokens = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])  # two items of two tokens
    found = heard_by_frames(tokens, torch.tensor([[0, 1], [-1, 0]]))
    assert found.squeeze(-1).tolist() == [[1, 2], [3, 4], [0, 0], [1, 2]]
    assert heard_by_frames(tokens[:0], torch.tensor([[-1, -1]])).squeeze(-1).tolist() == [[0, 0], [0, 0]]
