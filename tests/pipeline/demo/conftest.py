"""One tiny demo, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.base.config import DemoConfig
from pipeline.demo.make_demo import make

TINY = DemoConfig(
    train_identities=4,
    test_identities=4,
    cameras=2,
    tracklets=2,
    distractors=2,
    junk=1,
    frames=(2, 8),
    pairs=4,
    speakers=6,
    seconds=(0.6, 1.0),
)


@pytest.fixture(scope="session")
def tiny() -> DemoConfig:
    """Settings of the tiny demo."""
    return TINY


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The tiny demo: its folder and what make() returned."""
    folder = tmp_path_factory.mktemp("demo") / "tiny"
    return folder, make(folder, TINY)
