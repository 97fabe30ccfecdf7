"""The MARS-like set: odd persons train, even ones test, with distractors (0000) and junk (00-1), names and tables as shipped.

In:      DemoConfig.   Out: a :class:`Part` below MARS/.
Source:  specs/datasets.md 1.1 (names, tables, order of rows) and 1.2 (query rule: the last row of each camera of a test person
         that at least two cameras see).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.base.config import DemoConfig
from pipeline.base.seeds import rng
from pipeline.demo.cameras import Camera, camera
from pipeline.demo.parts import Film, Part, clips_for, length, mat
from pipeline.demo.people import Person, people
from pipeline.demo.shots import Shot

DISTRACTOR, JUNK = "0000", "00-1"


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a table."""

    folder: str
    pid: int
    camera: int
    """From 1."""
    number: int
    """T of the names; rises with the camera, so that name order and table order agree."""
    shot: Shot
    names: tuple[str, ...]


def plan(config: DemoConfig) -> Part:
    """Everything of the MARS-like set except pixels."""
    cameras = [camera(config.seed, "mars", number) for number in range(config.cameras)]
    count = config.train_identities + config.test_identities
    everybody = people(config.seed, "mars", count)
    train, test = [], []
    for index in range(config.train_identities):
        train += _person_rows(config, cameras, 2 * index + 1, everybody[index])
    test += _other_rows(config, cameras, JUNK, -1, config.junk)
    test += _other_rows(config, cameras, DISTRACTOR, 0, config.distractors)
    for index in range(config.test_identities):
        # One person in eight has a single tracklet in each camera: queries that find no match once queries leave the gallery.
        spare = 0 if index % 8 == 7 else 2
        test += _person_rows(config, cameras, 2 * index + 2, everybody[config.train_identities + index], spare)
    files: dict[str, bytes] = {}
    films: list[Film] = []
    for half, rows, key in (("train", train, "track_train_info"), ("test", test, "track_test_info")):
        files[f"MARS/info/{half}_name.txt"] = "".join(f"{name}\r\n" for row in rows for name in row.names).encode()
        files[f"MARS/info/tracks_{half}_info.mat"] = mat({key: _table(rows)})
        films += [
            Film(shot=row.shot, how="jpeg", paths=tuple(f"MARS/bbox_{half}/{row.folder}/{name}" for name in row.names)) for row in rows
        ]
    files["MARS/info/query_IDX.mat"] = mat({"query_IDX": queries(_table(test))})
    lengths: dict[int, list[int]] = {}
    for row in (row for row in train + test if row.pid > 0):  # test persons too: the oracle control dubs them
        lengths.setdefault(row.pid, []).append(len(row.names))
    return Part(
        files=files,
        films=tuple(films),
        needs=tuple(clips_for(n) for n in lengths.values()),
        counts={
            "train_identities": config.train_identities,
            "test_identities": config.test_identities,
            "train_tracklets": len(train),
            "test_tracklets": len(test),
            "queries": int(queries(_table(test)).size),
            "frames": sum(len(row.names) for row in train + test),
        },
    )


def queries(table: np.ndarray) -> np.ndarray:
    """uint16 [1, queries]: rows (from 1) of `table` (int32 [rows, 4]) that are queries, ascending."""
    last: dict[tuple[int, int], int] = {}
    for row, (_, _, pid, number) in enumerate(table.tolist(), start=1):
        if pid > 0:
            last[pid, number] = row
    seen = [pid for pid, _ in last]
    return np.array([sorted(row for (pid, _), row in last.items() if seen.count(pid) > 1)], np.uint16)


def _table(rows: list[_Row]) -> np.ndarray:
    """int32 [rows, 4]: first image, last image (from 1, inclusive), person, camera."""
    ends = np.cumsum([len(row.names) for row in rows])
    return np.array([(end - len(row.names) + 1, end, row.pid, row.camera) for end, row in zip(ends, rows, strict=True)], np.int32)


def _person_rows(config: DemoConfig, cameras: list[Camera], pid: int, person: Person, spare: int | None = None) -> list[_Row]:
    """Tracklets of one person, in at least two cameras: `spare` of 0 gives one in each camera, 2 at least two more than cameras."""
    draw = rng(config.seed, "mars", "tracklets", pid)
    wanted = max(2, config.tracklets + int(draw.integers(-1, 2)) * (config.tracklets // 3))
    seen_by = 2 + int(draw.binomial(max(0, min(len(cameras), wanted - 1) - 2), 0.35))
    wanted = seen_by if spare == 0 else max(wanted, seen_by + (spare or 0))
    chosen = draw.permutation(len(cameras))[:seen_by].tolist()
    # More tracklets go to the cameras in turn: with two of them, every query keeps a match in another camera.
    numbers = sorted(chosen[i % seen_by] for i in range(wanted))
    return _rows(config, draw, f"{pid:04d}", pid, [(cameras[number], person) for number in numbers], misplaced=False)


def _other_rows(config: DemoConfig, cameras: list[Camera], folder: str, pid: int, count: int) -> list[_Row]:
    """Distractors show persons who are nobody else; junk shows boxes that miss somebody."""
    draw = rng(config.seed, "mars", "tracklets", folder)
    strangers = people(config.seed, f"mars {folder}", count)
    numbers = sorted(draw.integers(0, len(cameras), count).tolist())
    seen = [(cameras[number], person) for number, person in zip(numbers, strangers, strict=True)]
    return _rows(config, draw, folder, pid, seen, misplaced=folder == JUNK)


def _rows(
    config: DemoConfig, draw: np.random.Generator, folder: str, pid: int, seen: list[tuple[Camera, Person]], misplaced: bool
) -> list[_Row]:
    rows, number = [], 0
    for view, person in seen:
        number += 1 + int(draw.random() < 0.2) * int(draw.integers(1, 5))  # numbers have gaps
        n = length(draw, *config.frames)
        stem = f"{folder}C{view.number + 1}T{number:04d}"
        gap = int(draw.integers(1, n)) if draw.random() < 0.1 and n < 990 else n
        names = tuple(f"{stem}F{i + 1 + (3 if i >= gap else 0):03d}.jpg" for i in range(n))  # some frames are missing, as shipped
        shot = Shot(name=stem, person=person, camera=view, length=n, misplaced=misplaced)
        rows.append(_Row(folder, pid, view.number + 1, number, shot, names))
    return rows
