"""Who is heard: generated speakers and what they say, by a source (glottal pulses, noise) and a filter (formants).

In:      a seed and names.   Out: :class:`Speaker` values; mono samples at 16 kHz; MP3 bytes at 32 or 48 kHz.
Source:  ours, after the source-filter model of speech. Pitch, vocal tract, tilt, breath and rhythm are fixed by the speaker;
         melody, syllables and pauses differ from clip to clip. The sounds are speech-like and mean nothing.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

from pipeline.base.seeds import rng

RATE = 16000
"""Samples per second of the synthesis."""

VOWELS: tuple[tuple[float, float, float], ...] = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
    (490, 1350, 1690),
    (660, 1720, 2410),
)
"""Hz; usual textbook means of the first three formants of a man's vowels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speaker:
    """What stays the same in every clip of one speaker."""

    pitch: float
    """Mean fundamental frequency in Hz."""
    tract: float
    """Factor on all formants (a short vocal tract has high ones)."""
    melody: float
    """Spread of the pitch within a clip, as a part of it."""
    tempo: float
    """Syllables per second."""
    tilt: float
    """Pole of the filter that darkens the glottal pulses, 0..1."""
    breath: float
    """Noise relative to the pulses."""
    hiss: float
    """Level of fricatives."""
    level: float
    """Root mean square of a clip, relative to full scale."""


def speakers(seed: int, count: int) -> list[Speaker]:
    """`count` speakers whose pitches are evenly spread (in the logarithm) over 85..260 Hz, in random order."""
    order = rng(seed, "speakers").permutation(count)
    made = []
    for index in range(count):
        draw = rng(seed, "speaker", index)
        place = (float(order[index]) + 0.5 + float(draw.uniform(-0.25, 0.25))) / count
        made.append(
            Speaker(
                pitch=85 * (260 / 85) ** place,
                tract=float(0.9 + 0.28 * place + draw.normal(0, 0.05)),
                melody=float(draw.uniform(0.05, 0.14)),
                tempo=float(draw.uniform(3.2, 5.6)),
                tilt=float(draw.uniform(0.3, 0.8)),
                breath=float(draw.uniform(0.01, 0.09)),
                hiss=float(draw.uniform(0.15, 0.6)),
                level=float(draw.uniform(0.04, 0.11)),
            )
        )
    return made


def speak(speaker: Speaker, seconds: float, draw: np.random.Generator) -> np.ndarray:
    """One clip: float32 [seconds * RATE], mono, peak below 1."""
    from scipy.signal import lfilter, sosfilt

    n = int(seconds * RATE)
    starts, voiced, level, hissing = _syllables(speaker, n, draw)
    pulses = lfilter([1 - speaker.tilt], [1, -speaker.tilt], _glottis(speaker, n, draw))
    source = pulses * voiced + draw.standard_normal(n) * (speaker.breath * 0.3 * voiced)
    out = np.empty(n)
    state = np.zeros((4, 2))
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        vowel = VOWELS[int(draw.integers(len(VOWELS)))]
        formants = [f * speaker.tract * float(draw.normal(1, 0.02)) for f in (*vowel, 3500.0)]
        out[start:end], state = sosfilt(_resonators(formants), source[start:end], zi=state)
    # One hump for each consonant: noise above about 3 kHz.
    noise = np.diff(np.diff(draw.standard_normal(n + 2)))
    body = out * level
    body *= 1 / max(1e-9, float(np.sqrt(np.mean(body**2))))
    body += noise * hissing * (speaker.hiss * 0.5)
    body *= speaker.level / float(np.sqrt(np.mean(body**2)))
    room = draw.standard_normal(n) * 10 ** float(draw.uniform(-3.4, -2.7))
    return np.tanh(body + room).astype(np.float32)


