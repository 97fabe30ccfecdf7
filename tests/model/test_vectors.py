"""Clips of one tracklet are averaged, however they are batched."""

import numpy as np
import pytest
import torch

from model.vectors import tracklet_vectors
from pipeline.base.batch import Batch
from pipeline.base.errors import ScoreError


class Stub:
    """The first pixel of the first frame is the feature."""

    hears, kind = False, ""

    def check(self, batch):
        assert not batch.companions

    def embed(self, batch):
        return batch.frames[:, 0, 0, 0, :2].float()


def batch(names, values):
    frames = torch.zeros(len(names), 2, 3, 32, 16, dtype=torch.uint8)
    frames[:, :, :, 0, 0] = torch.tensor(values, dtype=torch.uint8)[:, None, None]
    return Batch(frames, torch.full((len(names),), -1), torch.zeros(len(names), dtype=torch.int64), list(names))


def test_clips_of_a_tracklet_are_averaged_across_batches():
    vectors = tracklet_vectors(Stub(), [batch("ba", [10, 1]), batch("aab", [2, 6, 20])], "cpu")
    assert vectors.tracklet == ["a", "b"] and vectors.clips.tolist() == [3, 2]
    assert vectors.values.dtype == np.float32 and vectors.values[:, 0].tolist() == [3, 15]


def test_a_feature_that_is_no_number_stops_the_step():
    class Broken(Stub):
        def embed(self, batch):
            return torch.full((len(batch.tracklet), 2), float("nan"))

    with pytest.raises(ScoreError, match=r"tracklet a: .* NaN"):
        tracklet_vectors(Broken(), [batch("a", [1])], "cpu")
    with pytest.raises(ScoreError, match="no clip"):
        tracklet_vectors(Stub(), [], "cpu")
