import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.base.config import AugmentConfig
from pipeline.base.errors import ShardError
from pipeline.base.seeds import rng
from shards.prepare.frames import augment, decode, rectangle, shift


def jpeg(height=16, width=8, level=100, mode="RGB"):
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).convert(mode).save(out, "JPEG", quality=95)
    return out.getvalue()


NOTHING = AugmentConfig(flip=0, pad=0, erase=0)


def clip(T=6, H=32, W=16):
    """Pixels that tell their place: row in channel 0, column in channel 1, frame in channel 2; none is zero."""
    t, y, x = torch.meshgrid(torch.arange(T), torch.arange(H), torch.arange(W), indexing="ij")
    return (torch.stack([y, x, t], dim=1) + 1).to(torch.uint8)


def test_decode():
    frames = decode([jpeg(level=10), memoryview(jpeg(level=200))], 16, 8, "a", [3, 9])
    assert frames.shape == (2, 3, 16, 8) and frames.dtype == torch.uint8
    assert (frames[0] == 10).all() and (frames[1] == 200).all()


def test_decode_agrees_with_pillow_and_gives_rgb():
    picture = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=95)
    expected = torch.from_numpy(np.array(Image.open(out))).permute(2, 0, 1)
    assert torch.equal(decode([out.getvalue()], 16, 8, "a", [0])[0], expected)


def test_grey_becomes_three_channels():
    assert (decode([jpeg(mode="L")], 16, 8, "a", [0]) == 100).all()


@pytest.mark.parametrize("bytes_", [b"", b"no picture", jpeg()[:-30], jpeg()[:20]])
def test_a_broken_frame_is_named(bytes_):
    with pytest.raises(ShardError, match=r"shard 00003\.tar, sample 0001C1: frame 17 does not decode"):
        decode([jpeg(), bytes_], 16, 8, "shard 00003.tar, sample 0001C1", [2, 17])


def test_another_size_is_refused():
    with pytest.raises(ShardError, match=r"sample a: frame 5 is 8x16 \(height x width\), expected 16x8"):
        decode([jpeg(8, 16)], 16, 8, "sample a", [5])


def test_nothing_to_do():
    frames = clip()
    assert torch.equal(augment(frames, NOTHING, rng(0)), frames)


def test_flip_by_hand():
    frames = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8).expand(2, 3, 1, 3)
    settings = AugmentConfig(flip=1, pad=0, erase=0)
    assert augment(frames, settings, rng(0)).tolist() == [[[[3, 2, 1]]] * 3] * 2


