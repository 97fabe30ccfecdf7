"""Run the real Snakefile in a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

Run = Callable[..., subprocess.CompletedProcess[str]]


def snakemake(
    folder: Path,
    *arguments: str,
    cores: int = 2,
    environment: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
    **options: object,
) -> subprocess.CompletedProcess[str]:
    """`snakemake` on this checkout's Snakefile with `folder` as working directory; output and errors together.

    `inside` is a command that starts it, as `unshare -n` does.
    """
    command = [
        *inside,
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(REPOSITORY / "Snakefile"),
        "--directory",
        str(folder),
        "--cores",
        str(cores),
    ]
    return subprocess.run(
        [*command, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )


def jobs(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from the table that a (dry) run prints."""
    lines = output.splitlines()
    starts = [i for i, line in enumerate(lines) if line.split() == ["job", "count"]]
    if not starts:
        return {}
    counted = {}
    for line in lines[starts[0] + 2 :]:
        parts = line.split()
        if len(parts) != 2 or parts[0] == "total":
            break
        counted[parts[0]] = int(parts[1])
    return counted


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished `all` on the tiny configuration: its folder and what snakemake printed."""
    folder = tmp_path_factory.mktemp("tiny")
    done = snakemake(folder, "--configfile", str(REPOSITORY / "workflow/config/tiny.yaml"), "--", "all")
    assert done.returncode == 0, done.stdout[-6000:]
    return folder, done.stdout
