"""Tiny trees in the grammar of each data set, for the tests of this folder. Frames are empty files: grammars read names only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from pipeline.base.config import DatasetConfig


def config(source: str, **settings: Any) -> DatasetConfig:
    return DatasetConfig(source=source, splits=settings.pop("splits", ("0",)), **settings)  # type-checked by the class itself


def touch(root: Path, paths: Iterable[str]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


MARS = {
    "bbox_train": ["0001C1T0001:3", "0001C2T0002:2", "0003C1T0001:2"],
    "bbox_test": [
        "00-1C1T0001:2",
        "0000C2T0001:2",
        "0002C1T0001:2",  # not the last of camera 1
        "0002C1T0002:3",
        "0002C2T0003:2",
        "0004C1T0001:2",  # one camera only: never a query
    ],
}
"""Tracklet and number of frames."""
MARS_TABLES = {
    "track_train_info": [[1, 3, 1, 1], [4, 5, 1, 2], [6, 7, 3, 1]],
    "track_test_info": [[1, 2, -1, 1], [3, 4, 0, 2], [5, 6, 2, 1], [7, 9, 2, 1], [10, 11, 2, 2], [12, 13, 4, 1]],
}
"""What the tables of that tree say, written out by hand."""
MARS_QUERIES = [4, 5]


def mars(
    root: Path, tree: Mapping[str, Sequence[str]] = MARS, tables: Mapping[str, Any] = MARS_TABLES, queries: Sequence[int] = MARS_QUERIES
) -> Path:
    for half, tracklets in tree.items():
        for tracklet, frames in (text.split(":") for text in tracklets):
            touch(root, (f"{half}/{tracklet[:4]}/{tracklet}F{frame:03d}.jpg" for frame in range(1, int(frames) + 1)))
    (root / "info").mkdir(exist_ok=True)
    for variable, rows in tables.items():
        scipy.io.savemat(root / f"info/tracks_{variable.split('_')[1]}_info.mat", {variable: np.array(rows, np.int32)})
    if queries:
        scipy.io.savemat(root / "info/query_IDX.mat", {"query_IDX": np.array([queries], np.uint16)})
    return root


def ilidsvid(root: Path, persons: Sequence[int] = (1, 2, 5, 9), frames: int = 2) -> Path:
    for camera in (1, 2):
        for p in persons:
            folder = f"i-LIDS-VID/sequences/cam{camera}/person{p:03d}"
            touch(root, (f"{folder}/cam{camera}_person{p:03d}_{frame:05d}.png" for frame in range(95, 95 + frames)))
    touch(root, ["i-LIDS-VID/images/cam1/person001/cam1_person001.png"])
    return root


def prid2011(root: Path, both: Sequence[int] = (1, 2, 3, 4), single: Sequence[int] = (201,), top: str = "multi_shot") -> Path:
    for camera in "ab":
        for p in (*both, *single):
            touch(root, (f"{top}/cam_{camera}/person_{p:04d}/{frame:04d}.png" for frame in range(1, 4)))
    return root


def write_splits(path: Path, splits: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"train": list(train), "test": list(test)} for train, test in splits]))
