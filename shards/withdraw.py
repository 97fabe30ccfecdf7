"""Take clips out of all that was made: ``python -m shards.withdraw CLIP [CLIP ...] --root FOLDER_OF_THE_VOICES``.

In:      names of clips (common_voice_en_1.mp3), or a file with one on each line (--from); `results`.
Out:     the list withdrawn.txt in the folder of the voices; ALIGNMENT and PROBES without these clips; a proof in results/withdrawn/.
         Features, tar, twin and index of the shards that hear them are deleted: the same `snakemake` command as before makes these
         again and no others. Then ``python -m shards.withdraw --check`` proves it. Exit status 2 if anything is wrong.
Source:  promise R13, promises.md section 7 (take-down); who hears what instead: pipeline/base/withdrawn.py.

Interrupted anywhere and started again (without a clip: whatever is on the list), it finishes. The list comes first, so nothing decodes
these clips any more; ALIGNMENT comes after what is made of it, because what is left to do follows from it. No run may be at work meanwhile.
"""

from __future__ import annotations

import argparse
import html
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import cli, locks, running, tables, withdrawn
from pipeline.base.errors import SourceError, UserError
from pipeline.base.files import atomic, read_json
from shards import withdrawal
from shards.withdrawal import Place

NO_TABLE = ("schema", "version")
"""What `tables.write` puts into the meta itself."""
PLAYED = re.compile(r'<audio\b[^>]*aria-label="clip \w+: ([^"]*)"')
"""A recording that a page holds, with the clip's name as HTML writes it (evaluate/report_page/pictures.py, markup.py)."""


# --- what is meant ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Named:
    """Items of one collection."""

    collection: str
    items: dict[str, str]
    """Item and its path below the root, sorted."""


def find(results: Path, names: Sequence[str], collection: str = "") -> Named:
    """The items that are named: by item, by file name, or by path below the root.

    Raises:
        SourceError: a name is in no table of items, or names are in several.
    """
    found: dict[str, dict[str, str]] = {}
    known: set[str] = set()
    files = sorted((results / "items").glob(f"{collection or '*'}.parquet"))
    for file in files:
        table = tables.read(file, tables.ITEMS, ["item", "path"])
        base = pc.replace_substring_regex(table.column("path"), "^.*/", "")
        wanted = pa.array(names, pa.string())
        hits = [pc.is_in(column, value_set=wanted) for column in (table.column("item"), table.column("path"), base)]
        rows = table.append_column("base", base).filter(pc.or_(pc.or_(*hits[:2]), hits[2])).sort_by("item").to_pylist()
        if rows:
            found[file.stem] = {row["item"]: row["path"] for row in rows}
        known |= {row[name] for row in rows for name in ("item", "path", "base")}
    if missing := [name for name in names if name not in known]:
        raise SourceError(
            f"{results}: no table of items ({', '.join(file.stem for file in files) or 'there is none'}) names {', '.join(missing[:5])}"
            f"{', ...' * (len(missing) > 5)}; look at the spelling. A clip whose line is no longer in the source table is heard by nobody "
            f"after the next run; one that nothing was made of yet can be written into {withdrawn.LIST} by hand"
        )
    if len(found) > 1:
        raise SourceError(f"{results}: {', '.join(names[:3])} are in the collections {' and '.join(found)}; say which with --collection")
    return Named(*next(iter(found.items()), (collection, {})))


def check_root(root: Path, named: Named) -> None:
    """Refuse a folder in which the collection does not lie (the list would be read by nobody there).

    Raises:
        SourceError: it has not the folder of the first item.
    """
    for item, path in list(named.items.items())[:1]:
        if not (root / path).parent.is_dir():
            raise SourceError(
                f"--root {root}: no folder {Path(path).parent} there, where {item} lies; give roots.{named.collection} of the settings"
            )


@contextmanager
def idle(results: Path) -> Iterator[None]:
    """No run is at work while the block lasts; one that starts waits until its end.

    Raises:
        UserError: a run is at work here.
    """
    folder = results.absolute().parent / ".snakemake"
    with ExitStack() as stack:
        try:
            stack.enter_context(running.alone(folder, print))
        except locks.NoLocksError as error:
            left = sorted((folder / "locks").glob("*.lock"))  # Snakemake's own: all there is to go by
            if left:
                raise UserError(
                    f"{left[0]}: a run is at work here, or one was killed, which cannot be told on a file system without locks ({error}); "
                    "wait for it, or if there is none run snakemake --unlock, then the same command again; nothing was changed"
                ) from None
            print(f"{folder.parent}: this file system has no locks ({error}): start no snakemake here before this command ends")
        yield


