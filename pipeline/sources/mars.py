"""MARS: 1,261 persons, 6 cameras, 20,478 tracklets; one official split.

In:      the root that holds ``bbox_train/<pid>/``, ``bbox_test/<pid>/`` and, if kept, ``info/*.mat``.
Out:     tracklets in byte order of their names (the order of the official tables), roles of the split 'official'.
Source:  specs/datasets.md section 1. Names come from the folders; the official tables are only compared with them,
         row by row, so the two big name lists are not needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import filterfalse, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.config import DatasetConfig
from pipeline.base.errors import SourceError
from pipeline.sources import listing
from pipeline.sources.listing import Tracklet

LICENCE = "research use only; frames of real people, no further distribution; terms: project page of MARS (Zheng et al., ECCV 2016)"
DESCRIBED = f"{listing.OWN_DATA} (official: project page and repository 'MARS-evaluation' of the MARS authors)"
EXPECTED = "the MARS folder with bbox_train/, bbox_test/ and info/ (info/ may be left out)"
CAMERAS = 6
SPLITS = ("official",)

DISTRACTOR, JUNK = "0000", "00-1"
FOLDER = re.compile(r"00-1|\d{4}", re.ASCII)
FRAME = re.compile(r"(?P<identity>00-1|\d{4})C(?P<camera>[1-6])T(?P<tracklet>\d{4})F(?P<frame>\d{3}|[1-9]\d{3,})\.jpg", re.ASCII)
STEM = slice(0, 11)
"""The part of a frame's name that is its tracklet's: all numbers before F have a fixed width."""

TABLES = {
    "bbox_train": ("info/tracks_train_info.mat", "track_train_info"),
    "bbox_test": ("info/tracks_test_info.mat", "track_test_info"),
}
QUERIES = ("info/query_IDX.mat", "query_IDX")

OFFICIAL: dict[str, Any] = {
    "train tracklets": 8298,
    "train persons": 625,
    "train frames": 509914,
    "train tracklets by camera": [1816, 1957, 1321, 750, 1880, 574],
    "test tracklets": 12180,
    "test persons": 634,
    "test frames": 681089,
    "test tracklets by camera": [2271, 3725, 1495, 1024, 2240, 1425],
    "distractor tracklets": 3248,
    "junk tracklets": 870,
}
"""Counts of the released set (spec 1.2)."""
OFFICIAL_ROLES = {"train": 8298, "query": 1980, "gallery": 9330, "junk": 870}


class FrameName(NamedTuple):
    """The parts of a file name."""

    identity: str
    camera: int
    """From 1, as in the name."""
    tracklet: int
    frame: int


def parse_frame(name: str) -> FrameName:
    """Read one file name; :func:`format_frame` is its exact inverse."""
    match = FRAME.fullmatch(name)
    if match is None:
        raise SourceError(_no_frame(name))
    return FrameName(match["identity"], int(match["camera"]), int(match["tracklet"]), int(match["frame"]))


def _no_frame(name: str) -> str:
    return f"mars: '{name}' is not a frame name; expected e.g. 0001C2T0059F001.jpg"


def format_frame(name: FrameName) -> str:
    return f"{format_tracklet(name)}F{name.frame:03d}.jpg"


def format_tracklet(name: FrameName) -> str:
    """The name of the tracklet that a frame belongs to, e.g. '0001C2T0059'."""
    return f"{name.identity}C{name.camera}T{name.tracklet:04d}"


def person(identity: str) -> int:
    """The number that the official tables use: -1 junk, 0 distractor, else the person."""
    return -1 if identity == JUNK else int(identity)


def kind(identity: str) -> str:
    return {JUNK: "junk", DISTRACTOR: "distractor"}.get(identity, "person")


def holds(root: Path, config: DatasetConfig) -> bool:
    """Both halves; one of them is enough for a subset."""
    halves = [(root / half).is_dir() for half in TABLES]
    return any(halves) if config.subset else all(halves)


def read_tracklets(root: Path, config: DatasetConfig) -> tuple[list[Tracklet], dict[str, Any]]:
    """All tracklets of both halves, and notes: cameras, counts, what was compared.

    Raises:
        SourceError: a name is not of the grammar, a row of an official table differs, or a count of a complete, real
            set is not the official one.
    """
    halves = [half for half in TABLES if (root / half).is_dir()]
    notes = [f"{half}/ is not there (subset)" for half in TABLES if half not in halves]
    tracklets: list[Tracklet] = []
    for half in halves:
        found = scan(root, half)
        notes.append(_compare_with_table(root, half, found, config))
        tracklets += found
    counts = count(tracklets)
    if not (config.subset or config.generated):
        _check_official(counts, OFFICIAL)
    compared = [TABLES[half][0] for half in halves if (root / TABLES[half][0]).is_file()]
    return tracklets, {"cameras": CAMERAS, "counts": counts, "notes": notes, **listing.lists_read(root, *compared)}


def scan(root: Path, half: str) -> list[Tracklet]:
    """Tracklets of one half ('bbox_train' or 'bbox_test'), in byte order of their names."""
    found = []
    for folder in listing.file_names(root / half, f"mars: {half}"):
        if FOLDER.fullmatch(folder) is None:
            raise SourceError(f"mars: {half}/{folder} is no folder of a person; expected four digits or {JUNK}, e.g. {half}/0001")
        names = listing.file_names(root / half / folder, f"mars: {half}/{folder}")
        found += group(names, half, folder)
    return found


def group(names: Sequence[str], half: str, folder: str) -> list[Tracklet]:
    """Put the file names of one person's folder together by camera and tracklet, frames by their number."""
    wrong = next(filterfalse(FRAME.fullmatch, names), None)
    if wrong is not None:
        raise SourceError(f"{_no_frame(wrong)} (in {half}/{folder})")
    if all(len(name) == len(names[0]) for name in names):
        ordered = sorted(names)  # numbers of equal length: byte order is time order
    else:
        ordered = sorted(names, key=lambda name: (name[STEM], len(name), name))
    tracklets = []
    for key, run in groupby(ordered, itemgetter(STEM)):
        files = list(run)
        first = parse_frame(files[0])
        if first.identity != folder:
            raise SourceError(
                f"mars: {half}/{folder}/{files[0]} is named after person {first.identity}; expected names that start with {folder}"
            )
        tracklets.append(Tracklet(key, folder, kind(folder), first.camera - 1, tuple(f"{half}/{folder}/{file}" for file in files)))
    return tracklets


