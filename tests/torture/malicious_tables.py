"""Malicious tables: Parquet files and their metadata, paths in them, and lists as data sets ship them."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
from PIL import Image

from pipeline.base import tables
from pipeline.base.config import CompanionConfig
from pipeline.base.seal import seal
from pipeline.base.tables import ALIGNMENT, ITEMS, PLAN, TRACKLETS
from pipeline.sources import listing
from pipeline.voices import Prober, Voices
from tests.torture.malicious import Attack, Runs, Trap

TRACKLET = {"tracklet": "a", "dataset": "own", "identity": "1", "kind": "person", "camera": 0, "frames": ["a/1.jpg"]}
ITEM = {"item": "a", "kind": "audio", "owner": "spk", "owner_order": 0, "order": 0, "path": "a.mp3", "start": None, "seconds": None}
ITEM |= {"first": None, "last": None, "bytes": 1}
HEARD = {"tracklet": "a", "first": 0, "last": 0, "item": "a", "owner": "spk", "path": "a.mp3", "start": None, "seconds": 1.0}


def noted(metadata: Mapping[bytes, bytes]) -> Callable[[Trap], None]:
    """TRACKLETS with metadata of anybody's; read with its note."""

    def run(trap: Trap) -> None:
        made = tables.table([TRACKLET], TRACKLETS).replace_schema_metadata(dict(metadata))
        pq.write_table(made, trap.inside / "t.parquet")
        seal(trap.inside / "t.parquet")  # whoever makes the table can do so
        tables.read(trap.inside / "t.parquet", TRACKLETS)
        tables.read_meta(trap.inside / "t.parquet")

    return run


NOTE = json.dumps({"schema": "tracklets", "version": 1}).encode()


def extended(name: bytes) -> Callable[[Trap], None]:
    """A column of an extension type whose parameters are a pickle: pyarrow before 14.0.1 loaded it."""

    def run(trap: Trap) -> None:
        metadata = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": pickle.dumps(Runs(trap.hit))}
        fields = [field.with_metadata(metadata) if field.name == "tracklet" else field for field in TRACKLETS.arrow]
        columns = tables.table([TRACKLET], TRACKLETS).columns
        pq.write_table(pa.table(columns, schema=pa.schema(fields, {b"dubtrack": NOTE})), trap.inside / "t.parquet")
        seal(trap.inside / "t.parquet")
        tables.read(trap.inside / "t.parquet", TRACKLETS)

    return run


def framed(path: str, lay: Callable[[Trap, Path], object] = lambda trap, root: None) -> Callable[[Trap], None]:
    """A path in TRACKLETS, through encode_frames."""

    def run(trap: Trap) -> None:
        root = trap.inside / "root"
        (root / "a").mkdir(parents=True)
        lay(trap, root)
        row = {**TRACKLET, "frames": [path.replace("{out}", str(trap.outside))]}
        tables.write_rows(trap.inside / "t.parquet", [row], TRACKLETS, {"dataset": "own", "cameras": 1})
        tables.write_rows(trap.inside / "p.parquet", [{"tracklet": "a", "shard": 0, "order": 0, "frames": 1}], PLAN)
        given = {"stream": "0.mjpeg", "quarantine": "q.parquet", "tracklets": "t.parquet", "plan": "p.parquet", "root": "root"}
        options = [f"--{name}={trap.inside / value}" for name, value in given.items()]
        trap.step("pipeline.encode_frames", trap.inside / "0.parquet", *options, "--shard=0", "--config", '{"height": 32, "width": 16}')
        assert len(tables.read(trap.inside / "0.parquet", tables.FRAMES).column("kept")[0]) == 1

    return run


def probed(path: str) -> Callable[[Trap], None]:
    """A path in ITEMS, through the listener of align_companion."""

    def run(trap: Trap) -> None:
        items = tables.table([{**ITEM, "path": path.replace("{out}", str(trap.outside))}], ITEMS)
        Prober(Voices(items), trap.inside, CompanionConfig(), 1).ask([0])

    return run


def heard(path: str) -> Callable[[Trap], None]:
    """A path in ALIGNMENT, through encode_companion."""

    def run(trap: Trap) -> None:
        row = {**HEARD, "path": path.replace("{out}", str(trap.outside))}
        tables.write_rows(trap.inside / "a.parquet", [row], ALIGNMENT, {"kind": "audio"})
        tables.write_rows(trap.inside / "p.parquet", [{"tracklet": "a", "shard": 0, "order": 0, "frames": 1}], PLAN)
        options = [
            f"--alignment={trap.inside}/a.parquet",
            f"--plan={trap.inside}/p.parquet",
            "--shard=0",
            f"--root={trap.inside}",
            "--seed=0",
        ]
        trap.step("pipeline.encode_companion", trap.inside / "f.parquet", *options)

    return run


