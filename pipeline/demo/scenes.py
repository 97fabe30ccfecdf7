"""Where somebody is seen: the empty scene of a camera, painted once, from which the backgrounds of its tracklets are cut.

In:      a :class:`Camera`.   Out: an RGB picture, HEIGHT x SCENE_WIDTH, in the camera's colours.
Source:  ours.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pipeline.base.seeds import rng
from pipeline.demo.cameras import Camera, tint
from pipeline.demo.people import Colour

HEIGHT, WIDTH = 256, 128
"""Pixels in which everything is composed; smaller sizes are reduced at the end."""

SCENE_WIDTH = 1024
"""Pixels of the panorama that tracklets of one camera are cut from."""


@functools.lru_cache(maxsize=16)
def panorama(view: Camera) -> Image.Image:
    """The empty scene of a camera: RGB, HEIGHT x SCENE_WIDTH, in the camera's colours."""
    draw = rng(view.seed, "scene", view.dataset, view.number)
    image = Image.new("RGB", (SCENE_WIDTH, HEIGHT))
    pen = ImageDraw.Draw(image)
    horizon = int(draw.integers(70, 110))
    {"plaza": _plaza, "park": _park, "hall": _hall, "crossing": _crossing}[view.scene](pen, draw, horizon)
    grain = np.asarray(
        Image.fromarray(draw.integers(0, 256, (128, 512)).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC), np.float32
    )
    shade = np.float32(0.94) + grain[..., None] * np.float32(0.12 / 255)
    slope = np.linspace(1.12, 0.9, SCENE_WIDTH, dtype=np.float32)[:: 1 if view.light < 0 else -1]
    made = tint(view, np.asarray(image, np.float32) * shade * slope[None, :, None])
    return Image.fromarray(made.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))


def _shade(colour: Colour, by: float) -> Colour:
    r, g, b = (min(255, max(0, int(c * by))) for c in colour)
    return r, g, b


def _tiles(pen: ImageDraw.ImageDraw, draw: np.random.Generator, horizon: int, ground: Colour, line: Colour) -> None:
    pen.rectangle((0, horizon, SCENE_WIDTH, HEIGHT), fill=ground)
    for row in range(1, 13):  # rows come closer together towards the horizon
        y = horizon + (HEIGHT - horizon) * (row / 12) ** 2
        pen.line((0, y, SCENE_WIDTH, y), fill=line)
    middle, spread = SCENE_WIDTH / 2, float(draw.uniform(1.8, 3.0))
    for x in range(0, SCENE_WIDTH + 1, 44):
        pen.line((x, horizon, middle + (x - middle) * spread, HEIGHT), fill=line)


def _foliage(pen: ImageDraw.ImageDraw, draw: np.random.Generator, top: int, bottom: int, colour: Colour, count: int) -> None:
    for _ in range(count):
        x, y, r = draw.uniform(0, SCENE_WIDTH), draw.uniform(top, bottom), draw.uniform(4, 13)
        pen.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.8), fill=_shade(colour, float(draw.uniform(0.6, 1.25))))


def _bicycles(pen: ImageDraw.ImageDraw, draw: np.random.Generator, y: float, count: int) -> None:
    for _ in range(count):
        x, r = float(draw.uniform(0, SCENE_WIDTH)), float(draw.uniform(13, 18))
        paint = [(40, 40, 44), (150, 40, 44), (50, 80, 140), (170, 170, 172)][int(draw.integers(4))]
        for wheel in (x, x + 2.3 * r):
            pen.ellipse((wheel - r, y - 2 * r, wheel + r, y), outline=(38, 38, 40), width=2)
        pen.line((x, y - r, x + 0.9 * r, y - 2.2 * r, x + 2 * r, y - 2.2 * r, x + 2.3 * r, y - r), fill=paint, width=3)
        pen.line((x, y - r, x + 1.2 * r, y - r, x + 2 * r, y - 2.2 * r), fill=paint, width=3)
        pen.line((x + 0.7 * r, y - 2.7 * r, x + 1.2 * r, y - r), fill=(30, 30, 32), width=3)


def _plaza(pen: ImageDraw.ImageDraw, draw: np.random.Generator, horizon: int) -> None:
    pen.rectangle((0, 0, SCENE_WIDTH, horizon), fill=(176, 168, 156))
    for x in range(0, SCENE_WIDTH, 62):  # windows of a long building
        pen.rectangle((x + 12, 8, x + 48, horizon - 34), fill=_shade((92, 108, 122), float(draw.uniform(0.7, 1.3))))
        pen.line((x + 30, 8, x + 30, horizon - 34), fill=(196, 190, 180), width=2)
    _foliage(pen, draw, horizon - 22, horizon - 4, (66, 96, 58), 240)
    _tiles(pen, draw, horizon, (158, 152, 146), (132, 126, 122))
    _bicycles(pen, draw, horizon + 18, 13)