def verdicts(places: Sequence[Place], items: Collection[str]) -> dict[str, bool]:
    """Whether each clip counts as usable when clips are allotted: as it did when it was heard; one that nobody has heard does."""
    heard: dict[str, bool] = {}
    for place in places:
        for row in place.probes.to_pylist():
            if row["item"] in items and row["reason"] != withdrawn.REASON:
                heard[row["item"]] = heard.get(row["item"], False) or row["usable"]
    return {item: heard.get(item, True) for item in items}


def asked(path: Path) -> list[str]:
    """Names of clips in a file (--from).

    Raises:
        SourceError: it cannot be read, or a line is no name.
    """
    try:
        return list(withdrawn.parse(path.read_text(encoding="utf-8"), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SourceError(f"--from {path}: cannot be read ({why}); expected the names of clips, one on each line") from None


# --- what is to be done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What is to be done about one ALIGNMENT."""

    place: Place
    heard: list[str]
    """Withdrawn items that it names."""
    shards: list[str]
    """Shards that hear them, or all where clips are allotted anew."""
    anew: list[str]
    """Items whose place nobody can take."""
    tables: tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]] | None
    """ALIGNMENT, PROBES and meta without them; None where clips are allotted anew."""

    def files(self) -> Iterator[Path]:
        """What is deleted, in this order: the features that tars are made of, what vouches for tars, tars; what is there of it."""
        place = self.place
        names = [f"{shard}{end}" for shard in self.shards for end in (".parquet", ".waves.parquet")]
        paths = [place.features / name for name in names]
        if self.shards:
            paths.append(place.store / "index.parquet")
        paths += [place.store / f"{shard}{end}" for shard in self.shards for end in (".parquet", ".tar")]
        return (path for path in paths if path.exists())


def work(place: Place, gone: Collection[str]) -> Work | None:
    """What is to be done; None if nothing is."""
    rows, probes = place.alignment.to_pylist(), place.probes.to_pylist()
    heard = sorted({row["item"] for row in rows} & set(gone))
    anew = sorted(withdrawn.alone(rows, gone, place.meta["policy"]))
    if anew:
        return Work(place, heard, place.shards(None), anew, None)
    after = withdrawn.without(rows, probes, place.meta, gone)
    if after == (rows, probes, place.meta):
        return None
    return Work(place, heard, place.shards({row["tracklet"] for row in rows if row["item"] in heard}), [], after)


def pages(results: Path, items: Collection[str]) -> list[Path]:
    """Reports that hold the recording of one of these clips."""
    found = sorted([*results.glob("report.html"), *results.glob("ablations/*/report.html")])
    return [page for page in found if any(html.unescape(name) in items for name in PLAYED.findall(page.read_text(encoding="utf-8")))]


def trained(results: Path, works: Sequence[Work]) -> list[Path]:
    """Weights whose training, or whose teacher's, had one of these stores."""
    stores = {(one.place.dataset, one.place.companion) for one in works if one.heard}

    def hears(run: Mapping[str, Any] | None) -> bool:
        if not run:
            return False
        return any((run["dataset"], run[name]) in stores for name in ("companion", "test_companion")) or hears(run["teacher"])

    configs = sorted((results / "runs").rglob("config.json"))
    return [
        path.with_name("model.safetensors") for path in configs if path.with_name("model.safetensors").exists() and hears(read_json(path))
    ]


# --- doing it --------------------------------------------------------------------------------------------------------


def carry_out(one: Work) -> None:
    """Prove, delete, change the tables; each step is whole or not there, and doing all again does no harm."""
    place = one.place
    if one.heard:
        withdrawal.write_proof(place, one.heard, one.shards)
    for path in list(one.files()):
        path.unlink()
    if one.tables is None:
        for path in (place.path, place.probes_path):  # ALIGNMENT first: with it the place is gone, and its rule makes both again
            path.unlink(missing_ok=True)
        return
    rows, probes, meta = one.tables
    rewrite(place.probes_path, probes, tables.PROBES, {"policy": meta["policy"], "counts": meta["counts"]})
    rewrite(place.path, rows, tables.ALIGNMENT, {name: value for name, value in meta.items() if name not in NO_TABLE})


def rewrite(path: Path, rows: Sequence[Mapping[str, Any]], schema: tables.Schema, meta: Mapping[str, Any]) -> None:
    """Write a table in the place of an older one and with its time: Snakemake, which goes by times, makes nothing again for it."""
    was = path.stat()
    with atomic(path) as temporary:
        tables.write_rows(temporary, rows, schema, meta)
        os.utime(temporary, ns=(was.st_atime_ns, was.st_mtime_ns))