def own(table: str, name: str = "tracklets.csv") -> Callable[[Trap], None]:
    """A table of own tracklets, through read_tracklets and read_items."""

    def run(trap: Trap) -> None:
        (trap.inside / "f").mkdir()
        Image.new("RGB", (16, 32)).save(trap.inside / "f/1.jpg")
        text = table.replace("{out}", str(trap.outside)).replace("{hit}", str(trap.hit))
        (trap.inside / name).write_bytes(text.encode())
        options = [f"--root={trap.inside}", "--config", '{"source": "manifest"}']
        trap.step("pipeline.read_tracklets", trap.inside / "t.parquet", "--dataset=own", *options)
        if ",audio" in table:
            trap.step("pipeline.read_items", trap.inside / "i.parquet", "--name=own", "--source=manifest", *options)

    return run


def row(**cells: str) -> str:
    """A table of one row, quoted where it must be."""
    whole = {"split": "main", "role": "train", "identity": "1", "camera": "1", "tracklet": "a", "frame": "f/1.jpg", **cells}
    quoted = ",".join('"' + value.replace('"', '""') + '"' for value in whole.values())
    return ",".join(whole) + "\n" + quoted + "\n"


def clips(table: str, durations: str = "") -> Callable[[Trap], None]:
    """Lists of Common Voice, through read_items."""

    def run(trap: Trap) -> None:
        (trap.inside / "clips").mkdir()
        (trap.inside / "train.tsv").write_bytes(table.replace("{hit}", str(trap.hit)).encode())
        if durations:
            (trap.inside / "clip_durations.tsv").write_bytes(durations.encode())
        trap.step("pipeline.read_items", trap.inside / "i.parquet", "--name=cv", f"--root={trap.inside}", "--source=common_voice")

    return run


