import numpy as np
import torch

from shards.prepare.audio import fit


def ramp(length, bands=2):
    """Frame i holds the value i + 1."""
    return np.repeat(np.arange(1, length + 1, dtype=np.float16)[:, None], bands, axis=1)


def test_short_items_are_padded_and_long_ones_cut_around_the_centre():
    values, lengths = fit([ramp(2), ramp(4), ramp(8)], 4, 2, None)
    assert values.dtype == torch.float16 and lengths.dtype == torch.int64
    assert values[:, :, 0].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4], [3, 4, 5, 6]]
    assert torch.equal(values[:, :, 0], values[:, :, 1])
    assert lengths.tolist() == [2, 4, 4]


def test_training_cuts_only_long_items_where_it_is_told():
    asked = []

    def cut(number, spare):
        asked.append((number, spare))
        return 2

    values, lengths = fit([ramp(2), ramp(7), ramp(4)], 4, 2, cut)
    assert values[:, :, 0].tolist() == [[1, 2, 0, 0], [3, 4, 5, 6], [1, 2, 3, 4]] and lengths.tolist() == [2, 4, 4]
    assert asked == [(1, 3)]


def test_no_item():
    values, lengths = fit([], 4, 3, None)
    assert values.shape == (0, 4, 3) and lengths.shape == (0,) and lengths.dtype == torch.int64
