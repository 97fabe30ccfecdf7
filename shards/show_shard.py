"""List the samples of a shard or a store, or write one sample's frames and arrays as files.

In:      INDEX, or one tar with its twin beside it.   Out: a table on stdout; with --extract, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import cli, files
from pipeline.base.errors import ShardError
from shards import codec
from shards.read import Store

COLUMNS = ("key", "identity", "kind", "camera", "frames", "items", "bytes")


def listing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows of INDEX as lines of a table: heading, samples, sums."""
    cells = [[str(row["size" if column == "bytes" else column]) for column in COLUMNS] for row in rows]
    sums = [str(sum(row[column] for row in rows)) for column in ("frames", "items", "size")]
    cells = [list(COLUMNS), *cells, [f"{len(rows)} samples", "", "", "", *sums]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = (0, 1, 2)  # names; the rest are numbers
    return [
        "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]


def details(sample: codec.Sample) -> list[str]:
    """What one sample holds: frames with their sizes, items with their shapes and the frames that hear them."""
    lines = [f"frame {number:>4}  {len(jpeg):>8} bytes  {path}" for number, (jpeg, path) in enumerate(_frames(sample))]
    for kind, items in sample.companions.items():
        heard = codec.resolve(items.align)
        for number, (name, length) in enumerate(zip(sample.meta["items"], items.lengths.tolist(), strict=True)):
            frames = np.flatnonzero(heard == number).tolist()
            lines.append(
                f"{kind} {number:>4}  {length} x {items.values.shape[1]} {items.values.dtype}  {name}  heard by frames {_runs(frames)}"
            )
        if silent := np.flatnonzero(heard < 0).tolist():
            lines.append(f"{kind}: frames {_runs(silent)} hear nothing")
    return lines


def _frames(sample: codec.Sample) -> list[tuple[bytes, str]]:
    return list(zip(sample.frames, sample.meta["frames"], strict=True))


def _runs(numbers: list[int]) -> str:
    """Rising numbers in short: 0-5, 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "-"


def extract(sample: codec.Sample, folder: Path) -> list[str]:
    """Write frame_000.jpg ..., meta.json and each array as .npy into `folder`; returns the names, which are all made here."""
    digits = max(3, len(str(len(sample.frames) - 1)))
    contents = {f"frame_{number:0{digits}}.jpg": jpeg for number, jpeg in enumerate(sample.frames)}
    members = codec.encode(sample)
    contents["meta.json"] = members[codec.META]
    contents |= {suffix: data for suffix, data in members.items() if suffix.endswith(".npy")}
    for name, data in contents.items():
        with files.atomic_open(folder / name) as out:
            out.write(data)
    return list(contents)


def show(lines: Sequence[str]) -> None:
    """Print lines that hold names from anywhere."""
    print("\n".join(map(cli.printable, lines)))


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("shard", type=Path, metavar="INDEX_OR_TAR")
    arguments.add_argument("--key", help="show this sample in detail")
    arguments.add_argument("--extract", type=Path, metavar="DIR", help="write the sample named by --key into this folder")
    args = arguments.parse_args(argv)
    if args.extract is not None and args.key is None:
        raise ShardError("--extract writes one sample: name it with --key")
    index = args.shard.with_suffix(".parquet") if args.shard.suffix == ".tar" else args.shard
    if not index.is_file():
        raise ShardError(f"{args.shard}: no index {index}; a tar is read with its twin, which pack_shard writes last")
    store = Store(index)
    rows = store.table.to_pylist()
    if args.key is None:
        show(listing(rows))
        return
    sample = store.sample(args.key)
    show([*listing([row for row in rows if row["key"] == args.key]), "", *details(sample)])
    if args.extract is not None:
        names = extract(sample, args.extract)
        print(f"\n{len(names)} files in {args.extract}")


if __name__ == "__main__":
    cli.run(main)
