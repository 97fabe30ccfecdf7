"""The tables that stages hand to each other: schemas, checks, reading and writing.

In and out: Parquet, sealed (pipeline/base/seal.py): a table in which one bit was changed is refused. A table is written beside its name
and renamed into place; the same rows give the same bytes.
Provenance lives in the file's metadata under ``dubtrack``: schema name and version, settings, notes, and the digests of what it was made
from (pipeline/base/origin.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.base.errors import TableError
from pipeline.base.files import atomic, parse_json
from pipeline.base.seal import read_footer, read_sealed, seal

META = b"dubtrack"


@dataclass(frozen=True)
class Column:
    """One column: its type, unit and meaning (the README's tables are made from this)."""

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Schema:
    """A named, versioned table."""

    name: str
    version: int
    row: str
    """What one row is."""
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    """Columns that together are unique; rows are written in their order."""
    raw: tuple[str, ...] = ()
    """Columns written as they are: compressing log-mel saves a seventh and takes an eighth of the time that making it does."""

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])


S, I16, I32, I64, F32, F64, B = pa.string(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_()

ROLES = ("train", "query", "gallery", "junk", "trial", "unused")

TRACKLETS = Schema(
    "tracklets",
    1,
    "one tracklet",
    (
        Column("tracklet", S, "name, unique in the data set; letters, digits, '_' and '-' only (it becomes the key of a sample)"),
        Column("dataset", S, "name of the data set in the config"),
        Column("identity", S, "identity as shipped, e.g. '0001', 'person_0001'"),
        Column("kind", S, "'person', 'distractor' (matches nobody) or 'junk' (removed from every ranking)"),
        Column("camera", I16, "camera index from 0"),
        Column(
            "frames", pa.list_(pa.field("element", S, nullable=False)), "paths of the frames in time order, relative to roots.<dataset>"
        ),
    ),
    ("tracklet",),
)
SPLIT = Schema(
    "split",
    1,
    "one tracklet in one split",
    (
        Column("tracklet", S, "tracklet of TRACKLETS"),
        Column("role", S, "'train', 'query', 'gallery', 'junk' (in the test set, removed from every ranking), 'trial' or 'unused'"),
        Column("label", I32, "training label 0..K-1, the rank of the identity among the sorted training identities; -1 if not train"),
    ),
    ("tracklet",),
)
ITEMS = Schema(
    "items",
    1,
    "one companion item (a voice clip)",
    (
        Column("item", S, "name, unique in its collection"),
        Column("kind", S, "medium: 'audio'"),
        Column("owner", S, "'spk_' + salted hash of the speaker, or the tracklet whose own sound it is"),
        Column("owner_order", I32, "rank of the owner by its unhashed name (breaks ties as published code does)"),
        Column("order", I32, "position of the item in its source table"),
        Column("path", S, "file, relative to roots.<collection>"),
        Column("start", F64, "seconds into the file; null: the whole file", True),
        Column("seconds", F64, "claimed duration in seconds; null where the source gives none", True),
        Column("bytes", I64, "file size; -1: the file is missing"),
        Column("first", I32, "recorded sound: first frame (from 0) of the owner it belongs to; null for voices", True),
        Column("last", I32, "recorded sound: last frame, inclusive; null for voices", True),
    ),
    ("item",),
)
PROBES = Schema(
    "probes",
    1,
    "one item that was decoded to see whether it can be used",
    (
        Column("item", S, "item of ITEMS"),
        Column("owner", S, "owner of ITEMS"),
        Column("path", S, "path of ITEMS"),
        Column("samples", I64, "decoded samples per channel; 0 if nothing could be decoded"),
        Column("rate", I32, "decoded samples per second; 0 if nothing could be decoded"),
        Column("seconds", F64, "decoded length in seconds"),
        Column("rms_dbfs", F32, "root mean square level in dB relative to full scale; -200 for digital silence"),
        Column("decoder", S, "'soundfile', 'ffmpeg' or '' if none could read it"),
        Column("usable", B, "false: quarantined, another clip of the speaker takes its place"),
        Column("reason", S, "why it is quarantined: 'missing', 'unreadable', 'truncated', 'short', 'silent', 'withdrawn'; '' if usable"),
        Column("detail", S, "what was found and what was expected"),
    ),
    ("item",),
)
ALIGNMENT = Schema(
    "alignment",
    1,
    "one run of frames and the item it hears",
    (
        Column("tracklet", S, "tracklet of TRACKLETS"),
        Column("first", I32, "first frame of the run, from 0"),
        Column("last", I32, "last frame of the run, inclusive"),
        Column("item", S, "item of ITEMS, or 'silence' / 'noise_<n>' for the synthetic controls"),
        Column("owner", S, "owner of the item"),
        Column("path", S, "path of the item relative to its root; '' for synthetic items"),
        Column("start", F64, "seconds into the file; null: the whole file", True),
        Column("seconds", F64, "length in seconds as decoded"),
    ),
    ("tracklet", "first"),
)
PLAN = Schema(
    "plan",
    1,
    "one tracklet and its place",
    (
        Column("tracklet", S, "tracklet of TRACKLETS"),
        Column("shard", I32, "shard number from 0"),
        Column("order", I32, "position in the shard from 0"),
        Column("frames", I32, "number of frames"),
    ),
    ("shard", "order"),
)
FRAMES = Schema(
    "frames",
    2,
    "one tracklet and its encoded frames, which lie in the stream",
    (
        Column("tracklet", S, "tracklet of TRACKLETS"),
        Column("dataset", S, "as in TRACKLETS, like identity, kind and camera"),
        Column("identity", S, "identity as shipped"),
        Column("kind", S, "'person', 'distractor' or 'junk'"),
        Column("camera", I16, "camera index from 0"),
        Column("order", I32, "position in the shard from 0"),
        Column("frames", I32, "number of frames in TRACKLETS, broken ones included"),
        Column("offset", I64, "byte of its first frame in the stream, which is JPEG files one after another"),
        Column("size", I64, "bytes of its frames"),
        Column("digest", S, "SHA-256 over these bytes, taken when they were in memory"),
        Column("lengths", pa.list_(pa.field("element", I32, nullable=False)), "bytes of each JPEG"),
        Column("paths", pa.list_(pa.field("element", S, nullable=False)), "path in TRACKLETS.frames of each JPEG"),
        Column(
            "kept",
            pa.list_(pa.field("element", I32, nullable=False)),
            "index (from 0) in TRACKLETS.frames of each JPEG; broken frames are missing here",
        ),
        Column("resized", I32, "how many frames were decoded, resized and encoded again; 0: all bytes are the source's"),
    ),
    ("tracklet",),
)
FEATURES = Schema(
    "features",
    1,
    "one encoded companion item",
    (
        Column("item", S, "item of ALIGNMENT"),
        Column("values", pa.large_binary(), "C-order bytes of the array [length, width]"),
        Column("length", I32, "companion frames"),
        Column("width", I32, "values per companion frame (mel bands)"),
        Column("dtype", S, "NumPy type, e.g. 'float16'"),
    ),
    ("item",),
    ("values",),
)
QUARANTINE = Schema(
    "quarantine",
    1,
    "one input that was left out",
    (
        Column("path", S, "file, relative to its root"),
        Column("what", S, "'frame' or 'clip'"),
        Column("reason", S, "short reason"),
        Column("detail", S, "what was found and what was expected"),
    ),
    ("path", "reason"),
)
_MEMBERS = pa.list_(
    pa.field(
        "element",
        pa.struct([pa.field(name, kind, nullable=False) for name, kind in (("suffix", S), ("offset", I64), ("size", I64), ("digest", S))]),
        nullable=False,
    )
)
INDEX = Schema(
    "index",
    3,
    "one sample in a tar",
    (
        Column("shard", S, "file name of the tar"),
        Column("key", S, "tracklet"),
        Column("identity", S, "identity as shipped"),
        Column("kind", S, "'person', 'distractor' or 'junk'"),
        Column("camera", I16, "camera index from 0"),
        Column("frames", I32, "number of frames"),
        Column("items", I32, "number of companion items; 0: none"),
        Column("offset", I64, "byte of the sample's first header in the tar"),
        Column("size", I64, "bytes of the sample in the tar, headers and padding included"),
        Column("members", _MEMBERS, "suffix, byte offset of the data in the tar, size in bytes and SHA-256 of each member"),
        Column("digest", S, "SHA-256 over one line 'suffix size SHA-256-of-the-data' for each member in its order"),
    ),
    ("shard", "offset"),
)
EMBEDDINGS = Schema(
    "embeddings",
    1,
    "one vector",
    (
        Column("tracklet", S, "tracklet of TRACKLETS"),
        Column("modality", S, "what the network took: 'frames', 'text', 'frames+<kind of companion>', or '<kind>' of one that only hears"),
        Column("role", S, "role of SPLIT"),
        Column("identity", S, "identity as shipped"),
        Column("kind", S, "'person', 'distractor' or 'junk'"),
        Column("camera", I16, "camera index from 0"),
        Column("clips", I32, "clips that were averaged"),
        Column("vector", pa.list_(pa.field("element", F32, nullable=False)), "feature [D]"),
    ),
    ("tracklet", "modality"),
)
QUERIES = Schema(
    "queries",
    1,
    "one query and what its ranking came to",
    (
        Column("ranking", S, "'distance', or 'reranked' where the setting scoring.rerank asks for it"),
        Column("protocol", S, "protocol of evaluate/protocols.py"),
        Column("query", S, "tracklet of EMBEDDINGS"),
        Column("identity", S, "identity as shipped"),
        Column("camera", I16, "camera index from 0"),
        Column("good", I32, "right answers left in the gallery; 0: the query is not valid"),
        Column("removed", I32, "gallery entries removed for this query (same identity and camera)"),
        Column("first", I32, "rank of the first right answer, from 1; 0: there is none"),
        Column("ap", F64, "average precision as the protocol defines it; null: not defined", True),
        Column("inp", F64, "right answers over the rank of the last one; null: not defined", True),
    ),
    ("ranking", "protocol", "query"),
)
TRIALS = Schema(
    "trials",
    1,
    "one pair to verify",
    (
        Column("left", S, "name of the first item"),
        Column("right", S, "name of the second item"),
        Column("same", B, "whether both belong to one identity"),
    ),
)
SCHEMAS = {
    s.name: s for s in (TRACKLETS, SPLIT, ITEMS, PROBES, ALIGNMENT, PLAN, FRAMES, FEATURES, QUARANTINE, INDEX, EMBEDDINGS, QUERIES, TRIALS)
}


def table(rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]], schema: Schema) -> pa.Table:
    """A checked table from rows (dicts) or from columns, sorted by the schema's key."""
    try:
        if isinstance(rows, Mapping):
            made = pa.table(dict(rows), schema=schema.arrow)
        else:
            made = pa.Table.from_pylist([dict(r) for r in rows], schema=schema.arrow)
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise TableError(f"{schema.name}: rows do not fit the schema ({error})") from None
    return check(_sorted(made, schema), schema)


