"""Malicious shards: members of tars, whole tars, names in INDEX, arrays."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import tables
from pipeline.base.config import CompanionConfig, TokensConfig
from pipeline.base.errors import ShardError, UserError
from pipeline.features import audio_tokens
from shards import codec
from shards.read import Index, Store
from shards.stream import Tars
from shards.verify import verify
from tests.shards import making
from tests.torture.malicious import Attack, Runs, Trap

KEY = "0001C1T0001"
"""First sample of the first tar."""
TAR = "00000.tar"


@cache
def stored() -> dict[str, bytes]:
    """Files of a small good store."""
    with tempfile.TemporaryDirectory() as folder:
        making.make_store(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def store_in(folder: Path) -> Path:
    """A good store; returns its INDEX."""
    for name, data in stored().items():
        (folder / name).write_bytes(data)
    return folder / "index.parquet"


def rewrite(index: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """INDEX with rows edited, as whoever hands a store on might; schema and sort order as they must be."""
    rows = tables.read(index, tables.INDEX).to_pylist()
    for row in rows:
        edit(row)
    meta = {name: value for name, value in tables.read_meta(index).items() if name not in ("schema", "version")}
    tables.write_rows(index, rows, tables.INDEX, meta)


def read_all(trap: Trap, index: Path, shard: str = TAR) -> None:
    """Every reader of a store: by offset, extracted, verified, streamed from a file and from a command.

    Raises:
        ShardError: of the stream from a file. It, the stream from a command and `verify` must refuse; the first two may read what INDEX says.
    """
    refusals: dict[str, str] = {}

    def see(what: str, call: Callable[[], object]) -> None:
        try:
            call()
        except UserError as error:
            refusals[what] = str(error)

    def verified() -> None:
        if wrong := verify(index):
            raise ShardError(wrong[0])

    see("offset", lambda: [Store(index).sample(key) for key in Store(index).keys])
    see("extract", lambda: trap.step("shards.show_shard", index, "--key", KEY, "--extract", trap.inside / "extracted"))
    see("verify", verified)
    see("stream", lambda: list(Tars(Index(index)).samples(shard)))
    see("command", lambda: list(Tars(Index(index), f"pipe:cat {index.parent}/{{shard}}", commands=True).samples(shard)))
    if missing := {"verify", "stream", "command"} - refusals.keys():
        raise AssertionError(f"not refused by {', '.join(sorted(missing))}")
    if "\n" in "".join(refusals.values()):
        raise AssertionError("more than one line")
    raise ShardError(refusals["stream"])


def header(name: str, size: int, **fields: Any) -> bytes:
    """A header as tarfile writes it (GNU form: long names take more than one block)."""
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def member(name: str, suffix: str = codec.FRAME_LENGTHS, payload: bytes = b"", **fields: Any) -> Callable[[Trap], None]:
    """Put another header in the place of a member's, and other bytes in the place of its data; then read."""

    def run(trap: Trap) -> None:
        index = store_in(trap.inside)
        row = Store(index).table.to_pylist()[0]
        at = next(one for one in row["members"] if one["suffix"] == suffix)
        tar = trap.inside / TAR
        data = bytearray(tar.read_bytes())
        made = header(
            name.replace("{hit}", str(trap.hit)),
            at["size"],
            **{k: str(v).replace("{out}", str(trap.outside)) if k == "linkname" else v for k, v in fields.items()},
        )
        data[at["offset"] - len(made) : at["offset"]] = made
        put = payload.replace(b"{hit}", str(trap.hit).encode())
        data[at["offset"] : at["offset"] + len(put)] = put
        tar.write_bytes(data)
        read_all(trap, index)

    return run


def sparse(trap: Trap) -> None:
    """A member that unfolds to 64 MiB of zeros; it might as well be 8 GiB."""
    index = store_in(trap.inside)
    at = next(one for one in Store(index).table.to_pylist()[0]["members"] if one["suffix"] == codec.FRAMES)
    data = bytearray((trap.inside / TAR).read_bytes())
    data[at["offset"] - codec.BLOCK : at["offset"]] = sparse_header(f"{KEY}.{codec.FRAMES}", at["size"])
    (trap.inside / TAR).write_bytes(data)
    read_all(trap, index)


