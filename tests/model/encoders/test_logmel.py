"""The stub against its formulas, computed plainly in NumPy."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.encoders.logmel import LogMelStub
from tests.model.encoders.small import noise


@pytest.fixture(scope="module")
def encoder():
    return LogMelStub().freeze()


def plain_log_mel(wave: np.ndarray) -> np.ndarray:
    """float64 [samples // 160 + 1, 128]: reflect, Hann window of 400, FFT of 512, HTK triangles, natural logarithm."""
    padded = np.pad(wave.astype(np.float64), 256, mode="reflect")
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[k * 160 : k * 160 + 512] for k in range(len(wave) // 160 + 1)])
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    edge = 700 * (10 ** (np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 8000 / 700), 130) / 2595) - 1)
    hz = np.arange(257) * 16_000 / 512
    rise, fall = (hz[:, None] - edge[:-2]) / np.diff(edge)[:-1], (edge[2:] - hz[:, None]) / np.diff(edge)[1:]
    return np.log(np.maximum(power @ np.maximum(0, np.minimum(rise, fall)), 1e-10))


def test_five_seconds_are_501_frames_of_128_bands(encoder):
    wave, samples = noise(80_000)
    assert encoder.tokens == 501
    assert encoder.all_tokens(wave, samples).shape == (1, 501, 128)
    assert encoder(wave, samples, 0).shape == (1, 501, 768)


def test_the_picture_is_the_plain_one_normalised(encoder):
    wave, samples = noise(20_000)
    found = encoder.all_tokens(wave, samples)[0].numpy()
    plain = plain_log_mel(wave[0].numpy())
    expected = (plain - plain.mean()) / plain.std()
    assert np.abs(found[:126] - expected).max() < 1e-3
    assert not found[126:].any()


def test_one_band_is_empty_as_specified(encoder):
    """Band 3 holds no Fourier bin at these numbers: constant within a clip, whatever is heard."""
    picture = encoder.all_tokens(*noise(80_000))[0]
    assert (picture.std(dim=0) == 0).nonzero().flatten().tolist() == [3]


def test_average_then_matrix(encoder):
    wave, samples = noise(80_000)
    picture = encoder.all_tokens(wave, samples)
    expected = F.adaptive_avg_pool1d(picture.transpose(1, 2), 16).transpose(1, 2) @ encoder.matrix
    assert torch.allclose(encoder(wave, samples, 16), expected, atol=1e-5)


def test_silence_gives_zeros(encoder):
    assert float(encoder(torch.zeros(1, 16_000), torch.tensor([16_000]), 4).abs().max()) < 1e-9


def test_the_matrix_is_pinned(encoder):
    """Tokens of the stub must be the same everywhere and for ever."""
    assert encoder.matrix.shape == (128, 768)
    assert encoder.matrix[0, :3].tolist() == pytest.approx([0.13027167, 0.02978251, -0.10080097], abs=1e-7)
    assert float(encoder.matrix.std()) == pytest.approx(128**-0.5, rel=0.01)


def test_it_is_made_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogMelStub()
