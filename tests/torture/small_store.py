"""A small store with sound that may be broken, and everything that can happen to its files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.base import tables
from pipeline.base.seeds import rng
from shards import codec, index_shards, pack_shard
from tests.shards.making import write_frames
from tests.train.tiny import BANDS, CAMERAS

SHARDS = 3
IDENTITIES = 4
"""Of each shard: two to train on, two to test on, each seen by both cameras."""
JPEG_BYTES = 2000
"""Of each frame, whatever is on it: so two stores with other pixels have tars of one size."""


@dataclass(frozen=True, slots=True)
class Made:
    """A store, and its files as they were packed."""

    folder: Path
    files: dict[str, bytes]
    """By name: tars, twins, index.parquet."""
    rows: list[dict]
    """Of INDEX."""

    @property
    def index(self) -> Path:
        return self.folder / "index.parquet"

    @property
    def split(self) -> Path:
        return self.folder.parent / "split.parquet"

    def of(self, shard: str) -> list[dict]:
        """Rows of one tar."""
        return [row for row in self.rows if row["shard"] == shard]

    @property
    def tars(self) -> list[str]:
        return sorted(name for name in self.files if name.endswith(".tar"))


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that befell a store."""

    what: str
    files: dict[str, bytes | None]
    """New content by name; None: the file is gone."""
    named: tuple[str, ...]
    """What a refusal must name."""


def put(path: Path, data: bytes) -> None:
    """Give a file another content where it lies: some file systems wait for the disk when one is emptied and written anew."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


@contextlib.contextmanager
def damaged(store: Made, damage: Damage) -> Iterator[None]:
    """The store with the damage, and afterwards as it was."""
    for name, data in damage.files.items():
        if data is None:
            (store.folder / name).unlink()
        else:
            put(store.folder / name, data)
    try:
        yield
    finally:
        for name in damage.files:
            if name in store.files:
                put(store.folder / name, store.files[name])
            else:
                (store.folder / name).unlink()


def make(folder: Path, seed: int, frames: int) -> Made:
    """Pack `SHARDS` tars by the real steps; `frames` per tracklet. Other seeds: other pixels and voices, sizes and names the same."""
    names = [f"{identity:04d}C{camera}" for identity in range(SHARDS * IDENTITIES) for camera in range(CAMERAS)]
    shard_of = {name: int(name[:4]) // IDENTITIES for name in names}
    training = [name for name in names if int(name[:4]) % IDENTITIES < 2]
    labels = {identity: label for label, identity in enumerate(sorted({name[:4] for name in training}))}
    facts = {"dataset": "toy", "kind": "person"}
    tracklets = [
        {"tracklet": name, **facts, "identity": name[:4], "camera": int(name[-1]), "frames": [f"{name}/{i}.jpg" for i in range(frames)]}
        for name in names
    ]
    place = folder / "store"
    place.mkdir(parents=True)
    about = {"dataset": "toy", "cameras": CAMERAS}
    tables.write_rows(folder / "tracklets.parquet", tracklets, tables.TRACKLETS, about)
    roles = [
        {"tracklet": n, "role": "train" if n in training else ("query", "gallery")[int(n[-1])], "label": labels.get(n[:4], -1)}
        for n in names
    ]
    tables.write_rows(folder / "split.parquet", roles, tables.SPLIT, {"dataset": "toy", "split": "0"})
    runs = [
        {"tracklet": n, "first": 0, "last": frames - 1, "item": f"voice_{n}", "owner": f"spk_{n[:4]}", "path": f"{n}.mp3"}
        | {"start": None, "seconds": 1.0}
        for n in training
    ]
    heard = {"kind": "audio", "policy": "id_speaker", "oracle": False, "label_derived": True, "seed": 0, "test": False}
    tables.write_rows(folder / "alignment.parquet", runs, tables.ALIGNMENT, {"dataset": "toy", **heard})
    for shard in range(SHARDS):
        chosen = [row for row in tracklets if shard_of[row["tracklet"]] == shard]
        jpegs = {row["tracklet"]: [_jpeg(seed, row["tracklet"], i) for i in range(frames)] for row in chosen}
        write_frames(folder / f"frames{shard}.parquet", chosen, jpegs, (32, 32), {**about, "shard": shard})
        voices = [
            {"item": f"voice_{n}", "values": _voice(seed, n), "length": 10, "width": BANDS, "dtype": "float16"}
            for n in training
            if shard_of[n] == shard
        ]
        made = {"kind": "audio", "shard": shard, "bands": BANDS, "form": "log-mel", "audio": {"bands": BANDS}}
        tables.write_rows(folder / f"features{shard}.parquet", voices, tables.FEATURES, made)
        given = [f"--frames={folder}/frames{shard}.parquet", f"--stream={folder}/frames{shard}.mjpeg"]
        given += [f"--alignment={folder}/alignment.parquet", f"--features={folder}/features{shard}.parquet", "--kind=audio"]
        pack_shard.main([f"{place}/{shard:05d}.tar", f"--twin={place}/{shard:05d}.parquet", *given])
    twins = [f"{place}/{shard:05d}.parquet" for shard in range(SHARDS)]
    index_shards.main([f"{place}/index.parquet", f"--tracklets={folder}/tracklets.parquet", *twins])
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    return Made(place, files, tables.read(place / "index.parquet", tables.INDEX).to_pylist())


def _jpeg(seed: int, name: str, index: int) -> bytes:
    out = io.BytesIO()
    noise = rng(seed, "torture", "frame", name, index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((32, 32)).save(out, "JPEG", quality=90)
    return out.getvalue() + bytes(JPEG_BYTES - out.tell())


def _voice(seed: int, name: str) -> bytes:
    return rng(seed, "torture", "voice", name).standard_normal((10, BANDS)).astype(np.float16).tobytes()


# --- what can happen --------------------------------------------------------------------------------------------------


def flipped(data: bytes, at: int, bit: int) -> bytes:
    """With one bit changed."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def cuts(store: Made, every: int = 1) -> Iterator[Damage]:
    """Each tar ends at each `every`-th block: once as it is, once filled up with zeros to its size."""
    for name in store.tars:
        whole = store.files[name]
        for end in range(0, len(whole) - codec.END, codec.BLOCK * every):
            yield Damage(f"cut at {end}", {name: whole[:end]}, (name,))
            yield Damage(f"cut at {end} and filled up", {name: whole[:end] + bytes(len(whole) - end)}, (name,))
        yield Damage("the last block is missing", {name: whole[: -codec.BLOCK]}, (name,))