def table_rows(tracklets: Sequence[Tracklet]) -> np.ndarray:
    """The rows that an official table should have: int64 [tracklets, 4]: first image, last image (from 1), person, camera (from 1)."""
    last = np.cumsum([len(t.frames) for t in tracklets], dtype=np.int64)
    first = np.concatenate([[1], last[:-1] + 1])
    return np.stack([first, last, [person(t.identity) for t in tracklets], [t.camera + 1 for t in tracklets]], axis=1)


def first_difference(found: np.ndarray, expected: np.ndarray) -> str:
    """A sentence about the first row (from 1) in which two tables [n, 4] differ; '' if they are equal."""
    common = min(len(found), len(expected))
    differing = np.flatnonzero((found[:common] != expected[:common]).any(axis=1))
    if not len(differing) and len(found) == len(expected):
        return ""
    row = int(differing[0]) if len(differing) else common
    said, seen = (_row_text(table[row]) if row < len(table) else "no such row" for table in (expected, found))
    return f"row {row + 1}: expected {said}, found {seen} ({len(expected)} rows expected, {len(found)} found)"


def _row_text(row: np.ndarray) -> str:
    first, last, pid, camera = (int(value) for value in row)
    return f"images {first}-{last} of person {pid}, camera {camera}"


def _compare_with_table(root: Path, half: str, tracklets: Sequence[Tracklet], config: DatasetConfig) -> str:
    """Compare the folders of one half with its official table; returns what was done, for the notes."""
    path, _ = TABLES[half]
    if not (root / path).is_file():
        return f"{path} is not there: {half}/ not compared"
    expected = _read_table(root, half)
    difference = first_difference(table_rows(tracklets), expected) if tracklets else "no tracklets found"
    if not difference:
        return f"{half}/ equals {path}, {len(expected)} rows"
    if config.subset:
        return f"{half}/ is a part of what {path} lists: {len(tracklets)} of {len(expected)} tracklets, not compared"
    raise SourceError(
        f"mars: {half}/ does not hold what {path} lists; {difference}; complete the folder, or set datasets.<name>.subset if a part is meant"
    )


def _read_table(root: Path, half: str) -> np.ndarray:
    path, variable = TABLES[half]
    table = listing.read_mat(root / path, variable)
    if table.ndim != 2 or table.shape[1] != 4:
        raise SourceError(f"{root / path}: '{variable}' has shape {table.shape}; expected [tracklets, 4]")
    return table.astype(np.int64)


def count(tracklets: Sequence[Tracklet]) -> dict[str, Any]:
    """The counts of spec 1.2, under the names of OFFICIAL."""
    counts: dict[str, Any] = {}
    for half in ("train", "test"):
        part = [t for t in tracklets if t.frames[0].startswith(f"bbox_{half}/")]
        cameras = Counter(t.camera for t in part)
        counts |= {
            f"{half} tracklets": len(part),
            f"{half} persons": len({t.identity for t in part if t.kind == "person"}),
            f"{half} frames": sum(len(t.frames) for t in part),
            f"{half} tracklets by camera": [cameras[camera] for camera in range(CAMERAS)],
        }
    kinds = Counter(t.kind for t in tracklets)
    return counts | {"distractor tracklets": kinds["distractor"], "junk tracklets": kinds["junk"]}


