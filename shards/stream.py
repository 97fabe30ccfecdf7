"""Samples of whole tars one after another, through the `webdataset` package: from a folder, a command or a server.

In:      where tars lie, and INDEX.   Out: the members of each sample, in the order of the tar.
Source:  layout.md section 10; stack.md section 5. Ours: no decoder of the package is used, because its default ones run
         pickles; commands and URLs that start one are opened only where `machine.commands` says so; and each tar must yield
         exactly the samples INDEX lists, because a tar that ends early is read without an error.

`webdataset` is imported when a stream starts: the machines that train need not have it.
"""

from __future__ import annotations

import contextlib
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pipeline.base.errors import ConfigError, ShardError
from shards import codec
from shards.read import Index, check_tar


class Tars:
    """Where the tars of a store lie, and what each must hold.

    Args:
        index: INDEX of the store.
        urls: a path or URL with {shard} for the file name of a tar; '' is beside INDEX.
        commands: whether `urls` may start a command (`MachineConfig`).

    Raises:
        ConfigError: `urls` would start a command and may not.
    """

    def __init__(self, index: Index, urls: str = "", commands: bool = False) -> None:
        self.local = not ("://" in urls or urls.startswith(("pipe:", "file:")) or urls == "-")
        if not self.local and not commands:
            raise ConfigError(
                f"machine.urls='{urls}': would start a command, which only machine.commands=true allows; give a path with {{shard}} "
                "in it, or say that you trust it"
            )
        self._urls = urls or f"{index.path.parent}/{{shard}}"
        rows = index.table.select(["key", "offset", "frames", "members"]).to_pylist()
        layout = index.layout
        self._rows = {name: rows[first : last + 1] for name, (first, last) in zip(layout.names, layout.rows, strict=True)}
        self.sizes = dict(zip(layout.names, layout.sizes, strict=True))
        """Bytes of each tar."""

    def samples(self, shard: str) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(key, member by suffix) of each sample of a shard.

        Raises:
            ShardError: the tar holds other samples or members than INDEX lists, ends early, or cannot be read.
        """
        where, rows = f"shard {shard}", self._rows[shard]
        read = 0
        for found in self._raw(shard):
            key = found["__key__"]
            members = {suffix: data for suffix, data in found.items() if not suffix.startswith("__")}
            for suffix in members:
                codec.check_suffix(suffix, f"{where}, sample {key}")
            expected = rows[read] if read < len(rows) else None
            sizes = {member["suffix"]: member["size"] for member in expected["members"]} if expected else {}
            if expected is None or (key, {suffix: len(data) for suffix, data in members.items()}) != (expected["key"], sizes):
                named = f"'{expected['key']}'" if expected else "the end"
                raise ShardError(f"{where}: sample {read} is '{key}' with {len(members)} members, INDEX lists {named} here or other sizes")
            read += 1
            yield key, members
        if read != len(rows):
            raise ShardError(f"{where}: index lists {len(rows)} samples, file holds {read}; delete it and rerun pack_shard")

    def _raw(self, shard: str) -> Iterator[dict[str, Any]]:
        """Undecoded samples of one tar."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        file = self._open(shard)
        try:
            yield from group_by_keys(tar_file_expander([{"url": shard, "stream": file}]))
            while file.read(1 << 20):  # a command that is left before its end would fail
                pass
            file.close()  # here a command that failed says so
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise ShardError(f"shard {shard}: not a readable tar ({type(error).__name__}: {error.args[0] if error.args else ''})") from None
        finally:
            with contextlib.suppress(OSError):  # nobody reads on
                file.close()

    def _open(self, shard: str) -> IO[bytes]:
        """A local file is opened here, so that the package's own openers (and shells) stay out."""
        piped = self._urls.startswith("pipe:")  # INDEX allows no name that a shell would take for more; this holds without it
        url = self._urls.replace("{shard}", shlex.quote(shard) if piped else shard)
        if not self.local:
            from webdataset import gopen

            return gopen(url)
        path = Path(url)
        rows = self._rows[shard]
        check_tar(path, self.sizes[shard], [(row["offset"], row["key"]) for row in (rows[0], rows[-1])])
        return open(path, "rb")
