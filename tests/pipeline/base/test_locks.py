"""Leftovers of dead writers go, those of living ones stay, and without locks everything stays."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from pipeline.base import locks
from pipeline.base.errors import UserError
from pipeline.base.files import atomic

HOLD = """
import sys
from pathlib import Path
from pipeline.base import locks
path, handle = {make}
print(path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Start a process that holds what `make` gives; returns its path and the process."""
    started = []

    def start(make):
        process = subprocess.Popen([sys.executable, "-c", HOLD.format(make=make)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline().strip()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_next_writer_clears_up_after_a_dead_one_and_not_after_a_living_one(tmp_path, holder):
    target = tmp_path / "x"
    holder(f"locks.beside(Path({str(target)!r}))")
    dead = holder(f"locks.beside(Path({str(target)!r}))")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.0.part", ".x.1.part"]
    dead.kill()
    dead.wait()
    with atomic(target) as temporary:
        assert temporary.name == ".x.1.part"  # free again
        temporary.write_text("done")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.0.part", "x"]


def test_a_gap_hides_no_leftover(tmp_path):
    (tmp_path / ".x.3.part").touch()
    with atomic(tmp_path / "x") as temporary:
        temporary.write_text("done")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_leftover_that_is_a_second_name_of_another_file_takes_nothing_with_it(tmp_path):
    """`train.checkpoint` links what a training has made."""
    (tmp_path / "kept").write_text("weights")
    os.link(tmp_path / "kept", tmp_path / ".x.0.part")
    with atomic(tmp_path / "x") as temporary:
        temporary.write_text("done")
    assert (tmp_path / "kept").read_text() == "weights"


def test_more_writers_than_there_should_be(tmp_path):
    held = [locks.beside(tmp_path / "x") for _ in range(locks.WRITERS)]
    with pytest.raises(UserError, match="x: 4 other processes are writing it"):
        locks.beside(tmp_path / "x")
    for _, handle in held:
        locks.release(handle)
    locks.release(locks.beside(tmp_path / "x")[1])


def test_without_locks_files_are_written_and_leftovers_stay(tmp_path, monkeypatch):
    (tmp_path / ".x.0.part").touch()
    (tmp_path / ".d.old").mkdir()
    (tmp_path / ".d.old" / locks.HELD).touch()

    def none(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", none)
    with atomic(tmp_path / "x") as temporary:
        temporary.write_text("done")
    made, handle = locks.folder(tmp_path, ".d.")
    assert handle is None and made.is_dir()
    locks.clear(tmp_path, ".d.")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".d.old", made.name, ".x.0.part", "x"])


def test_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path, holder):
    (tmp_path / ".d.dead").mkdir()  # killed before it was held
    make = f"locks.folder(Path({str(tmp_path)!r}), '.d.')"
    dead = holder(make)
    holder(make)
    left, living = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    (left / "deep/er").mkdir(parents=True)
    (left / "deep/file").touch()
    (left / "link").symlink_to(living)
    dead.kill()
    dead.wait()
    made, held = locks.folder(tmp_path, ".d.")
    assert sorted(tmp_path.iterdir()) == sorted([living, made])
    (made / "file").touch()
    locks.discard(made, held)
    assert list(tmp_path.iterdir()) == [living]


def test_a_folder_that_only_has_such_a_name_is_not_deleted(tmp_path):
    (tmp_path / ".d.mine").mkdir()
    (tmp_path / ".d.mine/notes").touch()
    (tmp_path / ".d.file").touch()
    (tmp_path / ".d.link").symlink_to(tmp_path / ".d.mine")
    before = sorted(tmp_path.rglob("*"))
    locks.clear(tmp_path, ".d.")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_is_held_by_a_file_that_was_opened_for_writing(tmp_path):
    """NFS and others lock folders for one host alone, if at all."""
    made, held = locks.folder(tmp_path, ".d.")
    assert os.path.samestat(os.fstat(held), (made / locks.HELD).stat())
    assert fcntl.fcntl(held, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    taken = locks.take(made / locks.HELD)
    assert taken is None
    locks.discard(made, held)


def test_control_a_folder_whose_file_is_not_held_goes(tmp_path):
    made, held = locks.folder(tmp_path, ".d.")
    locks.release(held)
    locks.clear(tmp_path, ".d.")
    assert not made.exists()


def test_a_kill_in_the_middle_of_deleting_leaves_what_the_next_one_deletes(tmp_path, monkeypatch):
    made, held = locks.folder(tmp_path, ".d.")
    (made / "file").touch()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(made), "rmdir", killed)
        patch.setattr(type(made), "unlink", killed)
        locks.discard(made, held)
    assert (made / locks.HELD).exists()
    locks.release(held)
    locks.clear(tmp_path, ".d.")
    assert not list(tmp_path.iterdir())


def test_what_was_renamed_or_deleted_before_the_lock_was_taken_is_not_ours(tmp_path, monkeypatch):
    path, real = tmp_path / "x", fcntl.flock
    path.touch()

    def flock(*arguments):
        path.unlink(missing_ok=True)
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert locks.take(path) is None and locks.create(path) is None
