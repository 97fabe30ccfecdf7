"""Turn the frames of one shard into JPEGs of the stored size.

In:      TRACKLETS, PLAN, the pictures below the data set's root.   Out: a stream (JPEG files one after another, tracklet
         after tracklet: players open it), QUARANTINE, and FRAMES, which says where each tracklet lies in the stream. FRAMES
         is written last: it exists = the shard is done. One tracklet at a time is in memory, and few of its source files.
Source:  layout.md section 9; promise R4: a broken picture is never passed over in silence. `broken: stop` ends the step
         after the whole shard was scanned; `broken: drop` leaves broken frames out and lists them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import build, cli, files, pictures, tables
from pipeline.base.blocks import BlockWriter
from pipeline.base.config import FramesConfig
from pipeline.base.errors import MediaError, SourceError, UserError
from pipeline.features import frames

FACTS = ("dataset", "identity", "kind", "camera")
"""What FRAMES takes over from TRACKLETS."""
WAITING = 2
"""Source files per thread that are held at once, at work and waiting: those of a tracklet may be many, and tens of megabytes each."""
LISTED = 10
"""Broken frames that an error spells out; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tracklet."""

    row: dict[str, Any]
    """Of FRAMES, without `offset` and what TRACKLETS and PLAN say."""
    jpegs: list[bytes]
    broken: list[dict[str, str]]
    """Rows of QUARANTINE."""
    missing: list[str]
    """Paths that are no files."""


Submit = Callable[..., Future[tuple[bytes, bool]]]
"""As `Executor.submit`, of :func:`frames.encode`."""


def immediately(call: Callable[..., tuple[bytes, bool]], *arguments: Any) -> Future[tuple[bytes, bool]]:
    """Call in this thread."""
    future: Future[tuple[bytes, bool]] = Future()
    try:
        future.set_result(call(*arguments))
    except MediaError as error:
        future.set_exception(error)
    return future


def encode_tracklet(tracklet: str, paths: list[str], root: Path, config: FramesConfig, submit: Submit = immediately) -> Encoded:
    """All frames of one tracklet; broken and missing ones are listed, not raised.

    Frames that have to be made are given to `submit`. Frames that are taken as they are stay in this thread: to read one and to
    look at its markers takes microseconds, less than to hand it over.
    """
    missing: list[str] = []
    found: list[tuple[int, bytes, Future[tuple[bytes, bool]] | None]] = []
    below = f"{root}/"  # strings, because a Path for each frame takes as long as reading it
    for index, path in enumerate(paths):
        if path.startswith("/") or ".." in path.split("/"):
            raise SourceError(f"tracklet {tracklet}: frame path '{path}' leaves the data set's root; paths must be relative to it")
        try:
            data = pictures.read(below + path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):  # ValueError: a NUL, which no name has
            missing.append(path)
            continue
        except OSError as error:
            raise SourceError(f"tracklet {tracklet}: '{path}' below {root} cannot be read ({error.strerror})") from None
        if not config.check and frames.is_stored_form(data, config.height, config.width):
            found.append((index, data, None))
        else:
            found.append((index, b"", submit(frames.encode, data, config)))

    jpegs: list[bytes] = []
    kept: list[int] = []
    broken: list[dict[str, str]] = []
    made = 0
    digest = hashlib.sha256()
    for index, data, future in found:
        try:
            jpeg, resized = (data, False) if future is None else future.result()
        except MediaError as error:
            broken.append({"path": paths[index], "what": "frame", "reason": error.reason, "detail": error.detail})
            continue
        jpegs.append(jpeg)
        kept.append(index)
        made += resized
        digest.update(jpeg)
    lengths = [len(jpeg) for jpeg in jpegs]
    row = {"tracklet": tracklet, "size": sum(lengths), "digest": digest.hexdigest(), "lengths": lengths}
    row |= {"paths": [paths[index] for index in kept], "kept": kept, "resized": made}
    return Encoded(row, jpegs, broken, missing)


def encode_all(tracklets: Iterable[tuple[str, list[str]]], root: Path, config: FramesConfig, threads: int) -> Iterator[Encoded]:
    """:func:`encode_tracklet` for each (tracklet, paths), in their order, one after another, whatever `threads`."""
    if threads == 1:
        yield from (encode_tracklet(*pair, root, config) for pair in tracklets)
        return
    with ThreadPoolExecutor(threads) as pool:
        room = Semaphore(WAITING * threads)

        def submit(call: Callable[..., tuple[bytes, bool]], *arguments: Any) -> Future[tuple[bytes, bool]]:
            room.acquire()
            future = pool.submit(call, *arguments)
            future.add_done_callback(lambda _: room.release())
            return future

        yield from (encode_tracklet(*pair, root, config, submit) for pair in tracklets)


def write_stream(out: BlockWriter, encoded: Iterable[Encoded]) -> tuple[list[dict[str, Any]], list[dict[str, str]], list[str]]:
    """Write all frames one after another; returns rows of FRAMES, those of QUARANTINE, and the paths that are no files."""
    rows: list[dict[str, Any]] = []
    broken: list[dict[str, str]] = []
    missing: list[str] = []
    offset = 0
    for one in encoded:
        for jpeg in one.jpegs:
            out.write(jpeg)
        rows.append({**one.row, "offset": offset})
        offset += one.row["size"]
        broken += one.broken
        missing += one.missing
    out.flush()
    return rows, broken, missing


def judge(
    rows: list[dict[str, Any]], broken: list[dict[str, str]], missing: list[str], root: Path, config: FramesConfig, dataset: str, shard: int
) -> None:
    """End the step if frames are missing, broken though `config.broken` is 'stop', or a tracklet has none left.

    Raises:
        SourceError, UserError: lists the first frames and counts all.
    """
    here = f"{dataset}, shard {shard}"
    if missing:
        raise SourceError(
            f"{here}: {len(missing)} frames of TRACKLETS are not below {root}: {_some(missing)}; complete the data set or run read_tracklets again"
        )
    if broken and config.broken == "stop":
        named = [f"{row['path']} ({row['reason']})" for row in broken]
        raise UserError(
            f"{here}: {len(broken)} broken frames: {_some(named)}; mend them, or leave them out with datasets.{dataset}.frames.broken: drop"
        )
    if empty := [row["tracklet"] for row in rows if not row["kept"]]:
        raise SourceError(
            f"{here}: all frames of tracklet {_some(empty)} are broken and nothing is left of it; mend or remove the tracklet"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--stream", type=Path, required=True, help="<shard>.mjpeg")
    arguments.add_argument("--quarantine", type=Path, required=True)
    arguments.add_argument("--tracklets", type=Path, required=True)
    arguments.add_argument("--plan", type=Path, required=True)
    arguments.add_argument("--shard", type=int, required=True, help="number from 0")
    arguments.add_argument("--root", type=Path, required=True, help="folder of the data set as shipped")
    arguments.add_argument("--threads", type=int, default=1)
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    config = cli.load(FramesConfig, args.config, "frames")
    about = tables.read_meta(args.tracklets)
    dataset = about["dataset"]

    plan = tables.read(args.plan, tables.PLAN)
    here = plan.filter(pc.equal(plan.column("shard"), args.shard)).select(["tracklet", "order", "frames"]).to_pylist()
    if not here:
        raise UserError(f"{args.plan}: no tracklet in shard {args.shard}; give a number of the plan")
    known = tables.read(args.tracklets, tables.TRACKLETS, ["tracklet", *FACTS, "frames"])
    rows = known.filter(pc.is_in(known.column("tracklet"), pa.array([row["tracklet"] for row in here]))).sort_by("tracklet")
    if rows.num_rows != len(here):
        raise UserError(f"{args.plan}: shard {args.shard} has tracklets that {args.tracklets} lacks; run plan_shards again")
    pairs = zip(rows.column("tracklet").to_pylist(), rows.column("frames").to_pylist(), strict=True)
    note = {"dataset": dataset, "shard": args.shard}

    args.out.unlink(missing_ok=True)  # a table of an older stream must not vouch for this one
    with files.atomic(args.stream) as temporary:
        with open(temporary, "wb", buffering=0) as stream:
            made, broken, missing = write_stream(BlockWriter(stream), encode_all(pairs, args.root, config, max(args.threads, 1)))
        # The log names every broken frame, even where the error below spells out only some.
        listed = list({row["path"]: row for row in broken}.values())  # two tracklets may share a file
        for row in listed:
            print(cli.printable(f"broken frame: {row['path']}: {row['reason']}: {row['detail']}"))
        tables.write_rows(args.quarantine, listed, tables.QUARANTINE, note)
        judge(made, broken, missing, args.root, config, dataset, args.shard)
    places = {row["tracklet"]: row for row in here}
    facts = {row["tracklet"]: row for row in rows.select(["tracklet", *FACTS]).to_pylist()}
    made = [{**facts[row["tracklet"]], **places[row["tracklet"]], **row} for row in made]
    meta = {**note, "cameras": about["cameras"], "frames": build.plain(config), "pillow": PIL.__version__, "dropped": len(listed)}
    tables.write_rows(args.out, made, tables.FRAMES, meta)


if __name__ == "__main__":
    cli.run(main)
