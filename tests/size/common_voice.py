"""A Common Voice release of any size: as many clips and speakers as `train.tsv` of the English release 24.0, and few distinct sounds.

How many clips a speaker has falls as a power of the rank, as in crowds; the constants are ours, such that the persons of MARS can all be
served, but not by handing out the largest speakers first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from pipeline.allocation import Speaker
from pipeline.base.seeds import rng
from pipeline.demo.common_voice import COLUMNS
from pipeline.sources.common_voice import DURATION_COLUMNS
from tests.size.files import Names

CLIPS, SPEAKERS = 1_147_819, 99_289
EXPONENT, OFFSET = 0.75, 5.0
"""Clips of the speaker of rank r (from 0): in proportion to (r + 1/2 + OFFSET) ** -EXPONENT."""

SOUNDS, RATE = 48, 16_000
SECONDS = (0.6, 0.9)
"""Short, but long enough to be usable."""
SENTENCES = ("A quiet street.", 'He said "no', "Seven green doors, again.", "The last tram waited for nobody.")


@dataclass(frozen=True)
class Release:
    """The rows of a table of clips, in its order."""

    clients: list[str]
    """client_id of each speaker, rising."""
    clips: np.ndarray
    """int64 [speakers]: rows of each; the rows of a speaker stand together."""
    numbers: np.ndarray
    """int64 [rows]: the number in each clip's name, all different."""


def sizes(clips: int, speakers: int) -> np.ndarray:
    """int64 [speakers], falling but for rounding: clips of each speaker, at least 1; their sum is `clips`."""
    rank = (np.arange(speakers) + 0.5) * (SPEAKERS / speakers)  # a part has the shape of the whole
    share = (rank + OFFSET) ** -EXPONENT
    ends = np.floor(np.cumsum(share) / share.sum() * (clips - speakers) + 1e-6).astype(np.int64)
    return np.diff(ends, prepend=0) + 1


def draw(fraction: float, seed: int) -> Release:
    """A fraction of the rows and of the speakers; who is prolific and how clips are called has nothing to do with the order of names."""
    speakers = max(4, round(SPEAKERS * fraction))
    clips = max(speakers, round(CLIPS * fraction))
    clients = sorted(hashlib.sha512(f"size {seed} {number}".encode()).hexdigest() for number in range(speakers))
    numbers = 17_000_000 + np.cumsum(rng(seed, "size", "common_voice", "gaps").integers(1, 20, clips))
    return Release(
        clients,
        rng(seed, "size", "common_voice", "speakers").permutation(sizes(clips, speakers)),
        rng(seed, "size", "common_voice", "numbers").permutation(numbers),
    )


def speakers(release: Release) -> list[Speaker]:
    """Speakers as the allocation sees them."""
    return [Speaker(client, rank, clips) for rank, (client, clips) in enumerate(zip(release.clients, release.clips.tolist(), strict=True))]


def sounds(count: int, seed: int) -> list[bytes]:
    """Distinct MP3 files of faded noise."""
    import soundfile

    out = []
    for number in range(count):
        random, buffer = rng(seed, "size", "sound", number), BytesIO()
        wave = 0.1 * random.standard_normal(int(random.uniform(*SECONDS) * RATE))
        soundfile.write(buffer, wave * np.hanning(len(wave)), RATE, format="MP3")
        out.append(buffer.getvalue())
    return out


def lay_out(root: Path, release: Release, seed: int, distinct: int = SOUNDS) -> None:
    """clips/, train.tsv (13 columns, no quoting) and clip_durations.tsv below a new folder; its sounds lie once each in a folder beside it.

    Args:
        root: new folder.
        release: what to lay out.
        seed: of the sounds.
        distinct: how many sounds differ.
    """
    import soundfile

    contents = sounds(distinct, seed)
    milliseconds = [round(soundfile.info(BytesIO(content)).duration * 1000) for content in contents]
    files = [f"common_voice_en_{number}.mp3" for number in release.numbers.tolist()]
    Names(root.with_name(f"{root.name}.sounds"), contents).put(root / "clips", files)

    rest = dict.fromkeys(COLUMNS, "") | {"up_votes": "2", "down_votes": "0", "locale": "en"}
    about = []
    for sentence in SENTENCES:
        cells = rest | {"sentence_id": hashlib.sha256(sentence.encode()).hexdigest(), "sentence": sentence}
        about.append("\t".join(cells[name] for name in COLUMNS[2:]))
    with open(root / "train.tsv", "w", encoding="utf-8", newline="\n") as table:
        table.write("\t".join(COLUMNS) + "\n")
        row = 0
        for client, count in zip(release.clients, release.clips.tolist(), strict=True):
            table.writelines(f"{client}\t{files[k]}\t{about[k % len(about)]}\n" for k in range(row, row + count))
            row += count
    with open(root / "clip_durations.tsv", "w", encoding="utf-8", newline="\n") as table:
        table.write("\t".join(DURATION_COLUMNS) + "\n")
        table.writelines(f"{name}\t{milliseconds[k % distinct]}\n" for k, name in enumerate(files))
