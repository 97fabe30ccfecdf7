"""Distances against float64, where float32 products would fail, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.distance import squared_distances
from pipeline.base.errors import ScoreError


def exact(queries, gallery):
    return ((queries.astype(float)[:, None] - gallery.astype(float)[None]) ** 2).sum(-1)


def all_blocks(queries, gallery, block=256):
    return np.concatenate(list(squared_distances(queries, gallery, block)))


def test_by_hand():
    queries, gallery = np.array([[0, 0], [3, 4]], np.float32), np.array([[3, 4], [0, 0], [0, 1]], np.float32)
    assert all_blocks(queries, gallery).tolist() == [[25, 0, 1], [0, 25, 18]]


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (100.0, 1e-3), (-5.0, 10.0)])
def test_close_to_float64_wherever_the_cloud_lies(offset, spread):
    random = np.random.default_rng(0)
    gallery = (offset + spread * random.normal(size=(60, 32))).astype(np.float32)
    queries = (offset + spread * random.normal(size=(20, 32))).astype(np.float32)
    queries[:5] = gallery[:5]
    queries[5:10] = gallery[5:10] + np.float32(spread / 50)
    expected, found = exact(queries, gallery), all_blocks(queries, gallery, block=7)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, rel=1e-5, abs=0)
    assert (np.diag(found)[:5] == 0).all()


def test_plain_float32_would_fail_here():
    """Negative control: the formula without our three measures loses every digit far from the origin."""
    random = np.random.default_rng(0)
    gallery = (100 + 1e-3 * random.normal(size=(60, 32))).astype(np.float32)
    plain = (gallery**2).sum(1)[:, None] + (gallery**2).sum(1) - 2 * gallery @ gallery.T
    off = ~np.eye(60, dtype=bool)
    expected = exact(gallery, gallery)[off]
    assert (np.abs(plain[off] - expected) / expected).max() > 1
    assert (np.abs(all_blocks(gallery, gallery)[off] - expected) / expected).max() < 1e-5


def test_the_gallery_mean_alone_is_not_enough_for_near_pairs():
    """Two far clusters: within a cluster, distances are tiny against the norms."""
    random = np.random.default_rng(0)
    gallery = (1e-4 * random.normal(size=(40, 16)) + np.repeat([-50, 50], 20)[:, None]).astype(np.float32)
    assert all_blocks(gallery[:3], gallery) == pytest.approx(exact(gallery[:3], gallery), rel=1e-5, abs=0)


def test_equal_gallery_vectors_tie_exactly_wherever_they_stand():
    """A bare matrix product fails this for sizes like these."""
    random = np.random.default_rng(0)
    queries = random.normal(size=(70, 129)).astype(np.float32)
    gallery = random.normal(size=(333, 129)).astype(np.float32)
    gallery[[5, 100, 332]] = gallery[17]
    found = all_blocks(queries, gallery)
    assert (found[:, [5, 100, 332]] == found[:, [17]]).all()
    assert found == pytest.approx(exact(queries, gallery), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(bad):
    broken = np.zeros((3, 2), np.float32)
    broken[1, 0] = bad
    with pytest.raises(ScoreError, match=r"gallery: 1 of 3 vectors .* row 1"):
        all_blocks(np.zeros((1, 2), np.float32), broken)


def test_different_widths_are_refused():
    with pytest.raises(ScoreError, match="one D"):
        all_blocks(np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32))
