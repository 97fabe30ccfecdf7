"""Join the twins of all shards into the INDEX of the store, after checking that nothing is missing.

In:      TRACKLETS, the twins of all shards, ALIGNMENT if something is heard.   Out: INDEX, in the folder of the tars; its meta
         holds the digests of the two tables.
Source:  layout.md sections 9 and 10; promise R5. Checked here: each tar has the size and the ends its twin implies, the
         twins agree about what they hold, and their keys are the tracklets of TRACKLETS, each once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.base import cli, origin, tables
from pipeline.base.errors import ShardError
from shards.read import Layout, check_tar

LISTED = 10
"""Names that an error spells out; the rest is counted."""


def join(twins: Sequence[pa.Table], tracklets: pa.Table) -> pa.Table:
    """INDEX of all twins; of TRACKLETS the names suffice.

    Raises:
        ShardError: two twins are of one tar, or the keys are not exactly the tracklets.
    """
    names = [name for twin in twins for name in twin.column("shard").unique().to_pylist()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ShardError(f"twins: {_some(twice)} listed by more than one twin; give each twin once")
    whole = pa.concat_tables(twins)
    found = Counter(whole.column("key").to_pylist())
    expected = tracklets.column("tracklet").to_pylist()
    wrong = {
        "more than once": sorted(key for key, count in found.items() if count > 1),
        "missing": sorted(set(expected) - set(found)),
        "not in TRACKLETS": sorted(set(found) - set(expected)),
    }
    if any(wrong.values()):
        text = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in wrong.items() if keys)
        raise ShardError(f"index: keys are not the {len(expected)} tracklets ({text}); give the twins of all shards, of one plan")
    return whole


def same_meta(metas: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The meta all twins share.

    Raises:
        ShardError: names the first twin that differs and the field.
    """
    first_name, first = metas[0]
    for name, meta in metas[1:]:
        for field in sorted({*first, *meta}):
            if first.get(field) != meta.get(field):
                raise ShardError(f"{name}: {field} is {meta.get(field)}, in {first_name} it is {first.get(field)}; pack all shards alike")
    return first


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--tracklets", type=Path, required=True)
    arguments.add_argument("--alignment", type=Path, help="ALIGNMENT that the shards were packed with; none: frames alone")
    arguments.add_argument("twins", type=Path, nargs="+")
    args = arguments.parse_args(argv)
    twins = []
    for path in args.twins:
        twin = tables.read(path, tables.INDEX)
        layout = Layout(twin, str(path))
        keys = twin.column("key").to_pylist()
        for shard, rows in enumerate(layout.rows):
            check_tar(args.out.parent / layout.names[shard], layout.sizes[shard], [(int(layout.offsets[row]), keys[row]) for row in rows])
        twins.append(twin)
    meta = same_meta([(path.name, tables.read_meta(path)) for path in args.twins])
    about = tables.read_meta(args.tracklets)
    for field in ("dataset", "cameras"):
        if meta[field] != about[field]:
            raise ShardError(f"index: {field} is {meta[field]} in the twins and {about[field]} in TRACKLETS; run pack_shard again")
    note = {name: value for name, value in meta.items() if name not in ("schema", "version")}
    note[origin.FROM] = origin.made_from(tracklets=args.tracklets, alignment=args.alignment)
    tables.write(args.out, join(twins, tables.read(args.tracklets, tables.TRACKLETS, ["tracklet"])), tables.INDEX, note)


if __name__ == "__main__":
    cli.run(main)
