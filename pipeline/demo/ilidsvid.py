"""The iLIDS-VID-like set: persons in two cameras, numbers with gaps, ten splits in one MATLAB file.

In:      DemoConfig.   Out: a :class:`Part` below iLIDS-VID/.
Source:  specs/datasets.md 2: `ls_set` holds positions (from 1) in the sorted list of persons, test half first.
"""

from __future__ import annotations

import numpy as np

from pipeline.base.config import DemoConfig
from pipeline.base.seeds import rng
from pipeline.demo.cameras import camera
from pipeline.demo.parts import Film, Part, clips_for, length, mat
from pipeline.demo.people import people
from pipeline.demo.shots import Shot

SPLITS = 10


def plan(config: DemoConfig) -> Part:
    """Everything of the iLIDS-VID-like set except pixels."""
    draw = rng(config.seed, "ilidsvid")
    numbers = np.cumsum(1 + (draw.random(config.pairs) < 0.25)).tolist()
    cameras = [camera(config.seed, "ilidsvid", number) for number in range(2)]
    films, needs = [], []
    for number, person in zip(numbers, people(config.seed, "ilidsvid", config.pairs), strict=True):
        lengths = []
        for view in cameras:
            n, name = length(draw, *config.frames), f"cam{view.number + 1}_person{number:03d}"
            start = int(draw.integers(1, 90000))
            folder = f"iLIDS-VID/i-LIDS-VID/sequences/cam{view.number + 1}/person{number:03d}"
            films.append(
                Film(
                    shot=Shot(name=name, person=person, camera=view, length=n),
                    how="png",
                    paths=tuple(f"{folder}/{name}_{start + i:05d}.png" for i in range(n)),
                )
            )
            lengths.append(n)
        needs.append(clips_for(lengths))
    return Part(
        files={"iLIDS-VID/train-test people splits/train_test_splits_ilidsvid.mat": mat({"ls_set": splits(config)})},
        films=tuple(films),
        needs=tuple(needs),
        counts={"identities": config.pairs, "tracklets": len(films), "frames": sum(len(film.paths) for film in films)},
    )


def splits(config: DemoConfig) -> np.ndarray:
    """uint16 [10, pairs]: positions from 1; the first half of a row tests, the second trains, each ascending."""
    half = config.pairs // 2
    rows = []
    for number in range(SPLITS):
        order = rng(config.seed, "ilidsvid", "split", number).permutation(config.pairs) + 1
        rows.append(np.concatenate([np.sort(order[:half]), np.sort(order[half:])]))
    return np.array(rows, np.uint16)
