"""Promise R5: a store, or a table, that is not what was written is refused before the first batch, and what is wrong is named.

The attack is on files; the defence is what training and embedding call: `shards.loader.train_loader` (indexed, resident, stream),
`evaluate.embed.open_store`, and `shards.verify`. Nothing is asked for a batch: what is not refused when a loader is made has got through.
A stream from elsewhere cannot be read beforehand; there each sample must be refused when it comes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from evaluate import embed
from pipeline.base import tables
from pipeline.base.build import build, plain
from pipeline.base.config import MachineConfig, RunConfig
from pipeline.base.errors import UserError
from pipeline.base.files import read_json, write_json
from shards import loader, verify, whole
from shards.read import Index
from shards.stream import Tars
from tests.torture.figures import Figure
from tests.torture.small_store import Damage, Made, beside, bits, cuts, damaged, flipped, make, mixed_up, put
from tests.train.tiny import run_config

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 8
"""Of a tracklet in the full form: tars of about 1,100 blocks together."""
CPU = torch.device("cpu")
STREAMS = importlib.util.find_spec("webdataset") is not None

Entry = Callable[[Made], str]
"""Opens a store as a step does; gives the sentence with which it was refused, '' if it was not."""


def run_of() -> RunConfig:
    """A stage that hears, in an order that a stream can follow."""
    return run_config("teacher", sampler={"window": 2})


def _refused(call: Callable[[], object]) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def training(data: str, how: str = "bytes") -> Entry:
    """The loader that a training makes, with tars beside INDEX."""
    machine = replace(MachineConfig(workers=0), data=data, check=how)

    def opened(store: Made) -> None:
        split = tables.read(store.split, tables.SPLIT)
        loader.train_loader(store.index, split, run_of(), True, machine, CPU).close()

    return lambda store: _refused(lambda: opened(store))


def shared(store: Made) -> str:
    """Two ranks of one node, each of which checks its share; one refusal is enough."""
    said = []
    for rank in ("0", "1"):
        with mock.patch.dict(os.environ, {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}):
            said.append(training("indexed")(store))
    return "\n".join(filter(None, said))


def embedding(store: Made) -> str:
    """The store that embedding opens."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return _refused(lambda: embed.open_store(str(store.index), tables.read(store.split, tables.SPLIT), "bytes"))


def verifying(store: Made) -> str:
    """All that verify names."""
    return "\n".join(verify.looked_at(store.index, "")[0])


LOADERS: dict[str, Entry] = {"indexed": training("indexed"), "resident": training("resident"), "two ranks": shared, "embed": embedding}
if STREAMS:
    LOADERS["stream"] = training("stream")
EVERYBODY = {**LOADERS, "verify": verifying}


def passing(store: Made) -> str:
    """A stream from elsewhere, read to its end by the command that brings it."""
    index = Index(store.index)
    tars = Tars(index, f"pipe:cat {store.folder}/{{shard}}", True, "bytes")
    return _refused(lambda: [None for shard in store.tars for _ in tars.samples(shard)])


@dataclass
class Count:
    """How often an attack was withstood."""

    tried: int = 0
    held: int = 0
    first: str = ""
    """What got through first."""

    def add(self, held: bool, what: str) -> None:
        self.tried += 1
        self.held += held
        if not held and not self.first:
            self.first = what

    def __add__(self, other: Count) -> Count:
        return Count(self.tried + other.tried, self.held + other.held, self.first or other.first)


def attack(store: Made, damages: Iterable[Damage], entries: Mapping[str, Entry]) -> Count:
    """Let everybody open the store with each damage: each must refuse it, and name what is named."""
    count = Count()
    for damage in damages:
        with damaged(store, damage):
            for name, entry in entries.items():
                said = entry(store)
                count.add(bool(said) and all(word in said for word in damage.named), f"{name}, {damage.what}, {damage.named}: {said!r}")
    return count


def sound(store: Made, entries: Mapping[str, Entry]) -> None:
    """A store that nobody touched is opened by everybody: without this, refusing everything would look like a promise kept.

    Raises:
        AssertionError: somebody refuses it.
    """
    for name, entry in entries.items():
        assert (said := entry(store)) == "", f"{name} refuses a store that is whole: {said}"


