"""R3 in seconds: single writers and single steps on a full disk; the workflow's forms are in torture_disk.py."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import encode_frames, plan_shards, read_tracklets
from pipeline.base import cli, disk, files, tables
from pipeline.base.config import FramesConfig
from pipeline.base.errors import SourceError
from pipeline.demo import make_demo
from tests.conftest import REPOSITORY
from tests.torture import torture_disk, writers
from tests.torture.disks import PAGE, full, no_mounting, tmpfs
from tests.torture.stand_ins import BROKEN


@pytest.mark.parametrize("name", writers.WRITERS)
def test_a_writer_alone_ends_in_one_sentence_and_leaves_nothing(tmp_path, name):
    assert writers.faults(name, tmp_path / "disk") == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_atomic_is_noticed(tmp_path, name):
    with writers.standing_in(BROKEN[name]):
        assert writers.faults("BlockWriter", tmp_path / "disk") != []


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo with its first tables, and the arguments that encode its first shard into a folder."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo.make(folder / "demo", writers.DEMO)
    root, config = folder / "demo/MARS", '{"source": "mars", "generated": true, "subset": false}'
    read_tracklets.main([str(folder / "tracklets"), "--dataset", "demo", f"--root={root}", "--config", config])
    plan_shards.main([str(folder / "plan"), "--tracklets", str(folder / "tracklets"), "--shards", "2"])

    def arguments(out) -> list[str]:
        names = {"stream": out / "0.mjpeg", "quarantine": out / "0.quarantine", "tracklets": folder / "tracklets", "plan": folder / "plan"}
        given = [f"--{name}={path}" for name, path in {**names, "root": root}.items()]
        return [str(out / "0.parquet"), *given, "--shard=0", "--config", '{"height": 64, "width": 32}']

    return arguments


def step(arguments: list[str]) -> int:
    """Exit status of `encode_frames`, as on the command line."""
    try:
        cli.run(lambda: encode_frames.main(arguments))
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.parametrize("pages", [1, 5, 9])  # of 9 for the stream, 1 and 2 for the tables
def test_a_step_stops_and_goes_on_to_the_same_bytes(tmp_path, demo, capsys, pages):
    if said := no_mounting():
        pytest.skip(f"nothing can be mounted here ({said}); the writers alone are tested with limited files")
    encode_frames.main(demo(tmp_path / "whole"))
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert sum(-(-len(data) // PAGE) for data in wanted.values()) > pages
    with tmpfs(tmp_path / "full", pages) as there:
        assert step(demo(there.folder)) == cli.USER_ERROR
        error = capsys.readouterr().err
        assert re.fullmatch(
            rf"error: {there.folder}/0\.\w+: no space left to write it .*; make room and run the same command again\n", error
        )
        assert all(path.read_bytes() == wanted[path.name] for path in there.folder.iterdir())
        there.again("size=1m")
        assert step(demo(there.folder)) == 0
        assert {path.name: path.read_bytes() for path in there.folder.iterdir()} == wanted


def test_a_disk_that_may_not_be_written(tmp_path, capsys, monkeypatch):
    if said := no_mounting():
        pytest.skip(f"nothing can be mounted here ({said})")
    with tmpfs(tmp_path / "disk", 4) as there:
        (there.folder / "old").mkdir()
        there.again("ro")
        monkeypatch.chdir(there.folder)  # steps are given relative paths
        for folder in ("new", "old"):
            with pytest.raises(SystemExit, match=str(cli.USER_ERROR)):
                cli.run(lambda name=f"{folder}/file": writers.put(Path(name), "x"))
            assert f"error: {folder}/file: cannot be written (Read-only file system); get the right to" in capsys.readouterr().err
        monkeypatch.undo()
        assert disk.trouble(there.folder).startswith(f"{there.folder}: must not be written; get the right to")


def test_no_names_left(tmp_path):
    """A disk may have room, and no entry for one file more (inodes)."""
    if said := no_mounting():
        pytest.skip(f"nothing can be mounted here ({said})")
    with tmpfs(tmp_path / "disk", 64, files=2) as there:
        (there.folder / "other").touch()
        with pytest.raises(disk.DiskError, match=r"file: no space left to write it .* 0 files are free"):
            writers.put(there.folder / "file", "x")
        assert "only 0.3 MB and 0 files are free here" in disk.trouble(there.folder)


@pytest.mark.parametrize("both", [False, True])
def test_a_log_on_a_full_disk_is_no_traceback(both):
    """What a step prints goes to a log; where that is full its exit status says so, and its sentence if stderr still lies elsewhere."""
    code = "from pipeline.base import cli; cli.run(lambda: print('x'))"  # meets it there, or at the end where output is gathered
    with open("/dev/full", "w") as out:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, stdout=out, stderr=out if both else subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == cli.USER_ERROR
    assert both or re.fullmatch(r"error: the log of this step.*: no space left to write it .*\n", done.stderr)


def test_a_read_that_fails_is_a_sentence(tmp_path, capsys):
    """Reading /proc/self/mem at 0 is EIO: as a picture, as a table, as settings, and where no step expects it."""
    (tmp_path / "mem").symlink_to("/proc/self/mem")
    with pytest.raises(SourceError, match=r"'mem' below .* cannot be read \(Input/output error\)"):
        encode_frames.encode_tracklet("t", ["mem"], tmp_path, FramesConfig())
    with pytest.raises(tables.TableError, match="not a readable Parquet file"):
        tables.read(tmp_path / "mem", tables.PLAN)
    with pytest.raises(SystemExit, match=str(cli.USER_ERROR)):
        cli.run(lambda: files.read_json(tmp_path / "mem"))
    assert capsys.readouterr().err.startswith("error: a file cannot be read or written (Input/output error)")


def test_whole_disks_are_no_trouble(tmp_path):
    assert disk.trouble(tmp_path) == "" and disk.trouble(REPOSITORY) == ""
    with full(tmp_path / "disk", 1):
        assert bool(disk.trouble(tmp_path / "disk")) is not bool(no_mounting())


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ({"results/a": "1"}, ""),
        ({"results/a": "2"}, "looks finished and is not: results/a"),
        ({"results/new": "1"}, "looks finished and is not: results/new"),
        ({"results/.a.x.part": "1"}, "left results/.a.x.part"),
        ({"results/checkpoints/m/.part-x/state.json": "1"}, "left results/checkpoints/m/.part-x/state.json"),
    ],
)
def test_the_check_of_a_tree(found, fault):
    assert torture_disk.wrong_tree(found, {"results/a": "1"}) == [fault] * bool(fault)


SAID = "error: results/x: no space left to write it (why); make room and run the same command again\n"


@pytest.mark.parametrize(
    ("status", "output", "good"),
    [
        (1, SAID, True),
        (0, SAID, False),
        (1, "OSError: [Errno 28] No space left on device", False),
        (1, f"{SAID}Traceback (most recent call last)", False),
        (1, f'{SAID}  File "{REPOSITORY}/pipeline/x.py", line 3', False),
    ],
)
def test_the_check_of_an_end(status, output, good):
    assert (torture_disk.wrong_stop(status, output, alone=True) == []) is good


def test_numbers_of_errors():
    assert disk.number_of(OSError(errno.EDQUOT, "x")) == errno.EDQUOT
    assert disk.number_of(ValueError("I/O error: No space left on device (os error 28)")) == errno.ENOSPC  # as safetensors says it
    assert disk.number_of(ValueError("x")) is None and disk.explain("x", ValueError("x")) is None
    assert "but not to you" in str(disk.explain("x", OSError(errno.EDQUOT, "x")))
