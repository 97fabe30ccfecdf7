"""Samples of whole tars one after another, through the `webdataset` package: from a folder, a command or a server.

In:      where tars lie, and INDEX.   Out: the members of each sample, in the order of the tar.
Source:  layout.md section 10; stack.md section 5. Ours: no decoder of the package is used, because its default ones run
         pickles; commands and URLs that start one are opened only where `machine.commands` says so; each tar must yield
         exactly the samples INDEX lists, because a tar that ends early is read without an error; and every header is compared
         with the one that INDEX implies before anybody parses it: compressed, sparse and linked members are never unfolded.

`webdataset` is imported when a stream starts: the machines that train need not have it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from pipeline.base.errors import ConfigError, ShardError
from shards import codec
from shards.read import Index, check_tar


class Opened:
    """What one reader has open, so that another thread can end it: it may wait for a server that says nothing any more."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a loader that is collected may call `end` from within
        self._files: list[Any] = []
        self._ended = False

    def add(self, file: Any) -> None:
        """Note a file or a command's output."""
        with self._lock:
            self._files.append(file)
            if self._ended:
                _kill(file)

    def remove(self, file: Any) -> None:
        """End the command, if it still runs, and forget it."""
        with self._lock:
            self._files.remove(file)
            _kill(file)

    def end(self) -> None:
        """End all commands, and those that are added later: whoever reads their output comes to its end."""
        with self._lock:
            self._ended = True
            for file in self._files:
                _kill(file)


def _kill(file: Any) -> None:
    """End the command behind a file, if there is one that runs: the whole of it, where it has a process group of its own.

    With SIGKILL, because commands do not hear SIGTERM (see `Reading`).
    """
    process = getattr(file, "proc", None)
    if process is None or process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):  # it ended just now
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


class Known:
    """A tar as it arrives, given on only as long as it is the one that INDEX describes.

    Args:
        file: gives bytes; reads of it are whole blocks of a tar.
        shard: name of the tar, for errors.
        rows: rows of INDEX of its samples, which `Layout` has seen to lie one behind the other: the first header is at byte 0, so a
            compressed tar is refused before anybody unpacks it.
        size: bytes it must have.
    """

    def __init__(self, file: IO[bytes], shard: str, rows: Sequence[Mapping[str, Any]], size: int) -> None:
        self._file, self._shard, self._size = file, shard, size
        self._headers = {m["offset"] - codec.BLOCK: (row["key"], m["suffix"], m["size"]) for row in rows for m in row["members"]}
        self._at = 0
        self.refused = ""
        """Why reading ended, in one sentence."""

    def read(self, count: int) -> bytes:
        """The next bytes, fewer than `count` only at the end.

        Raises:
            ShardError: a header is not the one that INDEX implies (a block of zeros, which ends an archive, may stand there), the
                blocks behind the last sample are not zero, or the tar goes on behind its end.
        """
        if self._at % codec.BLOCK:  # it has ended in the middle of a block
            return b""
        parts: list[bytes] = []
        missing = count
        while missing and (part := self._file.read(missing)):
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        for start in range(0, len(data), codec.BLOCK):
            if known := self._headers.get(self._at + start):
                self._compare(data[start : start + codec.BLOCK], *known)
            elif self._size - codec.END <= self._at + start < self._size and any(data[start : start + codec.BLOCK]):
                self._refuse(f"shard {self._shard}: the end-of-archive blocks are not zero; delete it and rerun pack_shard")
        self._at += len(data)
        if self._at > self._size:
            self._refuse(
                f"shard {self._shard}: goes on behind the {self._size} bytes that its index implies; delete it and rerun pack_shard"
            )
        return data

    def _compare(self, header: bytes, key: str, suffix: str, size: int) -> None:
        if header == codec.tar_header(f"{key}.{suffix}", size) or not any(header):
            return
        found = header[:100].rstrip(b"\0").decode("ascii", "replace")
        if found.startswith(f"{key}."):
            try:
                codec.check_suffix(found.removeprefix(f"{key}."), f"shard {self._shard}, sample {key}")
            except ShardError as error:
                self._refuse(str(error))
        self._refuse(
            f"shard {self._shard}: found the header of {found!r}, INDEX lists {key}.{suffix} of {size} bytes here; "
            "delete it and rerun pack_shard"
        )

    def _refuse(self, why: str) -> NoReturn:
        self.refused = why
        raise ShardError(why)