# --- broken on purpose ------------------------------------------------------------------------------------------------


def without_digests() -> contextlib.AbstractContextManager[Any]:
    """A check to which a digest is always right."""

    def careless(row: dict[str, Any], data: memoryview) -> list[str]:
        return [line for line in kept(row, data) if "digest" not in line]

    kept = whole.check_sample
    return mock.patch.object(whole, "check_sample", careless)


def of_sizes_only() -> contextlib.AbstractContextManager[Any]:
    """Checks that look at no byte, as those at opening: size, first and last name, end."""
    return mock.patch.object(whole, "_looked_at", lambda *_: [])


def all_but_the_last_sample() -> contextlib.AbstractContextManager[Any]:
    """A check that forgets the end of each tar."""
    kept = whole.parts

    def fewer(index: Index, shards: Iterable[int]) -> Iterator[whole.Part]:
        return (replace(part, last=part.last - 1) for part in kept(index, shards))

    return mock.patch.object(whole, "parts", fewer)


def one_share_only() -> contextlib.AbstractContextManager[Any]:
    """Ranks that all believe to be the first."""
    kept = whole.own_share
    return mock.patch.object(loader, "own_share", lambda alone=False: (0, *kept(alone)[1:]))


# --- tables -----------------------------------------------------------------------------------------------------------


def table_of(path: Path, schema: tables.Schema, rows: int = 6) -> pa.Table:
    """A small table of any kind, written."""
    made = {c.name: [_value(c.type, row, c.name) for row in range(rows)] for c in schema.columns}
    tables.write_rows(path, made, schema, {"dataset": "toy", "seed": 7})
    return tables.read(path, schema)


def _value(kind: pa.DataType, row: int, name: str) -> Any:
    if pa.types.is_list(kind):
        return [_value(kind.value_type, row + i, name) for i in range(2)]
    if pa.types.is_struct(kind):
        return {field.name: _value(field.type, row, field.name) for field in kind}
    if pa.types.is_boolean(kind):
        return row % 2 == 0
    if pa.types.is_string(kind):
        return f"{name}_{row:03d}"
    return bytes([row]) * 9 if pa.types.is_large_binary(kind) else row + 1


def plainly(path: Path, schema: tables.Schema) -> tuple[pa.Table, dict[str, Any]]:
    """Tables as Parquet alone reads them."""
    file = pq.ParquetFile(path, page_checksum_verification=True)
    return file.read().replace_schema_metadata(None), tables._note(file.schema_arrow.metadata, path)


def checked(path: Path, schema: tables.Schema) -> tuple[pa.Table, dict[str, Any]]:
    """Tables as steps read them."""
    return tables.read(path, schema), tables.read_meta(path)


