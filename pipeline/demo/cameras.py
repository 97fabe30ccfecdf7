"""What one camera does to everything it sees: viewpoint, colour cast, exposure, contrast, sharpness, noise, compression.

In:      a seed, a data set and a number.   Out: :class:`Camera` values, and colours as a camera records them.
Source:  ours. These differences are what makes re-identification hard, so casts of neighbouring cameras lie far apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.base.seeds import rng

SCENES = ("plaza", "park", "hall", "crossing")
"""Painted by scenes.py."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """What stays the same for everything one camera sees."""

    seed: int
    dataset: str
    number: int
    scene: str
    heading: float
    """Direction in which people mostly walk here (radians, see people.py)."""
    pitch: float
    gains: tuple[float, float, float]
    """Colour cast: factors of red, green, blue."""
    exposure: float
    contrast: float
    saturation: float
    gamma: float
    light: float
    """Side of the light, -1..1."""
    sharpness: float
    """Part of the full resolution that the optics keep."""
    noise: float
    """Standard deviation of the sensor noise in grey levels."""
    quality: int
    """JPEG quality."""


def camera(seed: int, dataset: str, number: int) -> Camera:
    """Camera `number` (from 0) of a data set. Casts of neighbouring cameras lie far apart on the colour circle."""
    draw = rng(seed, "camera", dataset, number)
    turn = float(rng(seed, "camera", dataset).uniform(0, 2 * math.pi)) + number * 2.4 + float(draw.normal(0, 0.15))
    strength = float(draw.uniform(0.04, 0.085))
    cast = [1 + strength * math.cos(turn - k * 2 * math.pi / 3) for k in range(3)]
    bright = (1.0, 0.88, 1.06, 0.93, 1.04, 0.84)[number % 6]
    return Camera(
        seed=seed,
        dataset=dataset,
        number=number,
        scene=SCENES[number % len(SCENES)],
        heading=(0.35, 1.75, 3.6, -1.25, 0.9, 2.6)[number % 6] + float(draw.normal(0, 0.1)),
        pitch=float(draw.uniform(0.08, 0.22)),
        gains=(cast[0], cast[1], cast[2]),
        exposure=bright * float(draw.uniform(0.95, 1.05)),
        contrast=float(draw.uniform(0.82, 1.08)),
        saturation=float(draw.uniform(0.7, 0.95)),
        gamma=float(draw.uniform(0.88, 1.14)),
        light=float(draw.choice((-1.0, 1.0)) * draw.uniform(0.4, 1.0)),
        sharpness=float(draw.choice((0.4, 0.55, 0.75, 1.0))),
        noise=float(draw.uniform(1.5, 6.0)),
        quality=int(draw.integers(70, 93)),
    )


def tint(view: Camera, colour: np.ndarray, light: float = 1.0) -> np.ndarray:
    """Colours as a camera records them: float [..., 3] in 0..255 to float32 [..., 3] in 0..255, `light` times as bright."""
    value = np.asarray(colour, np.float32) / np.float32(255)
    weighted = value * np.array([0.3, 0.59, 0.11], np.float32)
    grey = weighted[..., :1] + weighted[..., 1:2] + weighted[..., 2:]  # a fixed order of additions, whatever the BLAS does
    value = grey + np.float32(view.saturation) * (value - grey)
    value = value.clip(0, 1) ** np.float32(view.gamma) * np.array(view.gains, np.float32) * np.float32(view.exposure * light)
    return ((np.float32(0.45) + np.float32(view.contrast) * (value - np.float32(0.45))) * np.float32(255)).clip(0, 255)
