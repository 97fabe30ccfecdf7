"""Common Voice, Scripted Speech: the clips of one language, by speaker.

In:      the root of one language: ``clips/*.mp3``, the table of clips (``train.tsv``) and, if there, the durations
         (``clip_durations.tsv``, in releases 14-16.0 ``times.txt``).
Out:     ITEMS, one clip per row; `order` is the order of the table.
Source:  specs/datasets.md sections 7.3 and 7.4. Columns are found by name: their order changed from release to
         release. Tables of 2019 are quoted as CSV, later ones not at all, and a CSV reader swallows rows of the latter
         without an error: so the way is chosen by header and content, and then proved (see `read_table`).

What a speaker is called never leaves this file: `client_id` becomes ``spk_`` and a salted hash. The columns `sentence`
and `accents` are not read. No message repeats what a table holds, because a damaged one may hold these in any place: it
gives the line.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.base.config import VoicesConfig
from pipeline.base.errors import SourceError
from pipeline.base.tables import ITEMS
from pipeline.sources import listing

if TYPE_CHECKING:
    import polars as pl

LICENCE = "CC0-1.0; do not try to find out who a speaker is, do not pass copies on; terms: Mozilla Data Collective"
DESCRIBED = f"{listing.OWN_DATA} (official: 'Common Voice Scripted Speech' at the Mozilla Data Collective)"
EXPECTED = "the folder of one language, with clips/ and, beside it, the table that voices.<name>.table names (train.tsv unless set)"

SALT = b"dubtrack speaker "
"""Put before `client_id`: our hashes cannot be matched with plain hashes of the same names made elsewhere."""

NEEDED = ("client_id", "path")
LATER_THAN_2019 = ("locale", "sentence_id")
"""A header with one of these columns is younger than CSV quoting."""
DURATION_FILES = ("clip_durations.tsv", "times.txt")
DURATION_COLUMNS = ["clip", "duration[ms]"]

RELEASED = {
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accent",
    "accents",
    "variant",
    "locale",
    "segment",
    "reason",
}
"""Columns of all releases: these names may be repeated in a message."""

CLIP = re.compile(r"(?P<item>[^/\\.][^/\\]*)\.mp3")
QUOTED_CELL = re.compile(rb'(?<=[\t\n])"(?:[^"\n]|"")*"(?=[\t\r\n]|\Z)')
"""A cell as a csv writer quotes it: from end to end, quotes in it doubled. No line ends: no release has them in a cell."""
CHUNK = 1 << 25
"""Bytes that are looked at together (memory, not meaning)."""


class ClipTable(NamedTuple):
    """What is used of a table of clips."""

    rows: pl.DataFrame
    """client_id and path: str, never empty; in the order of the table, path as it stands there."""
    quoting: str
    """'csv' or 'none'."""


def parse_clip(name: str) -> str:
    """Item of a clip's file name; :func:`format_clip` is its exact inverse."""
    match = CLIP.fullmatch(name)
    if match is None:
        raise SourceError("common_voice: this is not the name of a clip; expected e.g. common_voice_en_1.mp3")
    return match["item"]


def format_clip(item: str) -> str:
    return f"{item}.mp3"


def owner_name(client_id: str) -> str:
    """'spk_' and 16 hex characters (BLAKE2b of 8 bytes over SALT and the client_id)."""
    return "spk_" + hashlib.blake2b(SALT + client_id.encode(), digest_size=8).hexdigest()


def holds(root: Path, config: VoicesConfig) -> bool:
    """The table and, beside it, the clips."""
    table = root / config.table
    return table.is_file() and table.with_name("clips").is_dir()


