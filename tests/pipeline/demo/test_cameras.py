"""What a camera changes, and what stays with the person."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.demo.cameras import camera, tint
from pipeline.demo.people import people
from pipeline.demo.scenes import HEIGHT, WIDTH
from pipeline.demo.shots import Shot, encode, frames


def shot(person: int, view: int, name: str = "x", **more) -> Shot:
    return Shot(name=name, person=people(7, "test", 6)[person], camera=camera(7, "test", view), length=more.pop("length", 3), **more)


def test_frames_have_the_size_and_move():
    first, second, third = frames(shot(0, 0))
    for picture in (first, second, third):
        assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    assert not np.array_equal(first, third)


def test_same_shot_same_pixels_other_name_other_pixels():
    one, again, other = frames(shot(0, 1)), frames(shot(0, 1)), frames(shot(0, 1, "y"))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_a_longer_tracklet_than_the_panorama_is_wide_is_rendered():
    assert len(frames(shot(1, 1, length=250))) == 250


def test_cameras_differ_more_in_mean_colour_than_persons_do():
    colours = np.array([[np.mean(frames(shot(p, v))[0], (0, 1)) for v in range(4)] for p in range(4)])
    over_cameras, over_persons = colours.mean(0).std(0).mean(), colours.mean(1).std(0).mean()
    assert over_cameras > 2 * over_persons


def test_tint_of_grey_shows_the_cast():
    view = camera(7, "test", 0)
    red, green, blue = tint(view, np.array((128.0, 128.0, 128.0)))
    assert np.argsort([red, green, blue]).tolist() == np.argsort(view.gains).tolist()


@pytest.mark.parametrize(("how", "size"), [("jpeg", (128, 256)), ("png", (64, 128))])
def test_encode(how, size):
    picture = frames(shot(0, 0, length=2))[0]
    with Image.open(io.BytesIO(encode(picture, how, camera(7, "test", 0)))) as image:
        assert image.size == size and image.format == how.upper()
