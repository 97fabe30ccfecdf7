"""Encode the companion items that one shard's tracklets hear (one job per shard, never per clip).

In:      ALIGNMENT, PLAN, the shard's number, the folder of the items.
Out:     FEATURES, one row per distinct item: log-mel pictures; of kind 'audio_tokens' waveforms, which `model.encode_tokens`
         turns into tokens, or tokens that somebody else has made.
Source:  specs/dubbernet.md 3.1. An item heard in two shards is encoded in both; an item heard by many runs of a shard once.
         The bytes do not depend on the number of threads: each clip is computed by one thread alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import cli
from pipeline.base.config import CompanionConfig
from pipeline.base.errors import MediaError, SourceError
from pipeline.base.files import below
from pipeline.base.tables import ALIGNMENT, FEATURES, PLAN, read, write_rows
from pipeline.base.withdrawn import LIST, read_list
from pipeline.features import ENCODERS


def items_of(alignment: pa.Table, plan: pa.Table, shard: int) -> list[dict[str, Any]]:
    """Distinct items that the tracklets of a shard hear: rows (item, path, start, seconds) in order of item."""
    mine = plan.filter(pc.equal(plan.column("shard"), shard)).column("tracklet")
    heard = alignment.filter(pc.is_in(alignment.column("tracklet"), value_set=mine.combine_chunks()))
    distinct = {row["item"]: row for row in heard.select(["item", "path", "start", "seconds"]).to_pylist()}
    return [distinct[item] for item in sorted(distinct)]


def encode(items: list[dict[str, Any]], root: Path, config: CompanionConfig, seed: int, threads: int) -> Iterator[dict[str, Any]]:
    """Rows of FEATURES, in the order of `items`.

    Raises:
        SourceError: a clip cannot be encoded any more (it could when it was probed), or its precomputed tokens cannot be used.
    """
    encoder = ENCODERS[config.kind]
    folder = encoder.folder(config, root)

    def one(row: dict[str, Any]) -> dict[str, Any]:
        path = below(folder, row["path"]) if row["path"] else None
        try:
            values = encoder.encode(row["item"], path, row["start"], row["seconds"], config, seed)
        except MediaError as error:
            raise SourceError(
                f"{row['path'] or row['item']}: {error}; the clip was usable when align_companion probed it: "
                "put the file back, or delete the alignment table and run align_companion again"
            ) from None
        length, width = values.shape
        return {"item": row["item"], "values": values.tobytes(), "length": length, "width": width, "dtype": str(values.dtype)}

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, items)


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="FEATURES to write")
    arguments.add_argument("--alignment", required=True)
    arguments.add_argument("--plan", required=True)
    arguments.add_argument("--shard", required=True, type=int)
    arguments.add_argument("--root", required=True, type=Path, help="folder that ALIGNMENT.path is relative to")
    arguments.add_argument("--seed", type=int, required=True)
    arguments.add_argument("--threads", type=int, default=1)
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    config = cli.load(CompanionConfig, args.config, "companion")
    encoder = ENCODERS[config.kind]
    encoder.check(config)
    items = items_of(read(args.alignment, ALIGNMENT), read(args.plan, PLAN, ["tracklet", "shard"]), args.shard)
    gone = read_list(args.root)
    if named := [row["item"] for row in items if row["item"] in gone]:
        raise SourceError(
            f"{args.alignment}: names {named[0]}, which {args.root / LIST} lists as withdrawn: it is not decoded; "
            f"run `python -m shards.withdraw --root {args.root}` (it takes out what is listed), then the same command again"
        )
    rows = list(encode(items, args.root, config, args.seed, max(args.threads, 1)))
    about = encoder.about(config)
    write_rows(args.out, rows, FEATURES, {"kind": config.kind, "shard": args.shard, "seed": args.seed, **about})
    print(f"encode_companion: {len(rows)} items as {about['form']}, {sum(row['length'] for row in rows)} x {about['bands']} values")


if __name__ == "__main__":
    cli.run(main)