def read_items(root: Path, config: VoicesConfig) -> tuple[pa.Table, dict[str, Any]]:
    """ITEMS, one clip per row, and notes: counts, quoting, digest of the table.

    A clip without a file has -1 bytes, one without a duration has no seconds; both are counted in the notes.

    Raises:
        SourceError: the table lacks a column, is in neither of the two known forms, names a clip twice or lists none.
    """
    import polars as pl

    file = root / config.table
    rows, quoting = read_table(file)
    if rows.is_empty():
        raise SourceError(f"{file}: lists no clip; choose another table of the release with voices.<name>.table")
    # tables of 2019 name some clips without the ending
    name = pl.col("path")
    bare = _check_columns(rows, file)
    clips = rows.with_columns(path=pl.when(name.str.ends_with(".mp3")).then(name).otherwise(name + ".mp3"))
    _check_names(clips["path"], file)

    speakers = clips["client_id"].unique().sort()
    owners = pl.DataFrame({"client_id": speakers, "owner": [owner_name(speaker) for speaker in speakers]}).with_row_index("owner_order")
    assert owners["owner"].n_unique() == len(speakers), "two speakers share a hash"
    seconds, duration_file = _durations(file.parent)
    folder = Path(config.table).with_name("clips").as_posix()
    found = listing.sizes_in(root / folder, set(clips["path"]))
    if bare.any() and set(clips["path"].filter(bare)).isdisjoint(found[0]):
        raise SourceError(
            f"{file}: line {bare.arg_true()[0] + 2} and others name clips without the ending .mp3, and none of these is in {root / folder}; "
            "does the header stand over the right columns?"
        )
    sizes = pl.DataFrame(found, schema={"path": pl.String, "bytes": pl.Int64})

    items = (
        clips.with_row_index("order")
        .join(owners, on="client_id", how="left", maintain_order="left")
        .join(seconds, on="path", how="left", maintain_order="left")
        .join(sizes, on="path", how="left", maintain_order="left")
        .select(
            item=name.str.strip_suffix(".mp3"),
            kind=pl.lit("audio"),
            owner="owner",
            owner_order="owner_order",
            order="order",
            path=pl.lit(f"{folder}/") + name,
            start=pl.lit(None, pl.Float64),
            seconds="seconds",
            first=pl.lit(None, pl.Int32),
            last=pl.lit(None, pl.Int32),
            bytes=pl.col("bytes").fill_null(-1),
        )
        .sort("item")  # by bytes, as tables are written; polars does it faster
    )
    counts = {
        "clips": items.height,
        "speakers": len(speakers),
        "clips without a file": items.filter(pl.col("bytes") < 0).height,
        "clips without a duration": items["seconds"].null_count(),
    }
    read = [config.table, *([str(PurePosixPath(config.table).with_name(duration_file))] if duration_file else [])]
    notes = {"table": config.table, "quoting": quoting, "durations": duration_file, "counts": counts, **listing.lists_read(root, *read)}
    return items.select(ITEMS.arrow.names).to_arrow().cast(ITEMS.arrow), notes


