"""Who is seen: body, clothes and gait of generated persons.

In:      a seed and names.   Out: :class:`Person` values.
Source:  ours. Everything here is fixed by identity; whatever a camera or a moment changes comes in with figures.py and cameras.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.base.seeds import rng

Colour = tuple[int, int, int]

SKINS: tuple[Colour, ...] = ((236, 198, 170), (218, 172, 138), (190, 138, 102), (134, 92, 66), (92, 62, 46))
HAIRS: tuple[Colour, ...] = ((28, 22, 20), (62, 42, 30), (120, 84, 48), (196, 164, 108), (150, 148, 146))
TOPS: tuple[Colour, ...] = (
    (232, 230, 226),
    (32, 33, 38),
    (128, 130, 134),
    (186, 40, 44),
    (36, 54, 108),
    (98, 156, 208),
    (52, 120, 72),
    (226, 190, 62),
    (124, 66, 138),
    (222, 128, 158),
    (210, 112, 44),
    (40, 138, 142),
)
BOTTOMS: tuple[Colour, ...] = ((30, 30, 34), (44, 58, 98), (104, 132, 170), (178, 156, 118), (112, 112, 114), (206, 202, 196), (96, 62, 46))
SHOES: tuple[Colour, ...] = ((26, 24, 24), (228, 226, 222), (112, 74, 48), (170, 44, 50))
BAGS: tuple[Colour, ...] = ((30, 30, 34), (168, 46, 48), (128, 90, 58), (48, 84, 150), (220, 196, 150))

PATTERNS = ("plain", "plain", "hoops", "bars", "checks", "yoke", "print")
BOTTOM_KINDS = ("trousers", "trousers", "trousers", "shorts", "skirt")
HAIR_KINDS = ("short", "short", "long", "bun", "cap")
BAG_KINDS = ("none", "backpack", "satchel", "tote")


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """What stays the same in every tracklet of one identity."""

    height: float
    """Relative to the mean person."""
    build: float
    """Width relative to the mean person."""
    legs: float
    """Part of the height below the hip."""
    skin: Colour
    hair: str
    hair_colour: Colour
    top: Colour
    sleeves: str
    pattern: str
    accent: Colour
    """Second colour of the pattern, and of a cap."""
    bottom: Colour
    bottom_kind: str
    shoes: Colour
    bag: str
    bag_colour: Colour
    stride: float
    """Largest angle between thigh and vertical."""
    cadence: float
    """Double steps per frame."""
    swing: float
    """Largest angle between upper arm and vertical."""
    elbow: float
    """Mean angle of the elbow."""
    lean: float
    """Forward lean of the trunk."""


def people(seed: int, group: str, count: int) -> list[Person]:
    """`count` persons; every clothing colour is worn by several, and no two with the same top share pattern and bag.

    Each run of `len(TOPS)` persons wears every top once (bottoms likewise), so that even a few persons cover the palette, while a
    colour alone names nobody: pattern, bag, hair and the cut of the clothes must.
    """
    made: list[Person] = []
    worn: dict[Colour, set[tuple[str, str]]] = {}
    for index in range(count):
        top = _in_turn(seed, group, "tops", TOPS, index)
        person = _person(seed, (group, index), top, _in_turn(seed, group, "bottoms", BOTTOMS, index), worn.setdefault(top, set()))
        worn[top].add((person.pattern, person.bag))
        made.append(person)
    return made


def _in_turn(seed: int, group: str, what: str, options: Sequence[Colour], index: int) -> Colour:
    """Every option once before any comes again, in an order of its own each time."""
    order = rng(seed, "people", group, what, index // len(options)).permutation(len(options))
    return options[int(order[index % len(options)])]


def _person(seed: int, names: tuple[str, int], top: Colour, bottom: Colour, taken: set[tuple[str, str]]) -> Person:
    draw = rng(seed, "people", *names)

    def pick(options: Sequence[str]) -> str:
        return options[int(draw.integers(len(options)))]

    def colour(options: Sequence[Colour], spread: int = 8) -> Colour:
        base = options[int(draw.integers(len(options)))]
        return _jitter(base, draw.integers(-spread, spread + 1, 3).tolist())

    free = [(p, b) for p in PATTERNS for b in BAG_KINDS if (p, b) not in taken] or [(p, b) for p in PATTERNS for b in BAG_KINDS]
    pattern, bag = free[int(draw.integers(len(free)))]
    contrast = [c for c in TOPS if sum(abs(x - y) for x, y in zip(c, top, strict=True)) > 160]
    return Person(
        height=float(np.clip(draw.normal(1.0, 0.05), 0.88, 1.1)),
        build=float(np.clip(draw.normal(1.0, 0.13), 0.76, 1.34)),
        legs=float(np.clip(draw.normal(0.50, 0.015), 0.46, 0.53)),
        skin=colour(SKINS),
        hair=pick(HAIR_KINDS),
        hair_colour=colour(HAIRS, 5),
        top=_jitter(top, draw.integers(-9, 10, 3).tolist()),
        sleeves=pick(("long", "short")),
        pattern=pattern,
        accent=colour(contrast),
        bottom=_jitter(bottom, draw.integers(-8, 9, 3).tolist()),
        bottom_kind=pick(BOTTOM_KINDS),
        shoes=colour(SHOES),
        bag=bag,
        bag_colour=colour(BAGS),
        stride=float(draw.uniform(0.30, 0.52)),
        cadence=float(draw.uniform(0.045, 0.085)),
        swing=float(draw.uniform(0.15, 0.60)),
        elbow=float(draw.uniform(0.10, 0.70)),
        lean=float(draw.uniform(-0.01, 0.06)),
    )


def _jitter(colour: Colour, by: list[int]) -> Colour:
    r, g, b = (min(255, max(0, c + d)) for c, d in zip(colour, by, strict=True))
    return r, g, b
