"""Turn the frames of one shard into JPEGs of the stored size.

In:      TRACKLETS, PLAN, the pictures below the data set's root.   Out: FRAMES and QUARANTINE of the shard.
Source:  layout.md section 9; promise R4: a broken picture is never passed over in silence. `broken: stop` ends the step
         after the whole shard was scanned; `broken: drop` leaves broken frames out and lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import build, cli, tables
from pipeline.base.config import FramesConfig
from pipeline.base.errors import MediaError, SourceError, UserError
from pipeline.features import frames

LISTED = 10
"""Broken frames that an error spells out; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tracklet."""

    row: dict[str, Any]
    """Of FRAMES."""
    broken: list[dict[str, str]]
    """Rows of QUARANTINE."""
    missing: list[str]
    """Paths that are no files."""


def encode_tracklet(tracklet: str, paths: list[str], root: Path, config: FramesConfig) -> Encoded:
    """All frames of one tracklet; broken and missing ones are listed, not raised."""
    good: list[bytes] = []
    kept: list[int] = []
    made = 0
    broken, missing = [], []
    for index, path in enumerate(paths):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise SourceError(f"tracklet {tracklet}: frame path '{path}' leaves the data set's root; paths must be relative to it")
        try:
            with open(root / path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            missing.append(path)
            continue
        except OSError as error:
            raise SourceError(f"tracklet {tracklet}: '{path}' below {root} cannot be read ({error.strerror})") from None
        try:
            jpeg, resized = frames.encode(data, config)
        except MediaError as error:
            broken.append({"path": path, "what": "frame", "reason": error.reason, "detail": error.detail})
            continue
        good.append(jpeg)
        kept.append(index)
        made += resized
    row = {"tracklet": tracklet, "values": b"".join(good), "lengths": [len(jpeg) for jpeg in good], "kept": kept, "resized": made}
    return Encoded(row, broken, missing)


def encode_all(tracklets: Iterable[tuple[str, list[str]]], root: Path, config: FramesConfig, threads: int) -> Iterator[Encoded]:
    """:func:`encode_tracklet` for each (tracklet, paths), in their order, whatever `threads`."""
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda pair: encode_tracklet(pair[0], pair[1], root, config), tracklets)


def judge(done: list[Encoded], root: Path, config: FramesConfig, dataset: str, shard: int) -> None:
    """End the step if frames are missing, broken though `config.broken` is 'stop', or a tracklet has none left.

    Raises:
        SourceError, UserError: lists the first frames and counts all.
    """
    here = f"{dataset}, shard {shard}"
    if missing := [path for one in done for path in one.missing]:
        raise SourceError(
            f"{here}: {len(missing)} frames of TRACKLETS are not below {root}: {_some(missing)}; complete the data set or run read_tracklets again"
        )
    broken = [f"{row['path']} ({row['reason']})" for one in done for row in one.broken]
    if broken and config.broken == "stop":
        raise UserError(
            f"{here}: {len(broken)} broken frames: {_some(broken)}; mend them, or leave them out with datasets.{dataset}.frames.broken: drop"
        )
    if empty := [one.row["tracklet"] for one in done if not one.row["kept"]]:
        raise SourceError(
            f"{here}: all frames of tracklet {_some(empty)} are broken and nothing is left of it; mend or remove the tracklet"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--quarantine", type=Path, required=True)
    arguments.add_argument("--tracklets", type=Path, required=True)
    arguments.add_argument("--plan", type=Path, required=True)
    arguments.add_argument("--shard", type=int, required=True, help="number from 0")
    arguments.add_argument("--root", type=Path, required=True, help="folder of the data set as shipped")
    arguments.add_argument("--threads", type=int, default=1)
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    config = cli.load(FramesConfig, args.config, "frames")
    dataset = tables.read_meta(args.tracklets)["dataset"]

    plan = tables.read(args.plan, tables.PLAN, ["tracklet", "shard"])
    here = plan.filter(pc.equal(plan.column("shard"), args.shard)).column("tracklet")
    if len(here) == 0:
        raise UserError(f"{args.plan}: no tracklet in shard {args.shard}; give a number of the plan")
    known = tables.read(args.tracklets, tables.TRACKLETS, ["tracklet", "frames"])
    rows = known.filter(pc.is_in(known.column("tracklet"), pa.array(here.to_pylist()))).sort_by("tracklet")
    if rows.num_rows != len(here):
        raise UserError(f"{args.plan}: shard {args.shard} has tracklets that {args.tracklets} lacks; run plan_shards again")
    pairs = zip(rows.column("tracklet").to_pylist(), rows.column("frames").to_pylist(), strict=True)
    done = list(encode_all(pairs, args.root, config, args.threads))

    # The log names every broken frame, even where the error below spells out only some.
    broken = list({row["path"]: row for one in done for row in one.broken}.values())  # two tracklets may share a file
    note = {"dataset": dataset, "shard": args.shard}
    for row in broken:
        print(f"broken frame: {row['path']}: {row['reason']}: {row['detail']}")
    tables.write_rows(args.quarantine, broken, tables.QUARANTINE, note)
    judge(done, args.root, config, dataset, args.shard)
    meta = {**note, "frames": build.plain(config), "pillow": PIL.__version__, "dropped": len(broken)}
    tables.write_rows(args.out, [one.row for one in done], tables.FRAMES, meta)


if __name__ == "__main__":
    cli.run(main)