def read_table(path: Path) -> ClipTable:
    """Speaker and file name of every clip of one table, in any layout from 2019 on.

    CSV quoting is assumed only if the header is of 2019 and every quote of the file stands where the csv writer puts
    quotes. Whichever way is chosen is then proved: every line has as many fields as the header, the reader gives one
    row per line, no cell of the two columns is empty.

    Raises:
        SourceError: names the file and the line or column that is in the way.
    """
    import polars as pl

    with path.open("rb") as file:
        if not path.stat().st_size:
            raise SourceError(f"{path}: an empty file; expected a table of clips with the columns {', '.join(NEEDED)}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            columns = header(content[: _line_end(content)], path)
            bare = _without_quoted_cells(content, columns)
            csv = bare is not None
            lines = _check_fields(content if bare is None else bare, len(columns), path)
    try:
        rows = pl.read_csv(
            path,
            columns=list(NEEDED),
            separator="\t",
            quote_char='"' if csv else None,
            infer_schema=False,
            empty_string_is_null=False,
            glob=False,
        )
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{path}: not a table of UTF-8 text ({type(error).__name__})") from None
    if rows.height != lines - 1:
        raise SourceError(f"{path}: the reader found {rows.height} rows, the file has {lines - 1} lines below its header")
    for column in NEEDED:
        empty = rows[column].str.strip_chars().eq("").arg_true()
        if len(empty):
            raise SourceError(f"{path}: line {empty[0] + 2} has an empty {column}; expected one on every line")
    return ClipTable(rows.select(NEEDED), "csv" if csv else "none")


def header(line: bytes, path: Path) -> list[str]:
    """Column names of a table's first line, which must hold each needed one once."""
    columns = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").strip("\r\n").split("\t")
    wrong = [f"no column '{name}'" for name in NEEDED if name not in columns]
    wrong += [f"{columns.count(name)} columns '{name}'" for name in NEEDED if columns.count(name) > 1]
    if wrong:
        known = [name for name in columns if name in RELEASED]
        raise SourceError(
            f"{path}: the header has {' and '.join(wrong)} (found: {', '.join([*known, f'{len(columns) - len(known)} that no release has'])});"
            f" expected a table of clips as Common Voice ships it, with {' and '.join(NEEDED)} once each"
        )
    return columns


def _line_end(content: mmap.mmap) -> int:
    end = content.find(b"\n")
    return len(content) if end < 0 else end


def _without_quoted_cells(content: mmap.mmap, columns: Sequence[str]) -> bytes | None:
    """The file with its quoted cells emptied, if it is quoted as CSV: a header of 2019, and no quote outside such cells.
    None if it is not, which is also said of a file without any quote."""
    if set(LATER_THAN_2019) & set(columns) or content.find(b'"') < 0:
        return None
    bare = QUOTED_CELL.sub(b"", content[:])
    return None if b'"' in bare else bare


def _check_fields(content: bytes | mmap.mmap, fields: int, path: Path) -> int:
    """Count the lines of a tab-separated file, header included, and refuse one with another number of fields: the
    readers we know fill or cut such lines without a word."""
    lines = 0
    for tabs in _tabs_by_line(content):
        wrong = np.flatnonzero(tabs != fields - 1)
        if len(wrong):
            line = lines + int(wrong[0]) + 1
            raise SourceError(
                f"{path}: line {line} has {tabs[wrong[0]] + 1} fields, the header has {fields}; the file is damaged or quoted in a way we do not know"
            )
        lines += len(tabs)
    return lines


def _tabs_by_line(content: bytes | mmap.mmap) -> Iterator[np.ndarray]:
    """Number of tabs on each line, int64 [lines of one chunk]; a last line without a line end counts."""
    start, size = 0, len(content)
    while start < size:
        end = start + CHUNK
        if end < size:
            end = content.find(b"\n", end) + 1 or size
        chunk = np.frombuffer(content[start:end], np.uint8)
        ends = np.flatnonzero(chunk == ord("\n"))
        if not len(ends) or ends[-1] != len(chunk) - 1:
            ends = np.append(ends, len(chunk))
        yield np.diff(np.searchsorted(np.flatnonzero(chunk == ord("\t")), ends), prepend=0)
        start = end


def _check_columns(rows: pl.DataFrame, path: Path) -> pl.Series:
    """Refuse a table whose header stands over other columns: what is in these would become names of clips.

    Returns:
        bool [rows]: which clips are named without their ending.
    """
    bare = ~rows["path"].str.ends_with(".mp3")
    for told, wrong in (
        ("client_id is the name of an mp3 file", rows["client_id"].str.ends_with(".mp3")),
        ("path is no name of a clip", bare & ~rows["path"].str.contains("^[0-9A-Za-z_-]+$")),
    ):
        if wrong.any():
            raise SourceError(f"{path}: line {wrong.arg_true()[0] + 2}: its {told}; does the header stand over the right columns?")
    return bare


def _check_names(names: pl.Series, path: Path) -> None:
    """Refuse clips that are no plain names of mp3 files, and clips that are named twice."""
    odd = (~names.str.contains(f"^(?:{CLIP.pattern})$")).arg_true()
    if len(odd):
        raise SourceError(f"{path}: line {odd[0] + 2}: its path is no plain file name; expected one such as common_voice_en_1.mp3")
    if names.n_unique() != len(names):
        first = names.is_duplicated().arg_true()[0]
        second = (names == names[first]).arg_true()[1]
        raise SourceError(f"{path}: lines {first + 2} and {second + 2} name the same clip; expected every clip once")


def _durations(folder: Path) -> tuple[pl.DataFrame, str]:
    """path: str, seconds: float64, each clip once; and the file they come from ('' and no rows if there is none)."""
    import polars as pl

    name = next((name for name in DURATION_FILES if (folder / name).is_file()), "")
    if not name:
        return pl.DataFrame(schema={"path": pl.String, "seconds": pl.Float64}), ""
    path = folder / name
    with path.open("rb") as file:
        first = file.readline().decode("utf-8", "replace").rstrip("\r\n").split("\t")
    titled = first == DURATION_COLUMNS
    if not titled and not _is_duration(first):
        raise SourceError(
            f"{path}: the first line has {len(first)} fields and is not as expected: the columns {' and '.join(DURATION_COLUMNS)}"
        )
    try:
        table = pl.read_csv(
            path, has_header=titled, new_columns=["path", "ms"], separator="\t", quote_char=None, infer_schema=False, glob=False
        )
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{path}: not a table of UTF-8 text ({type(error).__name__})") from None
    milliseconds = table["ms"].cast(pl.Float64, strict=False)
    bad = (milliseconds.is_null() | table["path"].is_null() | table["path"].is_duplicated()).arg_true()
    if len(bad):
        raise SourceError(f"{path}: line {bad[0] + 1 + titled}: expected a clip that no other line names, a tab and its milliseconds")
    # divided by NumPy: polars multiplies by 0.001, which is off by one bit for some
    return table.select("path").with_columns(seconds=pl.Series(milliseconds.to_numpy() / 1000)), name


def _is_duration(fields: Sequence[str]) -> bool:
    return len(fields) == 2 and fields[0].endswith(".mp3") and fields[1].strip().replace(".", "", 1).isdigit()
