"""Say which role every tracklet has in one split, and give training identities their labels.

In:      TRACKLETS, and the split files in the data set's folder.   Out: SPLIT table.
Source:  the grammar in pipeline/sources/<source>.py. Ours: a label is the rank of the identity among the sorted
         training identities, so that it depends on nothing but the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa

from pipeline.base import cli, origin, tables
from pipeline.base.config import DatasetConfig
from pipeline.base.errors import SourceError, TableError
from pipeline.sources import SOURCES, listing
from pipeline.sources.listing import Tracklet


def labels(identities: Mapping[str, str], roles: Mapping[str, str]) -> dict[str, int]:
    """Label of each tracklet: 0..K-1 by the sorted names of the K training identities, -1 where it does not train.

    Args:
        identities: identity of each tracklet.
        roles: role of each tracklet.
    """
    training = sorted({identities[tracklet] for tracklet, role in roles.items() if role == "train"})
    rank = {identity: label for label, identity in enumerate(training)}
    return {tracklet: rank[identities[tracklet]] if role == "train" else -1 for tracklet, role in roles.items()}


def check_halves(dataset: str, split: str, tracklets: Iterable[Tracklet], roles: Mapping[str, str]) -> None:
    """Nobody may both train and be tested.

    Raises:
        SourceError: names the first persons who do.
    """
    trains, tested = set(), set()
    for row in tracklets:
        if row.kind == "person":
            trains |= {row.identity} if roles[row.tracklet] == "train" else set()
            tested |= {row.identity} if roles[row.tracklet] in ("query", "gallery") else set()
    if both := sorted(trains & tested):
        raise SourceError(
            f"{dataset}: split '{split}': {len(both)} identities both train and are tested ({', '.join(both[:3])}{', ...' * (len(both) > 3)}); a "
            "score would count persons that the network has learnt by name; take them out of one half (role unused in a table of your own)"
        )


def records(table: pa.Table) -> list[Tracklet]:
    """Rows of TRACKLETS as grammars know them."""
    columns = [table.column(name).to_pylist() for name in Tracklet._fields]
    return [
        Tracklet(tracklet, identity, kind, camera, tuple(frames)) for tracklet, identity, kind, camera, frames in zip(*columns, strict=True)
    ]


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out")
    arguments.add_argument("--dataset", required=True, help="name of the data set in the config")
    arguments.add_argument("--split", required=True, help="name of the split")
    arguments.add_argument("--root", required=True, help="folder of the data set")
    arguments.add_argument("--tracklets", required=True, help="TRACKLETS table of the data set")
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    config = cli.load(DatasetConfig, args.config, f"datasets.{args.dataset}")

    source = SOURCES[config.source]
    root = listing.open_root(args.dataset, args.root, source, config)
    found = tables.read_meta(args.tracklets).get("source")
    if found != config.source:
        raise TableError(f"{args.tracklets}: holds tracklets of source '{found}', expected '{config.source}'; run read_tracklets again")
    tracklets = records(tables.read(args.tracklets, tables.TRACKLETS))
    roles, notes = source.read_split(root, config, args.split, tracklets)
    check_halves(args.dataset, args.split, tracklets, roles)
    label = labels({t.tracklet: t.identity for t in tracklets}, roles)
    meta = {
        "dataset": args.dataset,
        "source": config.source,
        "split": args.split,
        "classes": max(label.values()) + 1,
        "counts": dict(sorted(Counter(roles.values()).items())),
        origin.FROM: origin.made_from(tracklets=args.tracklets),
        **notes,
    }
    columns = {"tracklet": list(roles), "role": list(roles.values()), "label": [label[tracklet] for tracklet in roles]}
    tables.write_rows(args.out, columns, tables.SPLIT, meta)


if __name__ == "__main__":
    cli.run(main)
