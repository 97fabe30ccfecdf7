import numpy as np
import pytest
import torch

from pipeline.base.errors import ShardError
from shards.prepare import PREPARE
from shards.prepare.audio_tokens import fit


def test_tokens_are_stacked_as_they_are():
    items = [np.arange(6, dtype=np.float16).reshape(3, 2), np.full((3, 2), 7, np.float16)]
    for cut in (None, lambda n, spare: 0):
        values, lengths = PREPARE["audio_tokens"](items, 3, 2, cut)
        assert values.dtype == torch.float16 and lengths.dtype == torch.int64
        assert values.tolist() == [[[0, 1], [2, 3], [4, 5]], [[7, 7]] * 3]
        assert lengths.tolist() == [3, 3]


@pytest.mark.parametrize("shape", [(2, 2), (4, 2), (3, 1)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ShardError, match=rf"audio tokens \[{shape[0]}, {shape[1]}\], expected \[3, 2\]"):
        fit([np.zeros((3, 2), np.float16), np.zeros(shape, np.float16)], 3, 2, None)


def test_no_item():
    values, lengths = fit([], 4, 3, None)
    assert values.shape == (0, 4, 3) and lengths.shape == (0,) and lengths.dtype == torch.int64
