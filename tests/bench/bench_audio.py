"""The companion path: clip -> log-mel, and matching of identities with speakers, each beside what it could be compared with.

Made clips are spoken by `pipeline.demo.voices` and written as Common Voice ships them: mono, half 48 kHz at a constant 64 kbit/s,
half 32 kHz at about 48, lengths around 6.4 s. Real ones are those of ../shared/data, where it is. CPU seconds of this process
and of its children, median of several interleaved rounds, in a thread of their own as in the step (the memory of the main
thread is managed otherwise). The row of the whole step is wall time. A ratio above 1 means that ours is faster.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.allocation import Speaker, match
from pipeline.base.config import AudioConfig, CompanionConfig
from pipeline.base.seeds import rng
from pipeline.base.tables import ALIGNMENT, PLAN, write_rows
from pipeline.demo.voices import Clip, render, speakers
from pipeline.features import audio
from tests.bench.timing import cpu, in_thread, row
from tests.conftest import REPOSITORY

CONFIG = AudioConfig()
REAL = Path(os.environ.get("DUBTRACK_SHARED", REPOSITORY.parent / "shared")) / "data" / "common_voice_mini"
CLIPS, JOBS = 170_726, 96
"""Clips and shards of MARS."""
MINUTES = 10.0
"""What all of them may take on two cores."""


def drop(results: Iterable[object]) -> None:
    """Make every result and keep none, as the step does: kept arrays would cost fresh memory each."""
    for _ in results:
        pass


def make_clips(folder: Path, count: int) -> list[Path]:
    voices = speakers(0, 16)
    out = []
    for k in range(count):
        seconds = float(np.clip(rng(0, "bench", "clip", k).normal(6.4, 1.8), 2, 10.8))
        path = folder / f"{k}.mp3"
        clip = Clip(seed=0, name=f"bench {k}", speaker=voices[k % 16], seconds=seconds, rate=(48_000, 32_000)[k % 2])
        path.write_bytes(render(clip))
        out.append(path)
    return out


def ffmpegs() -> dict[str, str]:
    """Executables by what a row calls them: the one on PATH, and the static one that a wheel brings."""
    import imageio_ffmpeg

    found = {"static": imageio_ffmpeg.get_ffmpeg_exe()}
    if on_path := shutil.which("ffmpeg"):
        found["on PATH"] = on_path
    versions = {
        where: subprocess.run([executable, "-version"], capture_output=True, check=True, text=True).stdout.split()[2].split("-")[0]
        for where, executable in found.items()
    }
    return {f"ffmpeg {versions[where]}, {where}": executable for where, executable in found.items()}


def by_ffmpeg(executable: str, path: Path) -> np.ndarray:
    """One ffmpeg process decodes and resamples the clip; the same mel follows."""
    command = [executable, "-nostdin", "-loglevel", "error", "-i", str(path), "-ac", "1", "-ar", str(CONFIG.rate)]
    out = subprocess.run([*command, "-f", "f32le", "pipe:1"], capture_output=True, check=True).stdout
    return audio.log_mel(audio.fit_rate(np.frombuffer(out, np.float32), CONFIG.rate, CONFIG), CONFIG).astype(np.float16)


def chain_rows(what: str, clips: list[Path], rounds: int) -> list[dict[str, Any]]:
    """The chain beside ffmpeg, beside its three parts that nothing can do without (STFT: frames, window and Fourier transform in
    float64, ours), and beside all that it does (power, mel sums and logarithm, too)."""
    import soundfile
    import soxr

    waves = [soundfile.read(path, dtype="float32") for path in clips]
    seconds = [len(wave) / rate for wave, rate in waves]
    resampled = [audio.fit_rate(wave, rate, CONFIG) for wave, rate in waves]
    companion = CompanionConfig()

    def whole() -> None:
        drop(audio.encode(path.stem, path, None, length, companion, 0) for path, length in zip(clips, seconds, strict=True))

    executables = ffmpegs()
    processes = (lambda executable=executable: drop(by_ffmpeg(executable, path) for path in clips) for executable in executables.values())
    ours, *theirs = in_thread(max(rounds // 3, 1), whole, *processes)
    chain, decode, resample, stft, mel = in_thread(
        rounds,
        whole,
        lambda: drop(soundfile.read(path, dtype="float32") for path in clips),
        lambda: drop(soxr.resample(wave, rate, CONFIG.rate, quality="HQ") for wave, rate in waves),
        lambda: drop(spectrum for wave in resampled for spectrum in audio.spectra(wave, CONFIG)),
        lambda: drop(audio.log_mel(wave, CONFIG) for wave in resampled),
    )
    name, count = f"{len(clips)} {what}, mean {np.mean(seconds):.1f} s: log-mel", len(clips)
    both = f"decode {count / decode:.0f} + resample {count / resample:.0f}"
    return [
        *(
            row(name, count / ours, count / one, "clips/s", f"a process per clip ({which}), same mel")
            for which, one in zip(executables, theirs, strict=True)
        ),
        row(name, count / chain, count / (decode + resample + stft), "clips/s", f"{both} + STFT {count / stft:.0f}, each alone"),
        row(name, count / chain, count / (decode + resample + mel), "clips/s", f"{both} + log-mel {count / mel:.0f}: what joining costs"),
    ]


def mel_rows(clips: list[Path], rounds: int) -> list[dict[str, Any]]:
    """The log-mel alone beside torchaudio, in float32 as it comes and in float64 as ours."""
    import torch
    from torchaudio.transforms import MelSpectrogram

    resampled = [audio.fit_rate(*audio.decode(path)[:2], CONFIG) for path in clips]
    mel = MelSpectrogram(CONFIG.rate, CONFIG.n_fft, CONFIG.window, CONFIG.hop, CONFIG.low_hz, CONFIG.high_hz, n_mels=CONFIG.bands)

    def by_torchaudio(dtype: torch.dtype) -> None:
        torch.set_num_threads(1)
        mel.to(dtype)
        for wave in resampled:
            mel(torch.from_numpy(wave).to(dtype)).clamp_(min=CONFIG.floor).log_().T.numpy()

    threads = torch.get_num_threads()
    ours, float32, float64 = in_thread(
        rounds,
        lambda: drop(audio.log_mel(wave, CONFIG) for wave in resampled),
        lambda: by_torchaudio(torch.float32),
        lambda: by_torchaudio(torch.float64),
    )
    torch.set_num_threads(threads)
    return [
        row(
            "log-mel alone, transform in float64",
            len(clips) / ours,
            len(clips) / theirs,
            "clips/s",
            f"torchaudio MelSpectrogram in {dtype}",
        )
        for dtype, theirs in (("float64", float64), ("float32", float32))
    ]


def step_rows(folder: Path, clips: list[Path], items: int) -> list[dict[str, Any]]:
    """Two jobs of the real step side by side, `items` clips each, carried over to MARS. Files come from the page
    cache; with fewer items than a shard of MARS has, start-up weighs more than it would."""
    seconds = {path: audio.probe(path, None, None, CONFIG).seconds for path in clips}
    heard = []
    for k in range(2 * items):
        path = clips[k % len(clips)]
        name = f"{path.stem}_{k}.mp3"
        os.link(path, folder / name)
        place = {"tracklet": f"t{k // items}", "first": 6 * (k % items), "last": 6 * (k % items) + 5, "start": None}
        heard.append({**place, "item": name, "owner": "a", "path": name, "seconds": seconds[path]})
    write_rows(folder / "a.parquet", heard, ALIGNMENT)
    write_rows(folder / "p.parquet", [{"tracklet": f"t{n}", "shard": n, "order": 0, "frames": 6 * items} for n in range(2)], PLAN)

    def command(shard: int) -> list[str]:
        tables = ["--alignment", str(folder / "a.parquet"), "--plan", str(folder / "p.parquet"), "--root", str(folder)]
        step = [sys.executable, "-m", "pipeline.encode_companion", str(folder / f"{shard}.parquet"), *tables]
        return [*step, "--shard", str(shard), "--seed", "0", "--threads", "1", "--config", "{}"]

    wall, start = time.perf_counter(), cpu()
    jobs = [subprocess.Popen(command(shard), cwd=REPOSITORY, stdout=subprocess.DEVNULL) for shard in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    wall, step = time.perf_counter() - wall, cpu() - start
    (probed,) = in_thread(3, lambda: drop(audio.probe(path, None, None, CONFIG) for path in clips))
    share = CLIPS / (2 * items)
    once, twice = step * share / 120, (step * share + probed / len(clips) * CLIPS) / 120
    return [
        row(
            f"{CLIPS:,} clips, encode_companion, 2 jobs of {items:,}",
            wall * share / 60,
            MINUTES,
            "min",
            f"what is allowed; CPU alone {once:.2f}",
        ),
        row("the same, and probed once before (CPU of both / 2)", twice, MINUTES, "min", "what is allowed for the former alone"),
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
    ours, greedy = in_thread(rounds, lambda: match(needs, speakers), lambda: published_greedy(needs, speakers))
    served = len(match(needs, speakers).owners)
    what = f"matching: {served} of {identities} identities on {voices} speakers"
    return row(what, ours, greedy, "s", f"published greedy scan ({len(published_greedy(needs, speakers))} served)")


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Clips per second of the chain, minutes of all clips of MARS, and seconds of the matching."""
    count, rounds = max(int(32 * scale), 4), 9
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = make_clips(folder, count)
        out = chain_rows("made clips, 48 and 32 kHz", clips, rounds)
        if REAL.is_dir():
            real = [path for language in ("en", "tw", "fa") for path in sorted((REAL / language / "clips").iterdir())]
            out += chain_rows("real clips, 48 and 32 kHz", real[:: max(len(real) // count, 1)][:count], rounds)
        out += mel_rows(clips, rounds)
        out += step_rows(folder, clips, max(int(CLIPS / JOBS * scale), 8))
    return [*out, matching_row(min(scale, 1.0), 3)]
