"""Say which frames of a tracklet make a clip: one per segment in training, consecutive chunks in evaluation.

In:      the number of frames of a tracklet.   Out: frame indices.
Source:  specs/dubbernet.md section 3.3, for any clip length T (there: 6).
"""

from __future__ import annotations

import numpy as np


def train_indices(n: int, T: int, rng: np.random.Generator) -> np.ndarray:
    """One frame from each of T equal segments, in time order.

    Segments have ``max(n // T, 1)`` frames and the last one also takes the rest. A tracklet shorter than T gives
    0, 1, ... and repeats its last frame: n=3, T=6 is always ``[0, 1, 2, 2, 2, 2]``.

    Args:
        n: frames of the tracklet, at least 1.
        T: frames of the clip, at least 1.
        rng: draws uniformly inside each segment.

    Returns:
        int64 [T], not falling, each in 0..n-1.
    """
    step = max(n // T, 1)
    low = np.minimum(np.arange(T) * step, n - 1)
    high = np.minimum((np.arange(T) + 1) * step - 1, n - 1)
    high[-1] = n - 1
    return rng.integers(low, high, endpoint=True)


def dense_count(n: int, T: int, max_clips: int) -> int:
    """How many chunks :func:`dense_chunks` gives: ``ceil(n / T)``, at most `max_clips` unless that is 0."""
    count = -(-n // T)
    return min(count, max_clips) if max_clips else count


def dense_chunk(n: int, T: int, number: int) -> np.ndarray:
    """Chunk `number` (from 0) of consecutive frames; int64 [T].

    The last chunk of a tracklet may have fewer than T frames and repeats them in turn: frames 6 and 7 give
    ``[6, 7, 6, 7, 6, 7]``.
    """
    return np.resize(np.arange(number * T, min(number * T + T, n), dtype=np.int64), T)


def dense_chunks(n: int, T: int, max_clips: int) -> list[np.ndarray]:
    """All chunks of a tracklet that evaluation looks at, in time order.

    Args:
        n: frames of the tracklet, at least 1.
        T: frames of a chunk, at least 1.
        max_clips: later chunks are left out (41 as released); 0 keeps all.

    Returns:
        List of int64 [T], see :func:`dense_chunk`.
    """
    return [dense_chunk(n, T, number) for number in range(dense_count(n, T, max_clips))]
