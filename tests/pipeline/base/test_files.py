"""Atomic writing, digests, listings."""

import errno
import hashlib
import os
import socket
import stat
from pathlib import Path

import pytest

from pipeline.base import locks
from pipeline.base.errors import DiskError, SourceError, UserError
from pipeline.base.files import (
    atomic,
    atomic_open,
    below,
    digest_bytes,
    digest_code,
    digest_file,
    parse_json,
    read_json,
    sorted_names,
    write_json,
)


def test_the_name_appears_only_when_the_block_has_ended(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "half" and [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic_open(path) as out:
        out.write(b"new")
        raise error
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def special(kind, path):
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to("/dev/full")


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_file_is_left_as_it_is(tmp_path, monkeypatch, kind, linked):
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    special(kind, Path("it"))
    if linked:
        Path("link").symlink_to("it")
    before = Path("it").lstat()
    with pytest.raises(DiskError, match=f"is a {kind}, expected the name of a file"), atomic(Path("link" if linked else "it")):
        raise AssertionError("no work is done first")
    after = Path("it").lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode) and len(list(Path().iterdir())) == 1 + linked


def test_a_link_to_a_file_or_to_nothing_is_replaced_by_the_file(tmp_path):
    (tmp_path / "old").write_text("old")
    for target in ("old", "nothing"):
        (tmp_path / "link").symlink_to(target)
        with atomic_open(tmp_path / "link") as out:
            out.write(b"new")
        assert not (tmp_path / "link").is_symlink() and (tmp_path / "link").read_text() == "new"
        (tmp_path / "link").unlink()
    assert (tmp_path / "old").read_text() == "old" and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("path", ["/dev/full", "/dev/stdout", "/dev/dubtrack-no-such", "/proc/self/fd/0", "/proc/self/no-such", "/sys/x/y"])
def test_nothing_is_written_among_the_systems_own_files(path, monkeypatch):
    monkeypatch.setattr(locks, "beside", lambda path: pytest.fail("no work is done first"))  # as root it would take the device's place
    with pytest.raises(DiskError, match=r"expected (the name of a file|a folder) to write"):
        write_json(path, 1)


def test_a_file_where_its_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("old")
    for path in ("file/x", "file/x/y"):
        with pytest.raises(DiskError, match=r"file is a file, expected a folder to write into"):
            write_json(tmp_path / path, 1)
    write_json(tmp_path / "new/x", 1)  # negative control
    assert read_json(tmp_path / "new/x") == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_open(tmp_path / "file") as out:
            out.write(b"x")
        assert os.umask(umask) == umask  # reading the umask has not changed it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_equal_values_give_equal_json(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == '{\n "a": "é",\n "b": 1\n}\n'.encode()
    assert read_json(tmp_path / "a") == {"a": "é", "b": 1}


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a", float("nan"))
    assert not (tmp_path / "a").exists()


def test_json_that_cannot_be_read(tmp_path):
    (tmp_path / "bad").write_text("{")
    with pytest.raises(UserError, match="bad: not JSON"):
        read_json(tmp_path / "bad")
    with pytest.raises(UserError, match="none: no such file"):
        read_json(tmp_path / "none")


def test_digests(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    wanted = hashlib.sha256(b"abc").hexdigest()
    assert digest_bytes(b"abc") == digest_bytes(memoryview(b"abc")) == digest_file(tmp_path / "file") == wanted


def test_digest_of_code(tmp_path):
    """Depends on names and bytes of Python files, on nothing else."""
    for name in ("b.py", "a.py", "notes.txt"):
        (tmp_path / name).write_text(name)
    first = digest_code(tmp_path)
    (tmp_path / "notes.txt").write_text("changed")
    assert digest_code(tmp_path) == first == digest_code(tmp_path / "a.py", tmp_path / "b.py")
    (tmp_path / "a.py").write_text("changed")
    assert digest_code(tmp_path) != first


def test_listing_is_in_byte_order_without_hidden_names(tmp_path):
    for name in ("b", "B", "a10", "a2", ".hidden", "é"):
        (tmp_path / name).touch()
    assert sorted_names(tmp_path) == ["B", "a10", "a2", "b", "é"]


def test_byte_order_holds_for_names_that_are_not_utf8(tmp_path):
    names = [b"\xc3\xa9", b"\xef\xbf\xbf", b"\xff"]
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    assert [os.fsencode(name) for name in sorted_names(tmp_path)] == names
    assert sorted(map(os.fsdecode, names)) != list(map(os.fsdecode, names))  # negative control: their order as text is another


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_the_disk_refuses_is_one_sentence_and_leaves_nothing(tmp_path, number):
    with pytest.raises(DiskError, match=rf"x: .*{os.strerror(number)}.* run the same command again$"):  # noqa: SIM117
        with atomic(tmp_path / "x") as temporary:
            temporary.write_bytes(b"half")
            raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="Interrupted"), atomic(tmp_path / "x"):
        raise OSError(errno.EINTR, os.strerror(errno.EINTR))


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "a\0b"])
def test_a_path_of_a_table_stays_below_its_root(tmp_path, path):
    with pytest.raises(SourceError, match="is no path below"):
        below(tmp_path, path)
    assert below(tmp_path, "a/..b/c..d") == tmp_path / "a/..b/c..d"


def test_a_link_below_the_root_is_followed(tmp_path):
    (tmp_path / "outside").write_text("there")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    assert below(tmp_path / "root", "link").read_text() == "there"


def test_json_that_is_nested_without_end_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not JSON"):
        read_json(tmp_path / "deep.json")
