"""The README says what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests import readme


def test_tables_and_targets_are_those_of_the_code():
    text = readme.README.read_text()
    assert readme.rewritten(text) == text, "make docs"
    assert readme.rewritten(text.replace("| `tracklet` |", "| `trackelt` |")) == text  # a stale table is found


def test_every_command_and_file_it_names_exists(repository):
    text = readme.README.read_text()
    for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (repository / "Makefile").read_text(), re.MULTILINE), target
    for path in re.findall(r"\]\(([^)#:]+)\)|`((?:pipeline|shards|model|train|evaluate|workflow|profiles|tests)/[\w./]+)`", text):
        name = next(filter(None, path))
        assert (repository / name).exists(), name


def test_root_errors_point_at_a_section_that_is_there():
    assert "## Your own data" in readme.README.read_text()


def commands():
    """Command lines of the README that start with snakemake, but for those that need a cluster's plugin."""
    text = readme.README.read_text()
    lines = re.findall(r"^(?:# mine\.yaml:  )?(snakemake .*?)(?:  +#.*)?$", text, re.MULTILINE) + re.findall(r"`(snakemake [^`]+)`", text)
    return sorted({line for line in lines if "slurm" not in line})


@pytest.mark.parametrize("command", commands())
def test_every_snakemake_command_plans(command, repository, tmp_path):
    (tmp_path / "mine.yaml").write_text("roots: {mars: /data/MARS, common_voice: /data/cv}\n")
    words = [sys.executable, "-m", *shlex.split(command), "--snakefile", str(repository / "Snakefile")]
    if "--list" not in words and "-n" not in words:
        words.append("--dry-run")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_commands_are_found():
    assert len(commands()) >= 6
