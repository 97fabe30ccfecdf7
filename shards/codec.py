"""One sample and its members in a tar: the only file that knows member names, their bytes and the tar layout.

In:      a tracklet's frames as JPEG bytes, its companion items as arrays, runs of frames that hear an item.
Out:     {suffix: bytes} and back; tar headers.
Source:  layout.md sections 4 and 10; POSIX.1 (ustar interchange format); NumPy's npy format 1.0.

Members of a sample, adjacent and in this order (<key> is the tracklet, <kind> the medium of the companion)::

    <key>.json                  tracklet, dataset, identity, kind, camera, frames (paths), items (names); sorted keys
    <key>.frames.mjpeg          JPEG files one after another
    <key>.frames.lengths.npy    int32 [frames], bytes of each
    <key>.<kind>.values.npy     [sum of lengths, width], items one after another, each distinct item once
    <key>.<kind>.lengths.npy    int32 [items], rows of `values` of each
    <key>.<kind>.align.npy      int16 [frames], item of each frame; WHOLE (-1): the frame hears what the whole tracklet
                                hears, item 0 alone; NONE (-2): this frame hears nothing

Nothing of this needs pickle: object arrays are neither written nor read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.base.errors import ShardError
from pipeline.base.files import parse_json

BLOCK = 512
"""Bytes of a tar block; headers take one, data are padded to whole ones."""
END = 2 * BLOCK
"""Zero bytes that end an archive. Nothing follows them, so a tar's size follows from its index."""

META = "json"
FRAMES = "frames.mjpeg"
FRAME_LENGTHS = "frames.lengths.npy"
REQUIRED = (META, FRAMES, FRAME_LENGTHS)

WHOLE = -1
"""In `align`: the frame hears item 0, which belongs to the whole tracklet."""
NONE = -2
"""In `align`: the frame hears nothing, though others of its tracklet do (or did before broken frames were dropped)."""

META_FIELDS = ("tracklet", "dataset", "identity", "kind", "camera", "frames", "items")
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))