def _sorted(made: pa.Table, schema: Schema) -> pa.Table:
    if not schema.key or _rising(made, schema.key):
        return made
    return made.sort_by([(name, "ascending") for name in schema.key])


def _rising(made: pa.Table, key: Sequence[str]) -> bool:
    """Whether each row's key is above the one before: then rows are sorted and keys unique, which is far cheaper to see than to bring about."""
    if made.num_rows < 2:
        return True
    above: pa.ChunkedArray | None = None
    for name in reversed(key):
        one, next_one = made.column(name).slice(0, made.num_rows - 1), made.column(name).slice(1)
        higher = pc.less(one, next_one)
        above = higher if above is None else pc.or_(higher, pc.and_(pc.equal(one, next_one), above))
    return pc.all(above, skip_nulls=False).as_py() is True


def check(made: pa.Table, schema: Schema, where: str = "") -> pa.Table:
    """Columns, types, no unexpected null, unique key; returns the table with the schema's columns in order.

    Raises:
        TableError: names the table, the column and what was expected.
    """
    where = where or schema.name
    missing = [c.name for c in schema.columns if c.name not in made.column_names]
    if missing:
        raise TableError(
            f"{where}: column {', '.join(missing)} missing; a '{schema.name}' table has {', '.join(c.name for c in schema.columns)}"
        )
    made = made.select([c.name for c in schema.columns])
    for column in schema.columns:
        found = made.schema.field(column.name).type
        if found != column.type:
            raise TableError(f"{where}: column {column.name} is {found}, expected {column.type}")
        if not column.nullable and made.column(column.name).null_count:
            raise TableError(f"{where}: column {column.name} has {made.column(column.name).null_count} empty cells, none allowed")
    if schema.key and not _rising(made, schema.key):
        counted = made.select(list(schema.key)).group_by(list(schema.key)).aggregate([([], "count_all")])
        if counted.num_rows != made.num_rows:
            twice = counted.filter(pc.greater(counted.column("count_all"), 1)).sort_by(schema.key[0]).to_pylist()[0]
            raise TableError(
                f"{where}: {made.num_rows - counted.num_rows} rows repeat the key ({', '.join(schema.key)}), which must be unique; first: "
                f"{', '.join(str(twice[name]) for name in schema.key)}"
            )
    return pa.Table.from_arrays([made.column(c.name) for c in schema.columns], schema=schema.arrow)