def changed_tables(folder: Path, read: Callable[[Path, tables.Schema], tuple[pa.Table, Any]], every: int, pages: bool = False) -> Count:
    """One bit of each `every`-th byte of a table of each kind, and an end at each: refused, or read as it was."""
    count = Count()
    for schema in tables.SCHEMAS.values():
        path = folder / f"{schema.name}.parquet"
        expected = table_of(path, schema)
        if pages:  # as Parquet has it: checksums of pages, and no seal
            pq.write_table(expected.replace_schema_metadata({tables.META: b'{"seed": 7}'}), path, write_page_checksum=True)
        whole_one, data = read(path, schema), path.read_bytes()
        for at in range(0, len(data), every):
            for what, broken in (("bit", flipped(data, at, at // every % 8)), ("cut", data[:at])):
                put(path, broken)
                try:
                    found = read(path, schema)
                    same = found[0].equals(whole_one[0]) and found[0].schema.equals(whole_one[0].schema) and found[1] == whole_one[1]
                except (UserError, pa.ArrowException, OSError, ValueError, MemoryError) as error:
                    same = isinstance(error, UserError) or pages or read is plainly
                count.add(same, f"{schema.name}, {what} at {at}")
    return count


def cut_json(folder: Path, every: int) -> Count:
    """config.json and metrics.json that end early: refused, or read as they were (without the last line end)."""
    count = Count()
    path = folder / "cut.json"
    config, metrics = plain(run_of()), {"mAP": 0.5, "protocols": [{"name": "x", "ranks": [0.25, 0.5]}]}
    for value, read in ((config, lambda: plain(build(RunConfig, read_json(path), "config.json"))), (metrics, lambda: read_json(path))):
        write_json(path, value)
        data = path.read_bytes()
        for end in range(0, len(data), every):
            put(path, data[:end])
            try:
                count.add(read() == json.loads(data), f"JSON cut at {end}")
            except UserError:
                count.add(True, "")
    return count


# --- real steps -------------------------------------------------------------------------------------------------------


def step(*words: object) -> tuple[int, str]:
    """Exit status and all that a step says."""
    done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def real_steps(folder: Path, store: Made) -> tuple[Count, Count]:
    """Training, embedding and verify as processes: whole, then with a bit in a member that they do not decode first, and in INDEX.

    Returns:
        That, and the same of a training that is told to look at sizes only.
    """
    count, control = Count(), Count()
    run = run_config("untrained")
    write_json(folder / "config.json", plain(run))
    fit = ("train.fit", folder / "run", "--config", folder / "config.json", "--index", store.index, "--split", store.split)
    embedded = ("evaluate.embed", folder / "e.parquet", "--config", folder / "config.json", "--weights")
    embedded += (folder / "run" / "model.safetensors", "--index", store.index, "--split", store.split)
    steps = (fit, embedded, ("shards.verify", store.index))
    for words in steps:
        status, said = step(*words)
        assert status == 0 and ("checked" in said or "every byte" in said), said
    last = store.rows[-1]
    member = last["members"][-1]
    hit = flipped(store.files[last["shard"]], member["offset"] + member["size"] - 1, 2)
    index = store.files["index.parquet"]
    for damage in (
        Damage("a bit in the last member", {last["shard"]: hit}, (last["shard"], last["key"], member["suffix"])),
        Damage("a bit in INDEX", {"index.parquet": flipped(index, len(index) // 3, 5)}, ("index.parquet", "damaged")),
    ):
        with damaged(store, damage):
            for words in steps:
                status, said = step(*words)
                good = status == 2 and "Traceback" not in said and all(word in said for word in damage.named)
                count.add(good, f"{words[0]}, {damage.what}: {said}")
            if "index.parquet" not in damage.files:
                write_json(folder / "sizes.json", {"check": "sizes"})
                status, said = step(*fit, "--machine", folder / "sizes.json")
                control.add(status == 2, said)
    return count, control


# --- figures ----------------------------------------------------------------------------------------------------------


def _figure(promise: str, count: Count, control: str, controls: Iterable[Count], seen: str = "") -> Figure:
    """`controls`: the same check on what was broken on purpose; caught where something got through."""
    caught = [control.held < control.tried for control in controls]
    told = f"{seen}; first that got through: {count.first}" if count.first else seen
    return Figure(promise, count.tried, count.held, control, len(caught), sum(caught), told)


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    """All of R5; the work is `scale` of the full form's, and never less than a few of each kind."""
    frames, every = (FRAMES, 1) if scale >= 1 else (2, max(1, round(1 / scale)))
    store, other = make(folder / "one", 1, frames), make(folder / "two", 2, frames)
    assert [len(store.files[name]) for name in store.tars] == [len(other.files[name]) for name in store.tars]
    sound(store, EVERYBODY)
    blocks = sum(len(store.files[name]) for name in store.tars) // 512
    tars_of_it = f"{len(store.tars)} tars of {blocks:,} blocks, {len(store.rows)} samples"
    seen = f"{tars_of_it}; {', '.join(EVERYBODY)}"
    seen += "" if STREAMS else "; webdataset is not here, so streams were left out"

    def with_broken(break_it: Callable[[], contextlib.AbstractContextManager[Any]], damages: Iterable[Damage], entries: Any) -> Count:
        with break_it():
            return attack(store, damages, entries)

    fewer = max(every, 20)
    few = {"indexed": LOADERS["indexed"], "verify": verifying}
    cut_off = attack(store, cuts(store, every), {"indexed": LOADERS["indexed"], "embed": embedding})
    cut_off += attack(store, cuts(store, every * 3), {"verify": verifying})  # the same check of tars, and slower for all else that it reads
    yield _figure(
        "a tar that ends at any block, also if it was filled up again, is refused before the first batch, by its name",
        cut_off,
        "the loader, and verify, look at sizes and ends only",
        [with_broken(of_sizes_only, list(cuts(store))[-40:], {name: entry}) for name, entry in few.items()],
        f"{tars_of_it}; indexed, embed, verify (at every third block)",
    )
    yield _figure(
        "one bit changed in any member, header or padding is refused before the first batch, by shard, sample and member",
        attack(store, bits(store, 1, every), EVERYBODY),
        "no digests; sizes and ends only (loader, verify); machine.check=sizes; the last sample of a tar left out; every rank checks "
        "the first one's share",
        [
            *(with_broken(without_digests, bits(store, 2, fewer), {name: entry}) for name, entry in few.items()),
            *(with_broken(of_sizes_only, bits(store, 2, fewer), {name: entry}) for name, entry in few.items()),
            attack(store, bits(store, 2, fewer), {"sizes": training("indexed", "sizes")}),
            with_broken(all_but_the_last_sample, bits(store, 2, max(1, every // 2)), {"indexed": LOADERS["indexed"]}),
            with_broken(one_share_only, bits(store, 2, fewer), {"two ranks": shared}),
        ],
        seen,
    )
    if STREAMS:
        inside = [damage for damage in bits(store, 3, every) if _in_member(store, damage)]
        told = _figure(
            "one bit changed in a member that a stream brings from elsewhere is refused when the sample comes, before it is used",
            attack(store, inside, {"pipe": passing}),
            "a stream without the digests",
            [attack(store, inside[::fewer], {"pipe": _unchecked})],
            "read through the command cat",
        )
        yield told
    yield _figure(
        "tars swapped, missing, or of another store of the same names and sizes, samples reordered, an INDEX of another run, damaged or "
        "missing: refused before the first batch, by name",
        attack(store, [*mixed_up(store, other)][:: min(every, 3)], EVERYBODY),
        "no digests; sizes and ends only",
        [with_broken(broken, mixed_up(store, other), few) for broken in (without_digests, of_sizes_only)],
        seen,
    )
    yield _figure(
        "verify names missing, damaged and other twins, and tars and twins that INDEX does not list",
        attack(store, beside(store, other), {"verify": verifying}),
        "verify that looks at INDEX and its tars alone",
        [with_broken(lambda: mock.patch.object(verify, "_beside", lambda index: []), beside(store, other), {"verify": verifying})],
    )
    if scale >= 1:
        steps, loose = real_steps(folder, store)
        yield _figure(
            "train.fit, evaluate.embed and shards.verify, as processes, end with one sentence and status 2",
            steps,
            "machine.check=sizes",
            [loose],
            "on the whole store all three end well",
        )
    sparse = min(max(every, 5), 19)  # enough for what gets through at once
    written, cut = changed_tables(folder, checked, every), cut_json(folder, every)
    yield _figure(
        "a table of any kind of which one bit of a byte was changed, or that ends at any byte, is refused or reads as it was; so are "
        "config.json and metrics.json that end early",
        written + cut,
        "tables that Parquet reads without our seal; tables with Parquet's page checksums instead of it",
        [changed_tables(folder, plainly, sparse), changed_tables(folder, plainly, sparse, pages=True)],
        f"{len(tables.SCHEMAS)} kinds of tables, {cut.tried:,} ends of JSON files",
    )


def _in_member(store: Made, damage: Damage) -> bool:
    """Not in a header (any change of which is refused, and names no sample always) or in padding, of which nothing is used."""
    (name, data), *_ = damage.files.items()
    assert data is not None
    at = next(i for i, (old, new) in enumerate(zip(store.files[name], data, strict=True)) if old != new)
    return any(m["offset"] <= at < m["offset"] + m["size"] for row in store.of(name) for m in row["members"])


def _unchecked(store: Made) -> str:
    tars = Tars(Index(store.index), f"pipe:cat {store.folder}/{{shard}}", True, "sizes")
    return _refused(lambda: [None for shard in store.tars for _ in tars.samples(shard)])
