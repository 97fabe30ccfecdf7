"""One tracklet as pictures: a person walks through a scene, and a shaky box follows.

In:      a :class:`Shot` (person, camera, length; every random number follows from its name).
Out:     frames as uint8 arrays; :func:`encode` makes them JPEG or PNG bytes.
Source:  ours. What differs between tracklets of one camera is light, direction, framing, occlusion and what lies behind.
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from pipeline.base.seeds import rng
from pipeline.demo.cameras import Camera, tint
from pipeline.demo.figures import Brush, Pose, draw_person
from pipeline.demo.people import Colour, Person, people
from pipeline.demo.scenes import HEIGHT, SCENE_WIDTH, WIDTH, panorama

Encoding = Literal["jpeg", "png"]


@functools.lru_cache(maxsize=1)
def _textures() -> tuple[np.ndarray, np.ndarray]:
    """Grain of a sensor (standard deviation 1) and folds of cloth (factors around 1), float32, larger than a picture."""
    draw = rng(0, "textures")
    grain = draw.standard_normal((HEIGHT * 2, WIDTH * 4), dtype=np.float32)
    coarse = draw.uniform(0, 255, (40, 20)).astype(np.uint8)
    folds = np.asarray(Image.fromarray(coarse).resize((WIDTH * 2, HEIGHT * 2), Image.Resampling.BICUBIC), np.float32)
    return grain, 1 + (folds - 127) * np.float32(0.14 / 127)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One tracklet to be rendered."""

    name: str
    """Unique in the data set; all randomness of the tracklet follows from it."""
    person: Person
    camera: Camera
    length: int
    """Frames."""
    misplaced: bool = False
    """The box misses the person for the most part (MARS junk)."""


def frames(shot: Shot) -> list[np.ndarray]:
    """The frames of one tracklet: uint8 [HEIGHT, WIDTH, 3] each."""
    view, n = shot.camera, shot.length
    draw = rng(view.seed, "shot", view.dataset, shot.name)
    light = float(draw.normal(1.0, 0.06))
    warm = draw.normal(1.0, 0.025, 3)

    def lit(colour: Colour) -> Colour:
        r, g, b = (tint(view, np.array(colour), light) * warm).clip(0, 255).tolist()
        return int(r), int(g), int(b)

    brush = Brush(WIDTH * 2, HEIGHT * 2, lit, view.light)
    heading = view.heading + float(draw.normal(0, 0.3)) + (math.pi if draw.random() < 0.3 else 0.0)
    phase = float(draw.uniform(0, 2 * math.pi))
    zoom = float(draw.uniform(0.92, 1.1))
    pace = float(4.0 * shot.person.cadence / 0.065 * math.sin(heading) * draw.uniform(0.6, 1.0))
    scene = _cut(view, draw, n, pace)
    # Boxes wander slowly and shake a little, as a detector's do.
    drift = _wander(draw, n) * (2.0, 2.0, 0.005) + draw.normal(0, 1.0, (n, 3)) * (2.0, 2.0, 0.008)
    off = draw.normal(0, 1.0, 2) * (8.0, 7.0)
    if shot.misplaced:
        off += (float(draw.choice((-1, 1)) * draw.uniform(70, 130)), float(draw.choice((-1, 1)) * draw.uniform(60, 300)))
        zoom *= float(draw.uniform(0.7, 1.6))
    other = _passer_by(draw, view)
    post = float(draw.uniform(20, 2 * WIDTH - 20)) if draw.random() < 0.1 else None
    grain, folds = _textures()
    made = []
    for i in range(n):
        brush.clear()
        if other is not None and not other.front:
            other.draw(brush, i, pace)
        size = 2 * HEIGHT * 0.9 * zoom * (1 + drift[i, 2])
        x, ground = WIDTH + off[0] + drift[i, 0], 2 * HEIGHT * 0.965 + off[1] + drift[i, 1] + (size - 2 * HEIGHT * 0.9) * 0.5
        pose = Pose(phase + 2 * math.pi * shot.person.cadence * i, heading, view.pitch)
        draw_person(brush, shot.person, pose, float(x), float(ground), float(size))
        if other is not None and other.front:
            other.draw(brush, i, pace)
        if post is not None:
            edge = post - 2 * pace * i
            brush.polygon([(edge, 0), (edge + 26, 0), (edge + 26, 2 * HEIGHT), (edge, 2 * HEIGHT)], (118, 120, 122))
            brush.polygon([(edge + 17, 0), (edge + 26, 0), (edge + 26, 2 * HEIGHT), (edge + 17, 2 * HEIGHT)], (88, 90, 92))
        layer = np.asarray(brush.image.reduce(2)).astype(np.float32)
        fx, fy = int(x / 2) % WIDTH, int(ground / 2) % HEIGHT
        layer[..., :3] *= folds[HEIGHT - fy : 2 * HEIGHT - fy, WIDTH - fx : 2 * WIDTH - fx, None]
        picture = scene[i] * (1 - layer[..., 3:] * np.float32(1 / 255)) + layer[..., :3]
        gy, gx = int(draw.integers(HEIGHT)), int(draw.integers(WIDTH))
        made.append(_record(view, picture, grain[gy : gy + HEIGHT, gx : gx + 3 * WIDTH].reshape(HEIGHT, WIDTH, 3)))
    return made


