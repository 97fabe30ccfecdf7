"""Random access to samples by offset: the INDEX says where, the tars are mapped into memory.

In:      INDEX (of a whole store, or the twin of one shard) with its tars beside it.
Out:     JPEG bytes of the frames that were drawn, companion items that they hear.
Source:  layout.md sections 4 and 10; promise R5: a shard that was cut, swapped or changed in size is refused.

At open: the size of every tar, the names of its first and last sample, its end. At each read: the member's name in the
tar and the relations between members. Every single byte is checked by :func:`shards.whole.check_tars` before training and
embedding, and by :func:`shards.verify.verify`.
"""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import tables
from pipeline.base.errors import ShardError
from shards import codec

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""File name of a tar: one that no shell, command or server takes for anything else, because a stream hands it to these."""

LARGEST = 1 << 60
"""No tar has as many bytes: sums of two such numbers fit into int64."""


class Layout:
    """Where everything lies according to an INDEX: plain arrays, checked against each other.

    Attributes:
        names: file name of each tar.
        sizes: bytes each tar must have.
        rows: first and last row of INDEX of each tar.
        shard_of: int64 [samples], tar of each row.
        offsets: int64 [samples], byte of each sample's first header.
        members: by suffix: int64 [samples] data offset (-1: the sample has no such member), int64 [samples] size.

    Raises:
        ShardError: samples overlap or leave gaps, the members of a sample do not fill it one behind the other, or a tar has a name other
            than `NAME` allows.
    """

    def __init__(self, index: pa.Table, where: str) -> None:
        count = index.num_rows
        if count == 0:
            raise ShardError(f"{where}: lists no sample; run pack_shard and index_shards again")
        shards = index.column("shard").to_pylist()
        starts = [row for row in range(count) if row == 0 or shards[row] != shards[row - 1]]
        self.names = [shards[row] for row in starts]
        runs = Counter(self.names)
        self.rows = list(zip(starts, [row - 1 for row in [*starts[1:], count]], strict=True))
        for name in self.names:
            if not NAME.fullmatch(name):
                raise ShardError(
                    f"{where}: shard {name!r} is no file name of A-Z a-z 0-9 . _ - that starts with a letter, digit or _; "
                    "run pack_shard and index_shards again with another name"
                )
            if runs[name] != 1:
                raise ShardError(f"{where}: shard '{name}' is listed in several runs of rows; run index_shards again")
        self.shard_of = np.repeat(np.arange(len(starts)), np.diff([*starts, count]))
        self.offsets = index.column("offset").to_numpy()
        sizes = index.column("size").to_numpy()
        expected = np.roll(self.offsets + sizes, 1)
        expected[starts] = 0
        wrong = (self.offsets != expected) | (sizes < codec.BLOCK) | (sizes % codec.BLOCK != 0)
        wrong |= (self.offsets > LARGEST) | (sizes > LARGEST)  # so that no sum below overflows
        self._refuse(index, wrong, "samples overlap or leave gaps")
        self.sizes = [int(self.offsets[last] + sizes[last]) + codec.END for _, last in self.rows]

        lists = pa.concat_arrays(index.column("members").chunks)
        counts = pc.list_value_length(lists).to_numpy()
        self._refuse(index, counts == 0, "no member is listed")
        row_of = np.repeat(np.arange(count), counts)
        fields = dict(zip(("suffix", "offset", "size", "digest"), lists.flatten().flatten(), strict=True))
        at, size = fields["offset"].to_numpy(), fields["size"].to_numpy()
        self._refuse(index, self._unfilled(at, size, row_of, counts, sizes), "members lie with gaps, or do not fill their sample,")
        self.members: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        suffixes = fields["suffix"].dictionary_encode()
        for number, suffix in enumerate(suffixes.dictionary.to_pylist()):
            codec.check_suffix(suffix, where)
            chosen = suffixes.indices.to_numpy() == number
            self._refuse(index, np.bincount(row_of[chosen], minlength=count) > 1, f"member {suffix} is listed twice")
            held = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
            held[0][row_of[chosen]], held[1][row_of[chosen]] = at[chosen], size[chosen]
            self.members[suffix] = held
        for suffix in codec.REQUIRED:
            absent = self.members[suffix][0] < 0 if suffix in self.members else np.ones(count, bool)
            self._refuse(index, absent, f"member {suffix} is missing")

    def _unfilled(self, at: np.ndarray, size: np.ndarray, row_of: np.ndarray, counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """bool [samples]: whose members are not header, data and padding, one behind the other from the first byte to the last.

        So a reader that takes one header after another meets those that INDEX implies, and no other.
        """
        whole = sizes[row_of]
        wrong = (size < 0) | (size > whole)
        ends = at + size + -size % codec.BLOCK
        last = np.cumsum(counts) - 1
        begins = np.roll(ends, 1)
        begins[last - counts + 1] = self.offsets
        wrong |= at != begins + codec.BLOCK
        wrong[last] |= ends[last] != self.offsets + sizes
        return np.bincount(row_of[wrong], minlength=len(counts)) > 0

    @staticmethod
    def _refuse(index: pa.Table, wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            shard, key = index.column("shard")[row].as_py(), index.column("key")[row].as_py()
            raise ShardError(f"shard {shard}, sample {key}: {what} in its index; delete the tar and its twin and run pack_shard again")


def check_tar(path: Path, size: int, samples: Sequence[tuple[int, str]]) -> None:
    """Refuse a tar that is missing, has another size, other samples at the given offsets, or no end of archive.

    Args:
        path: the tar.
        size: bytes it must have.
        samples: (offset, key) of some samples; their first member's name is read.

    Raises:
        ShardError: names the tar.
    """
    again = "delete it and its twin and run pack_shard again"
    if path.exists() and not path.is_file():  # a named pipe would be waited for
        raise ShardError(f"shard {path.name}: no regular file; {again}")
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise ShardError(f"shard {path.name}: its index implies {size} bytes, the file has {found}; {again}")
            for offset, key in samples:
                name = f"{key}.{codec.META}\0".encode()
                if os.pread(file.fileno(), len(name), offset) != name:
                    raise ShardError(f"shard {path.name}: sample {key} is not where its index says (byte {offset}); {again}")
            if os.pread(file.fileno(), codec.END, size - codec.END) != bytes(codec.END):
                raise ShardError(f"shard {path.name}: the end-of-archive blocks are not zero; {again}")
    except FileNotFoundError:
        raise ShardError(f"shard {path.name}: no such file in {path.parent}; its index lies there, tar and index belong together") from None


class Index:
    """What one INDEX says, whether its tars are here or not.

    Attributes:
        path: where it lies.
        keys: names of all samples, in the order of INDEX (shard, then offset).
        table: INDEX as it was read.
        meta: INDEX meta: dataset, cameras, frames {height, width}, companion {...} or None.
        layout: where everything lies in the tars.

    Raises:
        ShardError: it contradicts itself.
    """

    def __init__(self, index_path: str | os.PathLike[str]) -> None:
        self.path = Path(index_path)
        self.table: pa.Table = tables.read(self.path, tables.INDEX)
        self.meta: dict[str, Any] = tables.read_meta(self.path)
        self.keys: list[str] = self.table.column("key").to_pylist()
        self._rows = {key: row for row, key in enumerate(self.keys)}
        if len(self._rows) != len(self.keys):
            raise ShardError(f"{self.path}: {len(self.keys) - len(self._rows)} keys are listed twice; run index_shards again")
        self.layout = Layout(self.table, str(self.path))

    def row_of(self, key: str) -> int | None:
        """Row of a sample in `table`; None where there is none of this name."""
        return self._rows.get(key)


class Store(Index):
    """Samples of one INDEX. Opening reads the index only; tars are mapped when first read, anew in each process.

    Raises:
        ShardError: (when opened) a tar is missing or is not what INDEX says; names the shard.
    """

    def __init__(self, index_path: str | os.PathLike[str]) -> None:
        super().__init__(index_path)
        self._plain = {
            name: self.table.column(name).to_pylist() for name in self.table.column_names if name not in ("members", "offset", "size")
        }
        self._members = self.layout.members
        self._shard = self.layout.shard_of.tolist()
        self._maps: dict[int, mmap.mmap] = {}
        self._pid = os.getpid()
        for shard in range(len(self.layout.names)):
            self._check_file(shard)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, key: str) -> dict[str, Any]:
        """INDEX columns of one sample: shard, key, identity, kind, camera, frames, items, digest."""
        row = self._row(key)
        return {name: values[row] for name, values in self._plain.items()}

    def count(self, key: str) -> int:
        """Number of frames."""
        return self._plain["frames"][self._row(key)]

    def frames(self, key: str, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """JPEG bytes of the frames `indices` (0..count-1, any order, repeats allowed); only their pages are read.

        Raises:
            ShardError: an index is out of range, or the members contradict each other or INDEX.
        """
        row = self._row(key)
        lengths = self._array(row, codec.FRAME_LENGTHS)
        view, start, size = self._member(row, codec.FRAMES)
        if lengths.dtype != np.int32 or lengths.shape != (self._plain["frames"][row],):
            raise self._error(row, codec.FRAME_LENGTHS, f"INDEX lists {self._plain['frames'][row]} frames, found {list(lengths.shape)}")
        cuts = codec.ends(lengths, size, self._where(row, codec.FRAME_LENGTHS)).tolist()
        out = []
        for index in indices:
            if not 0 <= index < len(lengths):
                raise self._error(row, codec.FRAMES, f"frame {index} was asked for, there are {len(lengths)}")
            out.append(view[start + cuts[index] : start + cuts[index + 1]])
        return out

    def align(self, key: str, kind: str) -> np.ndarray | None:
        """Which item each frame hears.

        Returns:
            int16 [frames]: item 0..items-1, -1 where this frame hears none (as in `Batch`; a companion of the whole
            tracklet is item 0 at every frame). None if the tracklet has no companion of this kind.
        """
        row = self._row(key)
        _, lengths, align = codec.companion_suffixes(kind)
        if not self._has(row, align):
            return None
        found = self._array(row, align)
        _, shape, _ = self._head(row, lengths)
        codec.check_align(found, self._plain["frames"][row], shape[0], self._where(row, align))
        return codec.resolve(found)

    def companion(self, key: str, kind: str, items: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The items with these numbers (0..items-1), each a new array [L, M] (audio: float16 log-mel [frames, bands]).

        Raises:
            ShardError: the tracklet has no companion of this kind, an item is out of range, or members contradict
                each other.
        """
        row = self._row(key)
        values, lengths, _ = codec.companion_suffixes(kind)
        if not self._has(row, values):
            raise self._error(row, values, f"the tracklet has no companion of kind '{kind}'")
        dtype, shape, start = self._head(row, values)
        if len(shape) != 2:
            raise self._error(row, values, f"expected two axes, found {list(shape)}")
        cuts = codec.ends(self._array(row, lengths), shape[0], self._where(row, lengths)).tolist()
        view, offset, _ = self._member(row, values)
        out = []
        for item in items:
            if not 0 <= item < len(cuts) - 1:
                raise self._error(row, values, f"item {item} was asked for, there are {len(cuts) - 1}")
            count, first = cuts[item + 1] - cuts[item], cuts[item]
            at = offset + start + first * shape[1] * dtype.itemsize
            out.append(np.frombuffer(view, dtype, count * shape[1], at).reshape(count, shape[1]).copy())
        return out

    def lengths(self, key: str, kind: str) -> list[int]:
        """Frames L of each item of a tracklet that has this kind of companion."""
        return self._array(self._row(key), codec.companion_suffixes(kind)[1]).tolist()

    def items(self, key: str) -> list[str]:
        """Names of the companion items, in their order in the tar; equal names in two tracklets are equal items."""
        row = self._row(key)
        view, start, size = self._member(row, codec.META)
        return codec.decode_meta(view[start : start + size], self._where(row))["items"]

    def sample(self, key: str) -> codec.Sample:
        """The whole sample, decoded and checked."""
        row = self._row(key)
        members = {}
        for suffix in self._members:
            if self._has(row, suffix):
                view, start, size = self._member(row, suffix)
                members[suffix] = view[start : start + size]
        return codec.decode(members, self._where(row))

    # --- inside ---

    def _row(self, key: str) -> int:
        try:
            return self._rows[key]
        except KeyError:
            raise ShardError(f"{self.path}: no sample '{key}' among {len(self.keys)}") from None

    def _where(self, row: int, suffix: str = "") -> str:
        return f"shard {self._plain['shard'][row]}, sample {self.keys[row]}" + (f", {suffix}" if suffix else "")

    def _error(self, row: int, suffix: str, message: str) -> ShardError:
        return ShardError(f"{self._where(row, suffix)}: {message}")

    def _has(self, row: int, suffix: str) -> bool:
        return suffix in self._members and self._members[suffix][0][row] >= 0

    def _member(self, row: int, suffix: str) -> tuple[mmap.mmap, int, int]:
        """The mapped tar, offset and size of a member, after a look at its name in the tar."""
        offsets, sizes = self._members[suffix]
        offset = int(offsets[row])
        view = self._map(self._shard[row])
        name = f"{self.keys[row]}.{suffix}\0".encode()
        if view[offset - codec.BLOCK : offset - codec.BLOCK + len(name)] != name:
            raise self._error(row, suffix, "the tar holds another member here; delete the tar and its twin and run pack_shard again")
        return view, offset, int(sizes[row])

    def _array(self, row: int, suffix: str) -> np.ndarray:
        view, start, size = self._member(row, suffix)
        return codec.npy_array(view[start : start + size], self._where(row, suffix))

    def _head(self, row: int, suffix: str) -> tuple[np.dtype, tuple[int, ...], int]:
        view, start, size = self._member(row, suffix)
        return codec.npy_head(view[start : start + min(size, 192)], size, self._where(row, suffix))

    def _map(self, shard: int) -> mmap.mmap:
        if self._pid != os.getpid():  # a forked worker maps for itself
            self._maps, self._pid = {}, os.getpid()
        view = self._maps.get(shard)
        if view is None:
            with open(self._check_file(shard), "rb") as file:
                view = self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return view

    def _check_file(self, shard: int) -> Path:
        path = self.path.parent / self.layout.names[shard]
        first, last = self.layout.rows[shard]
        check_tar(path, self.layout.sizes[shard], [(int(self.layout.offsets[row]), self.keys[row]) for row in (first, last)])
        return path
