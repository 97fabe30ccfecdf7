"""environment.yml, pyproject.toml and the two requirement files say the same thing."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rattler import MatchSpec

HOSTS = re.compile(r"https?://|file:|/simple\b|git\+|@ ")


def requirements(path):
    return [Requirement(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def locked(path):
    """name -> [(version, marker)] of a lock file."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE):
        found.setdefault(name.lower().replace("_", "-"), []).append(version)
    return found


def test_environment_points_at_the_lock_and_every_conda_entry_parses(repository):
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.txt"]
    names = {MatchSpec(entry, strict=True).name.normalized for entry in conda}
    assert names == {"python", "ffmpeg", "pip"}


def test_conda_python_is_one_that_the_project_supports(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    python = next(entry for entry in environment["dependencies"] if isinstance(entry, str) and entry.startswith("python="))
    assert f"{python.split('=')[1]}.0" in SpecifierSet(project["requires-python"])


@pytest.mark.parametrize("name", ["requirements", "requirements-cluster"])
def test_every_direct_requirement_is_locked_and_satisfied(repository, name):
    lock = locked(repository / f"{name}.txt")
    for wanted in requirements(repository / f"{name}-direct.txt"):
        versions = lock[wanted.name.lower().replace("_", "-")]
        assert all(version in wanted.specifier for version in versions), wanted


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-cluster.txt"])
def test_a_lock_holds_hashes_and_no_host(repository, name):
    text = (repository / name).read_text()
    pins = re.findall(r"^[A-Za-z0-9_.-]+==", text, re.MULTILINE)
    assert len(pins) >= 10
    assert text.count("--hash=sha256:") >= len(pins)
    assert HOSTS.search(text) is None
    assert HOSTS.search("--index-url https://example.org/simple")  # the pattern can fail