def _wander(draw: np.random.Generator, n: int) -> np.ndarray:
    """Three slow walks that are drawn back to 0 (standard deviation about 4), float64 [n, 3]."""
    out = draw.normal(0, 1.0, (n, 3))
    for i in range(1, n):
        out[i] += 0.97 * out[i - 1]
    return out


def _record(view: Camera, picture: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """What the sensor makes of a picture (float32 [HEIGHT, WIDTH, 3]): optics, then noise; uint8."""
    if view.sharpness < 1:
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        small = image.resize((int(WIDTH * view.sharpness), int(HEIGHT * view.sharpness)), Image.Resampling.BOX)
        picture = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    return (picture + grain * np.float32(view.noise)).clip(0, 255).astype(np.uint8)


def _cut(view: Camera, draw: np.random.Generator, n: int, pace: float) -> list[np.ndarray]:
    """The background behind each frame: it moves against the walk, and each tracklet has its own distance."""
    scale = float(draw.uniform(0.8, 1.35))
    wide = int(WIDTH / scale)
    steps = np.arange(n) * pace
    need = wide + int(abs(steps[-1]) / scale) + 2
    length = min(need, SCENE_WIDTH)
    left = int(draw.integers(0, SCENE_WIDTH - length + 1))
    top = int(draw.integers(0, max(1, HEIGHT - int(HEIGHT / scale) + 1))) if scale > 1 else 0
    tall = min(HEIGHT, int(HEIGHT / scale))
    strip = panorama(view).resize((int(length * scale), HEIGHT), Image.Resampling.BILINEAR, (left, top, left + length, top + tall))
    pixels = np.asarray(strip, np.float32)
    room = pixels.shape[1] - WIDTH
    start = 0.0 if pace >= 0 else float(room)
    # A long tracklet may walk further than the panorama: it turns back at its end.
    at = [_bounce(start + s, room) for s in steps]
    return [pixels[:, a : a + WIDTH] for a in at]


def _bounce(position: float, room: int) -> int:
    if room <= 0:
        return 0
    p = abs(position) % (2 * room)
    return int(p if p <= room else 2 * room - p)


@dataclass(frozen=True, kw_only=True, slots=True)
class _PasserBy:
    """Somebody else at the edge of the box."""

    person: Person
    front: bool
    x: float
    speed: float
    heading: float
    size: float
    phase: float

    def draw(self, brush: Brush, i: int, pace: float) -> None:
        x = self.x + (self.speed - 2 * pace * 0.2) * i
        pose = Pose(self.phase + 2 * math.pi * self.person.cadence * i, self.heading, 0.12)
        draw_person(brush, self.person, pose, x, 2 * HEIGHT * (0.99 if self.front else 0.9), self.size)


def _passer_by(draw: np.random.Generator, view: Camera) -> _PasserBy | None:
    if draw.random() >= 0.22:
        return None
    crowd = _crowd(view.seed)
    front, left = bool(draw.random() < 0.3), bool(draw.random() < 0.5)
    edge = float(draw.uniform(-30, 40)) if front else float(draw.uniform(0, 70))
    return _PasserBy(
        person=crowd[int(draw.integers(len(crowd)))],
        front=front,
        x=edge if left else 2 * WIDTH - edge,
        speed=float(draw.normal(0, 1.2)),
        heading=float(draw.uniform(0, 2 * math.pi)),
        size=2 * HEIGHT * float(draw.uniform(0.9, 1.0) if front else draw.uniform(0.6, 0.8)),
        phase=float(draw.uniform(0, 2 * math.pi)),
    )


@functools.lru_cache(maxsize=2)
def _crowd(seed: int) -> list[Person]:
    return people(seed, "crowd", 30)


def encode(picture: np.ndarray, how: Encoding, view: Camera) -> bytes:
    """JPEG at 256 x 128 with the camera's quality (MARS), or PNG at 128 x 64 (iLIDS-VID, PRID-2011)."""
    out = io.BytesIO()
    image = Image.fromarray(picture)
    if how == "jpeg":
        image.save(out, "JPEG", quality=view.quality)
    else:
        image.reduce(2).save(out, "PNG", compress_level=6)
    return out.getvalue()
