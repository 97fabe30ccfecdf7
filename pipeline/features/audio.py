"""Voice clips: file -> waveform -> log-mel picture, and the judgement whether a clip can be used at all.

In:      any file that libsndfile or ffmpeg reads.   Out: float16 [frames, bands], natural logarithm of mel power.
Source:  specs/dubbernet.md 3.1; chain and facts in the design notes on the stack (section 3): soundfile decodes, soxr HQ
         resamples (resamplers differ above 5 kHz: one, recorded in the feature's metadata, never mixed). Ours: the spectrum,
         with NumPy, Fourier transform in float64 (the picture of torchaudio's MelSpectrogram, without importing torch in each job): mel
         scale HTK, 2595 * log10(1 + f / 700), triangles without area normalisation; frames are centred with reflected
         edges; what libsndfile refuses goes to ffmpeg by file name (from a pipe ffmpeg would keep MP3 padding).

soundfile, soxr and ffmpeg are imported where they are used: steps that never decode do not load them. Nothing here needs torch.
"""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.base.build import plain
from pipeline.base.config import AudioConfig, CompanionConfig
from pipeline.base.errors import ConfigError, MediaError, UserError
from pipeline.base.seeds import rng

LONGEST = 120.0
"""Seconds of sound that are read at once; bounds memory whatever a header claims. Voice clips last some 5 s."""
BYTES = 1 << 25
"""A larger file is not read as one clip, because decoders search it for what they know; but a WAV is. A voice clip has 40 kB."""
WAV_HEAD = 1 << 16
"""Bytes within which the samples of a larger WAV begin."""
TAG_BYTES = 1 << 24
"""A larger ID3 tag is refused: libsndfile reads tags into memory. Pictures in tags end at 16 MB."""
RATES = (1_000, 192_000)
"""Lowest and highest believable sample rate."""
CHANNELS = 16
"""Most believable channels; a header may claim 1,024, and each second read would be as long."""
PCM_BYTES = int(LONGEST * RATES[1] * 8 * 4)
"""A larger WAV is not read as one clip, either: LONGEST of eight channels of 32 bit at the highest rate."""
READ = 1 << 21
"""Values (samples times channels) that are asked for at once."""
LOUDEST = 1e3
"""Amplitude (full scale is 1) beyond which samples are not sound; float files can hold anything, NaN included."""
FFMPEG_FORMATS = (
    *("mp3", "wav", "w64", "flac", "ogg", "aac", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "aiff", "au", "caf", "asf", "amr"),
    *("ac3", "eac3", "ape", "wv", "tta", "tak", "avi", "flv", "mpeg", "mpegts", "gsm", "sln", "voc", "nistsphere", "sox", "dsf", "rm"),
)
"""Demuxers that ffmpeg may use: files that hold sound themselves, none that names other files (hls, concat, dash, sdp, ...)."""
FFMPEG_WORK = 3
"""Seconds of computing that ffmpeg may take for one file (it needs some 0.05 s); a file that takes more is at fault."""
FFMPEG_WAIT = 120.0
"""Seconds by the clock after which the step ends: a slow disk or a crowded machine is no fault of the file, so it is no verdict on it."""
FFMPEG_BYTES = 1 << 26
"""Bound on ffmpeg's output: LONGEST of stereo at 48 kHz has less."""
FFMPEG_BLOCK = 1 << 26
"""Bound on each block of memory that ffmpeg asks for, whatever a header claims."""
NOISE_DBFS = -25.0
"""Level of the synthetic 'noise_<n>' items: that of ordinary voice clips."""
NO_SOUND_DBFS = -200.0
BLOCK = 1 << 16
"""Samples that are Fourier transformed at once: 0.5 MB in float64, and as much of spectrum, which a core can keep near."""
GROUP = 16
"""Most mel bands summed by one product: the fewer, the fewer zeros are multiplied."""
PRODUCT = 1 << 18
"""Most multiplications of one product: OpenBLAS starts no threads for that few."""


