"""The companion path: clip -> log-mel, and matching of identities with speakers, each beside what it could be compared with.

Clips are made here (3 to 8 s of noise and tones, MP3, 48 kHz mono). CPU seconds of this process and of its children,
median of several interleaved rounds. A ratio above 1 means that ours is faster.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.allocation import Speaker, match
from pipeline.base.config import AudioConfig, CompanionConfig
from pipeline.base.seeds import rng
from pipeline.features import audio

CONFIG = AudioConfig()


def cpu() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def interleaved(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Median CPU seconds of each work; the first, unmeasured round warms up."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 1):
        for work, mine in zip(works, times, strict=True):
            start = cpu()
            work()
            if turn:
                mine.append(cpu() - start)
    return [statistics.median(mine) for mine in times]


def make_clips(folder: Path, count: int) -> dict[Path, float]:
    """MP3 files and their lengths in seconds."""
    import soundfile

    out = {}
    for k in range(count):
        numbers = rng(0, "bench", "clip", k)
        n = int(numbers.uniform(3, 8) * 48000)
        tone = 0.2 * np.sin(2 * np.pi * np.cumsum(numbers.uniform(100, 300, n // 4800 + 1).repeat(4800)[:n]) / 48000)
        path = folder / f"{k}.mp3"
        soundfile.write(path, tone + 0.02 * numbers.standard_normal(n), 48000)
        out[path] = n / 48000
    return out


def by_ffmpeg(path: Path) -> np.ndarray:
    """One ffmpeg process decodes and resamples the clip; the same mel follows."""
    command = [audio.ffmpeg_executable(), "-nostdin", "-loglevel", "error", "-i", str(path), "-ac", "1", "-ar", str(CONFIG.rate)]
    out = subprocess.run([*command, "-f", "f32le", "pipe:1"], capture_output=True, check=True).stdout
    return audio.log_mel(audio.fit_rate(np.frombuffer(out, np.float32), CONFIG.rate, CONFIG), CONFIG).astype(np.float16)


def chain_rows(folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    import soundfile
    import soxr
    import torch
    from torchaudio.transforms import MelSpectrogram

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clips = make_clips(folder, count)
    few = list(clips)[: max(count // 8, 2)]
    waves = {path: soundfile.read(path, dtype="float32") for path in clips}
    resampled = [audio.fit_rate(wave, rate, CONFIG) for wave, rate in waves.values()]
    mel = MelSpectrogram(CONFIG.rate, CONFIG.n_fft, CONFIG.window, CONFIG.hop, CONFIG.low_hz, CONFIG.high_hz, n_mels=CONFIG.bands)
    companion = CompanionConfig()

    def float32_mel() -> None:
        for wave in resampled:
            mel(torch.from_numpy(wave)).clamp_(min=CONFIG.floor).log_().T.numpy()

    chain, process, decode, resample, spectrum, float32 = interleaved(
        rounds,
        lambda: [audio.encode(path.stem, path, None, seconds, companion, 0) for path, seconds in clips.items()],
        lambda: [by_ffmpeg(path) for path in few],
        lambda: [soundfile.read(path, dtype="float32") for path in clips],
        lambda: [soxr.resample(wave, rate, CONFIG.rate, quality="HQ") for wave, rate in waves.values()],
        lambda: [audio.log_mel(wave, CONFIG) for wave in resampled],
        float32_mel,
    )
    torch.set_num_threads(threads)

    def row(what: str, ours: float, baseline: float, baseline_is: str) -> dict[str, Any]:
        return {"what": what, "ours": ours, "baseline": baseline, "unit": "clips/s", "ratio": ours / baseline, "baseline_is": baseline_is}

    parts = count / (decode + resample + spectrum)
    return [
        row("MP3 clip to log-mel, one core", count / chain, len(few) / process, "one ffmpeg process per clip, same mel"),
        row(
            "MP3 clip to log-mel, one core",
            count / chain,
            parts,
            f"decode {count / decode:.0f} + resample {count / resample:.0f} + mel, alone",
        ),
        row("log-mel alone, transform in float64", count / spectrum, count / float32, "torchaudio MelSpectrogram in float32"),
    ]


def published_greedy(needs: dict[str, int], speakers: list[Speaker]) -> dict[str, str]:
    """Each identity by name scans the list of speakers, largest first, for the first free one with enough clips."""
    order = sorted(speakers, key=lambda s: (-s.clips, s.order))
    taken: set[str] = set()
    out = {}
    for identity in sorted(needs):
        for speaker in order:
            if speaker.owner not in taken and speaker.clips >= needs[identity]:
                taken.add(speaker.owner)
                out[identity] = speaker.owner
                break
    return out


def matching_row(scale: float, rounds: int) -> dict[str, Any]:
    """Sizes of MARS (1,261 identities with at most 3,874 clips) and of Common Voice 24.0 (99,289 speakers)."""
    identities, voices = max(int(1261 * scale), 2), max(int(99289 * scale), 2)
    numbers = rng(0, "bench", "match")
    needs = {f"{k:04d}": int(n) for k, n in enumerate(np.minimum(numbers.lognormal(4.6, 0.8, identities), 3874).astype(int) + 1)}
    clips = np.maximum(numbers.pareto(0.9, voices) * 4, 1).astype(int)
    speakers = [Speaker(f"spk_{k}", k, int(n)) for k, n in enumerate(clips)]
    ours, greedy = interleaved(rounds, lambda: match(needs, speakers), lambda: published_greedy(needs, speakers))
    served = len(match(needs, speakers).owners)
    return {
        "what": f"matching: {served} of {identities} identities on {voices} speakers",
        "ours": ours,
        "baseline": greedy,
        "unit": "s",
        "ratio": greedy / ours,
        "baseline_is": f"published greedy scan ({len(published_greedy(needs, speakers))} served)",
    }


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Clips per second of the chain, and seconds of the matching."""
    with tempfile.TemporaryDirectory() as folder:
        return [*chain_rows(Path(folder), max(int(48 * scale), 4), 5), matching_row(min(scale, 1.0), 3)]
