"""Check every byte of tars against INDEX before anything is made of them, as fast as they can be hashed.

In:      INDEX, and the tars that will be read.   Out: how much was checked, or one sentence that names shard, sample and member.
Source:  promise R5. Members are held to their SHA-256 in INDEX; headers and padding follow from names and sizes, the end of the archive
         is zero. So no bit of a tar can change unseen.

Files are read, not mapped: an error of a disk is then a sentence, not the end of the process. Hashing lets go of Python's lock, so threads
share the work; they have ended when a check returns, because loaders fork.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import ShardError
from shards import codec
from shards.read import Index, check_tar

TOGETHER = 1 << 25
"""Bytes of neighbouring samples that one thread takes at a time, at least."""
THREADS = 8
"""Most threads of a process; memory is busy with these."""
AGAIN = "delete the tar and its twin and run pack_shard again"

Place = Callable[[str], Path]
"""Path of a tar by its name."""
Also = Callable[[dict[str, Any], memoryview], list[str]]
"""What else is wrong with a sample, given its row of INDEX and its bytes."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was read."""

    tars: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return f"checked {self.bytes / 1e9:.1f} GB of {self.tars} tars in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring samples of one tar."""

    shard: int
    """Number of the tar in `Layout.names`."""
    first: int
    """Rows of INDEX."""
    last: int
    """Inclusive."""


def check_sample(row: dict[str, Any], data: memoryview) -> list[str]:
    """What is wrong with the bytes of one sample, given its row of INDEX; empty if nothing is.

    Raises:
        ShardError: the row names a sample that cannot be.
    """
    key = codec.check_key(row["key"])
    where = f"shard {row['shard']}, sample {key}"
    if len(data) != row["size"]:
        return [f"{where}: the tar ends {row['size'] - len(data)} bytes early"]
    wrong, at = [], 0
    for member in row["members"]:
        suffix, size = member["suffix"], member["size"]
        begin, end = at + codec.BLOCK, at + codec.BLOCK + size
        after = end + -size % codec.BLOCK
        if member["offset"] - row["offset"] != begin or after > len(data):
            return [f"{where}: INDEX lists its members with gaps or with other sizes than the sample's"]
        if data[at:begin] != codec.tar_header(f"{key}.{suffix}", size):
            wrong.append(f"{where}, {suffix}: the tar's header is not that of INDEX")
        if hashlib.sha256(data[begin:end]).hexdigest() != member["digest"]:
            wrong.append(f"{where}, {suffix}: its bytes differ from the digest in INDEX")
        if data[end:after] != bytes(after - end):
            wrong.append(f"{where}, {suffix}: the padding after it is not zero")
        at = after
    if at != len(data):
        return [f"{where}: INDEX lists its members with gaps or with other sizes than the sample's"]
    if codec.digest(row["members"]) != row["digest"]:
        wrong.append(f"{where}: its digest in INDEX is not that of its members there; run pack_shard and index_shards again")
    return wrong


def wrong_in(index: Index, place: Place, part: Part, also: Also) -> list[str]:
    """What is wrong with some samples of one tar; `also` is asked about each sample, too."""
    layout = index.layout
    path = place(layout.names[part.shard])
    first, last = layout.rows[part.shard]
    wrong = []
    if part.first == first:  # once for each tar
        try:
            check_tar(path, layout.sizes[part.shard], [(int(layout.offsets[row]), index.keys[row]) for row in (first, last)])
        except ShardError as error:
            wrong.append(str(error))
    if not path.is_file():
        return wrong
    rows = index.table.slice(part.first, part.last - part.first + 1).to_pylist()
    try:
        with open(path, "rb", buffering=0) as tar:
            largest = min(max(row["size"] for row in rows), os.fstat(tar.fileno()).st_size)  # INDEX may claim anything
            buffer = memoryview(bytearray(largest))
            for row in rows:
                wrong += _looked_at(tar.fileno(), row, buffer, also)
    except OSError as error:
        wrong.append(f"shard {path.name}: cannot be read ({error.strerror})")
    except MemoryError:
        wrong.append(f"shard {path.name}: its samples are larger than the memory here; look at the largest with ls -l, or {AGAIN}")
    return wrong


def _looked_at(file: int, row: dict[str, Any], buffer: memoryview, also: Also) -> list[str]:
    read = 0
    while read < row["size"] and (more := os.preadv(file, [buffer[read : row["size"]]], row["offset"] + read)):
        read += more
    try:
        return [*check_sample(row, buffer[:read]), *also(row, buffer[:read])]
    except ShardError as error:  # the row itself cannot be: the others are looked at all the same
        return [f"shard {row['shard']}, sample {row['key']!r}: {error}"]


def parts(index: Index, shards: Iterable[int]) -> Iterator[Part]:
    """Whole tars as parts of about `TOGETHER` bytes, in order."""
    ends = index.layout.offsets + index.table.column("size").to_numpy()
    for shard in shards:
        start, last = index.layout.rows[shard]
        for row in range(start, last + 1):
            if row == last or ends[row] - index.layout.offsets[start] >= TOGETHER:
                yield Part(shard, start, row)
                start = row + 1


def nothing(row: dict[str, Any], data: memoryview) -> list[str]:
    """What else is asked about a sample before training: nothing."""
    return []


def check_tars(index: Index, keys: Iterable[str], place: Place, threads: int, share: tuple[int, int] = (0, 1)) -> Checked:
    """Refuse tars in which a byte is not as INDEX says.

    Args:
        index: INDEX.
        keys: samples that will be read; all of each tar that holds one is checked (names that INDEX lacks are left to others).
        place: where the tars lie.
        threads: at most.
        share: (r, n): the r-th of n equal shares of these tars is read, the others are left to other processes.

    Raises:
        ShardError: names the first thing that is wrong, in the order of INDEX.
    """
    begun = time.monotonic()
    layout = index.layout
    shards = sorted({int(layout.shard_of[row]) for row in map(index.row_of, keys) if row is not None})[share[0] :: share[1]]
    with ThreadPoolExecutor(max(1, min(threads, THREADS)), "check") as pool:
        try:
            for wrong in pool.map(lambda part: wrong_in(index, place, part, nothing), parts(index, shards)):
                if wrong:
                    advice = "" if "; " in wrong[0] else f"; {AGAIN}"
                    raise ShardError(f"{wrong[0]}{advice} (python -m shards.verify {index.path} names all that is wrong)")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Checked(len(shards), sum(layout.sizes[shard] for shard in shards), time.monotonic() - begun)


def own_share(alone: bool = False) -> tuple[int, int, int]:
    """Number of this process among the ranks of its node, how many they are (torchrun says both), and its threads for a check.

    Args:
        alone: no other rank takes part, whatever torchrun says: one process, with the threads of all.
    """
    rank, ranks = (0, 1) if alone else (int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return rank, ranks, max(1, len(os.sched_getaffinity(0)) // ranks)
