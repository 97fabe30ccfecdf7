import numpy as np
import torch

from pipeline.base.seeds import rng
from shards.prepare.audio import fit


def ramp(length, bands=2):
    """Frame i holds the value i + 1."""
    return np.repeat(np.arange(1, length + 1, dtype=np.float16)[:, None], bands, axis=1)


def test_short_items_are_padded_and_long_ones_cut_around_the_centre():
    values, lengths = fit([ramp(2), ramp(4), ramp(8)], 4, 2, None)
    assert values.dtype == torch.float32 and lengths.dtype == torch.int64
    assert values[:, :, 0].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4], [3, 4, 5, 6]]
    assert torch.equal(values[:, :, 0], values[:, :, 1])
    assert lengths.tolist() == [2, 4, 4]


def test_training_cuts_anywhere_and_only_long_items():
    starts = set()
    for i in range(100):
        values, lengths = fit([ramp(2), ramp(7)], 4, 2, rng(0, i))
        assert values[0, :, 0].tolist() == [1, 2, 0, 0] and lengths.tolist() == [2, 4]
        start = int(values[1, 0, 0])
        assert values[1, :, 0].tolist() == [start, start + 1, start + 2, start + 3]
        starts.add(start)
    assert starts == {1, 2, 3, 4}


def test_the_generator_decides():
    first, again, other = (fit([ramp(500)], 10, 2, rng(seed, "cut"))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_no_item():
    values, lengths = fit([], 4, 3, None)
    assert values.shape == (0, 4, 3) and lengths.shape == (0,) and lengths.dtype == torch.int64