_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,15}")
_SUFFIX = re.compile(r"json|frames\.mjpeg|frames\.lengths\.npy|(?!frames\.)[a-z][a-z0-9_]{0,15}\.(?:values|lengths|align)\.npy")
_NPY = re.compile(rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': False, 'shape': \((\d+), ?(\d*)\), \} *\n")
_DTYPES = {
    np.dtype(name).str.encode(): np.dtype(name).newbyteorder("<") for name in ("uint8", "int16", "int32", "int64", "float16", "float32")
}


@dataclass(frozen=True, slots=True)
class Items:
    """The companion of one tracklet."""

    values: np.ndarray
    """[sum of lengths, width], items one after another; audio: float16 log-mel."""
    lengths: np.ndarray
    """int32 [items]."""
    align: np.ndarray
    """int16 [frames]: item of each frame, WHOLE or NONE."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One tracklet as it is stored."""

    meta: dict[str, Any]
    """META_FIELDS."""
    frames: list[bytes]
    """One JPEG each."""
    companions: dict[str, Items] = field(default_factory=dict)
    """By kind; empty for tracklets nobody dubbed."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a member that lie in a file and are copied from there without being looked at."""

    offset: int
    size: int
    digest: str
    """SHA-256, 64 hex characters, as whoever wrote the file has it."""


Members = Mapping[str, bytes | Extent]
"""Members of a sample by suffix, in their order in the tar."""


# --- names -----------------------------------------------------------------------------------------------------------


def check_key(key: str) -> str:
    """The key itself if it can name a sample: letters, digits, '_' and '-', at most 80 (a ustar name has 100 bytes)."""
    if _KEY.fullmatch(key) is None:
        raise ShardError(f"sample key '{key}': must be 1 to 80 letters, digits, '_' or '-' (a tracklet name becomes a file name in a tar)")
    return key


def check_suffix(suffix: str, where: str) -> str:
    """The suffix itself if this format has it."""
    if _SUFFIX.fullmatch(suffix) is None:
        raise ShardError(f"{where}: member '{suffix}' is not part of this format; a sample holds {', '.join(REQUIRED)} and <kind>.*.npy")
    return suffix


def companion_suffixes(kind: str) -> tuple[str, str, str]:
    """Suffixes of values, lengths and align of one kind of companion."""
    if _KIND.fullmatch(kind) is None or kind == "frames":
        raise ShardError(f"companion kind '{kind}': must be a lower-case word of at most 16 characters other than 'frames'")
    return f"{kind}.values.npy", f"{kind}.lengths.npy", f"{kind}.align.npy"


# --- arrays ----------------------------------------------------------------------------------------------------------


def npy_bytes(array: np.ndarray) -> bytes:
    """npy 1.0 bytes of an array of one or two axes: little-endian, C order, no pickle."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    if array.dtype.str.encode() not in _DTYPES or array.ndim not in (1, 2):
        raise ShardError(
            f"an array of type {array.dtype} and shape {array.shape} cannot be stored; expected one or two axes of plain numbers"
        )
    return b"".join((_npy_header(array.dtype.str, array.shape), array.data))


@lru_cache(maxsize=4096)
def _npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """NumPy's own, made once for each shape: a tracklet is packed in the time this takes."""
    out = BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


def npy_head(head: bytes, size: int, where: str) -> tuple[np.dtype, tuple[int, ...], int]:
    """Type, shape and offset of the data of an npy member, from its first bytes (128 suffice) and its size in bytes.

    A few microseconds, unlike ``np.load``, because exactly one spelling is accepted: the one :func:`npy_bytes` writes.

    Raises:
        ShardError: another spelling, a type that is not a plain number, or a size that is not what type and shape imply.
    """
    start = 10 + int.from_bytes(head[8:10], "little")
    match = _NPY.fullmatch(head, 10, start) if head[:8] == b"\x93NUMPY\x01\x00" and len(head) >= start else None
    dtype = _DTYPES.get(match[1]) if match else None
    if match is None or dtype is None:
        raise ShardError(f"{where}: not an npy 1.0 array of plain little-endian numbers in C order")
    shape = (int(match[2]), int(match[3])) if match[3] else (int(match[2]),)
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    if start + count * dtype.itemsize != size:
        raise ShardError(f"{where}: an array {dtype} {list(shape)} takes {start + count * dtype.itemsize} bytes, found {size}")
    return dtype, shape, start


def npy_array(data: bytes, where: str) -> np.ndarray:
    """The array of an npy member (read-only, on the given bytes)."""
    dtype, shape, start = npy_head(data[:192], len(data), where)
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def ends(lengths: np.ndarray, total: int, where: str) -> np.ndarray:
    """int64 [n + 1]: where each of n parts of `lengths` begins, and the end; checked against the `total` they must fill."""
    check_lengths(lengths, total, where)
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


def check_lengths(lengths: np.ndarray, total: int, where: str) -> None:
    """Refuse lengths of parts that do not fill `total`."""
    if (found := lengths.sum(dtype=np.int64)) != total or (len(lengths) and lengths.min() < 1):
        raise ShardError(f"{where}: lengths must be positive and add up to {total}, found a sum of {found}")


# --- companion -------------------------------------------------------------------------------------------------------


def align_runs(
    runs: Sequence[tuple[int, int, str]], kept: Sequence[int], total: int, where: str = "alignment"
) -> tuple[list[str], np.ndarray]:
    """Which item each kept frame hears.

    Args:
        runs: (first, last, item) of ALIGNMENT: frames of the tracklet from 0, last inclusive; in any order.
        kept: indices of the frames that are stored, rising.
        total: frames of the tracklet before broken ones were dropped.

    Returns:
        items: distinct names in order of first use by a kept frame (an item heard by dropped frames alone is left out).
        align: int16 [kept], index into items. All WHOLE if one run covers the whole tracklet; NONE where no run covers
            the frame.

    Raises:
        ShardError: runs overlap, lie outside the tracklet, or name more than 32,767 items.
    """
    by_frame: list[str | None] = [None] * total
    for first, last, item in runs:
        if not 0 <= first <= last < total:
            raise ShardError(f"{where}: run {first}..{last} is outside the tracklet's {total} frames; run align_companion again")
        for frame in range(first, last + 1):
            if by_frame[frame] is not None:
                raise ShardError(f"{where}: frame {frame} is in two runs ('{by_frame[frame]}' and '{item}'); run align_companion again")
            by_frame[frame] = item
    number: dict[str, int] = {}
    align = [NONE if (heard := by_frame[frame]) is None else number.setdefault(heard, len(number)) for frame in kept]
    if len(number) > np.iinfo(np.int16).max:
        raise ShardError(f"{where}: {len(number)} items in one tracklet, at most {np.iinfo(np.int16).max} can be told apart")
    if len(runs) == 1 and runs[0][:2] == (0, total - 1):
        align = [WHOLE] * len(kept)
    return list(number), np.array(align, np.int16)


def resolve(align: np.ndarray) -> np.ndarray:
    """int16 [frames]: item of each frame, -1 where the frame has none (the meaning of `Batch.companions[...].align`)."""
    return np.where(align == WHOLE, 0, np.where(align == NONE, -1, align)).astype(np.int16)


def stack_items(items: Sequence[str], align: np.ndarray, arrays: Mapping[str, np.ndarray], where: str) -> Items:
    """Put the arrays [length, width] of `items` one after another; all must have one type and one width."""
    missing = [item for item in items if item not in arrays]
    if missing:
        raise ShardError(f"{where}: item '{missing[0]}' has no feature ({len(missing)} missing); run encode_companion again")
    parts = [arrays[item] for item in items]
    kinds = {(part.dtype.str, part.shape[1:]) for part in parts}
    if len(kinds) != 1 or any(part.ndim != 2 or len(part) == 0 for part in parts):
        raise ShardError(f"{where}: features differ in type or width or are empty ({sorted(map(str, kinds))}); run encode_companion again")
    return Items(np.concatenate(parts), np.array([len(part) for part in parts], np.int32), align)


# --- sample ----------------------------------------------------------------------------------------------------------


def encode(sample: Sample) -> dict[str, bytes]:
    """The members of a sample in their order in the tar.

    Raises:
        ShardError: a key, kind or array the format has no place for, or no frame at all.
    """
    lengths = np.array([len(frame) for frame in sample.frames], np.int32)
    joined = b"".join(sample.frames)
    made = members(sample.meta, Extent(0, len(joined), ""), lengths, sample.companions)
    return {suffix: joined if isinstance(data, Extent) else data for suffix, data in made.items()}


def members(meta: Mapping[str, Any], frames: Extent, lengths: np.ndarray, companions: Mapping[str, Items]) -> dict[str, bytes | Extent]:
    """The members of a sample whose frames lie in a file.

    Args:
        meta: META_FIELDS.
        frames: where they lie, one after another.
        lengths: int32 [frames], bytes of each.
        companions: by kind.

    Raises:
        ShardError: as :func:`encode`; or members would contradict each other.
    """
    key = check_key(meta["tracklet"])
    where = f"sample {key}"
    if tuple(meta) != META_FIELDS or len(meta["frames"]) != len(lengths) or not len(lengths):
        raise ShardError(f"{where}: {len(lengths)} frames, {len(meta['frames'])} paths; at least one, and as many of both")
    check_lengths(lengths, frames.size, f"{where}, {FRAME_LENGTHS}")
    made: dict[str, bytes | Extent] = {META: (_JSON.encode(meta) + "\n").encode(), FRAMES: frames, FRAME_LENGTHS: npy_bytes(lengths)}
    for kind, items in sorted(companions.items()):
        suffixes = companion_suffixes(kind)
        _check_items(items, len(lengths), len(meta["items"]), where, suffixes)
        made |= {suffix: npy_bytes(array) for suffix, array in zip(suffixes, (items.values, items.lengths, items.align), strict=True)}
    return made


def digest(listed: Sequence[Mapping[str, Any]]) -> str:
    """INDEX.digest from INDEX.members: SHA-256, 64 hex characters, over one line 'suffix size SHA-256-of-the-data' for each member.

    Each line ends with a line feed. Headers and padding are not part of it, because they follow from names and sizes.
    """
    return hashlib.sha256("".join([f"{m['suffix']} {m['size']} {m['digest']}\n" for m in listed]).encode()).hexdigest()


def decode(members: Mapping[str, bytes], where: str) -> Sample:
    """The inverse of :func:`encode`; every relation between members is checked.

    Raises:
        ShardError: begins with `where` and names the member.
    """
    for suffix in members:
        check_suffix(suffix, where)
    for suffix in REQUIRED:
        if suffix not in members:
            raise ShardError(f"{where}: member '{suffix}' is missing")
    meta = decode_meta(members[META], where)
    lengths = npy_array(members[FRAME_LENGTHS], f"{where}, {FRAME_LENGTHS}")
    if lengths.dtype != np.int32 or lengths.shape != (len(meta["frames"]),):
        raise ShardError(f"{where}, {FRAME_LENGTHS}: found {lengths.dtype} {list(lengths.shape)}, expected int32 [{len(meta['frames'])}]")
    cuts = ends(lengths, len(members[FRAMES]), f"{where}, {FRAME_LENGTHS}").tolist()
    frames = [bytes(members[FRAMES][a:b]) for a, b in pairwise(cuts)]
    kinds = sorted({suffix.partition(".")[0] for suffix in members if suffix not in REQUIRED})
    return Sample(meta, frames, {kind: _decode_items(members, kind, meta, where) for kind in kinds})


def decode_meta(data: bytes, where: str) -> dict[str, Any]:
    """The JSON member, in the order of META_FIELDS."""
    try:
        meta = parse_json(data)
    except ValueError as error:
        raise ShardError(f"{where}, {META}: not JSON ({error})") from None
    if not isinstance(meta, dict) or sorted(meta) != sorted(META_FIELDS) or not all(isinstance(meta[f], list) for f in ("frames", "items")):
        raise ShardError(f"{where}, {META}: expected the fields {', '.join(META_FIELDS)}")
    return {name: meta[name] for name in META_FIELDS}


def _decode_items(members: Mapping[str, bytes], kind: str, meta: Mapping[str, Any], where: str) -> Items:
    suffixes = companion_suffixes(kind)
    for suffix in suffixes:
        if suffix not in members:
            raise ShardError(f"{where}: member '{suffix}' is missing")
    items = Items(*(npy_array(members[suffix], f"{where}, {suffix}") for suffix in suffixes))
    _check_items(items, len(meta["frames"]), len(meta["items"]), where, suffixes)
    return items


def _check_items(items: Items, frames: int, names: int, where: str, suffixes: Sequence[str]) -> None:
    """Refuse arrays that contradict each other, or the number of frames or of names of items."""
    values, lengths = items.values, items.lengths
    if values.ndim != 2 or lengths.dtype != np.int32 or lengths.shape != (names,):
        raise ShardError(f"{where}, {suffixes[1]}: expected int32 [{names}] and values of two axes")
    check_lengths(lengths, len(values), f"{where}, {suffixes[1]}")
    check_align(items.align, frames, names, f"{where}, {suffixes[2]}")


def check_align(align: np.ndarray, frames: int, items: int, where: str) -> None:
    """`align` must be int16 [frames] and point to one of `items`, WHOLE or NONE."""
    if align.dtype != np.int16 or align.shape != (frames,) or items < 1 or align.min() < NONE or align.max() >= items:
        raise ShardError(f"{where}: expected int16 [{frames}] in {NONE}..{items - 1}, found {align.dtype} {list(align.shape)}")


# --- tar -------------------------------------------------------------------------------------------------------------


_BLANK = b" " * 8
"""The checksum of a header is taken with its own field blank."""
_BEFORE = b"0000644\0" + b"0000000\0" * 2
"""Between name and size: mode, owner, group."""
_STAMP, _AFTER = b"00000000000\0", b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
"""Between size and checksum: the time. After it: plain file, no link, format, no names of owner and group, device, no prefix."""
_SUM = sum(_BEFORE + _STAMP + _BLANK + _AFTER)


def tar_header(name: str, size: int) -> bytes:
    """One ustar header: a plain file, mode 0644, nobody's, of 1970. Equal names and sizes give equal bytes."""
    encoded, digits = name.encode("ascii"), b"%011o" % size
    if len(encoded) > 100:
        raise ShardError(
            f"member {name}: {len(encoded)} characters, a ustar name has at most 100; take a shorter name for the companion's kind"
        )
    if len(digits) > 11:
        raise ShardError(f"member {name}: {size} bytes; a tar member holds less than 8 GiB, take more shards")
    checksum = b"%06o\0 " % (_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded, bytes(100 - len(encoded)), _BEFORE, digits, b"\0", _STAMP, checksum, _AFTER))