def sparse_header(name: str, size: int) -> bytes:
    """Of a member that takes `size` bytes in the tar and unfolds to 64 MiB of zeros."""
    made = bytearray(header(name, size, type=tarfile.GNUTYPE_SPARSE))
    made[386:410] = b"00000000000\0" * 2  # one piece of no bytes ...
    made[483:495] = b"00400000000\0"  # ... of a file of 64 MiB
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def odd_offsets(trap: Trap) -> None:
    """A compressed tar, and an INDEX that lists no header where a block begins: nothing in it would be compared."""
    index = store_in(trap.inside)
    tar = trap.inside / TAR
    tar.write_bytes(bomb(lzma.open)(trap, b"").ljust(tar.stat().st_size, b"\0"))

    def edit(row: dict[str, Any]) -> None:
        for one in row["members"]:
            one.update(offset=one["offset"] + 1, size=one["size"] - 1)

    rewrite(index, edit)
    read_all(trap, index)


def in_a_gap(trap: Trap) -> None:
    """A link between two members, which INDEX passes over; all samples are there and as they were packed."""
    index = store_in(trap.inside)
    tar = trap.inside / TAR
    data = tar.read_bytes()
    gap = Store(index).table.to_pylist()[0]["members"][1]["offset"] - codec.BLOCK
    link = header(f"{KEY}.link", 0, type=tarfile.SYMTYPE, linkname=str(trap.outside / "secret.txt"))
    tar.write_bytes(data[:gap] + link + data[gap:])

    def edit(row: dict[str, Any]) -> None:
        if row["shard"] == TAR:
            row["size"] += codec.BLOCK * (row["offset"] == 0)
            row["offset"] += codec.BLOCK * (row["offset"] > 0)
            for one in row["members"]:
                one["offset"] += codec.BLOCK * (one["offset"] > gap)

    rewrite(index, edit)
    read_all(trap, index)


def whole(content: Callable[[Trap, bytes], bytes]) -> Callable[[Trap], None]:
    """The whole tar is something else, of the size that INDEX implies where it can be."""

    def run(trap: Trap) -> None:
        index = store_in(trap.inside)
        tar = trap.inside / TAR
        right = tar.read_bytes()
        tar.write_bytes(content(trap, right).ljust(len(right), b"\0"))
        read_all(trap, index)

    return run


def another(make: Callable[[Path, Trap], object]) -> Callable[[Trap], None]:
    """The tar is no regular file."""

    def run(trap: Trap) -> None:
        index = store_in(trap.inside)
        (trap.inside / TAR).unlink()
        make(trap.inside / TAR, trap)
        Store(index)

    return run


def named(name: str) -> Callable[[Trap], None]:
    """INDEX calls the first tar so."""

    def run(trap: Trap) -> None:
        index = store_in(trap.inside)
        wanted = name.replace("{hit}", str(trap.hit)).replace("{port}", str(trap.port)).replace("{out}", str(trap.outside))
        rewrite(index, lambda row: row.update(shard=wanted) if row["shard"] == TAR else None)
        for reader in (Store, Index, verify, lambda path: trap.step("shards.show_shard", path)):
            try:
                reader(index)
            except UserError as error:
                said = str(error)
            else:
                raise AssertionError(f"{reader} took it")
        for urls in ("", "pipe:cat {shard}", f"http://127.0.0.1:{trap.port}/{{shard}}"):
            Tars(Index(index), urls, commands=True)
        raise AssertionError(said)

    return run


def urls(value: str) -> Callable[[Trap], None]:
    def run(trap: Trap) -> None:
        index = store_in(trap.inside)
        tars = Tars(Index(index), value.replace("{hit}", str(trap.hit)).replace("{port}", str(trap.port)))
        list(tars.samples(TAR))

    return run


def keyed(key: str) -> Callable[[Trap], None]:
    """The sample itself has another name, in the tar and in INDEX; then it is extracted."""

    def run(trap: Trap) -> None:
        index = store_in(trap.inside)
        data = bytearray((trap.inside / TAR).read_bytes())
        name = key.replace("{out}", str(trap.outside))

        def edit(row: dict[str, Any]) -> None:
            if row["key"] == KEY:
                row["key"] = name
                for one in row["members"]:
                    data[one["offset"] - codec.BLOCK : one["offset"]] = codec.tar_header(f"{name}.{one['suffix']}", one["size"])

        rewrite(index, edit)
        (trap.inside / TAR).write_bytes(data)
        trap.step("shards.show_shard", index, "--key", name, "--extract", trap.inside / "extracted")

    return run


def suffixed(suffix: str) -> Callable[[Trap], None]:
    def run(trap: Trap) -> None:
        index = store_in(trap.inside)
        rewrite(index, lambda row: row["members"][-1].update(suffix=suffix))
        read_all(trap, index)

    return run


