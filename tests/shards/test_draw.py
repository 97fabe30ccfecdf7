"""Which frames make a clip: golden facts D1 and D2 of specs/dubbernet.md section 11.4, and what lies around them."""

import numpy as np
import pytest

from pipeline.base.seeds import rng
from shards.draw import dense_chunks, dense_count, train_indices


def drawn(n, T=6, times=300):
    return np.stack([train_indices(n, T, rng(0, "test", i)) for i in range(times)])


def test_d2_one_frame_per_segment():
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


@pytest.mark.parametrize("T", [1, 4, 6, 8])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 8, 13, 20, 900])
def test_d2_indices_are_sorted_in_range_and_one_per_segment(n, T):
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
def test_d1_dense_chunks_by_hand(n, expected):
    chunks = dense_chunks(n, 6, 41)
    assert [chunk.tolist() for chunk in chunks] == expected
    assert all(chunk.dtype == np.int64 for chunk in chunks)


def test_d1_a_chunk_for_every_six_frames_at_most_41():
    """Every frame of the first 246 is in one chunk, in time order; only the last chunk repeats, in turn."""
    for n in range(1, 300):
        chunks = dense_chunks(n, 6, 41)
        assert len(chunks) == min(-(-n // 6), 41) == dense_count(n, 6, 41)
        assert all(len(chunk) == 6 for chunk in chunks)
        assert np.concatenate(chunks)[: min(n, 246)].tolist() == list(range(min(n, 246)))
        last = chunks[-1][: (n - 1) % 6 + 1] if n <= 246 else chunks[-1]
        assert chunks[-1].tolist() == (last.tolist() * 6)[:6]


def test_d1_dense_chunks_are_capped():
    assert len(dense_chunks(246, 6, 41)) == len(dense_chunks(247, 6, 41)) == len(dense_chunks(920, 6, 41)) == 41
    assert dense_chunks(920, 6, 41)[-1].tolist() == [240, 241, 242, 243, 244, 245]  # the first 246 frames
    assert len(dense_chunks(920, 6, 0)) == 154  # 0: all; 920 = 153 * 6 + 2
    assert dense_count(920, 6, 0) == 154


@pytest.mark.real_data
def test_d1_chunks_of_the_mars_test_set(golden):
    """specs/dubbernet.md 3.3: without junk 196 tracklets are longer than 246 frames; 9.83 chunks per tracklet."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    rows = loadmat(golden / "mars_info" / "tracks_test_info.mat")["track_test_info"].astype(int)
    lengths = [last - first + 1 for first, last, pid, _ in rows if pid != -1]
    assert (len(lengths), sum(n > 246 for n in lengths)) == (11_310, 196)
    assert np.mean([dense_count(n, 6, 41) for n in lengths]) == pytest.approx(9.83, abs=0.005)


def test_dense_chunks_of_another_length():
    assert [chunk.tolist() for chunk in dense_chunks(5, 2, 0)] == [[0, 1], [2, 3], [4, 4]]
