"""The README says what the code does."""

from __future__ import annotations

import re

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
