"""What a withdrawal left behind, and the proof of it: which files hear a clip, their hashes before, and whether it is gone now.

In:      `results` of the workflow.   Out: results/withdrawn/<dataset>-<companion>.json; what is wrong, in words.
Source:  ours. The proof holds SHA-256 of each tar as it was, which shards heard a clip, and SHA-256 of what the clip's array of features was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import tables
from pipeline.base.errors import UserError
from pipeline.base.files import digest_bytes, digest_file, read_json, write_json
from shards.read import Store

FORM = 1
"""Of the proof."""


@dataclass(frozen=True)
class Place:
    """One ALIGNMENT and where that lies which is made of it."""

    results: Path
    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        return tables.read_meta(self.path)

    @cached_property
    def alignment(self) -> pa.Table:
        return tables.read(self.path, tables.ALIGNMENT)

    @property
    def probes_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-probes.parquet")

    @cached_property
    def probes(self) -> pa.Table:
        return tables.read(self.probes_path, tables.PROBES)

    @property
    def dataset(self) -> str:
        return self.meta["dataset"]

    @property
    def companion(self) -> str:
        return self.path.stem.removeprefix(f"{self.dataset}-")

    @property
    def collection(self) -> str:
        return self.meta["items"]["name"]

    @property
    def features(self) -> Path:
        return self.results / "features" / self.dataset / self.companion

    @property
    def store(self) -> Path:
        return self.results / "shards" / self.path.stem

    @property
    def proof(self) -> Path:
        return self.results / "withdrawn" / f"{self.path.stem}.json"

    def items(self) -> set[str]:
        """Items that it names, or that were heard for it."""
        return {item for table in (self.alignment, self.probes) for item in table.column("item").to_pylist()}

    def shards(self, tracklets: Collection[str] | None) -> list[str]:
        """Shards of PLAN that hold some of these tracklets (None: all shards), as they are numbered in file names."""
        path = self.results / "plans" / f"{self.dataset}.parquet"
        if not path.exists():
            return []  # then nothing was made of it
        plan = tables.read(path, tables.PLAN, ["tracklet", "shard"])
        if tracklets is not None:
            plan = plan.filter(pc.is_in(plan.column("tracklet"), value_set=pa.array(sorted(tracklets), pa.string())))
        return [f"{shard:05d}" for shard in sorted(set(plan.column("shard").to_pylist()))]


def places(results: Path) -> list[Place]:
    """Every ALIGNMENT."""
    found = sorted((results / "alignment").glob("*.parquet"))
    return [Place(results, path) for path in found if tables.read_meta(path).get("schema") == tables.ALIGNMENT.name]


# --- the proof -------------------------------------------------------------------------------------------------------


def write_proof(place: Place, items: Collection[str], shards: Collection[str]) -> None:
    """Note what is there, before anything is deleted. What an earlier proof says of tars that were not made again since stays.

    Args:
        place: what is changed.
        items: withdrawn items that it names.
        shards: shards that are deleted. Those whose tar holds such an item must differ when they were made again; others need not: a
            clip may be heard by broken frames alone, and where clips are allotted anew, all shards are made again.
    """
    old = read_proof(place.proof) if place.proof.exists() else {"clips": {}, "tars": {}, "changed": [], "again": []}
    tars = {path.name: digest_file(path) for path in sorted(place.store.glob("*.tar"))}
    waiting = {name: digest for name, digest in old["tars"].items() if tars.get(name, digest) == digest}
    values: dict[str, set[str]] = defaultdict(set)
    for name, digests in old["clips"].items():
        values[name].update(digests)
    for item in items:
        values[item] |= set()
    for shard in shards:
        for item, digest in values_of(place, shard):
            if item in items:
                values[item].add(digest)
    changed = {f"{shard}.tar" for shard in shards if holds(place, shard, items)} | {name for name in old["changed"] if name in waiting}
    again = {f"{shard}.tar" for shard in shards} | {name for name in old["again"] if name in waiting}
    made = {
        "form": FORM,
        "dataset": place.dataset,
        "companion": place.companion,
        "clips": {item: sorted(values[item]) for item in sorted(values)},
        "tars": dict(sorted((waiting | tars).items())),
        "changed": sorted(changed),
        "again": sorted(again - changed),
    }
    write_json(place.proof, made)


def renew(results: Path) -> None:
    """Let proofs of earlier withdrawals begin from what is there now, but for tars that they wait for; names and digests stay.

    Stores may have been made again since, with other settings.
    """
    for path in sorted((results / "withdrawn").glob("*.json")):
        proof = read_proof(path)
        store = results / "shards" / f"{proof['dataset']}-{proof['companion']}"
        tars = {tar.name: digest_file(tar) for tar in sorted(store.glob("*.tar"))}
        old = proof["tars"]
        waiting = {name for name in (*proof["changed"], *proof["again"]) if name in old and tars.get(name, old[name]) == old[name]}
        kept = {name: old[name] for name in waiting}
        left = {which: [name for name in proof[which] if name in waiting] for which in ("changed", "again")}
        write_json(path, {**proof, **left, "tars": dict(sorted((tars | kept).items()))})


def read_proof(path: Path) -> dict[str, Any]:
    """A proof.

    Raises:
        UserError: it is none.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("form") != FORM:
        raise UserError(f"{path}: not a proof of this version; it is written by `python -m shards.withdraw`")
    return found


