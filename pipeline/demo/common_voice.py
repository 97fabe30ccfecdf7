"""The Common-Voice-like set: clips of speakers with uneven counts, tables in the 13-column form, raw quotes, some broken clips.

In:      DemoConfig and what the identities of the other sets need.   Out: tables below common_voice/en/, and clips to be spoken.
Source:  specs/datasets.md 7.1 (files), 7.3 (columns of releases 17.0 to 25.0), 7.4 (no quoting at all), 7.5 (sample rates).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.base.config import DemoConfig
from pipeline.base.seeds import rng, seed_for
from pipeline.demo.voices import Clip, Speaker, speakers

ROOT = "common_voice/en"

COLUMNS = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
]
DEFECTS = ("short", "silent", "truncated", "missing")
"""One clip of each kind. 'missing' is listed in the tables and has no file."""

SPARE = 2
"""Usable clips of each speaker beyond the need it was made for."""

TABLES = ("dev", "invalidated", "other")
"""Tables that hold nothing but their header."""

AGES = ("", "", "teens", "twenties", "thirties", "fourties", "fifties", "sixties")  # spelling as released
GENDERS = ("", "", "male_masculine", "female_feminine", "non-binary")

WHO = (
    "the old baker",
    "a tired sailor",
    "my neighbour",
    "the night train",
    "a small orchestra",
    "her brother",
    "the lighthouse",
    "an early bird",
)
DID = ("waited for", "walked past", "wrote about", "never found", "painted", "listened to", "carried", "forgot")
WHAT = (
    "the silent harbour",
    "seven green doors",
    "a letter from home",
    "the last tram",
    "an empty bridge",
    "two borrowed umbrellas",
    "the winter market",
    "a clock without hands",
)
FRAMES = (
    "{0} {1} {2}.",
    "{0} {1} {2}, again.",
    '"{0} {1} {2}," she said.',
    '"{0} {1} {2}',
    '{0} {1} "{2}".',
    "null and void: {0} {1} {2}.",
)
"""Sentence frames; the fourth has one quotation mark only, as some released sentences have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voices:
    """The tables, and the clips that have a file."""

    files: dict[str, bytes]
    clips: tuple[tuple[str, Clip], ...]
    """(path relative to the folder of the whole demo, clip)."""
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Row:
    client: str
    path: str
    cells: tuple[str, ...]
    clip: Clip
    milliseconds: int


def sizes(config: DemoConfig, needs: Sequence[Sequence[int]]) -> list[int]:
    """Usable clips of each speaker of `train.tsv`, largest first.

    The k-th largest serves the k-th largest need of every data set, so that one speaker for each identity always exists; the
    rest tails off, as the counts of the real collection do.

    Args:
        needs: for each data set, the clips each of its identities needs.
    """
    out = []
    for rank in range(config.speakers):
        need = max((sorted(part, reverse=True)[rank] for part in needs if rank < len(part)), default=0)
        out.append(need + SPARE if need else 1 + (config.speakers - rank - 1) % 3)
    # The most prolific speaker has half as many clips again.
    return sorted([out[0] + out[0] // 2, *out[1:]], reverse=True)


def plan(config: DemoConfig, needs: Sequence[Sequence[int]]) -> Voices:
    """Everything of the Common-Voice-like set except sound."""
    draw = rng(config.seed, "common_voice")
    usable = sizes(config, needs)
    everybody = speakers(config.seed, config.speakers + 1)
    # Who is prolific has nothing to do with pitch or with the order of the client ids.
    ids = [hashlib.sha512(f"dubtrack demo {config.seed} {n}".encode()).hexdigest() for n in range(len(everybody))]
    # The most prolific speaker stays whole; four speakers always exist (DemoConfig asks for two more than it has persons).
    defects = dict(enumerate(DEFECTS[: config.speakers - 1], start=1))
    numbers = (35_000_000 + np.cumsum(draw.integers(1, 60, sum(usable) + len(DEFECTS) + 2))).tolist()
    draw.shuffle(numbers)
    train: list[_Row] = []
    test: list[_Row] = []
    for speaker in range(config.speakers + 1):
        extra = speaker == config.speakers
        kinds = [""] * (2 if extra else usable[speaker])
        if speaker in defects:
            kinds.insert(len(kinds) // 2, defects[speaker])
        about = rng(config.seed, "common_voice", "speaker", speaker)
        person = (_pick(about, AGES), _pick(about, GENDERS))
        for kind in kinds:
            row = _row(config, about, ids[speaker], numbers.pop(), everybody[speaker], kind, person)
            (test if extra else train).append(row)
    train.sort(key=lambda row: (row.client, row.cells[0]))
    files = {f"{ROOT}/{name}.tsv": _tsv([]) for name in TABLES}
    files[f"{ROOT}/train.tsv"] = _tsv(train)
    files[f"{ROOT}/test.tsv"] = _tsv(test)
    files[f"{ROOT}/validated.tsv"] = _tsv(sorted(train + test, key=lambda row: (row.client, row.cells[0])))
    every = sorted(train + test, key=lambda row: row.path)
    files[f"{ROOT}/clip_durations.tsv"] = "".join(
        ["clip\tduration[ms]\n", *(f"{row.path}\t{row.milliseconds}\n" for row in every)]
    ).encode()
    present = [row for row in every if row.clip.defect != "missing"]
    return Voices(
        files=files,
        clips=tuple((f"{ROOT}/clips/{row.path}", row.clip) for row in present),
        counts={"speakers": config.speakers, "train": len(train), "test": len(test), "files": len(present), "broken": len(defects)},
    )


def _row(
    config: DemoConfig, draw: np.random.Generator, client: str, number: int, speaker: Speaker, kind: str, person: tuple[str, str]
) -> _Row:
    path = f"common_voice_en_{number}.mp3"
    shortest, longest = config.seconds
    # In whole milliseconds, as the table of durations says it.
    milliseconds = int(draw.uniform(0.25, 0.4) * 1000) if kind == "short" else round(float(draw.uniform(shortest, longest)) * 1000)
    words = _pick(draw, WHO), _pick(draw, DID), _pick(draw, WHAT)
    sentence = _pick(draw, FRAMES).format(*words)
    start = 1 if sentence.startswith('"') else 0
    sentence = sentence[:start] + sentence[start].upper() + sentence[start + 1 :]
    digest = hashlib.sha256(f"{sentence} {number}".encode()).hexdigest()
    if kind:  # a broken clip stands first among its speaker's, so that whoever takes clips in order meets it
        digest = "0000" + digest[4:]
    votes = (str(int(draw.integers(2, 5))), str(int(draw.integers(0, 2))))
    cells = (digest, sentence, "", *votes, *person, "", "", "en", "")
    clip = Clip(
        seed=config.seed,
        name=path,
        speaker=speaker,
        seconds=milliseconds / 1000,
        rate=32000 if seed_for(config.seed, "rate", path) % 5 < 2 else 48000,
        defect=kind,
    )
    return _Row(client, path, cells, clip, milliseconds)


def _pick(draw: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(draw.integers(len(options)))]


def _tsv(rows: list[_Row]) -> bytes:
    lines = ["\t".join(COLUMNS), *("\t".join((row.client, row.path, *row.cells)) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode()
