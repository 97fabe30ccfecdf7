"""Pack the samples of one shard into a tar, and list them in a Parquet twin.

In:      FRAMES of the shard and the stream it lists; with a companion also ALIGNMENT and FEATURES of the shard.
Out:     <shard>.tar (a plain WebDataset tar, see codec.py) and its twin, an INDEX of this shard. The twin is written
         last: it exists = the shard is done. Equal inputs give equal bytes, in whatever order their rows come.
Source:  layout.md sections 4 and 10. Frames are copied, never looked at: their digest comes from `encode_frames`, which had
         them in memory, so :mod:`shards.verify` finds what happened to them since.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import cli, disk, files, tables
from pipeline.base.blocks import BlockWriter
from pipeline.base.errors import ShardError
from shards import codec

FACTS = ["tracklet", "dataset", "identity", "kind", "camera"]
"""What a sample takes over from FRAMES as it is."""
COMPANION_META = ("policy", "oracle", "label_derived", "seed", "test")
"""What the twin takes over from ALIGNMENT's meta."""
FEATURES_META = ("bands", "tokens")
"""What it takes over from FEATURES' meta: width of a companion frame; which frozen encoder made the tokens (null: none did)."""

_HELD = 1 << 24
"""Bytes of samples, frames not counted, that are made before they are written."""


@dataclass(frozen=True, slots=True)
class Tracklet:
    """One sample whose frames lie in the stream."""

    meta: dict[str, Any]
    """META_FIELDS."""
    frames: codec.Extent
    lengths: np.ndarray
    """int32 [frames], bytes of each."""
    companions: dict[str, codec.Items]


def samples(frames: pa.Table, kind: str = "", alignment: pa.Table | None = None, features: pa.Table | None = None) -> Iterator[Tracklet]:
    """The samples of a shard in the order of its plan.

    Args:
        frames: FRAMES of the shard.
        kind: medium of the companion; '' without one.
        alignment: ALIGNMENT; tracklets without rows get no companion.
        features: FEATURES of the shard.

    Raises:
        ShardError: an item has no feature, a run is out of place, or a row of FRAMES contradicts itself.
    """
    frames = frames.take(pc.sort_indices(frames.column("order")))
    about = frames.select(FACTS).to_pylist()
    totals, offsets, sizes, digests = (frames.column(name).to_pylist() for name in ("frames", "offset", "size", "digest"))
    lengths, paths, kept = (_lists(frames, name) for name in ("lengths", "paths", "kept"))
    _check_frames(frames)
    runs = _runs(alignment)
    arrays = _Features(features)
    for row, facts in enumerate(about):
        name = facts["tracklet"]
        items, companions = _companion(runs.get(name, []), kept[row], totals[row], kind, arrays, name)
        meta = {**facts, "frames": paths[row].tolist(), "items": items}
        yield Tracklet(meta, codec.Extent(offsets[row], sizes[row], digests[row]), lengths[row], companions)


def _check_frames(frames: pa.Table) -> None:
    """Refuse rows in which lengths, paths and kept frames do not belong together; over all rows at once."""
    counts = {name: pc.list_value_length(frames.column(name)).to_numpy() for name in ("lengths", "paths", "kept")}
    total, kept = frames.column("frames").to_numpy(), pc.list_flatten(frames.column("kept")).to_numpy()
    row = np.repeat(np.arange(frames.num_rows), counts["kept"])
    fault = (counts["kept"] == 0) | (counts["kept"] != counts["lengths"]) | (counts["kept"] != counts["paths"])
    fault[row[(kept < 0) | (kept >= total[row])]] = True
    fault[row[1:][(np.diff(kept) <= 0) & (np.diff(row) == 0)]] = True
    if fault.any():
        at = int(fault.argmax())
        raise ShardError(
            f"FRAMES of tracklet {frames.column('tracklet')[at]}: {counts['lengths'][at]} lengths, {counts['paths'][at]} paths, "
            f"{counts['kept'][at]} kept of {total[at]} frames; expected as many of each, kept frames rising from 0; run encode_frames again"
        )


def _lists(table: pa.Table, name: str) -> Sequence[np.ndarray]:
    """A column of lists as one array for each row; a hundred times faster than `to_pylist`."""
    lists = pa.concat_arrays(table.column(name).chunks)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    cuts = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).tolist()
    return [values[a:b] for a, b in pairwise(cuts)]


def _runs(alignment: pa.Table | None) -> dict[str, list[tuple[int, int, str]]]:
    out: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    if alignment is not None:
        for name, *run in zip(*(alignment.column(c).to_pylist() for c in ("tracklet", "first", "last", "item")), strict=True):
            out[name].append(tuple(run))
    return out


