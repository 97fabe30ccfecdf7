"""Persons share colours, and still no two are dressed alike."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.demo.figures import Brush, Pose, draw_person
from pipeline.demo.people import TOPS, people


def drawn(person, pose=None) -> np.ndarray:
    brush = Brush(256, 512, lambda colour: colour, 0.5)
    draw_person(brush, person, pose or Pose(1.0, 0.3, 0.1), 128, 495, 450)
    return np.asarray(brush.image)


def test_few_persons_wear_the_whole_palette_and_nobody_is_dressed_like_another():
    for seed in range(5):
        everybody = people(seed, "test", 2 * len(TOPS))
        for top in TOPS:
            wearers = [p for p in everybody if max(abs(x - y) for x, y in zip(p.top, top, strict=True)) <= 9]
            assert len(wearers) == 2
            assert len({(p.pattern, p.bag) for p in wearers}) == 2


def test_more_persons_do_not_change_the_first_ones():
    assert people(7, "test", 12)[:5] == people(7, "test", 5)
    assert people(8, "test", 5) != people(7, "test", 5)


@pytest.mark.parametrize("heading", [0.0, math.pi / 2, math.pi, -math.pi / 2])
def test_a_person_stands_on_the_ground_and_fits_the_canvas(heading):
    for person in people(7, "test", 6):
        covered = np.nonzero(drawn(person, Pose(0.7, heading, 0.1))[..., 3] == 255)
        assert 485 <= covered[0].max() <= 511 and 10 < covered[0].min() < 120
        assert covered[1].min() > 0 and covered[1].max() < 255


def test_colour_is_multiplied_by_coverage():
    """After averaging, an edge pixel of a white shape has colour = coverage: no dark seam."""
    brush = Brush(4, 4, lambda colour: colour, 0.0)
    brush.polygon([(0, 0), (0, 3), (2, 3), (2, 0)], (255, 255, 255))
    pixels = np.asarray(brush.image.reduce(2))
    assert pixels[0].tolist() == [[255, 255, 255, 255], [128, 128, 128, 128]]
