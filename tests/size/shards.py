"""As many samples as a data set has tracklets, packed by the real steps, each of its tracklet's first frame only.

The cost of an index follows the number of samples, not of frames. Run as a process: `python -m tests.size.shards FOLDER ...`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import encode_frames, plan_shards
from pipeline.base import tables
from shards import pack_shard


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path, help="new: tracklets.parquet (of one frame each), plan.parquet, <shard>.tar and .parquet")
    arguments.add_argument("--tracklets", type=Path, required=True)
    arguments.add_argument("--root", required=True)
    arguments.add_argument("--shards", type=int, required=True)
    args = arguments.parse_args()
    whole = tables.read(args.tracklets, tables.TRACKLETS)
    first = pc.list_slice(whole.column("frames"), 0, 1).combine_chunks().cast(tables.TRACKLETS.arrow.field("frames").type)
    short = whole.set_column(whole.column_names.index("frames"), tables.TRACKLETS.arrow.field("frames"), pa.chunked_array([first]))
    args.folder.mkdir()
    tracklets, plan, frames = (str(args.folder / f"{name}.parquet") for name in ("tracklets", "plan", "frames"))
    tables.write(tracklets, short, tables.TRACKLETS, tables.read_meta(args.tracklets))
    plan_shards.main([plan, "--tracklets", tracklets, "--shards", str(args.shards)])
    for shard in range(args.shards):
        given = ["--tracklets", tracklets, "--plan", plan, "--shard", str(shard), "--root", args.root]
        stream = ["--stream", str(args.folder / "frames.mjpeg")]
        quarantine = str(args.folder / "quarantine.parquet")
        encode_frames.main([frames, "--quarantine", quarantine, *given, *stream])
        out = args.folder / f"{shard:05d}.tar"
        pack_shard.main([str(out), "--twin", str(out.with_suffix(".parquet")), "--frames", frames, *stream])


if __name__ == "__main__":
    main()