def told(one: Work, dry: bool) -> str:
    """One line about one store."""
    name = f"{one.place.dataset}-{one.place.companion}"
    if one.anew:
        return (
            f"{name}: the speaker of {', '.join(one.anew)} has no other clip in use; clips are allotted anew there, and sound of all "
            f"{len(one.shards)} shards {'would be' if dry else 'is'} made again"
        )
    if not one.heard:
        return f"{name}: no run hears them; the table of probes {'would say' if dry else 'says'} that they are withdrawn"
    runs = sum(item in one.heard for item in one.place.alignment.column("item").to_pylist())
    silent = 0 if one.tables is None else one.place.alignment.num_rows - len(one.tables[0])
    return (
        f"{name}: {', '.join(one.heard)}: heard in {runs} runs of frames, in shards {', '.join(one.shards)} of {len(one.place.shards(None))}, "
        f"which {'would be' if dry else 'are'} deleted; {runs - silent} of the runs hear another clip"
        + (f", {silent} nothing" if silent else "")
    )


def withdraw(args: argparse.Namespace) -> None:
    """The command without --check; :func:`idle` holds while it works."""
    results, root = Path(args.results), Path(args.root)
    listed = withdrawn.read_list(root)
    names = [*args.clips, *(asked(args.names) if args.names else [])]
    if not names and not listed:
        raise UserError(f"no clip is named, and {root / withdrawn.LIST} names none; say which clips are to be taken out")
    named = find(results, names, args.collection) if names else Named(args.collection, {})
    check_root(root, named)
    every = withdrawal.places(results)
    if not named.collection:
        known = sorted({place.collection for place in every if set(listed) & place.items()})
        if len(known) > 1:
            raise SourceError(f"{root}: its list names clips of the collections {' and '.join(known)}; say which with --collection")
        named = Named(known[0] if known else "", {})
    places = [place for place in every if place.collection == named.collection]
    gone = listed | {item: usable for item, usable in verdicts(places, named.items).items() if item not in listed}
    works = [one for place in places if (one := work(place, gone))]
    shown = pages(results, gone)
    stale = trained(results, works)
    would = "would be " if args.dry_run else ""
    print(f"withdraw: clips on the list of {root}: {len(gone)}, of which {would}new: {len(gone) - len(listed)}")
    if not args.dry_run:
        if gone != listed:
            withdrawal.renew(results)
            withdrawn.write_list(root, gone)
        for page in shown:
            page.unlink()
        for one in works:
            carry_out(one)
    for one in works:
        print(told(one, args.dry_run))
    for page in shown:
        print(f"{page}: holds a recording of them: {would}deleted; the target that made it makes it again")
    for path in stale:
        print(f"{path}: was trained on them; the target that made it trains it again, copies elsewhere are yours to delete")
    if not works:
        print("nothing that was made hears them")
    print(
        f"left to you: delete {', '.join(str(root / path) for path in list(named.items.values())[:3]) or 'their files'}"
        f"{', ...' * (len(named.items) > 3)} and any copies; run the same snakemake command as before; then `python -m shards.withdraw --check "
        f"--results {results}`"
    )


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("clips", nargs="*", metavar="CLIP", help="item, file name or path below the root")
    arguments.add_argument("--from", dest="names", type=Path, metavar="FILE", help="file with one clip on each line")
    arguments.add_argument("--root", type=Path, help="folder of the voices (roots.<voices>), or of own tracklets with their sound")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="what the workflow made (default: results)")
    arguments.add_argument("--collection", default="", help="name of the voices in the settings, where the clip is in several")
    arguments.add_argument("--dry-run", action="store_true", help="say what would be done")
    arguments.add_argument("--check", action="store_true", help="prove that nothing is left, after the shards were made again")
    args = arguments.parse_args(argv)
    if not args.results.is_dir():
        raise UserError(f"--results {args.results}: no such folder; it is the one that snakemake makes")
    if args.check:
        if args.clips or args.names or args.dry_run:
            raise UserError("--check looks at all that was taken out; give no clip with it, and no --dry-run")
        gone = withdrawn.read_list(args.root) if args.root else {}
        wrong, looked = withdrawal.check(args.results, set(gone))
        wrong += [
            f"{page}: holds the recording of a withdrawn clip" for page in pages(args.results, {*gone, *withdrawal.proven(args.results)})
        ]
        if wrong:
            raise UserError(f"{len(wrong)} things are wrong: {'; '.join(wrong[:20])}{'; ...' * (len(wrong) > 20)}")
        print(looked)
        return
    if args.root is None:
        raise UserError("--root: say where the voices lie (roots.<voices> of the settings)")
    with nullcontext() if args.dry_run else idle(args.results):
        withdraw(args)


if __name__ == "__main__":
    cli.run(main)