# --- decode ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A decoded clip: mono float32 [samples], its rate, who decoded it, and the seconds its header had promised.

    With ffmpeg nothing is promised but what was decoded.
    """

    wave: np.ndarray
    rate: int
    decoder: str
    promised: float


def decode(path: Path, start: float | None = None, seconds: float | None = None) -> tuple[np.ndarray, int, str]:
    """Read a clip as mono (mean of the channels).

    Args:
        path: the file.
        start: seconds to skip; None: the whole file is meant.
        seconds: seconds to read after `start`; None: to the end.

    Returns:
        float32 [samples], nominally in -1..1; samples per second; 'soundfile' or 'ffmpeg'.

    Raises:
        MediaError: 'missing' (no such regular file) or 'unreadable' (with what the decoders said).
        UserError: ffmpeg waited for FFMPEG_WAIT; says nothing about the file.
    """
    sound = _decode(path, start, seconds)
    return sound.wave, sound.rate, sound.decoder


def _decode(path: Path, start: float | None, seconds: float | None) -> Sound:
    if not path.is_file():  # also keeps us from waiting at a named pipe
        raise MediaError("missing", "no such file" if not path.exists() else "not a regular file")
    _look(path, whole=start is None)
    sound, said = _soundfile(path, start, seconds)
    if sound is None:
        if start is None:
            _check_bytes(path.stat().st_size, BYTES)
        sound = _ffmpeg(path, start, seconds, said)
    if len(sound.wave) > LONGEST * sound.rate:
        raise MediaError("unreadable", f"longer than {LONGEST:g} s; split it, or name start and seconds")
    if not (sound.wave.max() <= LOUDEST and sound.wave.min() >= -LOUDEST):  # false for NaN too
        raise MediaError("unreadable", f"samples are not numbers within +-{LOUDEST:g} of full scale")
    return sound


def _look(path: Path, whole: bool) -> None:
    """Refuse by size and first bytes what would cost a decoder seconds and gigabytes."""
    size = path.stat().st_size
    if not size:
        raise MediaError("unreadable", "empty file (0 bytes)")
    with open(path, "rb") as file:
        head = file.read(WAV_HEAD if size > BYTES else 10)
    if whole:
        _check_bytes(size, PCM_BYTES if _mostly_samples(head, size) else BYTES)
    if head[:3] == b"ID3" and len(head) >= 10:
        tag = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        if tag > TAG_BYTES:
            raise MediaError("unreadable", f"ID3 tag claims {tag} bytes, at most {TAG_BYTES}; remove the tag")


def _mostly_samples(head: bytes, size: int) -> bool:
    """Whether a file is a WAV whose samples reach to its end, or near: libsndfile would search anything else, chunk by chunk."""
    at = 12
    while head[:4] == b"RIFF" and head[8:12] == b"WAVE" and at + 8 <= len(head):
        length = int.from_bytes(head[at + 4 : at + 8], "little")
        if head[at : at + 4] == b"data":
            return at + 8 + length > size - BYTES
        at += 8 + length + length % 2
    return False


def _check_bytes(size: int, most: int) -> None:
    if size > most:
        raise MediaError("unreadable", f"{size} bytes, at most {most} are read as one clip; split it, or name start and seconds")


def _frames(rate: int, seconds: float | None) -> int:
    """Samples to ask for: the wanted ones, or one more than the bound, so that an excess shows."""
    return int(LONGEST * rate) + 1 if seconds is None else min(round(seconds * rate), int(LONGEST * rate) + 1)


def _believable(rate: int) -> int:
    if not RATES[0] <= rate <= RATES[1]:
        raise MediaError("unreadable", f"sample rate {rate} Hz; expected {RATES[0]}..{RATES[1]}")
    return rate


def _soundfile(path: Path, start: float | None, seconds: float | None) -> tuple[Sound | None, str]:
    """The sound, or None and what libsndfile said."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            rate = _believable(file.samplerate)
            skip = round((start or 0.0) * rate)
            if file.channels > CHANNELS:
                raise MediaError("unreadable", f"{file.channels} channels; expected at most {CHANNELS}")
            # A header may claim hours (and soundfile would allocate them): ask in blocks, stop where the data stop.
            wanted, block = _frames(rate, seconds), READ // file.channels
            if skip:
                file.seek(min(skip, file.frames))
            parts = []
            while wanted > 0:
                part = file.read(min(block, wanted), dtype="float32", always_2d=True)
                parts.append(part.mean(axis=1) if part.shape[1] > 1 else part[:, 0])
                wanted -= len(part)
                if len(part) < block:
                    break
            wave = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.float32), *parts])
            promised = max(file.frames - skip, 0) / rate
    except soundfile.SoundFileError as error:
        said = str(getattr(error, "error_string", error)).rstrip(".")  # str(error) would hold the absolute path
        return None, "no MPEG frame found" if said.startswith("File does not exist") else said  # its words for a tag without sound
    except TypeError:  # soundfile wants to be told the form of headerless files, which it knows by their ending
        return None, "headerless file"
    if not len(wave):
        return None, "no samples"
    return Sound(wave, rate, "soundfile", promised), ""