def _check_official(found: dict[str, Any], official: dict[str, Any]) -> None:
    for what, expected in official.items():
        if found[what] != expected:
            raise SourceError(
                f"mars: expected {expected} {what}, found {found[what]};"
                f" complete the folder, or set datasets.<name>.subset if a part is meant"
            )


def read_split(root: Path, config: DatasetConfig, split: str, tracklets: Sequence[Tracklet]) -> tuple[dict[str, str], dict[str, Any]]:
    """Roles of the split 'official', and notes on where the queries come from.

    Raises:
        SourceError: another split is asked for, ``query_IDX.mat`` does not fit the test tracklets, or the roles of a
            complete, real set are not 1980 queries, 9330 gallery tracklets and 870 junk tracklets.
    """
    listing.choose_split("mars", split, SPLITS)
    test = sorted((t for t in tracklets if t.frames[0].startswith("bbox_test/")), key=lambda t: t.tracklet)
    people = np.array([person(t.identity) for t in test], dtype=np.int64)
    cameras = np.array([t.camera + 1 for t in test], dtype=np.int64)
    rows, source = _query_rows(root, config, people, cameras)
    roles = {t.tracklet: "train" for t in tracklets if not t.frames[0].startswith("bbox_test/")}
    roles |= dict(zip((t.tracklet for t in test), roles_of_test(people, rows), strict=True))
    if not (config.subset or config.generated):
        found = Counter(roles.values())
        _check_official(
            {f"{role} tracklets": found[role] for role in OFFICIAL_ROLES}, {f"{r} tracklets": n for r, n in OFFICIAL_ROLES.items()}
        )
    read = [path for path in (QUERIES[0], *([TABLES["bbox_test"][0]] if config.subset else [])) if (root / path).is_file()]
    return roles, {"queries": source, **listing.lists_read(root, *read)}


def _query_rows(root: Path, config: DatasetConfig, people: np.ndarray, cameras: np.ndarray) -> tuple[np.ndarray, str]:
    """Query rows (from 1) of the test table, and where they come from."""
    rule = query_rows_by_rule(people, cameras)
    by_rule = "last tracklet of each person and camera, of persons seen by two cameras or more"
    path, variable = QUERIES
    if not (root / path).is_file():
        return rule, f"by rule ({by_rule}); {path} is not there"
    # uint16 in the file: sums and differences would wrap around
    rows = listing.read_mat(root / path, variable).astype(np.int64).ravel()
    table, _ = TABLES["bbox_test"]
    if config.subset and not ((root / table).is_file() and len(_read_table(root, "bbox_test")) == len(people)):
        return rule, f"by rule ({by_rule}); {path} numbers the rows of the complete set (subset)"
    check_query_rows(rows, people, path)
    agrees = "the same rows" if np.array_equal(np.sort(rows), rule) else "not the same rows"
    return rows, f"{path}; {agrees} as by rule ({by_rule})"


def check_query_rows(rows: np.ndarray, people: np.ndarray, where: str) -> None:
    """Refuse query rows (from 1) that are outside the test table, repeated, or no persons."""
    outside = rows[(rows < 1) | (rows > len(people))]
    if len(outside):
        raise SourceError(f"mars: {where} names row {outside[0]}, but bbox_test/ has tracklets 1-{len(people)}")
    if len(np.unique(rows)) != len(rows):
        raise SourceError(f"mars: {where} names a row twice; expected every query once")
    nobody = rows[people[rows - 1] < 1]
    if len(nobody):
        raise SourceError(f"mars: {where} names row {nobody[0]}, which is a distractor or junk; expected persons only")


def query_rows_by_rule(people: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """The official query rule, found on the released tables (spec 1.2).

    Args:
        people, cameras: int64 [rows] of the test table, in its order.

    Returns:
        int64, rising rows from 1: the last row of each (person, camera) of each person above 0 that at least two
        cameras see.
    """
    last = {(int(p), int(c)): row for row, (p, c) in enumerate(zip(people, cameras, strict=True), start=1) if p > 0}
    seen = Counter(p for p, _ in last)
    return np.array(sorted(row for (p, _), row in last.items() if seen[p] >= 2), dtype=np.int64)


def roles_of_test(people: np.ndarray, query_rows: np.ndarray) -> list[str]:
    """Role of each row of the test table: queries leave the gallery, junk is apart, distractors stay in the gallery."""
    roles = np.where(people == -1, "junk", "gallery").astype("<U7")
    roles[query_rows - 1] = "query"
    return roles.tolist()
