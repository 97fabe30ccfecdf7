"""iLIDS-VID: 300 persons, each with one tracklet in either of 2 cameras; ten official splits of 150 and 150.

In:      the root that holds ``i-LIDS-VID/sequences/cam{1,2}/person###/*.png`` and the split file: the official
         ``train-test people splits/train_test_splits_ilidsvid.mat`` or the derived ``splits.json`` (names, as in PRID-2011).
Out:     tracklets; roles of the splits '0'..'9': query is camera 1, gallery camera 2.
Source:  specs/datasets.md section 2. ``images/`` (single-shot pictures) is not used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.config import DatasetConfig
from pipeline.base.errors import SourceError
from pipeline.sources import listing
from pipeline.sources.listing import Tracklet

LICENCE = "research use only; terms: data set page of iLIDS-VID (Wang et al., ECCV 2014)"
DESCRIBED = f"{listing.OWN_DATA} (official: data set page of iLIDS-VID, Queen Mary University of London)"
EXPECTED = "the folder with i-LIDS-VID/ and 'train-test people splits/' (or splits.json)"
CAMERAS = 2

SEQUENCES = "i-LIDS-VID/sequences"
FRAME = re.compile(r"cam(?P<camera>[12])_(?P<identity>person\d{3})_(?P<frame>\d{5})\.png", re.ASCII)
PERSON = re.compile(r"person\d{3}", re.ASCII)

OFFICIAL_SPLITS, OFFICIAL_VARIABLE = "train-test people splits/train_test_splits_ilidsvid.mat", "ls_set"
DERIVED_SPLITS = "splits.json"
HALF = 150
"""Persons in each half of an official split."""


class FrameName(NamedTuple):
    """The parts of a file name."""

    camera: int
    """From 1, as in the name."""
    identity: str
    frame: int
    """Number of the frame in its source video."""


def parse_frame(name: str) -> FrameName:
    """Read one file name; :func:`format_frame` is its exact inverse."""
    match = FRAME.fullmatch(name)
    if match is None:
        raise SourceError(f"ilidsvid: '{name}' is not a frame name; expected e.g. cam1_person001_00317.png")
    return FrameName(int(match["camera"]), match["identity"], int(match["frame"]))


def format_frame(name: FrameName) -> str:
    return f"cam{name.camera}_{name.identity}_{name.frame:05d}.png"


def holds(root: Path, config: DatasetConfig) -> bool:
    """Sequences of both cameras."""
    return all((root / SEQUENCES / f"cam{camera + 1}").is_dir() for camera in range(CAMERAS))


def read_tracklets(root: Path, config: DatasetConfig) -> tuple[list[Tracklet], dict[str, Any]]:
    """All tracklets, named e.g. 'person001_cam1', and notes: cameras and counts.

    Raises:
        SourceError: a name is not of the grammar, or lies in the folder of another camera or person.
    """
    tracklets = [t for camera in range(1, CAMERAS + 1) for t in _scan(root, camera)]
    seen = listing.cameras_seen(tracklets)
    counts = {
        "persons": len(seen),
        "persons in both cameras": sum(cameras == CAMERAS for cameras in seen.values()),
        "tracklets": len(tracklets),
        "frames": sum(len(t.frames) for t in tracklets),
    }
    return tracklets, {"cameras": CAMERAS, "counts": counts, "notes": []}


def _scan(root: Path, camera: int) -> list[Tracklet]:
    found = []
    top = f"{SEQUENCES}/cam{camera}"
    for person in listing.file_names(root / top, f"ilidsvid: {top}"):
        folder = f"{top}/{person}"
        if PERSON.fullmatch(person) is None:
            raise SourceError(f"ilidsvid: {folder} is no folder of a person; expected e.g. {top}/person001")
        parsed = sorted((parse_frame(name), name) for name in listing.file_names(root / folder, f"ilidsvid: {folder}"))
        for part, name in parsed:
            if (part.camera, part.identity) != (camera, person):
                raise SourceError(
                    f"ilidsvid: {folder}/{name} belongs to camera {part.camera}, {part.identity}; expected cam{camera}_{person}_"
                )
        frames = tuple(f"{folder}/{name}" for _, name in parsed)
        found.append(Tracklet(f"{person}_cam{camera}", person, "person", camera - 1, frames))
    return found


def read_split(root: Path, config: DatasetConfig, split: str, tracklets: Sequence[Tracklet]) -> tuple[dict[str, str], dict[str, Any]]:
    """Roles of one of the ten splits, and notes: the split file, named persons that are not there (subset only).

    Raises:
        SourceError: no split file, or one that breaks a rule (ten splits, disjoint halves of 150, every named person
            in both cameras); `generated` lifts the sizes, `subset` the presence of every person.
    """
    seen = listing.cameras_seen(tracklets)
    splits, path = _read_splits(root, config, sorted(seen))
    absent = listing.check_splits(splits, f"ilidsvid: {path}", None if config.generated else HALF, seen, CAMERAS, config.subset)
    listing.choose_split("ilidsvid", split, [str(number) for number in range(len(splits))])
    return listing.two_camera_roles(tracklets, splits[int(split)]), {
        "split file": path,
        "named persons not in both cameras": len(absent),
        **listing.lists_read(root, path),
    }


def _read_splits(root: Path, config: DatasetConfig, persons: Sequence[str]) -> tuple[list[dict[str, list[str]]], str]:
    """The splits and the file they come from. The official file counts persons, the derived one names them: of a part of the
    data set only names can be right."""
    if (root / OFFICIAL_SPLITS).is_file() and not (config.subset and (root / DERIVED_SPLITS).is_file()):
        order = listing.read_mat(root / OFFICIAL_SPLITS, OFFICIAL_VARIABLE)
        return splits_by_number(order, persons, OFFICIAL_SPLITS), OFFICIAL_SPLITS
    if (root / DERIVED_SPLITS).is_file():
        return listing.read_split_list(root / DERIVED_SPLITS), DERIVED_SPLITS
    raise SourceError(f"ilidsvid: no split file; expected '{OFFICIAL_SPLITS}' or '{DERIVED_SPLITS}' in the root; see {DESCRIBED}")


def splits_by_number(order: np.ndarray, persons: Sequence[str], where: str) -> list[dict[str, list[str]]]:
    """Splits from the official matrix.

    Args:
        order: ``ls_set`` [splits, persons]; each row is an order of 1..persons, first half test, second half train.
        persons: names of all persons, sorted.
        where: the file, for errors.
    """
    order = order.astype(np.int64)
    if order.ndim != 2 or order.shape[1] != len(persons):
        raise SourceError(
            f"ilidsvid: {where} numbers {order.shape[-1]} sorted persons, found {len(persons)} in {SEQUENCES}/;"
            f" complete the folder, or give a part of it names with {DERIVED_SPLITS} and set datasets.<name>.subset"
        )
    if not (np.sort(order, axis=1) == np.arange(1, len(persons) + 1)).all():
        raise SourceError(f"ilidsvid: {where}: a row of '{OFFICIAL_VARIABLE}' is not an order of 1..{len(persons)}")
    half = len(persons) // 2
    return [
        {"test": sorted(persons[i - 1] for i in row[:half]), "train": sorted(persons[i - 1] for i in row[half:])} for row in order.tolist()
    ]
