"""The README says what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests import readme

PAGES = ["README.md", "docs/dubbernet.md", "docs/protocols.md", "docs/training.md"]


@pytest.mark.parametrize("page", readme.PAGES)
def test_made_parts_are_those_of_the_code(repository, page):
    text = (repository / page).read_text()
    assert readme.rewritten(page, text) == text, "make docs"
    for name in readme.PAGES[page]:
        assert readme.rewritten(page, text.replace(f"<!-- {name} -->", f"<!-- {name} -->\n| stale |")) == text  # a stale part is found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_file_it_names_exists(repository, page):
    text = (repository / page).read_text()
    for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (repository / "Makefile").read_text(), re.MULTILINE), target
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (repository / page).parent.joinpath(path).exists(), path
    for path in re.findall(r"`((?:pipeline|shards|model|train|evaluate|workflow|profiles|tests|docs)/[\w./]+)`", text):
        assert (repository / path).exists(), path


def test_root_errors_point_at_a_section_that_is_there(repository):
    assert "## Your own data" in (repository / "README.md").read_text()


def commands():
    """Command lines of the pages that start with snakemake, but for those that need a cluster's plugin or a finished run."""
    found = set()
    for page in PAGES:
        text = (readme.ROOT / page).read_text().replace("\\\n", " ")
        found |= set(re.findall(r"^(?:# mine\.yaml:  )?(snakemake .*?)(?:  +#.*)?$", text, re.MULTILINE))
        found |= set(re.findall(r"`(snakemake [^`]+)`", text))
    return sorted(line for line in found if "slurm" not in line and "--report" not in line)


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_every_snakemake_command_plans(command, repository, tmp_path):
    (tmp_path / "mine.yaml").write_text("roots: {mars: /data/MARS, common_voice: /data/cv}\n")
    for name in re.findall(r"/weights/([\w.]+)", command):
        (tmp_path / name).touch()
    command = command.replace("/weights/", f"{tmp_path}/")
    words = [sys.executable, "-m", *shlex.split(command), "--snakefile", str(repository / "Snakefile")]
    if "--list" not in words and "-n" not in words:
        words.append("--dry-run")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_commands_are_found():
    assert len(commands()) >= 6