def write(path: str | os.PathLike[str], made: pa.Table, schema: Schema, meta: Mapping[str, Any] | None = None) -> None:
    """Check, sort by key and write, with provenance in the metadata; atomic, and the same rows give the same bytes."""
    # In one piece: Parquet cuts its pages where pieces end, and how many there are may depend on how many cores made them.
    made = check(_sorted(made, schema), schema, str(path)).combine_chunks()
    note = {"schema": schema.name, "version": schema.version, **(meta or {})}
    made = made.replace_schema_metadata({META: json.dumps(note, sort_keys=True, ensure_ascii=False).encode()})
    with atomic(path) as temporary:
        pq.write_table(made, temporary, row_group_size=1 << 16, store_schema=True, **_encoding(schema))
        seal(temporary)


def _encoding(schema: Schema) -> dict[str, Any]:
    """How columns are written: zstd, dictionaries and statistics for all but the raw ones."""
    if not schema.raw:
        return {"compression": "zstd"}
    rest = [column.name for column in schema.columns if column.name not in schema.raw]
    return {
        "compression": dict.fromkeys(rest, "zstd") | dict.fromkeys(schema.raw, "none"),
        "use_dictionary": rest,
        "write_statistics": rest,
    }


def write_rows(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]],
    schema: Schema,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """:func:`table`, then :func:`write`."""
    write(path, table(rows, schema), schema, meta)


