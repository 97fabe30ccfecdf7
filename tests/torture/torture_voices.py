"""Who a speaker is never leaves the source table; a clip that is taken out is gone from what was made, and nothing else changes."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import read_items
from pipeline.base import tables
from pipeline.sources import common_voice
from shards import withdraw
from tests.conftest import REPOSITORY
from tests.torture import taken_out, voices_damage, voices_tree
from tests.torture.figures import Figure
from tests.torture.needles import PART, Needles, leaks, written
from tests.torture.voices_tree import said
from tests.workflow.conftest import jobs, snakemake

TINY = REPOSITORY / "workflow/config/tiny.yaml"
REAL = Path(os.environ.get("DUBTRACK_SHARED", REPOSITORY.parent / "shared")) / "data/common_voice_mini"
"""Real tables and clips, which are no part of the repository: (folder, table)."""
REAL_TABLES = (("en", "train.tsv"), ("tw", "train.tsv"), ("fa", "other.tsv"))


# --- nothing of a speaker in what a run writes -----------------------------------------------------------------------


@dataclass(frozen=True)
class Grepped:
    """What was looked for, where, and what was found."""

    files: int
    secrets: int
    found: list[tuple[str, str]]
    """(file, secret)."""

    @property
    def pairs(self) -> int:
        return self.files * self.secrets


def grep(folder: Path, needles: Needles) -> Grepped:
    files = written(folder)
    return Grepped(len(files), len(needles.secrets), leaks(folder, files, needles))


def read(root: Path, out: Path, table: str = "train.tsv") -> tuple[int, str]:
    """The step read_items, its output in a log as a rule keeps it; exit status and output."""
    config = json.dumps({"source": "common_voice", "table": table})
    arguments = [str(out / "results/items/voices.parquet"), "--name", "voices", "--root", str(root), "--source", "common_voice"]
    status, text = said(read_items.main, *arguments, "--config", config)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    (out / "logs/read_items.log").write_text(text)
    return status, text


def leaky() -> dict[str, AbstractContextManager[object]]:
    """Readers that let a name through, each in another way."""
    owner, whole = common_voice.owner_name, common_voice.read_items

    def named(form: Callable[[str], str]) -> AbstractContextManager[object]:
        return mock.patch.object(common_voice, "owner_name", form)

    def logging(name: str) -> str:
        print(f"speaker {name}")
        return owner(name)

    def noting(root: Path, config: Any) -> tuple[pa.Table, dict[str, Any]]:
        items, notes = whole(root, config)
        return items, {**notes, "speakers": common_voice.read_table(root / config.table).rows["client_id"].unique().sort().to_list()}

    return {
        "owner": named(lambda name: name),
        "a part of it": named(lambda name: f"spk_{name[37 : 37 + PART]}"),
        "hex": named(lambda name: name.encode().hex()),
        "base64": named(lambda name: base64.b64encode(b"x" + name.encode()).decode()),
        "base64 of what it spells": named(lambda name: base64.b64encode(bytes.fromhex(name)).decode()),
        "the log": named(logging),
        "a note in the metadata": mock.patch.object(common_voice, "read_items", noting),
    }


def leaky_caught(root: Path, folder: Path, needles: Needles) -> tuple[int, int]:
    """How many readers that let a name through were tried, and caught."""
    caught = 0
    for number, broken in enumerate(leaky().values()):
        with broken:
            status, text = read(root, folder / str(number))
        assert status == 0, text
        caught += bool(grep(folder / str(number), needles).found)
    return len(leaky()), caught


def planted(folder: Path, secret: str) -> list[Path]:
    """Put a secret into files of the kinds that a run writes; where."""
    text = secret.encode()
    tar, npy, page, board, packed = (
        folder / name for name in ("results/a.tar", "results/a.npy", "results/a.html", "results/events.out", "logs/a.gz")
    )
    named = folder / ".snakemake/metadata" / secret[:PART]
    for path in (tar, npy, packed, named):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as out:
        member = json.dumps({"owner": secret}).encode()
        about = tarfile.TarInfo("a.json")
        about.size = len(member)
        out.addfile(about, io.BytesIO(member))
    np.save(npy, np.frombuffer(text, np.uint8)[: PART + 1])
    page.write_text(f"<img src='data:image/png;base64,{base64.b64encode(b'12' + text).decode()}'>")
    board.write_bytes(b"\0\7" + secret.encode("utf-16-le"))
    packed.write_bytes(gzip.compress(text[-PART:]))
    named.touch()
    return [tar, npy, page, board, packed, named]


def planted_found(folder: Path, secrets: Sequence[str]) -> tuple[int, int]:
    """How many files the first secret was put into, and how many of them the search names."""
    places = planted(folder, secrets[0])
    found = {name for name, secret in grep(folder, Needles(secrets)).found if secret == secrets[0]}
    return len(places), sum(str(path.relative_to(folder)) in found for path in places)


def settings(root: Path) -> list[str]:
    """Options of the run: the tiny configuration with other voices, and clips that change every second frame, so that many are heard."""
    heard = "companions={audio: {alignment: {run: 2, reuse: true}}}"
    return ["--configfile", str(TINY), "--config", f"roots={{demo_voices: {root}}}", heard]


def run_on_marked(folder: Path, root: Path) -> tuple[list[str], list[str]]:
    """`all` on the tiny configuration, with a mark in every cell of its table of clips that is not to be read.

    Args:
        folder: to run in.
        root: voices to make, beside it.

    Returns:
        All client_ids, all marks.
    """
    made = snakemake(folder, "--configfile", str(TINY), "--", "results/demo/demo.json")
    assert made.returncode == 0, made.stdout[-3000:]
    source = folder / "results/demo/common_voice/en"
    clients, marks = voices_tree.marked(source / "train.tsv", root / "train.tsv")
    shutil.copy2(source / "clip_durations.tsv", root)
    (root / "clips").symlink_to(source / "clips", target_is_directory=True)
    done = snakemake(folder, *settings(root), "--", "all")
    assert done.returncode == 0, done.stdout[-3000:]
    (folder / "logs/snakemake.txt").write_text(done.stdout)
    return clients, marks


def real(folder: Path) -> tuple[int, list[tuple[str, str]], int]:
    """Read real tables; files grepped, what was found of names and of cells that are not read, and how many of these were looked for."""
    files, found, secrets = 0, [], 0
    for language, table in REAL_TABLES:
        cells = [line.split("\t") for line in (REAL / language / table).read_text().splitlines()]
        status, text = read(REAL / language, folder / language, table)
        assert status == 0, text
        looked = grep(folder / language, Needles(unread(cells)))
        files, found, secrets = files + looked.files, found + looked.found, secrets + looked.secrets
    return files, found, secrets


def unread(cells: Sequence[Sequence[str]]) -> set[str]:
    """Cells of a table that must not be seen anywhere: all but the names of clips, where they are long enough to be told from chance."""
    return {cell for row in cells[1:] for name, cell in zip(cells[0], row, strict=True) if name != "path" and len(cell) >= PART}


# --- damaged tables --------------------------------------------------------------------------------------------------


def repeated(folder: Path, root: Path, table: str = "train.tsv", most: int = 10_000) -> tuple[int, list[str], int]:
    """Damage a table in many ways and read it.

    Returns:
        How often; the damages after which a message or ITEMS hold something of the table; how many were refused.
    """
    cells = [line.split("\t") for line in (root / table).read_text().splitlines()]
    needles = Needles(unread(cells))
    kinds = voices_damage.damages(cells)
    kinds = kinds[:: -(-len(kinds) // most)]
    bad, refused = [], 0
    for number, (what, files) in enumerate(kinds):
        place, out = folder / f"{number}-in", folder / f"{number}-out"
        place.mkdir(parents=True)
        (place / "clips").symlink_to((root / "clips").resolve(), target_is_directory=True)
        for name, data in ({"train.tsv": (root / table).read_bytes()} | files).items():
            (place / name).write_bytes(data)
        status, _ = read(place, out)
        refused += status != 0
        bad += [what] if grep(out, needles).found else []
    return len(kinds), bad, refused


def talkative() -> AbstractContextManager[object]:
    """A reader whose message repeats the line that it refuses."""
    plain = common_voice._check_fields

    def telling(content: Any, fields: int, path: Path) -> int:
        for line in bytes(content[:]).splitlines():
            if line.count(b"\t") != fields - 1:
                raise common_voice.SourceError(f"{path}: cannot read {line.decode('utf-8', 'replace')}")
        return plain(content, fields, path)

    return mock.patch.object(common_voice, "_check_fields", telling)


# --- taking clips out of a real run ----------------------------------------------------------------------------------


def alignments(results: Path) -> list[Path]:
    return sorted(path for path in (results / "alignment").glob("*.parquet") if not path.stem.endswith("-probes"))


def hearing(results: Path, clips: Sequence[str]) -> dict[str, set[str]]:
    """Shards that hear some of these clips, by store; from the tables, without the code of `shards.withdraw`."""
    out = {}
    for path in alignments(results):
        table = tables.read(path, tables.ALIGNMENT)
        names = set(table.filter(pc.is_in(table.column("item"), value_set=pa.array(clips))).column("tracklet").to_pylist())
        plan = tables.read(results / f"plans/{path.stem.partition('-')[0]}.parquet", tables.PLAN).to_pylist()
        if shards := {f"{row['shard']:05d}" for row in plan if row["tracklet"] in names}:
            out[path.stem] = shards
    return out


def take_out(folder: Path, root: Path, clips: Sequence[str], broken: AbstractContextManager[object] | None = None) -> list[str]:
    """Take clips out of a finished run, make again what is missing; returns what went other than promised.

    Args:
        folder: of the run.
        root: of the voices.
        clips: to take out.
        broken: a withdrawal that does something wrong.
    """
    results, wrong = folder / "results", []
    heard, wanted, before = hearing(results, clips), taken_out.pieces(results, clips, root), taken_out.stamps(results)
    with broken or nullcontext():
        status, text = said(withdraw.main, *clips, "--root", str(root), "--results", str(results))
    if status:
        return [text]
    given = settings(root)
    planned = jobs(snakemake(folder, "--dry-run", *given, "--", "data").stdout)
    count = sum(map(len, heard.values()))
    if planned != {"encode_companion": count, "pack_shard": count, "index_shards": len(heard), "data": 1}:
        wrong.append(f"planned {planned}, but {count} shards of {len(heard)} stores hear them")
    done = snakemake(folder, *given, "--", "data")
    if done.returncode:
        return [*wrong, done.stdout[-2000:]]
    may = {f"alignment/{path.stem}{end}" for path in alignments(results) for end in ("", "-probes")}
    may |= {f"shards/{store}/{name}" for store, shards in heard.items() for name in (*shards, "index")}
    may |= {f"features/{store.replace('-', '/', 1)}/{shard}" for store, shards in heard.items() for shard in shards}
    after = taken_out.stamps(results)
    other = {name for name, stamp in before.items() if after.get(name) != stamp and name.rpartition(".")[0] not in may}
    wrong += [f"changed as well: {name}" for name in sorted(other) if not name.startswith(("withdrawn/", "report."))]
    wrong += [f"another time: {name}" for name in before if name.startswith("alignment/") and before[name][0] != after[name][0]]
    status, text = said(withdraw.main, "--check", "--root", str(root), "--results", str(results))
    wrong += [text] * (status != 0) + taken_out.left(results, wanted)
    again = snakemake(folder, "--dry-run", *given, "--", "data").stdout
    return wrong + ([] if "Nothing to be done" in again else ["a further run would make something again"])


def choose(results: Path, count: int) -> list[list[str]]:
    """Clips to take out one after the other, one and two at a time, so that each speaker always has another in use wherever he is heard."""
    used: dict[tuple[str, str], set[str]] = {}
    for path in alignments(results):
        for row in tables.read(path, tables.ALIGNMENT).to_pylist():
            used.setdefault((path.stem, row["owner"]), set()).add(row["item"])
    clips = sorted(set().union(*used.values()))
    random.Random(0).shuffle(clips)
    spare = []
    for clip in clips:
        if all(items - {clip} for items in used.values()):
            spare.append(clip)
            used = {key: items - {clip} for key, items in used.items()}
    sizes = [1 + turn % 2 for turn in range(count)]
    assert len(spare) >= sum(sizes), "the run is too small for so many"
    return [[spare.pop() for _ in range(size)] for size in sizes]


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    """See the module; scale 1 takes at most four minutes on two cores."""
    run, root = folder / "run", folder / "voices"
    clients, marks = run_on_marked(run, root)
    (folder / "controls").mkdir()
    yield who(folder, run, root, clients)
    yield what(folder, run, marks)
    yield messages(folder / "damaged", scale)
    yield equality(max(20, round(1000 * scale)))
    yield endings(folder / "ended", scale)
    yield checks(folder / "forgotten")
    yield withdrawals(run, root, max(1, round(4 * scale)))


def who(folder: Path, run: Path, root: Path, clients: Sequence[str]) -> Figure:
    needles = Needles(clients)
    grepped = grep(run, needles)
    readers, caught = leaky_caught(root, folder / "controls/readers", needles)
    places, found = planted_found(folder / "controls/places", clients)
    return Figure(
        "no file that a run writes holds 16 characters of a speaker's `client_id` in a row, as text, hex or base64, behind Parquet or gzip, "
        "in names of files or in logs",
        grepped.pairs,
        grepped.pairs - len(grepped.found),
        "readers that let it through, and files of all kinds that hold it",
        readers + places,
        caught + found,
        f"{grepped.files:,} files of a whole run, {grepped.secrets} speakers, {len(grepped.found)} hits",
    )


def what(folder: Path, run: Path, marks: Sequence[str]) -> Figure:
    grepped = grep(run, Needles(marks))
    tried, found = planted_found(folder / "controls/marks", marks)
    pairs, hits, seen = grepped.pairs, len(grepped.found), f"{grepped.secrets:,} marked cells"
    if REAL.is_dir():
        files, leaked, secrets = real(folder / "real")
        pairs, hits, seen = pairs + files * secrets, hits + len(leaked), f"{seen}, {secrets} cells of {len(REAL_TABLES)} real tables"
    else:
        seen += "; real tables are not here: left out"
    return Figure(
        "nor anything of the columns that are not read (sentence, accents, age, gender and so on)",
        pairs,
        pairs - hits,
        "files of all kinds that hold a cell",
        tried,
        found,
        seen,
    )


def messages(folder: Path, scale: float) -> Figure:
    voices_tree.speak(folder / "made")
    sources = [(folder / "made", "train.tsv"), *((REAL / name, table) for name, table in REAL_TABLES if REAL.is_dir())]
    tried, refused, bad = 0, 0, 0
    for number, (root, table) in enumerate(sources):
        count, wrong, no = repeated(folder / str(number), root, table, max(10, round(1000 * scale)))
        tried, refused, bad = tried + count, refused + no, bad + len(wrong)
    with talkative():
        _, caught, _ = repeated(folder / "control", folder / "made")
    return Figure(
        "of a damaged table neither the message nor what is read of it holds a name or a cell that is not read",
        tried,
        tried - bad,
        "a reader that repeats the line it refuses",
        1,
        min(len(caught), 1),
        f"{refused:,} refused in one sentence" + ("" if REAL.is_dir() else "; real tables are not here: left out"),
    )


def equality(worlds: int) -> Figure:
    verdicts = [taken_out.compared(seed) for seed in range(worlds)]
    controls, caught = taken_out.broken_rules(), 0
    for broken in controls.values():
        with broken:
            caught += any(taken_out.compared(seed) == "differs" for seed in range(100))
    return Figure(
        "clips taken out of an alignment one by one, all at once, or before it is made: the same rows, notes and counts",
        worlds,
        worlds - verdicts.count("differs"),
        "; ".join(controls),
        len(controls),
        caught,
        f"all policies; in {verdicts.count('alone')} a speaker had no other clip: allotted anew, without the clip",
    )


def endings(folder: Path, scale: float) -> Figure:
    every = max(1, round(1 / scale))
    points, bad = 0, 0
    for clips in (taken_out.CLIPS, taken_out.ALONE):
        count, wrong = taken_out.interrupted(folder / clips[-1], taken_out.kill, every, clips)
        points, bad = points + count, bad + len(wrong)
    controls = {
        "ALIGNMENT changed before what is made of it is deleted": (taken_out.alignment_first(), 15, taken_out.CLIPS),
        "PROBES deleted before ALIGNMENT where clips are allotted anew": (taken_out.probes_first(), 1, taken_out.ALONE),
    }
    caught = 0
    for number, (broken, step, clips) in enumerate(controls.values()):
        with broken:
            caught += bool(taken_out.interrupted(folder / f"control{number}", taken_out.stop, step, clips, most=1)[1])
    return Figure(
        "a withdrawal killed (SIGKILL) at any of its file operations is finished by starting it again, with the bytes of one that was not",
        points,
        points - bad,
        "; ".join(controls),
        len(controls),
        caught,
        "with and without a speaker who has no other clip; in every second case the shards were made before it was started again"
        + ("" if every == 1 else f"; every {every}th operation"),
    )


def checks(folder: Path) -> Figure:
    right, wrong, caught = taken_out.forgetful(folder)
    return Figure(
        "`shards.withdraw --check` accepts what is gone",
        1,
        right,
        "forgotten tars, features, rows, twins; a tar changed at equal size; the sound under another name",
        wrong,
        caught,
    )


def withdrawals(run: Path, root: Path, count: int) -> Figure:
    *chosen, last = choose(run / "results", count + 1)
    bad = [trouble for clips in chosen if (trouble := take_out(run, root, clips))]

    def with_a_new_time(path: Path, rows: Sequence[Mapping[str, Any]], schema: tables.Schema, meta: Mapping[str, Any]) -> None:
        tables.write_rows(path, rows, schema, meta)

    caught = take_out(run, root, last, mock.patch.object(withdraw, "rewrite", with_a_new_time))
    for trouble in bad:
        print(*trouble, sep="\n")
    return Figure(
        "after `shards.withdraw` the same target makes exactly the shards again that heard the clips; every other file keeps its bytes and "
        "its time; of their arrays and recordings nothing is left",
        len(chosen),
        len(chosen) - len(bad),
        "a withdrawal that gives ALIGNMENT a new time",
        1,
        min(len(caught), 1),
        f"{sum(map(len, chosen))} clips, {len(alignments(run / 'results'))} stores",
    )