@pytest.mark.parametrize(
    ("down", "right", "expected"),
    [
        (0, 0, [[1, 2, 3], [4, 5, 6]]),
        (1, 0, [[0, 0, 0], [1, 2, 3]]),
        (-1, 0, [[4, 5, 6], [0, 0, 0]]),
        (0, 2, [[0, 0, 1], [0, 0, 4]]),
        (1, -1, [[0, 0, 0], [2, 3, 0]]),
        (5, 0, [[0, 0, 0], [0, 0, 0]]),
        (0, -5, [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_shift_by_hand(down, right, expected):
    frames = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]], dtype=torch.uint8)
    assert shift(frames, down, right)[0, 0].tolist() == expected


def test_shift_is_pad_and_crop():
    frames, pad = clip(), 10
    padded = torch.nn.functional.pad(frames, (pad, pad, pad, pad))
    for top, left in [(0, 0), (20, 20), (10, 10), (3, 14)]:
        assert torch.equal(shift(frames, pad - top, pad - left), padded[..., top : top + 32, left : left + 16])


def test_crop_reaches_every_place():
    settings = AugmentConfig(flip=0, pad=2, erase=0)
    frames = clip(T=1, H=16, W=16)
    centres = {tuple(augment(frames, settings, rng(i))[0, :2, 8, 8].tolist()) for i in range(400)}
    assert centres == {(y, x) for y in range(7, 12) for x in range(7, 12)}  # 9 (the place itself, from 1) plus and minus 2


def moves(frames):
    """Where the middle of each frame came from: distinct (row, column)."""
    return {tuple(frame[:2, 16, 8].tolist()) for frame in frames}


def test_flip_and_crop_are_shared_unless_told_otherwise():
    shared = [moves(augment(clip(), AugmentConfig(erase=0, pad=4), rng(i))) for i in range(30)]
    alone = [moves(augment(clip(), AugmentConfig(erase=0, pad=4, shared=False), rng(i))) for i in range(30)]
    assert all(len(found) == 1 for found in shared)
    assert sum(len(found) > 1 for found in alone) == 30


def test_chances():
    """1,200 draws each: three standard errors are 0.04."""
    frames = clip(T=4)
    flipping = AugmentConfig(flip=0.75, pad=0, erase=0, shared=False)
    flipped = torch.stack([augment(frames, flipping, rng(i)) != frames for i in range(300)]).flatten(2).any(2)
    assert flipped.float().mean().item() == pytest.approx(0.75, abs=0.04)
    erasing = AugmentConfig(flip=0, pad=0, erase=0.25)
    erased = torch.stack([augment(frames, erasing, rng(i)) != frames for i in range(300)]).flatten(2).any(2)
    assert erased.float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_erased_rectangles_keep_to_area_and_aspect():
    settings = AugmentConfig(erase_area=(0.02, 0.4), erase_aspect=0.3)
    aspects = []
    for i in range(500):
        y, x, h, w = rectangle(256, 128, settings, rng(i))
        assert 0 <= y <= 256 - h and 0 <= x <= 128 - w
        rounding = (h + w) / 2 + 0.25  # half a pixel on each side
        assert 0.02 * 256 * 128 - rounding <= h * w <= 0.4 * 256 * 128 + rounding
        assert 0.3 * (w - 0.5) <= h + 0.5 and 0.3 * (h - 0.5) <= w + 0.5
        aspects.append(math.log(h / w))
    assert min(aspects) < -0.9 and max(aspects) > 0.9  # both tall and wide, of +-1.2


def test_erasing_fills_one_rectangle_with_the_level():
    settings = AugmentConfig(flip=0, pad=0, erase=1, erase_level=7)
    frames = clip(T=4) + 100
    out = augment(frames, settings, rng(0))
    places = set()
    for before, after in zip(frames, out, strict=True):
        changed = (before != after).all(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        box = (rows[0].item(), rows[-1].item(), columns[0].item(), columns[-1].item())
        assert changed.sum() == len(rows) * len(columns) > 0
        assert (after[:, changed] == 7).all() and torch.equal(after[:, ~changed], before[:, ~changed])
        places.add(box)
    assert len(places) == 4  # each frame its own


def test_more_attempts_erase_more_often():
    """One attempt fails if the rectangle is wider than 128 pixels: area / aspect > 128**2, that is part > aspect / 2.

    Chance of an aspect below 0.8: log(0.8 / 0.3) / log(1 / 0.3 / 0.3) = 0.407; the mean chance of such a part then:
    (0.4 - (0.8 - 0.3) / 0.981 / 2) / 0.38 = 0.382. (The released code draws the aspect uniformly: fewer wide ones, 0.06.)
    """
    one = AugmentConfig(erase_attempts=1)
    fails = sum(rectangle(256, 128, one, rng(i)) == (0, 0, 0, 0) for i in range(2000))
    assert fails / 2000 == pytest.approx(0.407 * 0.382, abs=0.025)
    assert all(rectangle(256, 128, AugmentConfig(), rng(i))[2] > 0 for i in range(2000))


def test_the_input_is_not_changed():
    frames = clip()
    augment(frames, AugmentConfig(flip=0, pad=0, erase=1), rng(0))
    assert torch.equal(frames, clip())


def test_the_generator_decides():
    first, again, other = (augment(clip(), AugmentConfig(), rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