def described(meta: Callable[[dict[str, Any]], bytes]) -> Callable[[Trap], None]:
    """The JSON of the first sample is something else, INDEX knows; then it is shown and extracted."""

    def run(trap: Trap) -> None:
        index = store_in(trap.inside)
        store = Store(index)
        members = codec.encode(store.sample(KEY))
        wrong = {**members, codec.META: meta(json.loads(members[codec.META]))}
        rows = [row for row in store.table.to_pylist() if row["shard"] == TAR]
        out, offset = [], 0
        for row in rows:
            parts, listed, size = codec.tar_parts(
                row["key"], wrong if row["key"] == KEY else codec.encode(store.sample(row["key"])), offset
            )
            row.update(members=listed, offset=offset, size=size)
            out += [bytes(part) for part in parts if isinstance(part, bytes)]
            offset += size
        (trap.inside / TAR).write_bytes(b"".join(out) + bytes(codec.END))
        placed = {row["key"]: row for row in rows}
        rewrite(index, lambda row: row.update(placed.get(row["key"], row)))
        trap.step("shards.show_shard", index, "--key", KEY, "--extract", trap.inside / "extracted")

    return run


def pickled_npy(trap: Trap) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Runs(trap.hit), None], object), allow_pickle=True)
    return out.getvalue()


def npy(head: str, version: int = 1, data: bytes = bytes(64)) -> Callable[[Trap], bytes]:
    """A .npy file with a header of anybody's."""

    def made(trap: Trap) -> bytes:
        text = head.replace("{hit}", str(trap.hit)).encode() + b"\n"
        return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data

    return made


ARRAYS: dict[str, tuple[Callable[[Trap], bytes], str]] = {
    "object array, a pickle inside": (pickled_npy, "plain numbers|plain little-endian"),
    "header that is a call": (npy("__import__('os').system('touch {hit}')"), "plain numbers|plain little-endian"),
    "header that calls in its shape": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').system('touch {hit}'),), }"),
        "plain numbers|plain little-endian",
    ),
    "shape beyond all memory": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999), }"), "takes|plain numbers"),
    "negative shape": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }"), "plain numbers|plain little-endian|takes"),
    "npy 2.0 with an object": (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 4), }", 2), "plain numbers|plain little-endian"),
    "npy 3.0, record of objects": (
        npy("{'descr': [('a', '|O'), ('b', '<f4')], 'fortran_order': False, 'shape': (1, 4), }", 3),
        "plain numbers|plain little-endian",
    ),
    "header of nested brackets": (npy("(" * 9000 + ")" * 9000), "plain numbers|plain little-endian"),
    "a bare pickle": (lambda trap: pickle.dumps(Runs(trap.hit)), r"\.npy file|plain little-endian"),
}
"""Name -> bytes, and what each of the two readers says."""


def in_shard(make: Callable[[Trap], bytes]) -> Callable[[Trap], None]:
    def run(trap: Trap) -> None:
        codec.npy_array(make(trap), "sample x, audio.values.npy")

    return run


def as_tokens(make: Callable[[Trap], bytes]) -> Callable[[Trap], None]:
    def run(trap: Trap) -> None:
        (trap.inside / "a.npy").write_bytes(make(trap))
        tokens = TokensConfig(encoder="precomputed", store=str(trap.inside), tokens=2, width=4)
        config = CompanionConfig(kind="audio_tokens", tokens=tokens)
        audio_tokens.encode("a", audio_tokens.folder(config, trap.inside) / "a.mp3", None, 1.0, config, 0)

    return run


def bomb(opened: Callable[..., Any]) -> Callable[[Trap, bytes], bytes]:
    """A compressed tar of 64 MiB of zeros in one member."""

    def made(trap: Trap, right: bytes) -> bytes:
        out = io.BytesIO()
        with opened(out, "wb") as packed:
            packed.write(header(f"{KEY}.json", 64 << 20) + bytes(64 << 20))
        return out.getvalue()

    return made


PICKLE = b"cos\nsystem\n(S'touch {hit}'\ntR."
SCRIPT = b"#!/bin/sh\ntouch {hit}\nexit 0\n"
DIFFERENT = "found the header of|is not part of this format"
GAPS = "members lie with gaps, or do not fill their sample"
ESCAPES = {"../x": "above", "/{hit}": "absolute", "..\\x": "above, with a backslash", "a/../../../x": "above, from below"}