class Tars:
    """Where the tars of a store lie, and what each must hold.

    Args:
        index: INDEX of the store.
        urls: a path or URL with {shard} for the file name of a tar; '' is beside INDEX.
        commands: whether `urls` may start a command (`MachineConfig`).
        check: 'bytes': samples from elsewhere are held to their digests in INDEX; local tars can be checked before they are read
            (`shards.whole`).

    Raises:
        ConfigError: `urls` would start a command and may not.
    """

    def __init__(self, index: Index, urls: str = "", commands: bool = False, check: str = "sizes") -> None:
        self.local = not ("://" in urls or urls.startswith(("pipe:", "file:")) or urls == "-")
        if not self.local and not commands:
            raise ConfigError(
                f"machine.urls='{urls}': would start a command, which only machine.commands=true allows; give a path with {{shard}} "
                "in it, or say that you trust it"
            )
        self._check = check == "bytes" and not self.local
        self._urls = urls or f"{index.path.parent}/{{shard}}"
        rows = index.table.select(["key", "offset", "frames", "members"]).to_pylist()
        layout = index.layout
        self._rows = {name: rows[first : last + 1] for name, (first, last) in zip(layout.names, layout.rows, strict=True)}
        self.sizes = dict(zip(layout.names, layout.sizes, strict=True))
        """Bytes of each tar."""

    def samples(self, shard: str, opened: Opened | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(key, member by suffix) of each sample of a shard.

        Args:
            opened: is told what is open, so that another thread can end it.

        Raises:
            ShardError: the tar holds other samples or members than INDEX lists (with `check` also: other bytes), ends early, or cannot be
            read.
        """
        where, rows = f"shard {shard}", self._rows[shard]
        read = 0
        for found in self._raw(shard, opened or Opened()):
            key = found["__key__"]
            members = {suffix: data for suffix, data in found.items() if not suffix.startswith("__")}
            for suffix in members:
                codec.check_suffix(suffix, f"{where}, sample {key}")
            expected = rows[read] if read < len(rows) else None
            sizes = {member["suffix"]: member["size"] for member in expected["members"]} if expected else {}
            if expected is None or (key, {suffix: len(data) for suffix, data in members.items()}) != (expected["key"], sizes):
                named = f"'{expected['key']}'" if expected else "the end"
                raise ShardError(f"{where}: sample {read} is '{key}' with {len(members)} members, INDEX lists {named} here or other sizes")
            if self._check:
                for member in expected["members"]:
                    if hashlib.sha256(members[member["suffix"]]).hexdigest() != member["digest"]:
                        raise ShardError(
                            f"{where}, sample {key}, {member['suffix']}: its bytes differ from the digest in INDEX; look at what lies "
                            "there, and at what brings it here"
                        )
            read += 1
            yield key, members
        if read != len(rows):
            raise ShardError(f"{where}: index lists {len(rows)} samples, file holds {read}; delete it and rerun pack_shard")

    def path(self, shard: str) -> Path:
        """Where a tar lies, if it is a local one."""
        return Path(self._urls.replace("{shard}", shard))

    def _raw(self, shard: str, opened: Opened) -> Iterator[dict[str, Any]]:
        """Undecoded samples of one tar."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        file = self._open(shard)
        known = Known(file, shard, self._rows[shard], self.sizes[shard])
        opened.add(file)
        try:
            yield from group_by_keys(tar_file_expander([{"url": shard, "stream": known}]))
            while known.read(1 << 20):  # a command that is left before its end would fail
                pass
            file.close()  # here a command that failed says so
        except ShardError:  # the package has put more into it
            raise ShardError(known.refused) from None
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise ShardError(f"shard {shard}: not a readable tar ({type(error).__name__}: {error.args[0] if error.args else ''})") from None
        finally:
            opened.remove(file)  # nobody reads on
            with contextlib.suppress(OSError):
                file.close()

    def _open(self, shard: str) -> IO[bytes]:
        """A local file is opened here, so that the package's own openers (and shells) stay out."""
        if self._urls.startswith("pipe:"):
            from webdataset.gopen import Pipe

            # INDEX allows no name that a shell would take for more; the quotes hold without that. A session of its own, so that
            # all that the shell starts can be ended with it; it has no terminal, so nothing to read. 141: the reader went away.
            command = self._urls.removeprefix("pipe:").replace("{shard}", shlex.quote(shard))
            return Pipe(command, mode="rb", shell=True, bufsize=8192, ignore_status=[141], stdin=subprocess.DEVNULL, start_new_session=True)
        if not self.local:
            from webdataset import gopen

            return gopen(self._urls.replace("{shard}", shard))
        path = self.path(shard)
        rows = self._rows[shard]
        check_tar(path, self.sizes[shard], [(row["offset"], row["key"]) for row in (rows[0], rows[-1])])
        return open(path, "rb")