class _Features(Mapping[str, np.ndarray]):
    """FEATURES as arrays [length, width] by item, made when asked for."""

    def __init__(self, features: pa.Table | None) -> None:
        self._rows: dict[str, tuple[memoryview, int, int, str]] = {}
        if features is not None:
            columns = (features.column(name).to_pylist() for name in ("item", "length", "width", "dtype"))
            for item, value, *shape in zip(next(columns), _views(features.column("values")), *columns, strict=True):
                self._rows[item] = (value, *shape)

    def __getitem__(self, item: str) -> np.ndarray:
        values, length, width, dtype = self._rows[item]
        if values.nbytes != length * width * np.dtype(dtype).itemsize:
            raise ShardError(
                f"FEATURES of item {item}: {values.nbytes} bytes are not {dtype} [{length}, {width}]; run encode_companion again"
            )
        return np.frombuffer(values, dtype).reshape(length, width)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _views(column: pa.ChunkedArray) -> Iterator[memoryview]:
    """The values of a large_binary column where they lie; its scalars would be copies."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        cuts = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        view = memoryview(data) if data else memoryview(b"")
        yield from (view[a:b] for a, b in pairwise(cuts))


def _companion(
    runs: list[tuple[int, int, str]], kept: np.ndarray, total: int, kind: str, arrays: Mapping[str, np.ndarray], name: str
) -> tuple[list[str], dict[str, codec.Items]]:
    if not runs:
        return [], {}
    where = f"ALIGNMENT of tracklet {name}"
    items, align = codec.align_runs(runs, kept.tolist(), total, where)
    return items, {kind: codec.stack_items(items, align, arrays, where)} if items else {}


def write_tar(out: FileIO, shard: str, packed: Iterable[Tracklet], stream: FileIO) -> list[dict[str, Any]]:
    """Write samples one after another and the end of the archive; returns the rows of INDEX.

    Args:
        out: the tar, opened without a buffer.
        shard: its file name.
        packed: what to write.
        stream: the file that holds the frames, opened without a buffer.

    Raises:
        ShardError: the stream cannot be read to the end of what FRAMES lists.
    """
    rows: list[dict[str, Any]] = []
    writer = BlockWriter(out)
    made: list[tuple[str, list[bytes | codec.Extent]]] = []
    offset = held = 0
    for sample in packed:
        key = sample.meta["tracklet"]
        members = codec.members(sample.meta, sample.frames, sample.lengths, sample.companions)
        parts, listed, size = codec.tar_parts(key, members, offset)
        row = {"shard": shard, "key": key, **{field: sample.meta[field] for field in ("identity", "kind", "camera")}}
        row |= {"frames": len(sample.lengths), "items": len(sample.meta["items"])}
        rows.append({**row, "offset": offset, "size": size, "members": listed, "digest": codec.digest(listed)})
        offset += size
        # Many samples are made before they are written: copying empties the processor's cache, and making takes a third longer then.
        made.append((key, parts))
        held += size - sample.frames.size
        if held > _HELD:
            _write(writer, stream, made)
            made, held = [], 0
    _write(writer, stream, made)
    writer.write(bytes(codec.END))
    writer.flush()
    return rows


def _write(writer: BlockWriter, stream: FileIO, made: Sequence[tuple[str, list[bytes | codec.Extent]]]) -> None:
    for key, parts in made:
        for part in parts:
            if not isinstance(part, codec.Extent):
                writer.write(part)
                continue
            try:
                writer.copy(stream, part.offset, part.size)
            except EOFError as error:
                raise ShardError(f"{stream.name}, frames of tracklet {key}: {error}; run encode_frames again") from None
            except OSError as error:
                if error.errno in disk.FULL:  # that is the tar's disk
                    raise
                raise ShardError(f"{stream.name}, frames of tracklet {key}: cannot be copied ({error.strerror})") from None


def twin_meta(
    frames: Mapping[str, Any],
    kind: str = "",
    alignment: Mapping[str, Any] | None = None,
    features: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """INDEX meta from the metas of FRAMES, ALIGNMENT and FEATURES: dataset, cameras, frames, companion (or None).

    A companion is described also where no tracklet of the shard hears it: the twins of all shards agree.
    """
    companion = None
    if alignment is not None and features is not None:
        for table, meta in (("ALIGNMENT", alignment), ("FEATURES", features)):
            if meta["kind"] != kind:
                raise ShardError(f"{table} of kind '{meta['kind']}', asked for '{kind}'; give the tables of that companion")
        companion = {"kind": kind}
        companion |= {name: alignment[name] for name in COMPANION_META} | {name: features.get(name) for name in FEATURES_META}
    size = {name: frames["frames"][name] for name in ("height", "width")}
    return {"dataset": frames["dataset"], "cameras": frames["cameras"], "frames": size, "companion": companion}


def check_parts(tar: Path, frames: Mapping[str, Any], alignment: Mapping[str, Any] | None, features: Mapping[str, Any] | None) -> None:
    """Refuse tables of another shard or data set than the tar's, from their metas.

    Raises:
        ShardError: names the table, what was found and what was expected.
    """
    if tar.stem != f"{frames['shard']:05d}":
        raise ShardError(f"{tar}: FRAMES is of shard {frames['shard']}, whose tar is called {frames['shard']:05d}.tar; give its own tables")
    if features is not None and features["shard"] != frames["shard"]:
        raise ShardError(f"{tar}: FEATURES is of shard {features['shard']}, FRAMES of shard {frames['shard']}; give both of one shard")
    if alignment is not None and alignment["dataset"] != frames["dataset"]:
        raise ShardError(f"{tar}: ALIGNMENT is of {alignment['dataset']}, FRAMES of {frames['dataset']}; give both of one data set")


def check_features(features: pa.Table, meta: Mapping[str, Any]) -> None:
    """Refuse FEATURES whose rows are not what their meta says (a shard may hold no dubbed tracklet: the meta decides).

    Raises:
        ShardError: waveforms, which `encode_tokens` has to turn into tokens first; another width; or tokens whose number is
            below 2 or not that of the meta.
    """
    if "form" not in meta:
        raise ShardError("FEATURES of an older form; run encode_companion again")
    if meta["form"] == "waves":
        raise ShardError("FEATURES hold waveforms; run model.encode_tokens and pack what it makes")
    if wrong := set(pc.unique(features.column("width")).to_pylist()) - {meta["bands"]}:
        raise ShardError(f"FEATURES: widths {sorted(wrong)} beside {meta['bands']} of their settings; run encode_companion again")
    if meta["form"] == "tokens":
        length = meta["tokens"]["length"]
        if length < 2:
            raise ShardError(f"FEATURES: {length} token per clip; at least 2, because attention over one key does not look at the image")
        if wrong := set(pc.unique(features.column("length")).to_pylist()) - {length}:
            raise ShardError(f"FEATURES: {sorted(wrong)} tokens beside {length} of their settings; encode the companion again")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path, help="<shard>.tar")
    arguments.add_argument("--twin", type=Path, required=True, help="INDEX of this shard, written last")
    arguments.add_argument("--frames", type=Path, required=True)
    arguments.add_argument("--stream", type=Path, required=True, help="<shard>.mjpeg, which --frames lists")
    arguments.add_argument("--alignment", type=Path)
    arguments.add_argument("--features", type=Path)
    arguments.add_argument("--kind", default="", help="medium of the companion, e.g. audio")
    args = arguments.parse_args(argv)
    if len({args.alignment is None, args.features is None, not args.kind}) != 1:
        raise ShardError("--alignment, --features and --kind belong together: give all three or none")

    frames = tables.read(args.frames, tables.FRAMES)
    alignment = features = heard = encoded = None
    if args.alignment is not None:
        alignment, heard = tables.read(args.alignment, tables.ALIGNMENT), tables.read_meta(args.alignment)
        alignment = alignment.filter(pc.is_in(alignment.column("tracklet"), frames.column("tracklet").combine_chunks()))
        features, encoded = tables.read(args.features, tables.FEATURES), tables.read_meta(args.features)
    about = tables.read_meta(args.frames)
    check_parts(args.out, about, heard, encoded)
    if not frames.num_rows:
        raise ShardError(f"{args.frames}: FRAMES lists no tracklet; run encode_frames again")
    meta = twin_meta(about, args.kind, heard, encoded)
    if features is not None and encoded is not None:
        check_features(features, encoded)

    args.twin.unlink(missing_ok=True)  # a twin of an older tar must not vouch for this one
    with open_stream(args.stream, frames) as stream, files.atomic(args.out) as temporary, open(temporary, "wb", buffering=0) as out:
        rows = write_tar(out, args.out.name, samples(frames, args.kind, alignment, features), stream)
    tables.write_rows(args.twin, rows, tables.INDEX, meta)


def open_stream(path: Path, frames: pa.Table) -> FileIO:
    """The file of all frames that FRAMES lists, without a buffer.

    Raises:
        ShardError: it is missing, cannot be read, or has another size than its tracklets fill.
    """
    offsets, sizes = (frames.column(name).to_numpy() for name in ("offset", "size"))
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        raise ShardError(f"{path}: no such file, though FRAMES lists what it holds; run encode_frames again") from None
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); it should be the stream that encode_frames made") from None
    found = os.fstat(file.fileno()).st_size
    if not np.array_equal(offsets, np.cumsum(sizes) - sizes) or sizes.sum() != found:
        file.close()
        raise ShardError(
            f"{path}: {found} bytes, the {len(sizes)} tracklets of FRAMES fill {sizes.sum()} without a gap; run encode_frames again"
        )
    return file


if __name__ == "__main__":
    cli.run(main)
