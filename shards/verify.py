"""Check every byte of a store against its INDEX: ``python -m shards.verify INDEX`` (exit status 2 if anything is wrong).

In:      INDEX with its tars beside it.   Out: one line for each thing that is wrong.
Source:  promises R5 and R13.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pipeline.base import cli, tables
from pipeline.base.errors import ShardError
from shards import codec
from shards.read import Layout, check_tar


def verify(index_path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with a store; empty if every sample's digest and members are as listed.

    Raises:
        ShardError, TableError: the INDEX itself cannot be used.
    """
    index = tables.read(index_path, tables.INDEX)
    layout = Layout(index, str(index_path))
    rows = index.to_pylist()
    wrong: list[str] = []
    for shard, name in enumerate(layout.names):
        path = Path(index_path).parent / name
        first, last = layout.rows[shard]
        try:
            check_tar(path, layout.sizes[shard], [(rows[row]["offset"], rows[row]["key"]) for row in (first, last)])
        except ShardError as error:
            wrong.append(str(error))
            if not path.is_file():
                continue
        with open(path, "rb") as tar:
            for row in rows[first : last + 1]:
                tar.seek(row["offset"])
                try:
                    wrong += check_sample(row, tar.read(row["size"]))
                except ShardError as error:  # the row itself cannot be: the others are looked at all the same
                    wrong.append(f"shard {name}, sample {row['key']!r}: {error}")
    return wrong


def check_sample(row: dict[str, Any], data: bytes) -> list[str]:
    """What is wrong with the bytes of one sample, given its row of INDEX: tar, digest, and what the codec says of it.

    Every byte counts: members by the digest, headers and padding because they follow from names and sizes.

    Raises:
        ShardError: the row names a sample that cannot be.
    """
    where = f"shard {row['shard']}, sample {codec.check_key(row['key'])}"
    if len(data) != row["size"]:
        return [f"{where}: the tar ends {row['size'] - len(data)} bytes early"]
    members = {}
    for member in row["members"]:
        at = member["offset"] - row["offset"]
        members[member["suffix"]] = data[at : at + member["size"]]
    return [*_check_tar(row, data, members, where), *_check_members(row, members, where)]


def _check_tar(row: dict[str, Any], data: bytes, members: dict[str, bytes], where: str) -> list[str]:
    """The sample made anew of its own members: where it differs from the tar is a header, padding, or a row of INDEX that is wrong."""
    parts, listed, size = codec.tar_parts(row["key"], members, row["offset"])
    if (listed, size) != (row["members"], row["size"]):
        return [f"{where}: INDEX lists its members with gaps or with other sizes than the sample's"]
    if b"".join(part for part in parts if isinstance(part, bytes)) == data:
        return []
    wrong = []
    for suffix, member in zip(members, listed, strict=True):
        at, end = member["offset"] - row["offset"], member["offset"] - row["offset"] + member["size"]
        if data[at - codec.BLOCK : at] != codec.tar_header(f"{row['key']}.{suffix}", member["size"]):
            wrong.append(f"{where}, {suffix}: the tar's header is not that of INDEX")
        if any(data[end : end + -end % codec.BLOCK]):
            wrong.append(f"{where}, {suffix}: the padding after it is not zero")
    return wrong


def _check_members(row: dict[str, Any], members: dict[str, bytes], where: str) -> list[str]:
    """What is wrong in the members, also where the digest is right: a sample can be listed wrongly."""
    wrong = [] if codec.digest(members) == row["digest"] else [f"{where}: its members differ from the digest in INDEX"]
    try:
        sample = codec.decode(members, where)
    except ShardError as error:
        return [*wrong, str(error)]
    found = {"key": sample.meta["tracklet"], **{field: sample.meta[field] for field in ("identity", "kind", "camera")}}
    found |= {"frames": len(sample.frames), "items": len(sample.meta["items"])}
    return [
        *wrong,
        *(f"{where}: {field} is {value} in the tar and {row[field]} in INDEX" for field, value in found.items() if value != row[field]),
    ]


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("index", type=Path)
    args = arguments.parse_args(argv)
    wrong = verify(args.index)
    for line in wrong:
        print(cli.printable(line), file=sys.stderr)
    if wrong:
        raise ShardError(f"{args.index}: {len(wrong)} things are wrong with the store; delete the named shards and run pack_shard again")
    print(f"{args.index}: every sample is as listed")


if __name__ == "__main__":
    cli.run(main)
