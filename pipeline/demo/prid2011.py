"""The PRID-2011-like set (multi-shot): two cameras that share only their first persons, ten splits in a JSON file.

In:      DemoConfig.   Out: a :class:`Part` below PRID-2011/.
Source:  specs/datasets.md 3. As in the real set, numbers after the shared ones mean different persons in each camera.
"""

from __future__ import annotations

import json

from pipeline.base.config import DemoConfig
from pipeline.base.seeds import rng
from pipeline.demo.cameras import camera
from pipeline.demo.parts import Film, Part, clips_for, length
from pipeline.demo.people import people
from pipeline.demo.shots import Shot

SPLITS = 10
EXTRA = {"a": 1, "b": 3}
"""Persons that only this camera sees."""


def plan(config: DemoConfig) -> Part:
    """Everything of the PRID-2011-like set except pixels."""
    draw = rng(config.seed, "prid2011")
    shared = people(config.seed, "prid2011", config.pairs)
    films: list[Film] = []
    lengths: dict[int, list[int]] = {}
    for side, extra in EXTRA.items():
        view = camera(config.seed, "prid2011", "ab".index(side))
        for number, person in enumerate([*shared, *people(config.seed, f"prid2011 {side}", extra)], start=1):
            n, name = length(draw, *config.frames), f"person_{number:04d}"
            films.append(
                Film(
                    shot=Shot(name=f"cam_{side}/{name}", person=person, camera=view, length=n),
                    how="png",
                    paths=tuple(f"PRID-2011/multi_shot/cam_{side}/{name}/{i + 1:04d}.png" for i in range(n)),
                )
            )
            lengths.setdefault(number, []).append(n)
    return Part(
        files={"PRID-2011/splits_prid2011.json": (json.dumps(splits(config)) + "\n").encode()},
        films=tuple(films),
        needs=tuple(clips_for(lengths[number]) for number in range(1, config.pairs + 1)),
        counts={"identities": config.pairs, "tracklets": len(films), "frames": sum(len(film.paths) for film in films)},
    )


def splits(config: DemoConfig) -> list[dict[str, list[str]]]:
    """Ten halvings of the shared persons: {'train': [names], 'test': [names]}."""
    half, out = config.pairs // 2, []
    for number in range(SPLITS):
        order = rng(config.seed, "prid2011", "split", number).permutation(config.pairs) + 1
        test, train = sorted(order[:half].tolist()), sorted(order[half:].tolist())
        out.append({"train": [f"person_{n:04d}" for n in train], "test": [f"person_{n:04d}" for n in test]})
    return out