def function_handle(command: str) -> bytes:
    """A MATLAB file whose variable is a function handle (class 16)."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(kind: int, name: str, body: bytes) -> bytes:
        size = (1, len(command)) if kind == 4 else (1, 1)
        return element(
            14, element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", *size)) + element(1, name.encode()) + body
        )

    called = matrix(4, "", element(4, command.encode("utf-16-le")))
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM" + matrix(16, "track_train_info", called)


def mat(write: Callable[[Trap, Path], object]) -> Callable[[Trap], None]:
    def run(trap: Trap) -> None:
        write(trap, trap.inside / "x.mat")
        listing.read_mat(trap.inside / "x.mat", "track_train_info")

    return run


def split_list(content: str) -> Callable[[Trap], None]:
    def run(trap: Trap) -> None:
        (trap.inside / "splits.json").write_text(content)
        listing.read_split_list(trap.inside / "splits.json")

    return run


def saved(value: Any) -> Callable[[Trap, Path], None]:
    return lambda trap, path: scipy.io.savemat(path, {"track_train_info": value})


TITLES = "client_id\tpath\tsentence\tlocale\n"
BELOW, LEAVES = "is no path below", "leaves the data set's root"
FORMULA = "=cmd|'/C touch {hit}'!A0"
DEEP = "[" * 100_000 + "]" * 100_000


def attacks() -> Iterator[Attack]:
    for name, note in {"nested": DEEP.encode(), "cut": b'{"schema": ', "not UTF-8": b"\xff\xfe{}", "huge": b'"' + b"x" * 3_000_000}.items():
        yield Attack(f"Parquet: metadata {name}", noted({b"dubtrack": note}), "is not JSON")
    yield Attack("Parquet: metadata a list", noted({b"dubtrack": b"[1]"}), "found no table")
    yield Attack("Parquet: metadata for pandas", noted({b"dubtrack": NOTE, b"pandas": b'{"index_columns": ["__import__(1)"]}'}))
    for name in (b"arrow.py_extension_type", b"ray.data.arrow_tensor", b"arrow.opaque"):
        yield Attack(
            f"Parquet: extension {name.decode()} of a pickle",
            extended(name),
            "tracklet is|not a readable" if name == b"arrow.opaque" else "",
        )
    broken = lambda trap: tables.read(_put(trap, "t.parquet", pickle.dumps(Runs(trap.hit))), TRACKLETS)  # noqa: E731
    yield Attack("Parquet: a pickle", broken, "not a readable Parquet file")
    for path in ("../../outside/secret.jpg", "{out}/secret.jpg", "a/../../../outside/secret.jpg"):
        yield Attack(f"TRACKLETS: frame {path}", framed(path), LEAVES)
    yield Attack("TRACKLETS: frame with NUL", framed("a/1.jpg\0/../../x"), f"are not below|{LEAVES}")
    yield Attack(
        "TRACKLETS: frame that is a named pipe", framed("a/1.jpg", lambda trap, root: os.mkfifo(root / "a/1.jpg")), "broken frames"
    )
    yield Attack(
        "TRACKLETS: frame that is a device",
        framed("a/1.jpg", lambda trap, root: (root / "a/1.jpg").symlink_to("/dev/null")),
        "broken frames",
    )
    yield Attack(
        "TRACKLETS: frame without end", framed("a/1.jpg", lambda trap, root: (root / "a/1.jpg").symlink_to("/dev/zero")), "cannot be read"
    )
    link = lambda trap, root: (root / "a/1.jpg").symlink_to(trap.outside / "secret.jpg")  # noqa: E731
    yield Attack("TRACKLETS: a link that leaves the root is followed", framed("a/1.jpg", link), reads=True)
    for path in ("../outside/secret.wav", "{out}/secret.wav", "a/../../outside/secret.wav", "a.mp3\0", ""):
        yield Attack(f"ITEMS: path {path!r}", probed(path), BELOW)
        if path:
            yield Attack(f"ALIGNMENT: path {path!r}", heard(path), BELOW)

    outside = "is not a path below the root"
    for path in (
        "../outside/secret.jpg",
        "{out}/secret.jpg",
        "f\\..\\1.jpg",
        "C:/x.jpg",
        "file:/x.jpg",
        "f/1.jpg\0",
        "f/\x1b[2J.jpg",
        "f/1\n.jpg",
    ):
        yield Attack(f"tracklets.csv: frame {path!r}", own(row(frame=path)), outside)
    yield Attack("tracklets.csv: sound outside", own(row(audio="../outside/secret.wav")), outside)
    for cell in (
        FORMULA,
        "+1+cmd|' /C calc'!A0",
        "@SUM(1)",
        "<script>fetch('/')</script>",
        "$(touch {hit})",
        "`touch {hit}`",
        "../../x",
        "\x1b]0;x\x07",
        "a\0b",
    ):
        yield Attack(f"tracklets.csv: person and camera {cell!r}", own(row(identity=cell, camera=cell)))
    yield Attack("tracklets.csv: camera of 5,000 digits", own(row(camera="9" * 5000)))
    for key in ("../x", "$(touch {hit})", "a/b", FORMULA):
        yield Attack(f"tracklets.csv: tracklet {key!r}", own(row(tracklet=key)), "letters, digits, '_' and '-' only")
    yield Attack("tracklets.jsonl: nested", own(DEEP, "tracklets.jsonl"), "nested too deeply")
    yield Attack(
        "tracklets.jsonl: frame outside", own(json.dumps({**_cells(), "frame": "../outside/secret.jpg"}), "tracklets.jsonl"), outside
    )
    yield Attack(
        "tracklets.jsonl: frame a list", own(json.dumps({**_cells(), "frame": ["f/1.jpg"]}), "tracklets.jsonl"), "expected text or a number"
    )

    for path in ("../../outside/secret.mp3", "a/b.mp3", "/x.mp3", "a\\b.mp3", ".hidden.mp3"):
        yield Attack(f"train.tsv: clip {path}", clips(f"{TITLES}x\t{path}\ts\ten\n"), "is no plain file name")
    for path in ("|touch x", "$(touch x)", "-i", "concat:a", "a\0"):
        yield Attack(f"train.tsv: clip {path!r}, which is a name", clips(f"{TITLES}x\t{path}.mp3\ts\ten\n"))
    yield Attack("train.tsv: formula and HTML", clips(f"{TITLES}{FORMULA}\ta.mp3\t<script>x</script>\ten\n"))
    yield Attack(
        "clip_durations.tsv: a formula", clips(f"{TITLES}x\ta.mp3\ts\ten\n", "clip\tduration[ms]\na.mp3\t=1+1\n"), "its milliseconds"
    )
    yield Attack("clip_durations.tsv: NUL", clips(f"{TITLES}x\ta.mp3\ts\ten\n", "clip\tduration[ms]\na.mp3\t1\0\n"), "its milliseconds")

    yield Attack(
        ".mat: function handle",
        mat(lambda trap, path: path.write_bytes(function_handle(f"@()system('{trap.touch}')"))),
        "expected the numeric array|not a readable",
    )
    yield Attack(".mat: cell of text", mat(saved(np.array(["eval('x')", [1, 2]], object))), "expected the numeric array")
    yield Attack(".mat: struct", mat(saved({"a": 1, "b": "system"})), "expected the numeric array")
    yield Attack(".mat: text", mat(saved("system('x')")), "expected the numeric array")
    yield Attack(".mat: a pickle", mat(lambda trap, path: path.write_bytes(pickle.dumps(Runs(trap.hit)))), "not a readable MATLAB file")
    yield Attack("splits.json: nested", split_list(DEEP), "nested too deeply")
    yield Attack("splits.json: HTML for a list", split_list("<html><script>x</script></html>"), "not JSON")
    yield Attack("splits.json: paths for persons", split_list('[{"train": ["../../x"], "test": ["$(touch x)"]}]'))


def _cells() -> dict[str, str]:
    return {"split": "main", "role": "train", "identity": "1", "camera": "1", "tracklet": "a"}


def _put(trap: Trap, name: str, data: bytes) -> Path:
    (trap.inside / name).write_bytes(data)
    return trap.inside / name
