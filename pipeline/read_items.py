"""List the companion items (voice clips) of a collection.

In:      the folder of a collection of voices, or of own tracklets with recorded sound.   Out: ITEMS table.
Source:  the grammar in pipeline/sources/<source>.py. The metadata hold licence, counts and the digest of the table read.
"""

from __future__ import annotations

from typing import Any

from pipeline.base import cli, tables
from pipeline.base.config import DatasetConfig, VoicesConfig
from pipeline.sources import VOICES, listing, manifest

READERS: dict[str, tuple[Any, type]] = {
    **{name: (voices, VoicesConfig) for name, voices in VOICES.items()},
    "manifest": (manifest, DatasetConfig),
}
"""Grammar and settings class of everything that has items."""


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out")
    arguments.add_argument("--name", required=True, help="name of the collection in the config")
    arguments.add_argument("--root", required=True, help="its folder")
    arguments.add_argument("--source", required=True, choices=sorted(READERS), help="its grammar")
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    source, settings = READERS[args.source]
    config: Any = cli.load(settings, args.config, args.name)

    root = listing.open_root(args.name, args.root, source, config)
    items, notes = source.read_items(root, config)
    meta = {
        "name": args.name,
        "source": args.source,
        "licence": listing.licence(source, config.generated),
        "generated": config.generated,
        **notes,
    }
    tables.write(args.out, items, tables.ITEMS, meta)


if __name__ == "__main__":
    cli.run(main)
