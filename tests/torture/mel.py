"""Golden log-mel: made clips -> the stored bytes, the same on every processor and every Python, or found out.

    python -m tests.torture.mel          # exit status 1 if a clip differs from golden/mel.json; needs NumPy, pyarrow, soundfile and soxr only

Clips: 24 waves made of whole numbers, so that no processor can round them otherwise, at six rates, loud, quiet, short, nearly silent; and
four MP3 files that `pipeline.demo` spoke (golden/*.mp3; nobody's voice). They go through `pipeline.encode_companion.encode` as a shard's
items do. Golden are SHA-256 of the float16 bytes, and for machines of another kind twelve values of each clip.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from pipeline import encode_companion
from pipeline.base.config import AudioConfig, CompanionConfig
from pipeline.base.seeds import rng
from pipeline.features import audio

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden")
SEED = 15
RATES = (16_000, 8_000, 22_050, 48_000, 32_000, 44_100)
DEFAULT = AudioConfig()
SETTINGS = (DEFAULT, replace(DEFAULT, bands=64, n_fft=1024, window=800, hop=320), replace(DEFAULT, rate=8_000, high_hz=3_800.0, bands=40))
SAMPLED = 12
"""Values of each clip that are kept beside its digest."""
CLOSE = 0.05
"""How far a value may lie from the golden one on a machine that is no x86-64; 0.016 is what soxr without its vector code does."""
EXACT = ("x86_64", "AMD64")
"""Machines of which the same bytes are demanded."""


class Clip(NamedTuple):
    """One file and the settings it is encoded with."""

    name: str
    """Of the file."""
    wave: np.ndarray | None
    """float32 [samples]; None: an MP3 file of GOLDEN."""
    rate: int
    config: AudioConfig


def wave(number: int, rate: int) -> np.ndarray:
    """Pulses of a voice's pitch, noise and a smoothed noise, float32; whole numbers and powers of two until it is rounded, once.

    Of 24 waves: every fourth is short, and in turn loud, ordinary, quiet, and silence with a step of a 16-bit file here and there.
    """
    draw = rng(SEED, "mel", number)
    count = (rate // 8 if number % 4 == 3 else rate * (3 + number % 3)) + int(draw.integers(0, 97))
    noise, place = draw.integers(-(2**15), 2**15, count + 16), np.arange(count)
    period = int(draw.integers(rate // 260, rate // 85))
    total = np.cumsum(noise)
    saw = (place % period) * (2**15 // period) * (1 + place * 4 // count % 2)  # louder in every other quarter
    whole = saw * 2 + (total[16:] - total[:-16]) // 4 + noise[:count] // 64
    if number % 8 == 5:
        whole = np.where(noise[:count] % 199 == 0, 1, 0) * 2**4  # 2**-15 of full scale
    scale = {0: 2.0**-15, 1: 2.0**-19, 2: 2.0**-27}[number % 3]
    return (whole * scale).astype(np.float32)


def clips() -> list[Clip]:
    """All golden clips, none of which anybody has ever spoken."""
    made = []
    for number in range(24):
        rate = RATES[number % len(RATES)]
        config = SETTINGS[0 if number < 16 else 1 + number % 2]
        made.append(Clip(f"wave{number:02d}-{rate}.wav", wave(number, rate), rate, config))
    return made + [Clip(path.name, None, 0, DEFAULT) for path in sorted(GOLDEN.glob("*.mp3"))]


def spoken() -> Iterator[tuple[str, bytes]]:
    """The MP3 files, as they were made once; they are kept because another build of the MP3 encoder may write others."""
    from pipeline.demo.voices import Clip as Spoken
    from pipeline.demo.voices import render, speakers

    for number, speaker in enumerate(speakers(SEED, 4)):
        rate = (48_000, 32_000)[number % 2]
        yield f"spoken{number}-{rate}.mp3", render(Spoken(seed=SEED, name=f"mel {number}", speaker=speaker, seconds=0.7, rate=rate))


def encoded(folder: Path, some: list[Clip], threads: int) -> dict[str, np.ndarray]:
    """What FEATURES would hold of each clip: float16 [length, bands]. Files are written into `folder`, unless they are there."""
    import soundfile

    rows: dict[AudioConfig, list[dict[str, Any]]] = {}
    for clip in some:
        path = folder / clip.name
        if not path.exists():
            if clip.wave is None:
                path.write_bytes((GOLDEN / clip.name).read_bytes())
            else:
                soundfile.write(path, clip.wave, clip.rate, subtype="FLOAT")
        seconds = audio.probe(path, None, None, clip.config).seconds
        rows.setdefault(clip.config, []).append({"item": clip.name, "path": clip.name, "start": None, "seconds": seconds})
    out = {}
    for config, items in rows.items():
        for row in encode_companion.encode(items, folder, CompanionConfig(kind="audio", audio=config), SEED, threads):
            out[row["item"]] = np.frombuffer(row["values"], row["dtype"]).reshape(row["length"], row["width"])
    return out


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values)).hexdigest()


def sampled(values: np.ndarray) -> list[float]:
    """Some values, from all over the picture."""
    return [float(values.flat[k * 2_654_435_761 % values.size]) for k in range(SAMPLED)]


def source(clip: Clip) -> str:
    """Tells whether a clip itself is the one that the golden values were made from."""
    return digest(clip.wave) if clip.wave is not None else hashlib.sha256((GOLDEN / clip.name).read_bytes()).hexdigest()


def golden() -> dict[str, dict[str, Any]]:
    return json.loads((GOLDEN / "mel.json").read_text())


def refused(found: Mapping[str, np.ndarray], expected: Mapping[str, Mapping[str, Any]], exact: bool = True) -> dict[str, str]:
    """Clips that are not as they must be, and why.

    Args:
        found: of :func:`encoded`.
        expected: of :func:`golden`.
        exact: the same bytes are demanded, else every sampled value within CLOSE.
    """
    out = dict.fromkeys(set(expected) - set(found), "was not encoded")
    for name, values in found.items():
        want = expected.get(name)
        if want is None:
            out[name] = "has no golden values"
        elif list(values.shape) != want["shape"]:
            out[name] = f"has the shape {list(values.shape)}, expected {want['shape']}"
        else:
            far = max(abs(a - b) for a, b in zip(sampled(values), want["values"], strict=True))
            if far > CLOSE or not far <= CLOSE or (exact and digest(values) != want["sha256"]):
                out[name] = f"other bytes; sampled values differ by up to {far:.3g}"
    return out


# --- broken on purpose -----------------------------------------------------------------------------------------------


def _float32_log_mel(wave: np.ndarray, config: AudioConfig) -> np.ndarray:
    """As it was once computed: products and logarithm in float32."""
    bank = audio.filter_bank(config).astype(np.float32)
    power = [np.square(np.abs(some)).astype(np.float32) for some in audio.spectra(wave, config)]
    return np.log(np.maximum(np.concatenate(power) @ bank, np.float32(config.floor)))


def _float32_transform(windowed: np.ndarray, n: int, out: np.ndarray) -> np.ndarray:
    out[...] = REAL_TRANSFORM(windowed.astype(np.float32), n)
    return out


REAL_TRANSFORM = np.fft.rfft
REAL_PLAN, REAL_BANK, REAL_FIT, REAL_MEL = audio._plan, audio.filter_bank, audio.fit_rate, audio.log_mel


def _other_window(make: Any) -> Any:
    return patch.object(audio, "_plan", lambda config: replace(REAL_PLAN(config), window=make(config.window)))


def _other_bank(change: Any) -> Any:
    return patch.object(audio, "filter_bank", lambda config: change(REAL_BANK(config), config))


def _other_settings(**settings: Any) -> Any:
    return patch.object(audio, "log_mel", lambda wave, config: REAL_MEL(wave, replace(config, **settings)))


def _cut_at_the_end(wave: np.ndarray, rate: int, config: AudioConfig) -> np.ndarray:
    whole = REAL_FIT(wave, rate, replace(config, max_seconds=1e3))
    return whole[: round(config.max_seconds * config.rate)]


def _linear_resampling(wave: np.ndarray, rate: int, config: AudioConfig) -> np.ndarray:
    places = np.arange(len(wave) * config.rate // rate) * (rate / config.rate)
    return REAL_FIT(np.interp(places, np.arange(len(wave)), wave).astype(np.float32), config.rate, config)


def _swapped(bank: np.ndarray, config: AudioConfig) -> np.ndarray:
    return bank[:, [1, 0, *range(2, config.bands)]]


def _area(bank: np.ndarray, config: AudioConfig) -> np.ndarray:
    return bank / bank.sum(axis=0)


BROKEN = {
    "symmetric Hann window": partial(_other_window, np.hanning),
    "Hamming window": partial(_other_window, np.hamming),
    "another hop": partial(_other_settings, hop=161),
    "another floor": partial(_other_settings, floor=1e-9),
    "another upper edge": partial(_other_settings, high_hz=3_790.0),
    "float32 Fourier transform": partial(patch.object, np.fft, "rfft", _float32_transform),
    "float32 sums": partial(patch.object, audio, "log_mel", _float32_log_mel),
    "decimal logarithm": partial(patch.object, audio, "log_mel", lambda wave, config: REAL_MEL(wave, config) / np.float32(np.log(10))),
    "swapped bands": partial(_other_bank, _swapped),
    "area normalisation": partial(_other_bank, _area),
    "linear resampling": partial(patch.object, audio, "fit_rate", _linear_resampling),
    "cut at the end": partial(patch.object, audio, "fit_rate", _cut_at_the_end),
}
"""What a slip in the code would do, by name."""


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The product, broken."""
    audio._plan.cache_clear()
    made: AbstractContextManager[Any] = BROKEN[name]()
    with made:
        yield
    REAL_PLAN.cache_clear()


