"""Locks that end with the process that holds them: how to tell what is being written, or who is at work, from what a kill left behind.

In:      names of files and folders.   Out: descriptors, which hold an exclusive flock(2) until they are closed or the process is gone.
Source:  flock(2): the lock belongs to the open file, so processes forked from the holder hold it, too; programs it starts do not.

Only files are locked, and opened for writing where they may be: network file systems lock folders, if at all, for one host alone, and
NFS only what may be written. A folder is held by a file in it (`HELD`); one without that file is nobody's to delete.
Where a file system has no such locks (some network file systems), nobody can be told from the dead: leftovers stay.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from pipeline.base.errors import UserError

WRITERS = 4
"""So many processes may write one file at a time. None should: what is written is renamed into one place."""

HELD = ".dubtrack-held"
"""The file in a folder that whoever made the folder holds."""


class NoLocksError(Exception):
    """This file system has no locks."""


def take(path: Path) -> int | None:
    """Lock a file if nobody holds it.

    Returns:
        A descriptor to close; None where a living process holds it, it may not be opened, or it is no longer there.

    Raises:
        NoLocksError: the file system has no locks.
    """
    flags = os.O_NOFOLLOW | (os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        if _lock(handle) and _is(path, handle):
            return handle
    except NoLocksError:
        os.close(handle)
        raise
    os.close(handle)
    return None


def create(path: Path) -> int | None:
    """Make an empty file that only this user may read, and lock it.

    Returns:
        Its descriptor; None where there is one of this name, or somebody took it for a leftover.

    Raises:
        NoLocksError: the file system has no locks; the file is not there.
        OSError: it cannot be made (folder missing, disk full).
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    try:
        if _lock(handle) and _is(path, handle):
            return handle
    except NoLocksError:
        os.close(handle)
        path.unlink(missing_ok=True)
        raise
    os.close(handle)
    return None


def beside(path: Path) -> tuple[Path, int | None]:
    """A new empty file beside `path` to write it into, locked; what killed writers of the same file have left is deleted.

    The names are few and known (`.{name}.0.part`), so nothing has to be listed: a folder may hold 100,000 files.

    Returns:
        Its path and its descriptor (None: no locks here, leftovers stay).

    Raises:
        UserError: `WRITERS` living processes write this file.
    """
    names = [path.with_name(f".{path.name}.{number}.part") for number in range(WRITERS)]
    try:
        for name in names:
            if (left := take(name)) is not None:
                name.unlink(missing_ok=True)
                os.close(left)
        for name in names:
            if (handle := create(name)) is not None:
                return name, handle
    except NoLocksError:
        handle, made = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        return Path(made), None
    raise UserError(f"{path}: {WRITERS} other processes are writing it; let one finish, then run the same command again")


def folder(parent: Path, prefix: str, suffix: str = "") -> tuple[Path, int | None]:
    """A new folder of a random name to work in, held; those of such names that nobody holds are deleted.

    What is made for a name of its own is made below it and renamed from there: the folder itself keeps its name until `discard`.

    Returns:
        Its path and its descriptor (None: no locks here, leftovers stay).
    """
    clear(parent, prefix, suffix)
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
        try:
            try:
                handle = create(made / HELD)
            except NoLocksError:
                (made / HELD).touch()  # an empty folder would be taken for a leftover
                return made, None
        except FileNotFoundError:  # somebody took it for one
            continue
        except OSError:
            made.rmdir()
            raise
        if handle is not None:
            return made, handle


def clear(parent: Path, prefix: str, suffix: str = "") -> None:
    """Delete the folders of such names that `folder` has made and no living process holds: what a kill has left.

    Others keep whatever lies in them: a name alone does not tell whose a folder is.
    """
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(suffix)]
    for path in (parent / name for name in sorted(names)):
        if path.is_symlink() or not path.is_dir():
            continue
        try:
            handle = take(path / HELD)
        except NoLocksError:
            return
        if handle is not None:
            discard(path, handle)
        else:
            with contextlib.suppress(OSError):
                path.rmdir()  # killed before it was held; not done where anything is in it


def discard(path: Path, handle: int | None) -> None:
    """Delete a folder that this process holds, its lock last: a kill in the middle leaves what the next one deletes."""
    with contextlib.suppress(OSError):  # what cannot be deleted now stays a leftover
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != HELD:
                entry.unlink(missing_ok=True)
        if all(entry.name == HELD for entry in path.iterdir()):
            (path / HELD).unlink(missing_ok=True)
            path.rmdir()
    release(handle)


def release(handle: int | None) -> None:
    """Give a lock back."""
    if handle is not None:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether the lock could be taken."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EBADF):  # EBADF: NFS locks only what may be written
            return False
        raise NoLocksError(os.strerror(error.errno or 0)) from None
    return True


def _is(path: Path, handle: int) -> bool:
    """Whether the name still means the open file: it may have been renamed or deleted before the lock was taken."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False