def bits(store: Made, seed: int, every: int = 1) -> Iterator[Damage]:
    """One bit in each member of each sample, in each header, in each padding, and in the end of each tar; each `every`-th of them."""
    draw = rng(seed, "torture", "bits")
    places = []
    for row in store.rows:
        for member in row["members"]:
            begin, end = member["offset"], member["offset"] + member["size"]
            named = (row["shard"], row["key"], member["suffix"])
            places += [(row["shard"], (begin, end), named), (row["shard"], (begin - codec.BLOCK, begin), named)]
            if size := -member["size"] % codec.BLOCK:
                places.append((row["shard"], (end, end + size), named))
    for name in store.tars:
        places.append((name, (len(store.files[name]) - codec.END, len(store.files[name])), (name,)))
    for shard, (begin, end), named in places[::every]:
        at, bit = int(draw.integers(begin, end)), int(draw.integers(8))
        yield Damage(f"bit {bit} of byte {at}", {shard: flipped(store.files[shard], at, bit)}, named)


def mixed_up(store: Made, other: Made) -> Iterator[Damage]:
    """Whole files and whole samples that are others; `other` has the same names and sizes."""
    first, second, *_ = store.tars
    yield Damage("two shards swapped", {first: store.files[second], second: store.files[first]}, (first,))
    for name in store.tars:
        yield Damage("a shard is missing", {name: None}, (name,))
        yield Damage("a shard of another store", {name: other.files[name]}, (name, store.of(name)[0]["key"]))
        rows = store.of(name)
        for one, two in pairwise(rows):
            if one["size"] == two["size"]:
                data, (a, b), size = bytearray(store.files[name]), (one["offset"], two["offset"]), one["size"]
                data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
                yield Damage(
                    "two samples reordered", {name: bytes(data)}, (name, (two if two is rows[-1] else one)["key"])
                )  # the last is looked at first
        for row in rows:
            begin, end = row["offset"], row["offset"] + row["size"]
            data = store.files[name][:begin] + other.files[name][begin:end] + store.files[name][end:]
            yield Damage("a sample of another store", {name: data}, (name, row["key"]))
    yield Damage("an INDEX of another run", {"index.parquet": other.files["index.parquet"]}, (first, store.rows[0]["key"]))
    yield Damage("INDEX is missing", {"index.parquet": None}, ("index.parquet",))
    middle = len(store.files["index.parquet"]) // 2
    yield Damage("a bit in INDEX", {"index.parquet": flipped(store.files["index.parquet"], middle, 3)}, ("index.parquet",))
    yield Damage("INDEX was cut", {"index.parquet": store.files["index.parquet"][:middle]}, ("index.parquet",))


def beside(store: Made, other: Made) -> Iterator[Damage]:
    """What no loader reads, and verify names all the same."""
    for name in store.tars:
        twin = name.replace(".tar", ".parquet")
        yield Damage("a twin is missing", {twin: None}, (twin,))
        yield Damage("a twin of another store", {twin: other.files[twin]}, (twin,))
        yield Damage("a damaged twin", {twin: flipped(store.files[twin], 100, 0)}, (twin,))
    yield Damage("a tar that INDEX does not list", {"00009.tar": store.files["00000.tar"]}, ("00009.tar",))
    yield Damage("a twin that INDEX does not list", {"00009.parquet": store.files["00000.parquet"]}, ("00009.parquet",))
