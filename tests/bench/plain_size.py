"""What the stages of `bench_size` are held against: the same files, read by a script that checks nothing and writes nothing.

`python -m tests.bench.plain_size WHAT PATH ...`
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def listing(root: str) -> int:
    """Every frame of both halves, sorted."""
    found = 0
    for half in ("bbox_train", "bbox_test"):
        for person in _names(f"{root}/{half}"):
            found += len(_names(f"{root}/{half}/{person}"))
    return found


def _names(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def clips(root: str) -> int:
    """The table of clips and the durations through polars, and the size of every clip."""
    import polars as pl

    rows = pl.read_csv(f"{root}/train.tsv", columns=["client_id", "path"], separator="\t", quote_char=None, infer_schema=False)
    seconds = pl.read_csv(f"{root}/clip_durations.tsv", separator="\t")
    joined = rows.join(seconds, left_on="path", right_on="clip", how="left")
    with os.scandir(f"{root}/clips") as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    return sum(sizes[name] for name in joined["path"])


def load(*paths: str) -> int:
    """Tables through pyarrow."""
    import pyarrow.parquet as pq

    return sum(pq.read_table(path).num_rows for path in paths)


def join(folder: str) -> int:
    """All twins through pyarrow, into one table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    twins = sorted(path for path in Path(folder).glob("*.parquet") if path.stem.isdigit())
    return pa.concat_tables([pq.read_table(path) for path in twins]).num_rows


if __name__ == "__main__":
    print({"listing": listing, "clips": clips, "load": load, "join": join}[sys.argv[1]](*sys.argv[2:]))
