import numpy as np
import pytest

from pipeline.base.seeds import rng
from shards.draw import dense_chunks, dense_count, train_indices


def drawn(n, T=6, times=300):
    return np.stack([train_indices(n, T, rng(0, "test", i)) for i in range(times)])


def test_one_frame_per_segment():
    segments = [(0, 2), (3, 5), (6, 8), (9, 11), (12, 14), (15, 19)]  # 20 frames: the last segment takes the rest
    for column, (first, last) in zip(drawn(20).T, segments, strict=True):
        assert set(column) == set(range(first, last + 1))


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [0, 0, 0, 0, 0, 0]),
        (3, [0, 1, 2, 2, 2, 2]),
        (5, [0, 1, 2, 3, 4, 4]),
        (6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_short_tracklets_leave_no_choice(n, expected):
    assert (drawn(n, times=20) == expected).all()


def test_seven_frames_choose_in_the_last_segment_only():
    assert {tuple(row) for row in drawn(7)} == {(0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 6)}


@pytest.mark.parametrize("T", [1, 4, 8])
@pytest.mark.parametrize("n", [1, 2, 5, 8, 13, 900])
def test_indices_are_sorted_and_in_range(n, T):
    indices = drawn(n, T, times=50)
    assert indices.dtype == np.int64 and indices.shape == (50, T)
    assert (np.diff(indices) >= 0).all() and indices.min() >= 0 and indices.max() < n
    if n >= T:
        assert (indices // (n // T)).clip(max=T - 1).tolist() == [list(range(T))] * 50


def test_the_generator_decides():
    same, other = train_indices(600, 6, rng(1, "a")), train_indices(600, 6, rng(1, "b"))
    assert (train_indices(600, 6, rng(1, "a")) == same).all()
    assert (same != other).any()


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [[0] * 6]),
        (5, [[0, 1, 2, 3, 4, 0]]),
        (6, [[0, 1, 2, 3, 4, 5]]),
        (7, [[0, 1, 2, 3, 4, 5], [6] * 6]),
        (8, [[0, 1, 2, 3, 4, 5], [6, 7, 6, 7, 6, 7]]),
        (12, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]),
    ],
)
def test_dense_chunks_by_hand(n, expected):
    chunks = dense_chunks(n, 6, 41)
    assert [chunk.tolist() for chunk in chunks] == expected
    assert all(chunk.dtype == np.int64 for chunk in chunks)


def test_dense_chunks_are_capped():
    assert len(dense_chunks(246, 6, 41)) == len(dense_chunks(247, 6, 41)) == len(dense_chunks(920, 6, 41)) == 41
    assert dense_chunks(920, 6, 41)[-1].tolist() == [240, 241, 242, 243, 244, 245]  # the first 246 frames
    assert len(dense_chunks(920, 6, 0)) == 154  # 0: all; 920 = 153 * 6 + 2
    assert dense_count(920, 6, 0) == 154


def test_dense_chunks_of_another_length():
    assert [chunk.tolist() for chunk in dense_chunks(5, 2, 0)] == [[0, 1], [2, 3], [4, 4]]
