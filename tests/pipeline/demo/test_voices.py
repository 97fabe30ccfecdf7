"""Generated speakers differ, and differ in the way that was asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from pipeline.base.seeds import rng
from pipeline.demo.voices import RATE, Clip, mp3, render, speak, speakers


def pitch(samples: np.ndarray) -> float:
    """Fundamental frequency in Hz: median over loud windows of the best lag of the autocorrelation, 70..320 Hz."""
    size, found = 1024, []
    loud = np.sqrt(np.mean(samples**2))
    for start in range(0, len(samples) - size, 512):
        window = samples[start : start + size] * np.hanning(size)
        if np.sqrt(np.mean(samples[start : start + size] ** 2)) < loud:
            continue
        spectrum = np.abs(np.fft.rfft(window, 4096)) ** 2
        lags = np.fft.irfft(spectrum)[RATE // 320 : RATE // 70]
        found.append(RATE / (RATE // 320 + int(np.argmax(lags))))
    return float(np.median(found))


def test_measured_pitch_is_the_speakers_own():
    for index, speaker in enumerate(speakers(7, 8)):
        measured = pitch(speak(speaker, 1.5, rng(7, "test", index)))
        assert measured == pytest.approx(speaker.pitch, rel=0.15)


def test_speakers_differ_more_than_the_clips_of_one():
    some = speakers(7, 6)
    table = np.array([[np.log(pitch(speak(s, 1.2, rng(7, "test", i, clip)))) for clip in range(3)] for i, s in enumerate(some)])
    assert table.mean(1).std() > 3 * table.std(1).mean()


def test_a_clip_is_the_same_every_time_and_another_name_gives_another():
    speaker = speakers(7, 4)[0]
    first, again, other = (
        render(Clip(seed=7, name=name, speaker=speaker, seconds=0.7, rate=32000)) for name in ("a.mp3", "a.mp3", "b.mp3")
    )
    assert first == again != other


@pytest.mark.parametrize("rate", [32000, 48000])
def test_mp3_keeps_rate_channel_and_length(rate):
    info = soundfile.info(io.BytesIO(mp3(speak(speakers(7, 4)[1], 0.8, rng(7, "test")), rate)))
    assert (info.format, info.samplerate, info.channels) == ("MP3", rate, 1)
    assert info.frames == pytest.approx(0.8 * rate, abs=0.08 * rate)
