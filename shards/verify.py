"""Check every byte of stores against their INDEX: ``python -m shards.verify STORE [STORE ...]`` (exit status 2 if anything is wrong).

In:      folders of stores, or their INDEX files, with tars and twins beside them.   Out: one line for each thing that is wrong, in the order of INDEX.
Source:  promises R5 and R13.

Beside the bytes: what a sample says of itself is what INDEX says of it; each tar has its twin, which says the same; nothing lies there
that INDEX does not list. The twin of one tar may be given as INDEX; then only that tar is looked at.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.base import cli, files, tables
from pipeline.base.errors import ShardError, TableError, UserError
from shards import codec, whole
from shards.read import Index

INDEX = "index.parquet"
"""Its name in the folder of a store."""
TWIN = re.compile(r"\d{5}\.parquet")
SAME = ("dataset", "cameras", "frames", "companion")
"""Notes of a twin that INDEX has, too."""


def verify(index_path: str | os.PathLike[str], threads: int = 0) -> list[str]:
    """What is wrong with a store; empty if every byte of it is as listed, and nothing else is there.

    Args:
        threads: that share the work; 0: one for each core that this process may use.

    Raises:
        ShardError, TableError: the INDEX itself cannot be used.
    """
    index = Index(index_path)
    shards = range(len(index.layout.names))
    with ThreadPoolExecutor(threads or whole.own_share(alone=True)[2]) as pool:
        found = pool.map(lambda part: whole.wrong_in(index, index.path.with_name, part, _says), whole.parts(index, shards))
        wrong = [line for lines in found for line in lines]
    return wrong if _is_twin(index) else [*wrong, *_beside(index)]


def check_sample(row: dict[str, Any], data: bytes | memoryview) -> list[str]:
    """What is wrong with the bytes of one sample, given its row of INDEX: tar, digests, and what the codec says of it.

    Raises:
        ShardError: the row names a sample that cannot be.
    """
    view = memoryview(data)
    return [*whole.check_sample(row, view), *_says(row, view)]


def _says(row: dict[str, Any], data: memoryview) -> list[str]:
    """What is wrong in the members, also where digests are right: a sample can be listed wrongly."""
    where = f"shard {row['shard']}, sample {row['key']}"
    members = {}
    for member in row["members"]:
        at = member["offset"] - row["offset"]
        members[member["suffix"]] = bytes(data[at : at + member["size"]])
    try:
        sample = codec.decode(members, where)
    except ShardError as error:
        return [str(error)]
    found = {"key": sample.meta["tracklet"], **{field: sample.meta[field] for field in ("identity", "kind", "camera")}}
    found |= {"frames": len(sample.frames), "items": len(sample.meta["items"])}
    return [f"{where}: {field} is {value} in the tar and {row[field]} in INDEX" for field, value in found.items() if value != row[field]]


def _is_twin(index: Index) -> bool:
    return index.layout.names == [index.path.with_suffix(".tar").name]


def _beside(index: Index) -> Iterator[str]:
    """What is wrong with the files beside INDEX: twins, and whatever it does not list."""
    folder, names = index.path.parent, index.layout.names
    for name, (first, last) in zip(names, index.layout.rows, strict=True):
        yield from _twin(index, folder / Path(name).with_suffix(".parquet"), first, last)
    listed = {*names, *(str(Path(name).with_suffix(".parquet")) for name in names), index.path.name}
    for name in files.sorted_names(folder):
        if name not in listed and (name.endswith(".tar") or TWIN.fullmatch(name)):
            yield f"{folder / name}: {index.path.name} does not list it; delete it, or run index_shards again with all twins"


def _twin(index: Index, path: Path, first: int, last: int) -> Iterator[str]:
    try:
        rows, meta = tables.read(path, tables.INDEX), tables.read_meta(path)
    except TableError as error:
        yield f"twin {error}"
        return
    other = [name for name in SAME if meta.get(name) != index.meta.get(name)]
    if not rows.equals(index.table.slice(first, last - first + 1)):
        other.append("samples")
    if other:
        yield f"twin {path}: its {' and '.join(other)} differ from {index.path.name}; run index_shards again"


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("store", type=Path, nargs="+", metavar="STORE", help="the folder of a store, or its INDEX")
    arguments.add_argument(
        "--made-by", default="", metavar="TARGET", help="the target that makes such a store, for the sentence about a missing one"
    )
    args = arguments.parse_args(argv)
    broken = []
    for path in (given / INDEX if given.is_dir() else given for given in args.store):
        wrong, size = looked_at(path, args.made_by)
        for line in wrong:
            print(cli.printable(line), file=sys.stderr)
        if not wrong:
            print(f"{path}: every byte is as listed ({size / 1e9:.3f} GB)", flush=True)
        else:
            broken.append(f"{path} ({len(wrong)} thing{'s'[: len(wrong) > 1]})")
    if broken:
        raise ShardError(f"not as listed: {', '.join(broken)}; what stands above has to go, and the target that made it has to run again")


def looked_at(path: Path, made_by: str) -> tuple[list[str], int]:
    """What is wrong with a store, given its INDEX, also where there is none, and the bytes of its tars."""
    if not path.exists():
        advice = f"; snakemake {made_by} makes one" if made_by else ""
        if path.name == INDEX and path.parent.is_dir():
            held = [name for name in files.sorted_names(path.parent) if name.endswith(".tar") or TWIN.fullmatch(name)]
            if held:
                others = f" and {len(held) - 1} more tars and twins" if len(held) > 1 else ""
                return [f"{path.parent}: holds {held[0]}{others}, and no {INDEX} says what must be in them{advice}"], 0
        return [f"{path}: there is no such store{advice}"], 0
    try:
        return verify(path), sum(Index(path).layout.sizes)
    except UserError as error:
        return [f"INDEX {error}"], 0


if __name__ == "__main__":
    cli.run(main)
