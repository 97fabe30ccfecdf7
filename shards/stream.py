"""Samples one after another from whole tars, through the `webdataset` package: for passes over everything.

In:      local tars of a store, and its INDEX.   Out: decoded samples.
Source:  layout.md section 10; stack.md section 5. Ours: no decoder of the package is used, because its default ones run
         pickles; only local files are opened, because other URLs start a shell; and each tar must yield exactly the samples
         INDEX lists, because a tar that ends early is read without an error.

Shards are shared out explicitly, so that every (rank, worker) knows its part and together they read each shard once.
`webdataset` is imported when a stream starts: the machines that train need not have it.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.base import tables
from pipeline.base.errors import ConfigError, ShardError
from pipeline.base.seeds import rng
from shards import codec
from shards.read import Layout, check_tar


def stream(
    urls: Sequence[str | os.PathLike[str]],
    index_path: str | os.PathLike[str],
    *,
    seed: int | None = None,
    epoch: int = 0,
    rank: int = 0,
    ranks: int = 1,
    worker: int = 0,
    workers: int = 1,
) -> Iterator[dict[str, Any]]:
    """Samples of the shards that fall to this worker of this rank.

    Args:
        urls: paths of tars; their file names must be in INDEX.
        index_path: INDEX of the store or of these shards.
        seed: order of shards; None keeps that of `urls`. Samples keep their order in the tar.
        epoch: another one gives another order of shards.
        rank, ranks: this node and their number.
        worker, workers: this reading process of the node and their number.

    Yields:
        dict with key, meta (the JSON member), frames (list of JPEG bytes) and, per kind of companion,
        '<kind>' (codec.Items). Samples without a companion lack that entry.

    Raises:
        ConfigError: a URL that is no local file, or a worker that would get no shard.
        ShardError: a tar holds other samples or members than INDEX lists, or ends early.
    """
    paths = [_local(url) for url in urls]
    mine = [paths[number] for number in shard_order(len(paths), seed, epoch)[rank * workers + worker :: ranks * workers]]
    if not mine:
        raise ConfigError(f"rank {rank}, worker {worker}: {len(paths)} shards do not suffice for {ranks} x {workers} readers; use fewer")
    listed = _check(mine, index_path)
    for path in mine:
        yield from _one(path, listed[path.name])


def shard_order(count: int, seed: int | None, epoch: int) -> list[int]:
    """The order in which shards 0..count-1 are read in an epoch, before they are shared out."""
    return list(range(count)) if seed is None else rng(seed, "stream", epoch).permutation(count).tolist()


def _local(url: str | os.PathLike[str]) -> Path:
    text = os.fspath(url)
    if "://" in text or text.startswith(("pipe:", "file:")) or text == "-":
        raise ConfigError(f"stream: '{text}' is not a path; only local tars are opened (a URL like 'pipe:' would run a command)")
    return Path(text)


def _check(paths: Sequence[Path], index_path: str | os.PathLike[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of INDEX by tar, after checking size, ends and first and last sample of every tar of `paths`."""
    index = tables.read(index_path, tables.INDEX)
    layout = Layout(index, str(index_path))
    rows = index.to_pylist()
    listed = {name: rows[first : last + 1] for name, (first, last) in zip(layout.names, layout.rows, strict=True)}
    for path in paths:
        if path.name not in listed:
            raise ShardError(f"shard {path.name}: not in {index_path}; give tars of this store")
        ends = [(row["offset"], row["key"]) for row in (listed[path.name][0], listed[path.name][-1])]
        check_tar(path, layout.sizes[layout.names.index(path.name)], ends)
    return listed


def _one(path: Path, listed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    where = f"shard {path.name}"
    expected = [(row["key"], {member["suffix"]: member["size"] for member in row["members"]}) for row in listed]
    read = 0
    for found in _raw(path):
        key = found["__key__"]
        members = {suffix: data for suffix, data in found.items() if not suffix.startswith("__")}
        for suffix in members:
            codec.check_suffix(suffix, f"{where}, sample {key}")
        if read == len(expected) or (key, {suffix: len(data) for suffix, data in members.items()}) != expected[read]:
            named = f"'{expected[read][0]}'" if read < len(expected) else "the end"
            raise ShardError(f"{where}: sample {read} is '{key}' with {len(members)} members, INDEX lists {named} here or other sizes")
        read += 1
        sample = codec.decode(members, f"{where}, sample {key}")
        yield {"key": key, "meta": sample.meta, "frames": sample.frames, **sample.companions}
    if read != len(expected):
        raise ShardError(f"{where}: index lists {len(expected)} samples, file holds {read}; delete it and rerun pack_shard")


def _raw(path: Path) -> Iterator[dict[str, Any]]:
    """Undecoded samples of one tar. The file is opened here, so that the package's own openers (and shells) stay out."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with open(path, "rb") as file:
        try:
            yield from group_by_keys(tar_file_expander([{"url": path.name, "stream": file}]))
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise ShardError(
                f"shard {path.name}: not a readable tar ({type(error).__name__}: {error.args[0] if error.args else ''})"
            ) from None
