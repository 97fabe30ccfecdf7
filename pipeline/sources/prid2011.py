"""PRID-2011, multi-shot: 385 and 749 persons in 2 cameras, 178 of whom are used; ten splits of 89 and 89.

In:      the root that holds ``multi_shot/cam_{a,b}/person_####/####.png`` (or one level up: ``prid_2011/multi_shot/...``)
         and, in it or beside it, ``splits_prid2011.json``, which is no part of the official archive.
Out:     tracklets; roles of the splits '0'..'9': query is camera a, gallery camera b, persons of no split are 'unused'.
Source:  specs/datasets.md section 3. ``single_shot/`` is not used. Only persons 0001-0200 are the same in both cameras;
         ours: the others get their camera into the identity, so that equal numbers never look like one person.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.config import DatasetConfig
from pipeline.base.errors import SourceError
from pipeline.sources import listing
from pipeline.sources.listing import Tracklet

LICENCE = "research use only; terms: data set page of PRID 2011 (Hirzer et al., SCIA 2011; video by AIT)"
DESCRIBED = f"{listing.OWN_DATA} (official: data set page 'Person Re-ID (PRID) Dataset 2011', Graz University of Technology)"
EXPECTED = "the folder prid_2011, with multi_shot/cam_a/ and multi_shot/cam_b/"
CAMERAS = 2

TOPS = ("multi_shot", "prid_2011/multi_shot")
FRAME = re.compile(r"cam_(?P<camera>[ab])/(?P<person>person_\d{4})/(?P<frame>\d{4})\.png", re.ASCII)
SHARED = 200
"""Persons up to this number are the same in both cameras."""
SPLIT_FILE = "splits_prid2011.json"
HALF = 89
"""Persons in each half of a split."""


class FrameName(NamedTuple):
    """The parts of a path below ``multi_shot/``."""

    camera: str
    """'a' or 'b'."""
    person: str
    frame: int


def parse_frame(path: str) -> FrameName:
    """Read one path below ``multi_shot/``; :func:`format_frame` is its exact inverse."""
    match = FRAME.fullmatch(path)
    if match is None:
        raise SourceError(f"prid2011: 'multi_shot/{path}' is not a frame; expected e.g. multi_shot/cam_a/person_0001/0001.png")
    return FrameName(match["camera"], match["person"], int(match["frame"]))


def format_frame(name: FrameName) -> str:
    return f"cam_{name.camera}/{name.person}/{name.frame:04d}.png"


def identity(person: str, camera: str) -> str:
    """'person_0001' for the persons that both cameras see, e.g. 'person_0201_cam_a' for the others."""
    return person if int(person.removeprefix("person_")) <= SHARED else f"{person}_cam_{camera}"


def _top(root: Path) -> str:
    """``multi_shot`` as seen from the root; '' if it is not there."""
    return next((top for top in TOPS if all((root / top / f"cam_{camera}").is_dir() for camera in "ab")), "")


def holds(root: Path, config: DatasetConfig) -> bool:
    """Multi-shot folders of both cameras."""
    return bool(_top(root))


def read_tracklets(root: Path, config: DatasetConfig) -> tuple[list[Tracklet], dict[str, Any]]:
    """All tracklets, named e.g. 'person_0001_cam_a', and notes: cameras and counts.

    Raises:
        SourceError: a name is not of the grammar.
    """
    top = _top(root)
    tracklets = [t for camera in "ab" for t in _scan(root, top, camera)]
    seen = listing.cameras_seen(tracklets)
    counts = {
        "persons in both cameras": sum(cameras == CAMERAS for cameras in seen.values()),
        "tracklets of cam_a": sum(t.camera == 0 for t in tracklets),
        "tracklets of cam_b": sum(t.camera == 1 for t in tracklets),
        "tracklets": len(tracklets),
        "frames": sum(len(t.frames) for t in tracklets),
    }
    return tracklets, {"cameras": CAMERAS, "counts": counts, "notes": []}


def _scan(root: Path, top: str, camera: str) -> list[Tracklet]:
    found = []
    folder = f"cam_{camera}"
    for person in listing.file_names(root / top / folder, f"prid2011: {top}/{folder}"):
        names = listing.file_names(root / top / folder / person, f"prid2011: {top}/{folder}/{person}")
        parsed = sorted((parse_frame(f"{folder}/{person}/{name}"), name) for name in names)
        frames = tuple(f"{top}/{folder}/{person}/{name}" for _, name in parsed)
        found.append(Tracklet(f"{person}_cam_{camera}", identity(person, camera), "person", "ab".index(camera), frames))
    return found


def read_split(root: Path, config: DatasetConfig, split: str, tracklets: Sequence[Tracklet]) -> tuple[dict[str, str], dict[str, Any]]:
    """Roles of one of the ten splits, and notes: the split file, named persons that are not there (subset only).

    Raises:
        SourceError: no split file, or one that breaks a rule (ten splits, disjoint halves of 89, every named person in
            both cameras); `generated` lifts the sizes, `subset` the presence of every person.
    """
    home = (root / _top(root)).parent
    path = next((folder / SPLIT_FILE for folder in (home, home.parent) if (folder / SPLIT_FILE).is_file()), None)
    if path is None:
        raise SourceError(
            f"prid2011: {SPLIT_FILE} is neither in {home} nor beside it; it is no part of the official archive: see {DESCRIBED}"
        )
    splits = listing.read_split_list(path)
    seen = listing.cameras_seen(tracklets)
    absent = listing.check_splits(splits, f"prid2011: {SPLIT_FILE}", None if config.generated else HALF, seen, CAMERAS, config.subset)
    listing.choose_split("prid2011", split, [str(number) for number in range(len(splits))])
    return listing.two_camera_roles(tracklets, splits[int(split)]), {
        "split file": SPLIT_FILE,
        "named persons not in both cameras": len(absent),
        **listing.lists_read(root, Path(os.path.relpath(path, root)).as_posix()),
    }