def attacks() -> Iterator[Attack]:
    for name, what in ESCAPES.items():
        yield Attack(f"tar: member named {what}", member(name), DIFFERENT)
    for kind, what in (
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (tarfile.DIRTYPE, "folder"),
        (tarfile.XHDTYPE, "pax header"),
        (tarfile.XGLTYPE, "global pax header"),
        (tarfile.GNUTYPE_LONGNAME, "long name"),
    ):
        pax = b"30 path=../../../../x\x00y.json\n" if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE) else b""
        run = member(f"{KEY}.{codec.FRAME_LENGTHS}", payload=pax, type=kind, linkname="{out}/secret.txt")
        yield Attack(f"tar: member that is a {what}", run, DIFFERENT)
    yield Attack("tar: sparse member", sparse, DIFFERENT)
    yield Attack(
        "tar: sparse member in the end of the archive",
        whole(lambda trap, right: right[: -codec.END] + sparse_header(f"{KEY}.x", 0) + bytes(codec.BLOCK)),
        "the end-of-archive blocks are not zero",
    )
    yield Attack("tar: xz bomb whose members INDEX lists off the blocks", odd_offsets, GAPS)
    yield Attack("tar: link in a gap that INDEX leaves between members", in_a_gap, GAPS)
    yield Attack("tar: a name twice", member(f"{KEY}.{codec.META}"), DIFFERENT)
    yield Attack("tar: a name with an escape sequence", member(f"{KEY}.\x1b]0;x\x07"), DIFFERENT)
    for end in ("pyd", "pickle", "pkl", "pth", "cbor", "ten", "tb", "msg", "py", "npz"):
        yield Attack(f"tar: member .{end}", member(f"{KEY}.lengths.{end}", payload=PICKLE), DIFFERENT)
    yield Attack("tar: gzip bomb", whole(bomb(gzip.open)), "its index implies")
    yield Attack("tar: xz bomb", whole(bomb(lzma.open)), "sample .* is not where its index says")
    zstd = lambda trap, right: b"\x28\xb5\x2f\xfd" + bytes(64)  # noqa: E731
    yield Attack("tar: zstd", whole(zstd), "sample .* is not where its index says")
    script = lambda trap, right: SCRIPT.replace(b"{hit}", str(trap.hit).encode())  # noqa: E731
    yield Attack("tar: a shell script", whole(script), "sample .* is not where its index says")
    yield Attack("tar: a named pipe", another(lambda tar, trap: os.mkfifo(tar)), "no regular file")
    yield Attack("tar: a folder", another(lambda tar, trap: tar.mkdir()), "no regular file")
    yield Attack(
        "tar: a link to another file",
        another(lambda tar, trap: tar.symlink_to(trap.outside / "secret.jpg")),
        "its index implies",
        reads=True,
    )
    for name in (
        "http://127.0.0.1:{port}/a.tar",
        "pipe:touch {hit}",
        "|touch {hit}",
        "-o{hit}",
        "$(touch {hit}).tar",
        "`touch {hit}`.tar",
        "a;touch {hit};.tar",
        "a\ntouch {hit}\n.tar",
        "../outside/secret.txt",
        "{out}/secret.txt",
        "..",
        "",
        "a\0.tar",
        "file:{out}/secret.txt",
        "{{shard}}.tar",
        "\u202eart.rat",
    ):
        yield Attack(f"INDEX: tar named {name!r}", named(name), "is no file name of A-Z")
    for value in (
        "pipe:touch {hit}",
        "http://127.0.0.1:{port}/{shard}",
        "https://127.0.0.1:{port}/{shard}",
        "file:{shard}",
        "-",
        "s3://127.0.0.1:{port}/{shard}",
    ):
        yield Attack(f"urls {value} without the switch", urls(value), "would start a command, which only")
    for key in ("../../outside/x", "/nowhere/x", "a/../../x"):
        yield Attack(f"INDEX: sample named {key}", keyed(key))
    for suffix in ("../../x.npy", "audio.values.pyd", "/etc/passwd", "audio.values.npy\0"):
        yield Attack(f"INDEX: member {suffix!r}", suffixed(suffix), "is not part of this format")
    yield Attack("sample: JSON nested a million times", described(lambda meta: b"[" * 1_000_000 + b"]" * 1_000_000), "nested too deeply")
    yield Attack("sample: JSON of a list", described(lambda meta: b"[1]"), "expected the fields")
    yield Attack(
        "sample: paths and items that lead out or obey a terminal",
        described(
            lambda meta: json.dumps(
                {**meta, "frames": ["../../x", "/x\x1b]0;y\x07", *meta["frames"][2:]], "items": ["../../../x.npy", "$(touch y)"]}
            ).encode()
        ),
    )
    for name, (make, said) in ARRAYS.items():
        yield Attack(f"npy in a shard: {name}", in_shard(make), said)
        yield Attack(f"npy of tokens: {name}", as_tokens(make), said)


def trusting_extract(sample: codec.Sample, folder: Path) -> list[str]:
    """What a control puts in the place of `shards.show_shard.extract`: it believes the paths in the sample."""
    for path, data in zip(sample.meta["frames"], sample.frames, strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return []