def read(path: str | os.PathLike[str], schema: Schema, columns: Sequence[str] | None = None, rows_at_once: int = 0) -> pa.Table:
    """Read and check, every byte of the file included; `columns` gives only some of them (then only their types are checked).

    `rows_at_once` is for long rows: read in pieces of so many, which become chunks, a table needs half the memory or less.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(read_sealed(path)))
    except FileNotFoundError:
        raise TableError(f"{path}: no such file; expected a '{schema.name}' table") from None
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: not a readable Parquet file ({error})") from None
    note = _note(file.schema_arrow.metadata, path)
    if note.get("schema") != schema.name or note.get("version") != schema.version:
        raise TableError(
            f"{path}: found {note.get('schema', 'no')} table, version {note.get('version', '-')}; expected '{schema.name}', version {schema.version}"
            + ("; delete it and run again" if note.get("schema") == schema.name else "; give another file")
        )
    try:
        wanted = list(columns) if columns is not None else None
        pieces = list(file.iter_batches(rows_at_once, columns=wanted)) if rows_at_once else []
        made = pa.Table.from_batches(pieces) if pieces else file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: not a readable Parquet file ({error})") from None
    finally:
        file.close()
    if columns is not None:
        return made.select(list(columns)).replace_schema_metadata(None)
    return check(made, schema, str(path))


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The provenance note of a table file; of the file only the footer is read and checked."""
    try:
        return _note(pq.read_schema(pa.BufferReader(read_footer(path))).metadata, path)
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: not a readable Parquet file ({error})") from None


def _note(metadata: Mapping[bytes, bytes] | None, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        found = parse_json((metadata or {}).get(META, b"{}"))
    except ValueError as error:
        raise TableError(f"{path}: its entry '{META.decode()}' is not JSON ({error}); make the table again") from None
    return found if isinstance(found, dict) else {}
