"""Give every tracklet its shard.

In:      TRACKLETS.   Out: PLAN (tracklet -> shard, order), balanced by frames.
Source:  layout.md section 9. Ours: an identity stays in one shard while it has at most half of a shard's mean number of
         frames; longer ones, distractors and junk are placed tracklet by tracklet. Units go, longest first, to the shard
         with the fewest frames so far, so no shard exceeds the mean by more than half of it or by one long tracklet.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import cli, tables
from pipeline.base.errors import ConfigError, TableError


def plan(tracklets: pa.Table, shards: int, dataset: str) -> pa.Table:
    """PLAN of all tracklets; depends on names and lengths, not on the order of rows.

    Args:
        tracklets: TRACKLETS.
        shards: how many; every one gets at least one tracklet.
        dataset: name of the data set, for messages.

    Raises:
        ConfigError: fewer tracklets than shards.
        TableError: a tracklet without a frame.
    """
    count = tracklets.num_rows
    if shards < 1 or count < shards:
        raise ConfigError(
            f"datasets.{dataset}.shards={shards}: the data set has {count} tracklets and no shard may be empty; lower datasets.{dataset}.shards to 1..{count}"
        )
    names = tracklets.column("tracklet").to_pylist()
    frames = pc.list_value_length(tracklets.column("frames")).to_pylist()
    if 0 in frames:
        raise TableError(f"{dataset}: tracklet '{names[frames.index(0)]}' has no frame; run read_tracklets again")
    length = dict(zip(names, frames, strict=True))
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, identity, kind in zip(names, tracklets.column("identity").to_pylist(), tracklets.column("kind").to_pylist(), strict=True):
        groups[(kind, identity) if kind == "person" else (kind, identity, name)].append(name)

    rows: list[dict[str, Any]] = []
    for shard, chosen in enumerate(_assign(_units(list(groups.values()), length, shards), length, shards)):
        rows += [{"tracklet": name, "shard": shard, "order": order, "frames": length[name]} for order, name in enumerate(sorted(chosen))]
    return tables.table(rows, tables.PLAN)


def _units(groups: list[list[str]], length: dict[str, int], shards: int) -> list[list[str]]:
    """What is placed together: groups of at most half a shard, and single tracklets; at least as many as shards."""
    half = sum(length.values()) / shards / 2
    together, alone = [], []
    for group in groups:
        if len(group) > 1 and sum(map(length.__getitem__, group)) <= half:
            together.append(sorted(group))
        else:
            alone += [[name] for name in group]
    together.sort(key=lambda group: (sum(map(length.__getitem__, group)), group))
    while together and len(together) + len(alone) < shards:
        alone += [[name] for name in together.pop()]
    return together + alone


def _assign(units: list[list[str]], length: dict[str, int], shards: int) -> list[list[str]]:
    chosen: list[list[str]] = [[] for _ in range(shards)]
    least = [(0, shard) for shard in range(shards)]
    for size, unit in sorted(((sum(map(length.__getitem__, unit)), unit) for unit in units), key=lambda pair: (-pair[0], pair[1])):
        load, shard = least[0]
        chosen[shard] += unit
        heapq.heapreplace(least, (load + size, shard))
    return chosen


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--tracklets", type=Path, required=True)
    arguments.add_argument("--shards", type=int, required=True)
    args = arguments.parse_args(argv)
    note = tables.read_meta(args.tracklets)
    made = plan(tables.read(args.tracklets, tables.TRACKLETS), args.shards, note["dataset"])
    loads = made.group_by("shard").aggregate([("frames", "sum")]).column("frames_sum")
    counts = {
        "tracklets": made.num_rows,
        "frames": pc.sum(loads).as_py(),
        "smallest": pc.min(loads).as_py(),
        "largest": pc.max(loads).as_py(),
    }
    tables.write(args.out, made, tables.PLAN, {"dataset": note["dataset"], "shards": args.shards, "frames": counts})


if __name__ == "__main__":
    cli.run(main)