def ffmpeg_executable() -> str:
    """The ffmpeg on PATH, else the one that the imageio-ffmpeg package carries."""
    found = shutil.which("ffmpeg")
    if found is None:
        import imageio_ffmpeg

        found = imageio_ffmpeg.get_ffmpeg_exe()
    return found


def _ffmpeg(path: Path, start: float | None, seconds: float | None, said: str) -> Sound:
    """Decode with ffmpeg, through AU on a pipe: its six-word header carries rate and channels, so no ffprobe is needed.

    Messages of ffmpeg hold paths and addresses and change with its version; they stay out of the tables.
    """
    import ffmpeg

    window = {"ss": start} if start else {}
    # 'file:' and the whitelists keep ffmpeg from reading a name as a protocol, and from following what a play list names.
    source = ffmpeg.input(f"file:{path.resolve()}", protocol_whitelist="file", format_whitelist=",".join(FFMPEG_FORMATS), **window).audio
    length = LONGEST + 1 if seconds is None else min(seconds, LONGEST + 1)
    limits = ("-max_alloc", str(FFMPEG_BLOCK), "-timelimit", str(FFMPEG_WORK))
    command = source.output("pipe:", format="au", acodec="pcm_f32be", t=length, fs=FFMPEG_BYTES).global_args(
        "-nostdin", "-loglevel", "quiet", *limits
    )
    with command.run_async(cmd=ffmpeg_executable(), pipe_stdout=True) as process:
        try:
            out, _ = process.communicate(timeout=FFMPEG_WAIT)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{path}: ffmpeg has not read it in {FFMPEG_WAIT:g} s, though it computed for less than {FFMPEG_WORK} s: the disk or the "
                "machine is too slow now; run again, with fewer jobs at once"
            ) from None
        finally:
            process.kill()
    if process.returncode == -signal.SIGXCPU:
        raise MediaError("unreadable", f"libsndfile: {said}; ffmpeg: not done after {FFMPEG_WORK} s of computing")
    if len(out) > FFMPEG_BYTES - (1 << 16):
        raise MediaError("unreadable", f"more than {FFMPEG_BYTES >> 20} MB of samples; split it, or name start and seconds")
    if len(out) < 24 or out[:4] != b".snd":
        raise MediaError("unreadable", f"libsndfile: {said}; ffmpeg: no sound found")
    offset, _, _, rate, channels = struct.unpack(">5I", out[4:24])
    if not 0 < channels <= CHANNELS:
        raise MediaError("unreadable", f"{channels} channels; expected at most {CHANNELS}")
    samples = np.frombuffer(out, ">f4", offset=offset, count=(len(out) - offset) // (4 * channels) * channels)
    if not len(samples):
        raise MediaError("unreadable", f"libsndfile: {said}; ffmpeg: no samples")
    wave = samples.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return Sound(wave[: _frames(rate, seconds)], _believable(rate), "ffmpeg", len(wave) / rate)


# --- judge -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """What decoding a clip showed (columns of PROBES); `reason` is '' if the clip can be used."""

    samples: int
    rate: int
    seconds: float
    rms_dbfs: float
    decoder: str
    reason: str
    detail: str


def probe(path: Path, start: float | None, seconds: float | None, config: AudioConfig) -> Probe:
    """Decode a clip and judge it. A clip that cannot be decoded is a result, not an error.

    Args:
        path: the file.
        start: seconds into the file; None: the whole file.
        seconds: claimed length; None: only the file's own header is held against it.
        config: its limits.
    """
    try:
        sound = _decode(path, start, seconds if start is not None else None)
    except MediaError as error:
        return Probe(0, 0, 0.0, NO_SOUND_DBFS, "", error.reason, error.detail)
    length, level = len(sound.wave) / sound.rate, level_dbfs(sound.wave)
    listed = seconds is not None and start is None
    reason, detail = judge(length, level, sound.promised if seconds is None else seconds, config, listed)
    return Probe(len(sound.wave), sound.rate, length, level, sound.decoder, reason, detail)


def judge(seconds: float, level: float, claimed: float, config: AudioConfig, listed: bool) -> tuple[str, str]:
    """('', '') for a usable clip, else reason and detail: 'truncated', then 'short', then 'silent'.

    libsndfile returns what it has of a clip that was cut, without an error: whole MPEG frames, of 24 ms at 48 kHz and 36 ms at 32 kHz.
    Where a table of durations lists the clip, `table_tolerance` may be missing: 35 ms, just less than a frame at 32 kHz, and more than
    the 34.5 ms that an encoder's delay takes there, which some decoders count as sound. Where only the file's own header, or whoever
    named a part of the file, says how long it is, a clip counts as truncated where more than 5 % or 0.1 s of that is missing (40 ms
    are granted to every clip: MP3 headers of sound clips claim up to 966 samples, 30 ms, too much).

    Args:
        seconds: as decoded.
        level: dBFS.
        claimed: seconds.
        config: its limits (`min_seconds`, at least what one Fourier transform needs; `silence_dbfs`, `table_tolerance`).
        listed: the claim is that of a table of durations.
    """
    lost = claimed - seconds
    if lost > (config.table_tolerance if listed else max(0.04, min(0.05 * claimed, 0.1))):
        return "truncated", f"{seconds:.3f} s decoded, {claimed:.3f} s claimed"
    if seconds < config.shortest:
        return "short", f"{seconds:.3f} s, at least {config.shortest:g} s needed"
    if level < config.silence_dbfs:
        return "silent", f"{level:.1f} dBFS, at least {config.silence_dbfs:g} dBFS needed"
    return "", ""


def level_dbfs(wave: np.ndarray) -> float:
    """Root mean square of float32 [samples] in dB relative to full scale; -200 for digital silence."""
    parts = (wave[first : first + READ] for first in range(0, len(wave), READ))  # a long clip takes twice its memory in float64
    power = sum(float(np.square(part, dtype=np.float64).sum()) for part in parts) / len(wave)
    return max(10 * float(np.log10(power)), NO_SOUND_DBFS) if power > 0 else NO_SOUND_DBFS


# --- encode ----------------------------------------------------------------------------------------------------------


def filter_bank(config: AudioConfig) -> np.ndarray:
    """Weight of each Fourier bin in each mel band: float64 [n_fft / 2 + 1, bands], triangles of height 1 on the HTK scale.

    The bank of torchaudio's `melscale_fbanks`, but in float64: it also says which bands are empty, without torch.
    """
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (config.low_hz, config.high_hz))
    edges = 700 * (10 ** (np.linspace(low, high, config.bands + 2) / 2595) - 1)
    hz = np.arange(config.n_fft // 2 + 1)[:, None] * config.rate / config.n_fft
    width = np.diff(edges)
    return np.maximum(0, np.minimum((hz - edges[:-2]) / width[:-1], (edges[2:] - hz) / width[1:]))


def empty_bands(config: AudioConfig) -> list[int]:
    """Mel bands whose triangle lies between two bins of the Fourier transform: constant, whatever is heard."""
    return np.flatnonzero(~filter_bank(config).any(axis=0)).tolist()


def check_bands(config: AudioConfig) -> None:
    """Refuse a filter bank with an empty filter.

    Raises:
        ConfigError: names the bands and says what helps.
    """
    empty = empty_bands(config)
    if empty:
        raise ConfigError(
            f"audio.bands={config.bands} with audio.n_fft={config.n_fft}: mel band {', '.join(map(str, empty))} holds no Fourier bin and "
            "would be constant; take fewer bands, a larger n_fft or a higher low_hz"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What :func:`log_mel` needs of the settings alone."""

    window: np.ndarray
    """Hann, periodic, float64 [window]."""
    before: int
    """Samples of the first frame that lie before the clip."""
    frames: int
    """Frames that are transformed at once: what stays in the cache of a core."""
    groups: tuple[tuple[slice, slice, np.ndarray], ...]
    """Neighbouring bands, the Fourier bins that they touch, float64 weights [bins, bands]: the bank is mostly zeros."""


@lru_cache(maxsize=8)
def _plan(config: AudioConfig) -> _Plan:
    check_bands(config)
    bank = filter_bank(config)
    frames = max(BLOCK // config.n_fft, 1)
    groups, first = [], 0
    while first < config.bands:
        for count in range(min(GROUP, config.bands - first), 0, -1):
            bands = slice(first, first + count)
            touched = np.flatnonzero(bank[:, bands].any(axis=1))
            bins = slice(int(touched[0]), int(touched[-1]) + 1)
            if frames * count * (bins.stop - bins.start) <= PRODUCT:
                break
        groups.append((bands, bins, np.ascontiguousarray(bank[bins, bands])))
        first += count
    # The window is centred in the transform, and the transform in the frame: its zeros change phases only, and come last.
    before = config.n_fft // 2 - (config.n_fft - config.window) // 2
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / config.window)
    return _Plan(window, before, frames, tuple(groups))


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Arrays that one thread writes over and over: of one block of frames, and views of them."""

    config: AudioConfig
    windowed: np.ndarray
    """float64 [frames, n_fft], zeros behind the window."""
    spectrum: np.ndarray
    """complex128 [frames, n_fft / 2 + 1]."""
    power: np.ndarray
    """float64 [frames, n_fft / 2 + 1]."""
    mel: np.ndarray
    """float64 [frames, bands]."""
    products: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]
    """Columns of `power`, weights, and the columns of `mel` that are their product."""


_MINE = threading.local()


def _work(config: AudioConfig) -> _Work:
    """This thread's, made anew when the settings change."""
    work: _Work | None = getattr(_MINE, "work", None)
    if work is None or work.config != config:
        plan, bins = _plan(config), config.n_fft // 2 + 1
        power, mel = np.zeros((plan.frames, bins)), np.empty((plan.frames, config.bands))
        products = tuple((power[:, touched], weights, mel[:, bands]) for bands, touched, weights in plan.groups)
        windowed, spectrum = np.zeros((plan.frames, config.n_fft)), np.empty((plan.frames, bins), np.complex128)
        work = _MINE.work = _Work(config, windowed, spectrum, power, mel, products)
    return work


def fit_rate(wave: np.ndarray, rate: int, config: AudioConfig) -> np.ndarray:
    """Resample float32 [samples] to `config.rate` (soxr HQ) and cut it to `config.max_seconds` around its centre."""
    if rate != config.rate:
        import soxr

        wave = soxr.resample(wave, rate, config.rate, quality="HQ")
    most = round(config.max_seconds * config.rate)
    first = max(len(wave) - most, 0) // 2
    return wave[first : first + most]


def spectra(wave: np.ndarray, config: AudioConfig) -> Iterator[np.ndarray]:
    """Short-time Fourier transform, some frames at a time (centred, reflected edges, Hann window).

    Everything is computed in float64. In float32 the rounding of the Fourier transform alone moves quiet bands beside loud
    ones (the top of a low-passed MP3) by up to 0.04, and differently on each machine.

    Args:
        wave: float32 [samples] at `config.rate`.
        config: window, hop.

    Yields:
        complex128 [some frames, n_fft / 2 + 1]; overwritten by the next, and by the next call in the same thread.

    Raises:
        MediaError: 'short': fewer samples than the reflected edge needs (n_fft / 2 + 1).
    """
    if len(wave) <= config.n_fft // 2:
        raise MediaError("short", f"{len(wave)} samples at {config.rate} Hz, at least {config.n_fft // 2 + 1} needed")
    plan, work = _plan(config), _work(config)
    after = config.window - plan.before
    reflected = np.concatenate((wave[plan.before : 0 : -1], wave, wave[-2 : -2 - after : -1]))
    frames = sliding_window_view(reflected, config.window)[:: config.hop]
    for first in range(0, len(frames), plan.frames):
        some = frames[first : first + plan.frames]
        n = len(some)
        np.multiply(some, plan.window, out=work.windowed[:n, : config.window])
        yield np.fft.rfft(work.windowed[:n], config.n_fft, out=work.spectrum[:n])


def log_mel(wave: np.ndarray, config: AudioConfig) -> np.ndarray:
    """Natural logarithm of mel power.

    Everything is computed in float64 and rounded once, at the end. BLAS adds in another order, and NumPy takes another logarithm, on
    another processor: in float32 that moved about one stored value in 8,000 by its last bit, in float64 it moves results by some
    1e-15, which the rounding swallows. So the stored bytes are the same on every x86-64 processor that we could try
    (docs/reliability.md). The products are too small for BLAS to share them among threads, so neither the bits nor the load depend
    on how many it has.

    Args:
        wave: float32 [samples] at `config.rate`.
        config: window, hop, bands, floor.

    Returns:
        float32 [samples // hop + 1, bands], at least ln(floor).

    Raises:
        MediaError: as :func:`spectra`.
    """
    work = _work(config)
    out = np.empty((len(wave) // config.hop + 1, config.bands), np.float32)
    first = 0
    for spectrum in spectra(wave, config):
        n = len(spectrum)
        parts = spectrum.view(np.float64)  # real and imaginary in turn
        np.square(parts, out=parts)
        np.add(parts[:, ::2], parts[:, 1::2], out=work.power[:n])
        for power, weights, bands in work.products:  # rows from n on are left from before, and their products are not used
            np.matmul(power, weights, out=bands)
        mel = np.maximum(work.mel[:n], config.floor, out=work.mel[:n])
        out[first : first + n] = np.log(mel, out=mel)
        first += n
    return out


def synthetic(item: str, config: AudioConfig, seed: int) -> np.ndarray:
    """The waveform of an item that has no file: 'silence' (zeros) or 'noise_<n>' (Gaussian, -25 dBFS).

    Returns:
        float32 [max_seconds * rate].
    """
    samples = round(config.max_seconds * config.rate)
    if item == "silence":
        return np.zeros(samples, np.float32)
    if item.startswith("noise_"):
        noise = rng(seed, "audio", item).standard_normal(samples)
        return (noise * 10 ** (NOISE_DBFS / 20)).astype(np.float32)
    raise MediaError("missing", f"'{item}' has no file and is neither 'silence' nor 'noise_<n>'")


def wave_of(item: str, path: Path | None, start: float | None, seconds: float, config: AudioConfig, seed: int) -> np.ndarray:
    """The sound of one companion item: mono, at `config.rate`, cut to `config.max_seconds`.

    Args:
        item: its name; decides a synthetic waveform.
        path: its file; None for a synthetic item.
        start: seconds into the file; None: the whole file.
        seconds: length as it was decoded when the item was probed.
        config: rate and longest length.
        seed: of the data path; only 'noise_<n>' uses it.

    Returns:
        float32 [samples].

    Raises:
        MediaError: as :func:`decode`; 'changed': the clip no longer has the length it was probed with.
    """
    if path is None:
        return synthetic(item, config, seed)
    wave, rate, _ = decode(path, start, seconds if start is not None else None)
    if len(wave) != round(seconds * rate):
        raise MediaError("changed", f"{len(wave)} samples at {rate} Hz, {seconds:.6f} s when it was probed")
    return fit_rate(wave, rate, config)


def encode(item: str, path: Path | None, start: float | None, seconds: float, config: CompanionConfig, seed: int) -> np.ndarray:
    """One companion item as it is stored: the log-mel picture of :func:`wave_of`, which says what the arguments are.

    Returns:
        float16 [length, bands].

    Raises:
        MediaError: as :func:`wave_of`.
    """
    return log_mel(wave_of(item, path, start, seconds, config.audio, seed), config.audio).astype(np.float16)


def check(config: CompanionConfig) -> None:
    """Refuse settings that no clip could be encoded with, before the first is decoded (see :func:`check_bands`)."""
    check_bands(config.audio)


def folder(config: CompanionConfig, root: Path) -> Path:
    """Folder that the paths of items are relative to when they are encoded: where the voices lie."""
    return root


def about(config: CompanionConfig) -> dict[str, Any]:
    """What FEATURES meta says about the values; what decided whether a clip is used, ALIGNMENT meta says."""
    settings = {name: value for name, value in plain(config.audio).items() if name != "table_tolerance"}
    return {"form": "log-mel", "bands": config.audio.bands, "audio": settings, "versions": decoders()}


def decoders() -> dict[str, str]:
    """Versions of the libraries that make waveforms and log-mel."""
    import soundfile
    import soxr

    return {
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": soxr.__version__,
        "numpy": np.__version__,
    }