_LARGE = 1 << 14
"""A member of more bytes is a part of its own; joining it to others would copy it."""


def tar_parts(key: str, members: Members, offset: int) -> tuple[list[bytes | Extent], list[dict[str, Any]], int]:
    """A sample as tar bytes.

    Args:
        key: name of the sample.
        members: of :func:`encode` or :func:`members`.
        offset: byte in the tar where the sample begins.

    Returns:
        The parts to write (or to copy), INDEX.members, and the sample's size in bytes, padding included.
    """
    parts: list[bytes | Extent] = []
    listed: list[dict[str, Any]] = []
    at = offset
    gathered: list[bytes] = []
    for suffix, data in members.items():
        size = data.size if isinstance(data, Extent) else len(data)
        gathered.append(tar_header(f"{key}.{suffix}", size))
        if isinstance(data, Extent) or size > _LARGE:
            parts += [b"".join(gathered), data]
            gathered = []
        else:
            gathered.append(data)
        gathered.append(bytes(-size % BLOCK))
        found = data.digest if isinstance(data, Extent) else hashlib.sha256(data).hexdigest()
        listed.append({"suffix": suffix, "offset": at + BLOCK, "size": size, "digest": found})
        at += BLOCK + size + -size % BLOCK
    parts.append(b"".join(gathered))
    return parts, listed, at - offset