def holds(place: Place, shard: str, items: Collection[str]) -> bool:
    """Whether the tar of a shard holds one of these items, as far as it can be read."""
    twin = place.store / f"{shard}.parquet"
    try:
        return twin.exists() and any(item in items for item, _ in packed(twin))
    except UserError:
        return False


def values_of(place: Place, shard: str) -> Iterator[tuple[str, str]]:
    """Items of one shard with the digests of their arrays, from its features or else from its tar; nothing where both are gone."""
    features, twin = place.features / f"{shard}.parquet", place.store / f"{shard}.parquet"
    try:
        if features.exists():
            yield from featured(features)
        elif twin.exists():
            yield from packed(twin)
    except UserError as error:  # it goes all the same
        print(f"{place.path.stem}, shard {shard}: cannot be read any more ({error})")


def featured(path: Path) -> Iterator[tuple[str, str]]:
    """Items of FEATURES and the digests of their arrays."""
    table = tables.read(path, tables.FEATURES, ["item", "values"])
    for item, values in zip(table.column("item"), table.column("values"), strict=True):
        yield item.as_py(), digest_bytes(memoryview(values.as_buffer()))


def packed(twin: Path) -> Iterator[tuple[str, str]]:
    """Items of one tar and the digests of their arrays."""
    store = Store(twin)
    kind = (store.meta["companion"] or {}).get("kind", "")
    for key in store.keys:
        names = store.items(key)
        for name, values in zip(names, store.companion(key, kind, range(len(names))) if names else [], strict=True):
            yield name, digest_bytes(values.tobytes())


# --- afterwards ------------------------------------------------------------------------------------------------------


def proven(results: Path) -> dict[str, set[str]]:
    """Withdrawn items of all proofs, and digests of their arrays."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((results / "withdrawn").glob("*.json")):
        for item, digests in read_proof(path)["clips"].items():
            found[item].update(digests)
    return dict(found)


def check(results: Path, gone: Collection[str]) -> tuple[list[str], str]:
    """What is wrong after a withdrawal, and one sentence about what was looked at.

    Args:
        results: what the workflow made.
        gone: withdrawn items, beside those of the proofs.

    Raises:
        UserError: nothing was withdrawn here.
    """
    clips = proven(results)
    names = {*clips, *gone}
    if not names:
        raise UserError(f"{results}: no proof in {results / 'withdrawn'} and no list given (--root): nothing was taken out here")
    of_digest = {digest: item for item, digests in clips.items() for digest in digests}
    wrong = [
        f"{path}: names {item}"
        for path in (place.path for place in places(results))
        for item in sorted(set(tables.read(path, tables.ALIGNMENT, ["item"]).column("item").to_pylist()) & names)
    ]
    looked = 0

    def look(where: str, items: Iterator[tuple[str, str]]) -> None:
        nonlocal looked
        try:
            for item, digest in items:
                looked += 1
                if item in names:
                    wrong.append(f"{where}: holds {item}")
                elif digest in of_digest:
                    wrong.append(f"{where}: the features of {item} are those of {of_digest[digest]}")
        except UserError as error:
            wrong.append(f"{where}: cannot be looked at ({error})")

    features = [path for path in sorted((results / "features").glob("*/*/*.parquet")) if path.parent.name != "frames"]
    for path in features:
        look(str(path), featured(path))
    tars = sorted((results / "shards").glob("*/*.tar"))
    for path in tars:
        look(str(path), packed(path.with_suffix(".parquet")))
    kept = 0
    for path in sorted((results / "withdrawn").glob("*.json")):
        found, same = compare(results, read_proof(path))
        wrong += found
        kept += same
    return wrong, (
        f"withdrawn clips: {len(names)}; no alignment, feature or shard names them, no log-mel of them is left: {looked} items looked at in "
        f"{len(features)} tables of features and {len(tars)} tars; tars that did not hold them and are what they were: {kept}; their names "
        "stay in the tables of items and probes, the reports' list of what was left out, the proofs and the list itself"
    )


def compare(results: Path, proof: dict[str, Any]) -> tuple[list[str], int]:
    """What of a store is not as its proof wants it, and how many tars are as they were."""
    folder = results / "shards" / f"{proof['dataset']}-{proof['companion']}"
    wrong, same = [], 0
    if proof["tars"] and not (folder / "index.parquet").exists():
        wrong.append(f"{folder}: has no index; run the same snakemake command as before first")
    for name, before in proof["tars"].items():
        path = folder / name
        now = digest_file(path) if path.exists() else ""
        if not now:
            wrong.append(f"{path}: is not there; run the same snakemake command as before first")
        elif name in proof["changed"] and now == before:
            wrong.append(f"{path}: held a withdrawn clip and is what it was")
        elif name not in (*proof["changed"], *proof["again"]) and now != before:
            wrong.append(
                f"{path}: never held a withdrawn clip and is not what it was (settings changed since? the next withdrawal begins anew)"
            )
        else:
            same += now == before
    return wrong, same
