"""List the tracklets of a data set.

In:      the folder of the data set as shipped (``roots.<dataset>``).   Out: TRACKLETS table.
Source:  the grammar in pipeline/sources/<source>.py. The metadata hold cameras, counts, licence and what was compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.base import cli, tables
from pipeline.base.config import DatasetConfig
from pipeline.base.errors import SourceError
from pipeline.sources import SOURCES, listing
from pipeline.sources.listing import Tracklet


def tracklet_table(dataset: str, tracklets: Sequence[Tracklet]) -> pa.Table:
    """TRACKLETS from what a grammar found.

    Raises:
        SourceError: nothing was found, or a name is not fit to be the key of a sample.
    """
    if not tracklets:
        raise SourceError(f"{dataset}: no tracklets found")
    for tracklet in tracklets:
        if listing.KEY.fullmatch(tracklet.tracklet) is None:
            raise SourceError(f"{dataset}: tracklet '{tracklet.tracklet}'; expected letters, digits, '_' and '-' only")
    columns: dict[str, Sequence[Any]] = {"dataset": [dataset] * len(tracklets)}
    for name in Tracklet._fields:
        columns[name] = [getattr(tracklet, name) for tracklet in tracklets]
    return tables.table({column.name: columns[column.name] for column in tables.TRACKLETS.columns}, tables.TRACKLETS)


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out")
    arguments.add_argument("--dataset", required=True, help="name of the data set in the config")
    arguments.add_argument("--root", required=True, help="its folder")
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    config = cli.load(DatasetConfig, args.config, f"datasets.{args.dataset}")

    source = SOURCES[config.source]
    root = listing.open_root(args.dataset, args.root, source, config)
    tracklets, notes = source.read_tracklets(root, config)
    meta = {
        "dataset": args.dataset,
        "source": config.source,
        "licence": listing.licence(source, config.generated),
        "subset": config.subset,
        "generated": config.generated,
        **notes,
    }
    tables.write(args.out, tracklet_table(args.dataset, tracklets), tables.TRACKLETS, meta)


if __name__ == "__main__":
    cli.run(main)
