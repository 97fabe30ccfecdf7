"""Fixtures shared by all tests. Small data are made by the tests; real data lie outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def outside(name: str) -> Path:
    """Where a folder of real data or golden values lies if it is there: beside the checkout, never committed."""
    return Path(os.environ.get("DUBTRACK_SHARED", REPOSITORY.parent / "shared")) / name


def _outside(name: str) -> Path:
    """The same; skips with a reason where absent."""
    folder = outside(name)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here (real data are not part of the repository; DUBTRACK_SHARED names another place)")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Small real data; mark such tests `real_data`."""
    return _outside("data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Golden metric cases and the public MARS tables."""
    return _outside("golden")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `tests.torture.small_run`: stages teacher, student and plain. Whoever changes a file puts it back."""
    from tests.torture import small_run

    return small_run.make(tmp_path_factory.mktemp("small"))
