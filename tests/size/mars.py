"""The released MARS tables (golden/mars_info), whole or a part of them, laid out as the data set is shipped.

Real: how many persons, tracklets and frames there are, which camera saw whom, which rows are queries. Not real: the numbers T and F of
the names (from 1, without gaps) and every pixel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.base.errors import SourceError
from pipeline.base.seeds import rng
from pipeline.demo.parts import mat
from pipeline.sources import listing
from pipeline.sources.mars import DISTRACTOR, JUNK, QUERIES, TABLES
from tests.conftest import REPOSITORY
from tests.size.files import Names

INFO = Path(os.environ.get("DUBTRACK_SHARED", REPOSITORY.parent / "shared")) / "golden" / "mars_info"
"""Where the released tables lie; they are no part of the repository."""

PICTURES = 256
HEIGHT, WIDTH = 256, 128


@dataclass(frozen=True)
class Info:
    """What the folder info/ of MARS says."""

    train: np.ndarray
    """int64 [rows, 4]: first image, last image (from 1, inclusive), person (-1 junk, 0 distractor), camera (from 1)."""
    test: np.ndarray
    queries: np.ndarray
    """int64, rising rows of `test`, from 1."""

    @property
    def frames(self) -> int:
        return int(self.train[-1, 1] + self.test[-1, 1])


class Row(NamedTuple):
    """One tracklet."""

    folder: str
    """Of its frames, relative to the root."""
    name: str
    """The tracklet's; a frame is called <name>F<number>.jpg."""
    frames: int


def read(folder: Path | None = None) -> Info:
    """The released tables; those of INFO if no folder is named.

    Raises:
        SourceError: they are not here.
    """
    folder = folder or INFO
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; expected the released MARS tables there (DUBTRACK_SHARED names another place)")
    train, test = (listing.read_mat(folder / Path(path).name, variable).astype(np.int64) for path, variable in TABLES.values())
    return Info(train, test, np.sort(listing.read_mat(folder / Path(QUERIES[0]).name, QUERIES[1]).astype(np.int64).ravel()))


def draw(info: Info, fraction: float, seed: int) -> Info:
    """A part of the tables: of persons a fraction with all their tracklets, of distractors and junk a fraction of the tracklets.

    Args:
        info: the tables.
        fraction: 0..1; of each half at least two persons are drawn. 1 gives the tables as they are.
        seed: decides who is drawn.

    Returns:
        Tables of their own: images are counted from 1 again, without gaps, and queries are numbered by the new rows.
    """
    train, test = (np.flatnonzero(_chosen(table, fraction, seed, half)) for half, table in (("train", info.train), ("test", info.test)))
    return Info(_renumbered(info.train[train]), _renumbered(info.test[test]), np.flatnonzero(np.isin(test + 1, info.queries)) + 1)


def _chosen(table: np.ndarray, fraction: float, seed: int, half: str) -> np.ndarray:
    """bool [rows]"""
    person = table[:, 2]
    names = np.unique(person[person > 0])
    drawn = rng(seed, "size", "mars", half, "persons").permutation(names)[: max(2, round(len(names) * fraction))]
    chosen = np.isin(person, drawn)
    for what in (-1, 0):
        rows = np.flatnonzero(person == what)
        chosen[rng(seed, "size", "mars", half, what).permutation(rows)[: round(len(rows) * fraction)]] = True
    return chosen


def _renumbered(table: np.ndarray) -> np.ndarray:
    last = np.cumsum(table[:, 1] - table[:, 0] + 1)
    return np.column_stack([np.concatenate([[1], last[:-1] + 1]), last, table[:, 2:]])


def rows(info: Info) -> Iterator[Row]:
    """Tracklets of both halves in the order of the tables, which is the order of their names."""
    for half, table in zip(TABLES, (info.train, info.test), strict=True):
        number, before = 0, None
        for first, last, person, camera in table.tolist():
            folder = {-1: JUNK, 0: DISTRACTOR}.get(person, f"{person:04d}")
            number = number + 1 if before == folder else 1
            before = folder
            yield Row(f"{half}/{folder}", f"{folder}C{camera}T{number:04d}", last - first + 1)


def needs(info: Info, run: int = 6) -> dict[str, int]:
    """Clips that each person needs, of training and of test: one for every run of frames of each tracklet."""
    table = np.concatenate([info.train, info.test])
    runs = -(-(table[:, 1] - table[:, 0] + 1) // run)
    people, row_of = np.unique(table[:, 2], return_inverse=True)
    counts = np.bincount(row_of, runs).astype(int)
    return {f"{person:04d}": count for person, count in zip(people.tolist(), counts.tolist(), strict=True) if person > 0}


def pictures(count: int, seed: int) -> list[bytes]:
    """Distinct JPEGs in the stored form, about 2 kB each: blurred noise."""
    out = []
    for number in range(count):
        noise = rng(seed, "size", "picture", number).integers(256, size=(8, 4, 3), dtype=np.uint8)
        picture, buffer = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), BytesIO()
        picture.save(buffer, "JPEG", quality=60)
        out.append(buffer.getvalue())
    return out


def lay_out(root: Path, info: Info, seed: int, distinct: int = PICTURES) -> None:
    """bbox_train/, bbox_test/ and info/ below a new folder; its pictures lie once each in a folder beside it.

    Args:
        root: new folder.
        info: what to lay out.
        seed: of the pixels.
        distinct: how many pictures differ.
    """
    names = Names(root.with_name(f"{root.name}.pictures"), pictures(distinct, seed))
    (root / "info").mkdir(parents=True)
    for (path, variable), table in zip(TABLES.values(), (info.train, info.test), strict=True):
        (root / path).write_bytes(mat({variable: table.astype(np.int32)}))
    (root / QUERIES[0]).write_bytes(mat({QUERIES[1]: info.queries.astype(np.uint16)[None]}))
    folders: dict[str, list[str]] = {}
    for row in rows(info):
        folders.setdefault(row.folder, []).extend(f"{row.name}F{frame:03d}.jpg" for frame in range(1, row.frames + 1))
    first = 0
    for folder, files in folders.items():
        names.put(root / folder, files, first)
        first += len(files)
