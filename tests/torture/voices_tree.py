"""A small tree of the workflow made by hand, with real clips, and a `make` that makes what is missing as Snakemake would: in a second.

In:      a folder.   Out: voices/ (Common Voice grammar, every column marked), results/ with two companions.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import soundfile

from pipeline import align_companion, encode_companion, read_items
from pipeline.base import tables
from pipeline.base.errors import UserError
from pipeline.base.seeds import rng
from shards import index_shards, pack_shard
from tests.shards.making import frame, write_frames

COLUMNS = ["client_id", "path", "sentence_id", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "locale", "segment"]
PERSONS = {"a": [6, 12, 4, 9], "b": [7, 6], "c": [3, 8], "d": [5, 5], "e": [4]}
"""Frames of each tracklet; six make a run. 'e' needs one clip."""
SHARDS = 4
SPEAKERS = [9, 5, 4, 2, 2, 1, 1]
"""Clips of each."""
COMPANIONS = {
    "audio": {},
    "audio_random": {"alignment": {"policy": "random_clip"}},
    "audio_single": {"alignment": {"policy": "single_speaker"}},
}
BAD = {(1, 1), (2, 0)}
"""Clips (speaker, number) that cannot be decoded."""
SEED = 5


def client(speaker: int) -> str:
    """A speaker's name, as long as the real ones."""
    return hashlib.sha512(f"speaker {speaker}".encode()).hexdigest()


def mark(column: str, row: int) -> str:
    """What stands in a column that nobody should read."""
    return f"mark-{column}-{row}-{hashlib.sha256(f'{column} {row}'.encode()).hexdigest()[:20]}"


def marked(source: Path, out: Path) -> tuple[list[str], list[str]]:
    """Copy a table of clips with a mark in every cell but those of `client_id` and `path`; returns client_ids and marks."""
    header, *rows = [line.split("\t") for line in source.read_text().splitlines()]
    kept = {"client_id", "path"}
    made = [
        [cell if name in kept else mark(name, number) for name, cell in zip(header, row, strict=True)] for number, row in enumerate(rows)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join("\t".join(row) + "\n" for row in [header, *made]))
    marks = [cell for row in made for name, cell in zip(header, row, strict=True) if name not in kept]
    return sorted({row[header.index("client_id")] for row in made}), marks


def speak(root: Path) -> None:
    """Clips and their table, in an order that mixes the speakers."""
    (root / "clips").mkdir(parents=True)
    names = sorted(((s, k) for s, count in enumerate(SPEAKERS) for k in range(count)), key=lambda one: (one[1], -one[0]))
    lines = ["\t".join(COLUMNS)]
    for row, (speaker, number) in enumerate(names):
        path = root / "clips" / f"clip_{speaker}_{number}.mp3"
        if (speaker, number) in BAD:
            path.write_bytes(b"<html>")
        else:
            wave = 0.1 * rng(SEED, "speak", path.name).standard_normal(16000 * (8 + number) // 16)
            soundfile.write(path, wave, 16000, format="MP3")
        cells = {column: mark(column, row) for column in COLUMNS} | {"client_id": client(speaker), "path": path.name}
        lines.append("\t".join(cells[column] for column in COLUMNS))
    (root / "train.tsv").write_text("\n".join(lines) + "\n")


def build(folder: Path) -> Path:
    """Voices, and tables of frames; `make` does the rest. Returns the folder."""
    root, results = folder / "voices", folder / "results"
    speak(root)
    read_items.main([str(results / "items/voices.parquet"), "--name", "voices", "--root", str(root), "--source", "common_voice"])
    about = {"dataset": "made", "cameras": 1}
    rows = [
        {"tracklet": f"{who}{number}", "dataset": "made", "identity": who, "kind": "person", "camera": 0}
        | {"frames": [f"{who}{number}/{index}.jpg" for index in range(count)]}
        for who, counts in PERSONS.items()
        for number, count in enumerate(counts)
    ]
    tables.write_rows(results / "tracklets/made.parquet", rows, tables.TRACKLETS, about)
    labels = sorted(PERSONS)
    roles = [{"tracklet": row["tracklet"], "role": "train", "label": labels.index(row["identity"])} for row in rows]
    tables.write_rows(results / "splits/made/main.parquet", roles, tables.SPLIT)
    plan = [
        {"tracklet": row["tracklet"], "shard": at % SHARDS, "order": at // SHARDS, "frames": len(row["frames"])}
        for at, row in enumerate(rows)
    ]
    tables.write_rows(results / "plans/made.parquet", plan, tables.PLAN)
    (results / "features/made/frames").mkdir(parents=True)
    for shard in range(SHARDS):
        mine = rows[shard::SHARDS]
        jpegs = {row["tracklet"]: [frame(row["tracklet"], index) for index in range(len(row["frames"]))] for row in mine}
        write_frames(results / f"features/made/frames/{shard:05d}.parquet", mine, jpegs, (32, 16), {**about, "shard": shard})
    return folder


def make(folder: Path, companions: tuple[str, ...] = tuple(COMPANIONS)) -> list[str]:
    """Make what is missing, each as its step does; returns what was made ('pack_shard made-audio 00001', ...)."""
    with contextlib.redirect_stdout(io.StringIO()):
        return [job for companion in companions for job in _make(folder, companion)]


def _make(folder: Path, companion: str) -> Iterator[str]:
    root, results, name = folder / "voices", folder / "results", f"made-{companion}"
    alignment, store = results / f"alignment/{name}.parquet", results / "shards" / name
    config, plan = json.dumps(COMPANIONS[companion]), results / "plans/made.parquet"
    if not alignment.exists():
        align(folder, companion, alignment)
        yield f"align_companion {name}"
    store.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        features, tar = results / f"features/made/{companion}/{shard:05d}.parquet", store / f"{shard:05d}.tar"
        frames = results / f"features/made/frames/{shard:05d}.parquet"
        twin = tar.with_suffix(".parquet")
        if tar.exists() and twin.exists():
            continue
        if not features.exists():
            arguments = [features, "--alignment", alignment, "--plan", plan, "--shard", shard, "--root", root, "--seed", SEED]
            encode_companion.main([*map(str, arguments), "--config", config])
            yield f"encode_companion {name} {shard:05d}"
        arguments = [tar, "--twin", twin, "--frames", frames, "--stream", frames.with_suffix(".mjpeg")]
        pack_shard.main([*map(str, arguments), "--alignment", str(alignment), "--features", str(features), "--kind", "audio"])
        yield f"pack_shard {name} {shard:05d}"
    if not (store / "index.parquet").exists():
        twins = [str(store / f"{shard:05d}.parquet") for shard in range(SHARDS)]
        index_shards.main([str(store / "index.parquet"), "--tracklets", str(results / "tracklets/made.parquet"), *twins])
        yield f"index_shards {name}"


def align(folder: Path, companion: str, out: Path) -> None:
    """The step align_companion."""
    results = folder / "results"
    given = [out, "--probes", out.with_name(f"{out.stem}-probes.parquet"), "--tracklets", results / "tracklets/made.parquet"]
    given += ["--splits", results / "splits/made/main.parquet", "--items", results / "items/voices.parquet", "--root", folder / "voices"]
    align_companion.main([*map(str, given), "--seed", str(SEED), "--config", json.dumps(COMPANIONS[companion])])


def said(step, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a step, errors included, as `cli.run` gives them."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            step(list(arguments))
        except UserError as error:
            return 2, f"{out.getvalue()}error: {error}\n"
    return 0, out.getvalue()


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
