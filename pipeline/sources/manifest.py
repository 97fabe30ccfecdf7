"""Your own tracklets: one table, one row per frame. This is also how recorded sound (TED) comes in.

In:      ``tracklets.csv`` (UTF-8, comma, header) or ``tracklets.jsonl`` (one object per line) in the root:

             column     meaning
             split      name of the split; a tracklet may stand in several splits, with all its frames each time
             role       train, query, gallery; distractor (in the gallery, matches nobody); junk (removed from every
                        ranking); unused. One role for each tracklet in each split
             identity   name of the person (text: '007' is not '7')
             camera     name of the camera; indices are the ranks of the sorted names (as numbers if all are numbers)
             tracklet   unique name: letters, digits, '_', '-'
             frame      path of the picture, relative to the root; rows of a tracklet stand in time order
             audio      optional: path of the sound file that is heard with this frame
             start_s    optional: where in the file the sound begins, in seconds (empty: at its start)
             end_s      optional: where it ends; or `seconds`, how long it is; not both (empty: to the end of the file)

         Without an ``audio`` value a frame is silent. Neighbouring frames with equal sound cells hear one item.
Out:     tracklets, roles, and ITEMS of the sound: owner is the tracklet, first and last the frames that hear it.
Source:  specs/datasets.md section 4.

TED: each id has six frames and one wav of 5 s. Written as a table of this kind it needs no code:

    split,role,identity,camera,tracklet,frame,audio
    ted,train,002,0,002,002/1.jpg,002/002.wav
    ted,train,002,0,002,002/2.jpg,002/002.wav
    ...

Where all tracklets have one camera, a protocol that removes the query's camera leaves no match: choose another one.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.base import tables
from pipeline.base.config import DatasetConfig
from pipeline.base.errors import SourceError, did_you_mean
from pipeline.base.files import parse_json
from pipeline.sources import listing
from pipeline.sources.listing import Tracklet

LICENCE = "your own data: your own terms"
DESCRIBED = listing.OWN_DATA
EXPECTED = "a folder with tracklets.csv or tracklets.jsonl"

FILES = ("tracklets.csv", "tracklets.jsonl")
REQUIRED = ("split", "role", "identity", "camera", "tracklet", "frame")
OPTIONAL = ("audio", "start_s", "end_s", "seconds")
ROLES = {
    "train": ("train", "person"),
    "query": ("query", "person"),
    "gallery": ("gallery", "person"),
    "unused": ("unused", "person"),
    "distractor": ("gallery", "distractor"),
    "junk": ("junk", "junk"),
}
"""What each role of the table means: role of SPLIT and kind of TRACKLETS."""


@dataclass(frozen=True)
class Heard:
    """The sound of one frame."""

    path: str
    start: float | None
    """Seconds into the file; None: the whole file."""
    seconds: float | None
    """Length in seconds; None: to the end of the file."""


@dataclass
class Part:
    """What one split says about one tracklet."""

    identity: str
    camera: str
    role: str
    where: str
    """Its first row, for errors."""
    frames: list[str] = field(default_factory=list)
    heard: list[Heard | None] = field(default_factory=list)


def holds(root: Path, config: DatasetConfig) -> bool:
    """One of the two tables."""
    return any((root / name).is_file() for name in FILES)


def read_tracklets(root: Path, config: DatasetConfig) -> tuple[list[Tracklet], dict[str, Any]]:
    """All tracklets of all splits, in the order of their names, and notes: cameras and their names, counts, digest.

    Raises:
        SourceError: names the row of the table that contradicts the grammar, another row, or the files in the root.
    """
    splits, path = _read(root)
    parts = merged(splits)
    _require_files(root, path, (frame for part in parts.values() for frame in part.frames))
    cameras = camera_names(part.camera for part in parts.values())
    tracklets = [
        Tracklet(name, part.identity, ROLES[part.role][1], cameras.index(part.camera), tuple(part.frames)) for name, part in parts.items()
    ]
    counts = {
        "persons": len({t.identity for t in tracklets if t.kind == "person"}),
        "tracklets": len(tracklets),
        "frames": sum(len(t.frames) for t in tracklets),
        "tracklets with sound": sum(any(part.heard) for part in parts.values()),
    }
    return tracklets, {
        "cameras": len(cameras),
        "camera names": cameras,
        "counts": counts,
        "notes": [],
        "table": path.name,
        **listing.lists_read(root, path.name),
    }


def read_split(root: Path, config: DatasetConfig, split: str, tracklets: Sequence[Tracklet]) -> tuple[dict[str, str], dict[str, Any]]:
    """Roles of one split; a tracklet that it does not list is 'unused'. Notes: identities that both train and are tested."""
    splits, path = _read(root)
    listing.choose_split("manifest", split, sorted(splits))
    parts = splits[split]
    roles = {t.tracklet: ROLES[parts[t.tracklet].role][0] if t.tracklet in parts else "unused" for t in tracklets}
    return roles, listing.lists_read(root, path.name)


def read_items(root: Path, config: DatasetConfig) -> tuple[pa.Table, dict[str, Any]]:
    """ITEMS of the recorded sound, and notes.

    Raises:
        SourceError: as `read_tracklets`, or the table has no sound at all.
    """
    splits, path = _read(root)
    parts = merged(splits)
    rows: list[dict[str, Any]] = []
    for owner_order, (tracklet, part) in enumerate(parts.items()):
        for number, (first, last, heard) in enumerate(runs(part.heard)):
            rows.append(
                {
                    "item": f"{tracklet}_{number:04d}",
                    "kind": "audio",
                    "owner": tracklet,
                    "owner_order": owner_order,
                    "order": len(rows),
                    "path": heard.path,
                    "start": heard.start,
                    "seconds": heard.seconds,
                    "first": first,
                    "last": last,
                }
            )
    if not rows:
        raise SourceError(f"{path}: no row has a value in 'audio'; recorded sound needs one for every frame that hears something")
    sizes = listing.file_sizes(root, (row["path"] for row in rows))
    for row in rows:
        row["bytes"] = sizes.get(row["path"], -1)
    counts = {
        "clips": len(rows),
        "tracklets with sound": len({row["owner"] for row in rows}),
        "tracklets without sound": len(parts) - len({row["owner"] for row in rows}),
        "clips without a file": sum(row["bytes"] < 0 for row in rows),
        "clips without a duration": sum(row["seconds"] is None for row in rows),
    }
    return tables.table(rows, tables.ITEMS), {"table": path.name, "counts": counts, **listing.lists_read(root, path.name)}


def runs(heard: Sequence[Heard | None]) -> list[tuple[int, int, Heard]]:
    """First and last frame (from 0, inclusive) of every run of frames with the same sound; silent frames are in none."""
    out, start = [], 0
    for sound, group in groupby(heard):
        length = len(list(group))
        if sound is not None:
            out.append((start, start + length - 1, sound))
        start += length
    return out


def camera_names(names: Iterable[str]) -> list[str]:
    """Distinct camera names, sorted: as numbers if all are numbers, else as text."""
    distinct = set(names)

    def number(name: str) -> tuple[int, str, str]:
        digits = name.lstrip("0")  # not `int`, which refuses numbers of thousands of digits
        return len(digits), digits, name

    return sorted(distinct, key=number if all(n.isascii() and n.isdigit() for n in distinct) else None)


def merged(splits: dict[str, dict[str, Part]]) -> dict[str, Part]:
    """One entry per tracklet, sorted by name; splits that list a tracklet must agree on all but its role.

    Raises:
        SourceError: two splits disagree, or one counts a tracklet as a person and another as distractor or junk.
    """
    out: dict[str, Part] = {}
    for _, parts in sorted(splits.items()):
        for name, part in parts.items():
            known = out.setdefault(name, part)
            for what, left, right in (
                ("identity", known.identity, part.identity),
                ("camera", known.camera, part.camera),
                ("kind", ROLES[known.role][1], ROLES[part.role][1]),
                ("list of frames", known.frames, part.frames),
                ("sound", known.heard, part.heard),
            ):
                if left != right:
                    raise SourceError(
                        f"{part.where}: tracklet '{name}' has another {what} than at {known.where}; expected the same in every split"
                    )
    return dict(sorted(out.items()))


def _read(root: Path) -> tuple[dict[str, dict[str, Part]], Path]:
    """Split -> tracklet -> part, and the table they come from."""
    present = [root / name for name in FILES if (root / name).is_file()]
    if len(present) != 1:
        raise SourceError(
            f"{root}: found {' and '.join(path.name for path in present) or 'neither table'}; expected one of {', '.join(FILES)}"
        )
    path = present[0]
    splits: dict[str, dict[str, Part]] = {}
    for where, row in _csv_rows(path) if path.suffix == ".csv" else _json_rows(path):
        _add(splits, where, row)
    if not splits:
        raise SourceError(f"{path}: no rows; expected one row per frame")
    for split, parts in splits.items():
        for tracklet, part in parts.items():
            if len(set(part.frames)) != len(part.frames):
                twice = next(frame for frame, times in Counter(part.frames).items() if times > 1)
                raise SourceError(
                    f"{path}: tracklet '{tracklet}' lists '{twice}' more than once in split '{split}'; expected one row per frame"
                )
    return splits, path


def _add(splits: dict[str, dict[str, Part]], where: str, row: dict[str, str]) -> None:
    for name in REQUIRED:
        if not row.get(name):
            raise SourceError(f"{where}: no value in '{name}'; expected one on every row")
    role, tracklet = row["role"], row["tracklet"]
    if role not in ROLES:
        raise SourceError(f"{where}: role '{role}'; expected one of {', '.join(ROLES)}")
    if listing.KEY.fullmatch(tracklet) is None:
        raise SourceError(f"{where}: tracklet '{tracklet}'; expected letters, digits, '_' and '-' only")
    part = splits.setdefault(row["split"], {}).setdefault(tracklet, Part(row["identity"], row["camera"], role, where))
    for name, known in (("identity", part.identity), ("camera", part.camera), ("role", part.role)):
        if row[name] != known:
            raise SourceError(f"{where}: tracklet '{tracklet}' has {name} '{row[name]}', but '{known}' at {part.where}")
    part.frames.append(listing.plain_path(row["frame"], where))
    part.heard.append(_heard(row, where))


def _heard(row: dict[str, str], where: str) -> Heard | None:
    if not row.get("audio"):
        given = [name for name in ("start_s", "end_s", "seconds") if row.get(name)]
        if given:
            raise SourceError(f"{where}: '{given[0]}' without 'audio'; expected the sound file too")
        return None
    start, end, seconds = (_number(row.get(name, ""), name, where) for name in ("start_s", "end_s", "seconds"))
    if end is not None:
        if seconds is not None:
            raise SourceError(f"{where}: both 'end_s' and 'seconds'; expected one of them")
        seconds = end - (start or 0.0)
    if seconds is not None:
        if seconds <= 0:
            raise SourceError(f"{where}: the sound is {seconds:g} s long; expected more than 0")
        start = start or 0.0
    return Heard(listing.plain_path(row["audio"], where), start, seconds)


def _number(text: str, name: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SourceError(f"{where}: '{name}' is '{text}'; expected seconds, 0 or more")
    return value


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            _check_columns(columns, f"{path.name}: header", REQUIRED)
            for fields in reader:
                if not fields:
                    continue  # an empty line says nothing
                where = f"{path.name}: line {reader.line_num}"
                if len(fields) != len(columns):
                    raise SourceError(f"{where} has {len(fields)} fields, the header has {len(columns)}")
                yield where, dict(zip(columns, map(str.strip, fields), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not a CSV table in UTF-8 ({error})") from None


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        where = f"{path.name}: line {number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise SourceError(f"{where} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise SourceError(f'{where} is not an object; expected {{"split": ..., "role": ..., ...}}')
        _check_columns(list(row), where, REQUIRED)
        for name, value in row.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float | None):
                raise SourceError(f"{where}: '{name}' is {type(value).__name__}; expected text or a number")
        yield where, {name: "" if value is None else str(value) for name, value in row.items()}


def _check_columns(columns: Sequence[str], where: str, required: Sequence[str]) -> None:
    for name, times in Counter(columns).items():
        if name not in (*REQUIRED, *OPTIONAL):
            hint = "; columns are separated by commas" if ";" in name or "\t" in name else did_you_mean(name, (*REQUIRED, *OPTIONAL))
            raise SourceError(f"{where}: unknown column '{name}'{hint}")
        if times > 1:
            raise SourceError(f"{where}: {times} columns '{name}'; expected one")
    missing = [name for name in required if name not in columns]
    if missing:
        raise SourceError(f"{where}: no column {', '.join(missing)}; expected {', '.join(REQUIRED)} and perhaps {', '.join(OPTIONAL)}")


def _require_files(root: Path, path: Path, frames: Iterable[str]) -> None:
    frames = list(frames)
    sizes = listing.file_sizes(root, frames)
    missing = [frame for frame in frames if frame not in sizes]
    if missing:
        raise SourceError(
            f"{path}: names '{missing[0]}', which is not in the root ({len(missing)} such frames); complete the folder or mend the table"
        )