def _park(pen: ImageDraw.ImageDraw, draw: np.random.Generator, horizon: int) -> None:
    pen.rectangle((0, 0, SCENE_WIDTH, horizon), fill=(70, 92, 62))
    _foliage(pen, draw, 0, horizon, (78, 112, 62), 520)
    pen.rectangle((0, horizon, SCENE_WIDTH, horizon + 40), fill=(112, 142, 82))
    pen.rectangle((0, horizon + 40, SCENE_WIDTH, HEIGHT), fill=(184, 170, 148))
    pen.rectangle((0, horizon + 37, SCENE_WIDTH, horizon + 43), fill=(150, 146, 138))
    for _ in range(11):
        x, w = float(draw.uniform(0, SCENE_WIDTH)), float(draw.uniform(6, 13))
        pen.rectangle((x, 0, x + w, horizon + 26), fill=(96, 78, 62))
        pen.rectangle((x + w * 0.6, 0, x + w, horizon + 26), fill=(74, 60, 48))
    for _ in range(4):  # benches
        x, y = float(draw.uniform(0, SCENE_WIDTH)), horizon + 30
        pen.rectangle((x, y - 22, x + 74, y - 14), fill=(126, 88, 56))
        pen.rectangle((x, y - 8, x + 74, y - 2), fill=(140, 98, 62))
        pen.rectangle((x + 6, y - 22, x + 10, y + 8), fill=(60, 60, 62))
        pen.rectangle((x + 64, y - 22, x + 68, y + 8), fill=(60, 60, 62))


def _hall(pen: ImageDraw.ImageDraw, draw: np.random.Generator, horizon: int) -> None:
    for x in range(0, SCENE_WIDTH, 86):
        pen.rectangle((x, 0, x + 86, horizon), fill=_shade((178, 176, 170), float(draw.uniform(0.86, 1.06))))
        if draw.random() < 0.5:
            poster = (int(draw.integers(60, 220)), int(draw.integers(60, 200)), int(draw.integers(60, 220)))
            pen.rectangle((x + 18, 14, x + 66, horizon - 22), fill=poster)
            pen.rectangle((x + 24, 22, x + 60, 44), fill=_shade(poster, 1.3))
    pen.rectangle((0, horizon - 8, SCENE_WIDTH, horizon), fill=(88, 86, 84))
    _tiles(pen, draw, horizon, (166, 158, 146), (146, 138, 128))
    for _ in range(7):
        edge = float(draw.uniform(0, SCENE_WIDTH))
        pen.rectangle((edge, 0, edge + 26, horizon + 22), fill=(150, 148, 146))
        pen.rectangle((edge + 18, 0, edge + 26, horizon + 22), fill=(122, 120, 120))


def _crossing(pen: ImageDraw.ImageDraw, draw: np.random.Generator, horizon: int) -> None:
    pen.rectangle((0, 0, SCENE_WIDTH, horizon), fill=(196, 206, 214))
    edge = 0.0
    while edge < SCENE_WIDTH:  # a row of houses
        w, top = float(draw.uniform(60, 130)), float(draw.uniform(0, 30))
        pen.rectangle((edge, top, edge + w, horizon), fill=_shade((150, 118, 100), float(draw.uniform(0.7, 1.3))))
        pen.rectangle((edge + 10, horizon - 40, edge + w - 14, horizon - 6), fill=_shade((80, 92, 104), float(draw.uniform(0.7, 1.4))))
        edge += w
    pen.rectangle((0, horizon, SCENE_WIDTH, HEIGHT), fill=(104, 104, 106))
    y = horizon + 14
    for _ in range(6):  # parked cars
        x = float(draw.uniform(0, SCENE_WIDTH))
        paint = [(188, 188, 190), (40, 42, 48), (150, 40, 40), (60, 84, 130), (216, 214, 208)][int(draw.integers(5))]
        pen.rounded_rectangle((x, y - 26, x + 116, y), radius=8, fill=paint)
        pen.polygon(((x + 20, y - 26), (x + 36, y - 46), (x + 84, y - 46), (x + 100, y - 26)), fill=_shade(paint, 0.8))
        pen.polygon(((x + 28, y - 27), (x + 40, y - 42), (x + 80, y - 42), (x + 92, y - 27)), fill=(66, 76, 84))
        for wheel in (x + 24, x + 92):
            pen.ellipse((wheel - 10, y - 10, wheel + 10, y + 8), fill=(30, 30, 32))
    for left in range(0, SCENE_WIDTH, 104):
        pen.polygon(((left, horizon + 46), (left + 52, horizon + 46), (left + 20, HEIGHT), (left - 52, HEIGHT)), fill=(206, 204, 198))
