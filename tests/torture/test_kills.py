"""Fast form: a process that writes files is killed at every flush and rename; the full form kills whole runs (torture_kills.py)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.torture.killing import finished
from tests.torture.torture_kills import attacks

NAMES = ("a.json", "b.json")
WRITER = """
import sys
from pipeline.base.files import write_json
for name in sys.argv[1:]:
    write_json(name, list(range(5000)))
"""


def write(folder, *names, at="", broken=""):
    """Write files in a process of its own, which is killed at a point; returns its exit status."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY / 'tests/torture/killer'}:{REPOSITORY}",
        "KILLER_ROOT": str(folder),
        "KILLER_COUNTS": str(folder.parent / f"{folder.name}-counts"),
        "KILLER_AT": at,
        "KILLER_BROKEN": broken,
    }
    paths = [str(folder / name) for name in names]
    return subprocess.run([sys.executable, "-c", WRITER, *paths], env=environment, check=False, start_new_session=True).returncode


def look(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert write(folder, *NAMES) == 0
    return look(folder)


def killed(tmp_path, whole, number, kind, after, broken=""):
    """(names of other bytes right after the kill, names of other bytes or too many after the next run)."""
    folder = tmp_path / f"{kind}-{number}-{after}"
    folder.mkdir()
    assert write(folder, *NAMES, at=f"{kind} {number} {after} step 0", broken=broken) == -9
    wrong = [name for name, data in look(folder).items() if finished(name) and data != whole[name]]
    assert write(folder, *NAMES, broken=broken) == 0
    now = look(folder)
    return wrong, [name for name in {*now, *whole} if now.get(name) != whole.get(name)]


@pytest.mark.parametrize("kind", ["fsync", "rename"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_kill_leaves_no_wrong_file_and_the_next_writer_nothing_else(tmp_path, whole, kind, after):
    for number in (1, 2):
        assert killed(tmp_path, whole, number, kind, after) == ([], [])


def test_control_a_file_that_is_copied_to_its_name_is_seen_half_made(tmp_path, whole):
    assert killed(tmp_path, whole, 2, "fsync", 1, "copies")[0] == ["b.json"]


def test_control_leftovers_that_are_not_looked_for_are_seen(tmp_path, whole):
    wrong, differs = killed(tmp_path, whole, 1, "fsync", 0, "forgets")
    assert wrong == [] and len(differs) == 1 and differs[0].endswith(".part")


def test_the_full_form_kills_at_200_instants_40_of_them_aimed():
    chosen = attacks(200)
    timed = [one.share for one in chosen if not one.kind]
    assert len(chosen) == 200 and len(timed) == 160 and len(set(timed)) == 160
    assert all(0.2 < sum(low <= share < low + 0.25 for share in timed) / 160 < 0.3 for low in (0, 0.25, 0.5, 0.75))
    assert {one.kind for one in chosen} == {"", "open", "fsync", "rename"}
    assert 20 <= sum(one.victim == "head" for one in chosen) <= 40 <= sum(one.empty for one in chosen) <= 60
