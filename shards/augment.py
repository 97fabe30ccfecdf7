"""Draw how the frames of a training clip are changed: flip, shift, erase. Numbers only; pixels are changed where the batch lives.

In:      the clip's own generator, the settings, the size of a frame.   Out: numbers for `pipeline.base.batch.Augmentation`.
Source:  specs/dubbernet.md section 3.2. Ours: flip and crop are shared by the frames of a clip unless `shared` is off;
         erasing is drawn per frame, fills a level before normalisation (128 is zero after it), is tried up to
         `erase_attempts` times, and draws the aspect of the rectangle on a logarithmic scale. As released: `shared` off,
         one attempt, levels 189, 186, 179 (0.485, 0.456, 0.406 after normalisation), aspect drawn uniformly.
"""

# T frames of a clip, H height and W width in pixels

from __future__ import annotations

import math

import numpy as np

from pipeline.base.config import AugmentConfig


def draw_changes(T: int, H: int, W: int, settings: AugmentConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the changes of one clip.

    Numbers are drawn in this order: flip, top, left (once if `settings.shared`, else for each frame), then the rectangle of
    each frame. Padding by p zeros and cropping back at (top, left) of the padded picture is a shift by (p - top, p - left).

    Args:
        T: frames of the clip.
        H, W: pixels of a frame.
        settings: chances and sizes.
        rng: the clip's own generator.

    Returns:
        flip bool [T]; shift int64 [T, 2], pixels down and to the right; erase int64 [T, 4], top, left, height and width of a
        rectangle, all 0 where none is erased (also where no attempt to fit one succeeded).
    """
    flip, shift, erase = np.empty(T, np.bool_), np.empty((T, 2), np.int64), np.zeros((T, 4), np.int64)
    for t in [slice(0, T)] if settings.shared else range(T):
        flip[t] = rng.random() < settings.flip
        shift[t] = settings.pad - rng.integers(0, 2 * settings.pad, size=2, endpoint=True)
    for t in range(T):
        if rng.random() < settings.erase:
            erase[t] = rectangle(H, W, settings, rng)
    return flip, shift, erase


def rectangle(H: int, W: int, settings: AugmentConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A rectangle that fits into a picture: top, left, height, width in pixels; 0, 0, 0, 0 if no attempt fits.

    Each attempt draws an area, uniform in `erase_area` times the picture's, and an aspect (height over width) in
    `erase_aspect`..1/`erase_aspect`, uniform itself or in its logarithm (`erase_aspect_draw`); sides are rounded to
    whole pixels, at least one. The place is uniform over all places where the rectangle fits.
    """
    smallest, largest = settings.erase_area
    lowest = settings.erase_aspect
    for _ in range(settings.erase_attempts):
        area = rng.uniform(smallest, largest) * H * W
        if settings.erase_aspect_draw == "uniform":
            aspect = rng.uniform(lowest, 1 / lowest)
        else:
            aspect = math.exp(rng.uniform(math.log(lowest), -math.log(lowest)))
        h, w = max(round(math.sqrt(area * aspect)), 1), max(round(math.sqrt(area / aspect)), 1)
        if h <= H and w <= W:
            return int(rng.integers(0, H - h, endpoint=True)), int(rng.integers(0, W - w, endpoint=True)), h, w
    return 0, 0, 0, 0
