"""The public tables of MARS, which tests of several modules need."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest


class Mars(NamedTuple):
    """The test half of MARS, one entry per tracklet in the order of its table (which is that of the tracklets' names)."""

    identity: np.ndarray
    """int64 [12180]; -1 junk, 0 distractor."""
    camera: np.ndarray
    """int64 [12180]; from 1."""
    query: np.ndarray
    """int64 [1980]; rows of the queries."""
    frames: np.ndarray
    """int64 [12180]; length of each tracklet."""


def read_mars(folder: Path) -> Mars:
    """The test half of MARS, of its public tables in `folder`."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    table = loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
    query = loadmat(folder / "query_IDX.mat")["query_IDX"].astype(np.int64).ravel() - 1
    return Mars(table[:, 2], table[:, 3], query, table[:, 1] - table[:, 0] + 1)


@pytest.fixture(scope="session")
def mars(golden: Path) -> Mars:
    """The test half of MARS."""
    return read_mars(golden / "mars_info")