# --- other processors ------------------------------------------------------------------------------------------------

KERNELS = {"Prescott": "pni", "Nehalem": "sse4_2", "Haswell": "avx2", "Zen": "avx2", "SkylakeX": "avx512bw"}
"""OpenBLAS's code for several processors, and the flag without which a processor cannot run it."""


def processors() -> list[dict[str, str]]:
    """Environments that make BLAS and NumPy compute as they do on other processors and with other numbers of threads."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = (
        set(next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split())
        if cpuinfo.exists()
        else set()
    )
    found: list[str] = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    out = [{"OPENBLAS_CORETYPE": kernel} for kernel, flag in KERNELS.items() if flag in flags]
    out += [{"NPY_DISABLE_CPU_FEATURES": " ".join(found[first:])} for first in range(len(found))]
    if flags and found:
        out.append({"NPY_DISABLE_CPU_FEATURES": " ".join(found), "OPENBLAS_CORETYPE": "Prescott"})
    return out + [{"OPENBLAS_NUM_THREADS": threads} for threads in ("1", "2")]


def blas_kernel() -> str:
    """What OpenBLAS computes with in this process; 'unknown' where NumPy has no OpenBLAS of its own."""
    for library in sorted((Path(np.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas64_*.so")):
        name = ctypes.CDLL(str(library)).scipy_openblas_get_corename64_
        name.restype = ctypes.c_char_p
        return name().decode()
    return "unknown"


def about() -> dict[str, str]:
    """What this process computes with."""
    log = np.lib.introspect.opt_func_info(func_name="^log$", signature="float64")["log"]
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "blas": blas_kernel(),
        "log": next(iter(log.values()))["current"],
    }


def elsewhere(folder: Path, environment: Mapping[str, str], threads: int = 1, name: str = "") -> dict[str, Any]:
    """What a process of this environment makes of the clips: about it, and 'digests' by clip.

    Args:
        folder: for the files.
        threads: of the step.
        name: of BROKEN; '' for the product as it is.
    """
    command = [sys.executable, "-m", "tests.torture.mel", "--json", "--folder", str(folder), "--threads", str(threads), "--broken", name]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OPENBLAS_", "NPY_DISABLE", "SOXR_"))}
    done = subprocess.run(command, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{environment}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def without_vector_code(folder: Path, some: list[Clip]) -> float:
    """How far the farthest value moves where soxr may not use its vector code: what to expect of other machines."""
    here = encoded(folder, some, 1)
    with patch.dict(os.environ, {"SOXR_USE_SIMD": "0"}):
        there = encoded(folder, some, 1)
    return max(float(np.abs(here[name].astype(np.float64) - there[name]).max()) for name in here)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, help="for the clips' files (default: a new one)")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--broken", default="", help="break the product on purpose")
    arguments.add_argument("--json", action="store_true", help="print what was made and judge nothing")
    arguments.add_argument("--write", action="store_true", help="make the golden values anew, and the MP3 files that are missing")
    args = arguments.parse_args()
    if args.write:
        for name, data in spoken():
            if not (GOLDEN / name).exists():
                (GOLDEN / name).write_bytes(data)
    some = clips()
    with broken(args.broken) if args.broken else nullcontext(), _folder(args.folder) as folder:
        found = encoded(folder, some, args.threads)
    if args.write:
        kept = {c.name: {"source": source(c), "shape": list(found[c.name].shape), "sha256": digest(found[c.name])} for c in some}
        lines = [f'"{name}": {json.dumps({**row, "values": sampled(found[name])})}' for name, row in kept.items()]
        (GOLDEN / "mel.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    elif args.json:
        print(json.dumps({**about(), "digests": {n: digest(v) for n, v in found.items()}}))
    else:
        wrong = refused(found, golden(), platform.machine() in EXACT)
        for name, why in sorted(wrong.items()):
            print(f"{name}: {why}")
        print(f"{len(found) - len(wrong)} of {len(found)} clips as golden; {', '.join(f'{key} {value}' for key, value in about().items())}")
        sys.exit(1 if wrong else 0)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    import tempfile

    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


if __name__ == "__main__":
    main()