def _glottis(speaker: Speaker, n: int, draw: np.random.Generator) -> np.ndarray:
    """Glottal flow derivative with a wandering pitch, float64 [n]."""
    points = max(3, int(n / RATE * 5))
    bends = draw.normal(0, speaker.melody, points) + np.linspace(0.06, -0.06, points)
    contour = np.interp(np.linspace(0, points - 1, n), np.arange(points), bends)
    wobble = 0.012 * np.sin(2 * math.pi * 5.2 * np.arange(n) / RATE + float(draw.uniform(0, 6)))
    phase = np.cumsum(speaker.pitch * np.exp(contour + wobble) / RATE) % 1
    # The glottis opens slowly and closes at once: the closure is what rings the formants.
    opening, closing = 0.45, 0.12
    rise = 0.5 - 0.5 * np.cos(math.pi * phase / opening)
    fall = np.cos(0.5 * math.pi * (phase - opening) / closing)
    flow = np.where(phase < opening, rise, np.where(phase < opening + closing, fall, 0.0))
    return np.diff(flow, prepend=0.0) * (RATE / speaker.pitch / 8)


def _syllables(speaker: Speaker, n: int, draw: np.random.Generator) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Starts of syllables, and envelopes [n] of voicing, loudness and hiss."""
    voiced, level, hissing = np.zeros(n), np.zeros(n), np.zeros(n)
    starts: list[int] = []
    at = int(draw.uniform(0.02, 0.08) * RATE)
    while at < n:
        whole = int(RATE / speaker.tempo * draw.uniform(0.75, 1.3))
        consonant = int(whole * draw.uniform(0.12, 0.35))
        starts.append(at)
        _add(hissing, at, int(consonant * 1.2), float(draw.choice((0.0, 0.4, 1.0))))
        _add(voiced, at + consonant // 2, whole - consonant // 3, 1.0)
        _add(level, at + consonant // 2, whole - consonant // 3, float(draw.uniform(0.6, 1.0)))
        at += whole
        if draw.random() < 0.22:
            at += int(draw.uniform(0.05, 0.16) * RATE)
    starts[0] = 0
    return starts, voiced.clip(0, 1), level, hissing


def _add(envelope: np.ndarray, start: int, length: int, height: float) -> None:
    """Add a hump with soft edges."""
    end = min(len(envelope), start + length)
    if end > start:
        envelope[start:end] += height * np.minimum(1, 2.2 * np.sin(np.pi * (np.arange(end - start) + 0.5) / length))


def _resonators(formants: list[float]) -> np.ndarray:
    """Second-order sections [4, 6] in cascade, each with gain 1 at 0 Hz."""
    sections = []
    for number, frequency in enumerate(formants):
        frequency = min(frequency, RATE / 2 * 0.95)
        radius = math.exp(-math.pi * (60 + 40 * number) / RATE)
        a1, a2 = -2 * radius * math.cos(2 * math.pi * frequency / RATE), radius * radius
        sections.append((1 + a1 + a2, 0.0, 0.0, 1.0, a1, a2))
    return np.array(sections)


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One clip to be spoken."""

    seed: int
    name: str
    """Unique in the collection; all randomness of the clip follows from it."""
    speaker: Speaker
    seconds: float
    rate: int
    """Samples per second of the file: 48000 (older clips) or 32000 (newer ones)."""
    defect: str = ""
    """'' or what is wrong with the file: 'short', 'silent', 'truncated'."""


def render(clip: Clip) -> bytes:
    """The clip as an MP3 file."""
    draw = rng(clip.seed, "clip", clip.name)
    samples = speak(clip.speaker, clip.seconds, draw)
    if clip.defect == "silent":
        samples = np.zeros_like(samples)
    data = mp3(samples, clip.rate)
    # A broken transfer: the file ends in the middle of a frame.
    return data[: int(len(data) * 0.37)] if clip.defect == "truncated" else data


def mp3(samples: np.ndarray, rate: int) -> bytes:
    """MP3 bytes (mono) of float32 samples at RATE, after bringing them to `rate`, a multiple of RATE."""
    import soundfile
    from scipy.signal import resample_poly

    # As released: older clips (48 kHz) at a constant 64 kbit/s, newer ones at about 48.
    mode, level = ("CONSTANT", 0.89) if rate == 48000 else ("VARIABLE", 0.7)
    out = io.BytesIO()
    made = resample_poly(samples, rate // RATE, 1)
    soundfile.write(out, made, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=level)
    return out.getvalue()
