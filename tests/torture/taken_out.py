"""Attacks on a withdrawal: rules that must agree, an end at each file operation, files that are forgotten."""

from __future__ import annotations

import base64
import multiprocessing
import os
import random
import shutil
import signal
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline import align_companion
from pipeline.base import tables, withdrawn
from pipeline.base.build import build
from pipeline.base.config import CompanionConfig
from pipeline.base.errors import UserError
from pipeline.features import audio
from pipeline.voices import Prober
from shards import withdraw, withdrawal
from tests.torture import voices_tree
from tests.torture.voices_tree import hashes, make, said

# --- what is left ----------------------------------------------------------------------------------------------------

PIECE = 256
"""Bytes of an array that are looked for, at three places of it."""


def pieces(results: Path, clips: Collection[str], root: Path) -> dict[bytes, str]:
    """Bytes that only these clips have, by which they are recognised: of their arrays in FEATURES, and of their files (in base64, too)."""
    found = {}
    for path in sorted(results.glob("features/*/*/*.parquet")):
        if path.parent.name != "frames":
            for row in tables.read(path, tables.FEATURES, ["item", "values"]).to_pylist():
                if row["item"] in clips:
                    found |= dict.fromkeys(_three(row["values"]), f"array of {row['item']}")
    for clip in clips:
        data = (root / "clips" / f"{clip}.mp3").read_bytes()
        found |= dict.fromkeys([*_three(data), *_three(base64.b64encode(data))], f"recording of {clip}")
    return found


def _three(data: bytes) -> list[bytes]:
    last = len(data) - PIECE
    return [data[at : at + PIECE] for at in (last // 4, last // 2, last * 3 // 4)]


def left(results: Path, wanted: Mapping[bytes, str]) -> list[str]:
    """Where what is still there; not in the generated source."""
    out = []
    for path in sorted(path for path in results.rglob("*") if path.is_file() and results / "demo" not in path.parents):
        data = path.read_bytes()
        out += sorted({f"{path.relative_to(results)}: {what}" for piece, what in wanted.items() if piece in data})
    return out


def stamps(results: Path) -> dict[str, tuple[int, str]]:
    """Time and SHA-256 of every file, by its path; not of the generated source."""
    found = {name: digest for name, digest in hashes(results).items() if not name.startswith("demo/")}
    return {name: ((results / name).stat().st_mtime_ns, digest) for name, digest in found.items()}


# --- one after the other, all at once, from the beginning ------------------------------------------------------------

Aligned = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


def world(seed: int) -> tuple[Callable[[Mapping[str, bool]], Aligned], random.Random]:
    """A small data set with its voices, drawn by `seed`, as a function: withdrawn items -> what `align` makes of it (nothing is decoded)."""
    draw = random.Random(seed)
    policy = draw.choice(["id_speaker", "id_speaker", "shuffled", "random_clip", "single_speaker", "recorded"])
    rows = [
        {"tracklet": f"{who}{k}", "dataset": "made", "identity": who, "kind": "person", "camera": 0}
        | {"frames": [f"{who}{k}/{index}.jpg" for index in range(draw.randint(1, 14))]}
        for who in "abcd"[: draw.randint(1, 4)]
        for k in range(draw.randint(1, 3))
    ]
    tracklets = tables.table(rows, tables.TRACKLETS)
    roles = ["train" if row["identity"] != "d" else "query" for row in rows]
    split = [{"tracklet": row["tracklet"], "role": role, "label": 0} for row, role in zip(rows, roles, strict=True)]
    items: list[dict[str, Any]] = []

    def add(owner: str, rank: int, first: int | None = None, last: int | None = None) -> None:
        name = f"{owner}_{len(items)}"
        row = {"item": name, "kind": "audio", "owner": owner, "owner_order": rank, "order": len(items), "path": f"{name}.mp3", "bytes": 1}
        items.append({**row, "start": None, "seconds": None, "first": first, "last": last})

    if policy == "recorded":
        for row in rows:
            for first in range(0, len(row["frames"]), 3):
                add(row["tracklet"], 0, first, min(first + 3, len(row["frames"])) - 1)
    else:
        for speaker in range(draw.randint(4, 8)):
            for _ in range(draw.randint(1, 12)):
                add(f"s{speaker}", speaker)
    bad = {row["item"] for row in items if draw.random() < 0.1}
    how = {"policy": policy, "run": draw.choice([2, 4, 6]), "reuse": True, "oracle_test_audio": draw.random() < 0.3}
    how["group_scope"] = draw.choice(["tracklet", "identity"]) if policy in ("id_speaker", "shuffled") else "tracklet"
    config = build(CompanionConfig, {"alignment": how})
    table = tables.table(items, tables.ITEMS)

    def run(gone: Mapping[str, bool]) -> Aligned:
        def heard(path: Path, *_: object) -> audio.Probe:
            assert path.stem not in gone, "a withdrawn clip is decoded"
            if path.stem in bad:
                return audio.Probe(0, 0, 0.0, -200.0, "", "unreadable", "no frames")
            return audio.Probe(8000, 8000, 1 + zlib.crc32(path.stem.encode()) % 64 / 16, -20.0, "soundfile", "", "")

        silent = mock.patch.object(align_companion, "print", lambda *_, **__: None, create=True)
        with silent, mock.patch.object(audio, "probe", heard), mock.patch.object(align_companion, "read_list", lambda root: dict(gone)):
            return ordered(align_companion.align(tracklets, [tables.table(split, tables.SPLIT)], table, Path("nowhere"), config, seed, 1))

    return run, draw


def ordered(made: Aligned) -> Aligned:
    rows, probes, meta = made
    return sorted(rows, key=lambda row: (row["tracklet"], row["first"])), sorted(probes, key=lambda row: row["item"]), meta


def compared(seed: int) -> str:
    """'same' if clips taken out of an alignment one by one, all at once, and before it is made give the same; else 'differs'; 'alone' if
    a speaker had no other clip (then what is made anew must be without them)."""
    run, draw = world(seed)
    try:
        before = run({})
    except UserError:
        return "unserved"
    rows, probes, meta = before
    named = sorted({row["item"] for row in rows} | {row["item"] for row in probes})
    chosen = draw.sample(named, min(len(named), draw.randint(1, 5)))
    usable = {row["item"]: row["usable"] for row in probes}
    gone = {item: usable[item] for item in chosen}
    try:
        fresh = run(gone)
        if withdrawn.alone(rows, gone, meta["policy"]):
            return "differs" if {row["item"] for row in fresh[0]} & set(gone) else "alone"
    except UserError:
        return "alone" if withdrawn.alone(rows, gone, meta["policy"]) else "differs"
    except AssertionError:
        return "differs"
    at_once = ordered(withdrawn.without(rows, probes, meta, gone))
    step = before
    for count in range(1, len(chosen) + 1):
        step = ordered(withdrawn.without(*step, chosen[:count]))
    return "same" if at_once == step == fresh else "differs"


def broken_rules() -> dict[str, AbstractContextManager[object]]:
    """Rules that look right and are not."""

    def nearest(rows: Sequence[Mapping[str, Any]], gone: Collection[str], policy: str) -> dict[tuple[str, str], Any]:
        used: dict[str, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: (row["tracklet"], row["first"])):
            used.setdefault("" if policy == "random_clip" else row["owner"], {}).setdefault(row["item"], row)
        out = {}
        for items in used.values():
            names = list(items)
            stay = [k for k, name in enumerate(names) if name not in gone]
            for k, name in enumerate(names):
                if name in gone:
                    out[items[name]["owner"], name] = items[names[min(stay, key=lambda s: (abs(s - k), s))]] if stay else None
        return out

    plain = Prober.ask

    def all_of_them(self: Prober, clips: Collection[int]) -> None:
        self.gone = {}
        plain(self, clips)

    return {
        "the nearest clip instead of the next": mock.patch.object(withdrawn, "stand_ins", nearest),
        "withdrawn clips that lose their place": mock.patch.object(Prober, "usable", lambda self, clip: not self.seen[clip].reason),
        "withdrawn clips that are decoded": mock.patch.object(Prober, "ask", all_of_them),
    }


# --- ended anywhere --------------------------------------------------------------------------------------------------

CLIPS = ("clip_0_2", "clip_4_1")
ALONE = ("clip_0_2", "clip_6_0")
"""The speaker of the second has no other clip: clips are allotted anew in one store, and not in the other."""
STORES = ("audio", "audio_random")


class Ended(BaseException):
    """Not an error that anybody catches."""


OPERATIONS = ((Path, "unlink"), (Path, "replace"), (os, "utime"), (os, "fsync"))


@contextmanager
def ending(at: int, end: Callable[[], None]) -> Iterator[None]:
    """Call `end` in the place of the file operation with this number (from 0)."""
    count = 0

    def counted(plain: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count - 1 == at:
                end()
            return plain(*args, **kwargs)

        return operation

    plain = [(holder, name, getattr(holder, name)) for holder, name in OPERATIONS]
    try:
        for holder, name, function in plain:
            setattr(holder, name, counted(function))
        yield
    finally:
        for holder, name, function in plain:
            setattr(holder, name, function)


def stop(at: int, arguments: list[str]) -> bool:
    """Run the command until its operation `at`, which raises; whether it got there."""

    def end() -> None:
        raise Ended

    try:
        with ending(at, end):
            said(withdraw.main, *arguments)
    except Ended:
        return True
    return False


def kill(at: int, arguments: list[str]) -> bool:
    """The same with SIGKILL, in a process of its own."""
    context = multiprocessing.get_context("forkserver")  # imports once, not for each of them
    context.set_forkserver_preload([__name__])
    process = context.Process(target=killed, args=(at, arguments))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def killed(at: int, arguments: list[str]) -> None:
    with ending(at, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        said(withdraw.main, *arguments)


def command(folder: Path, *clips: str) -> list[str]:
    return [*clips, "--root", str(folder / "voices"), "--results", str(folder / "results")]


def check(folder: Path) -> tuple[int, str]:
    return said(withdraw.main, "--check", *command(folder))


def interrupted(
    folder: Path, end: Callable[[int, list[str]], bool], every: int = 1, clips: Sequence[str] = CLIPS, most: int = 1000
) -> tuple[int, list[int]]:
    """End a withdrawal at each of its file operations, start it again, make what is missing.

    Where the number of the operation is odd, what is missing is also made before (or refused), as by somebody who did not notice.

    Args:
        folder: to work in.
        end: :func:`stop` or :func:`kill`.
        every: only operations of which the number divides by this.
        clips: to take out.
        most: end after so many that were other.

    Returns:
        Operations, and those after which something was other than without an end.
    """
    start = voices_tree.build(folder / "start")
    make(start, STORES)
    whole = shutil.copytree(start, folder / "whole")
    said(withdraw.main, *command(whole, *clips))
    make(whole, STORES)
    wanted = bytes_of(whole)

    def one(at: int) -> bool | None:
        """None: it came to its end before this operation."""
        tree = shutil.copytree(start, folder / f"at{at}")
        try:
            if not end(at, command(tree, *clips)):
                return None
            if at % 2:
                with suppress(UserError):
                    make(tree, STORES)
            status, _ = said(withdraw.main, *(command(tree) if (tree / "voices/withdrawn.txt").exists() else command(tree, *clips)))
            if status:
                return False
            make(tree, STORES)
            return check(tree)[0] == 0 and bytes_of(tree) == wanted
        finally:
            shutil.rmtree(tree)

    points, bad, at = 0, [], 0
    while len(bad) < most and (fine := one(at)) is not None:
        points += 1
        bad += [] if fine else [at]
        at += every
    return points, bad


def bytes_of(tree: Path) -> dict[str, str]:
    """Hashes of all that was made, but for files that a killed process could not delete."""
    return {name: digest for name, digest in hashes(tree).items() if not name.endswith(".part")}


def alignment_first() -> AbstractContextManager[object]:
    """A withdrawal that changes ALIGNMENT before it deletes what is made of it: what is left to do cannot be seen any more."""
    plain = withdraw.carry_out

    def wrong(one: withdraw.Work) -> None:
        files = list(one.files())
        with mock.patch.object(withdraw.Work, "files", lambda self: iter(())):
            plain(one)
        for path in files:
            path.unlink()

    return mock.patch.object(withdraw, "carry_out", wrong)


def probes_first() -> AbstractContextManager[object]:
    """A withdrawal that deletes PROBES before ALIGNMENT where clips are allotted anew: ALIGNMENT then stands alone."""
    plain = withdraw.carry_out

    def wrong(one: withdraw.Work) -> None:
        if one.tables is not None:
            plain(one)
            return
        withdrawal.write_proof(one.place, one.heard, one.shards)
        for path in list(one.files()):
            path.unlink()
        one.place.probes_path.unlink()
        one.place.path.unlink()

    return mock.patch.object(withdraw, "carry_out", wrong)


# --- forgotten things ------------------------------------------------------------------------------------------------


def forgetful(folder: Path) -> tuple[bool, int, int]:
    """Whether --check accepts a tree from which clips were taken out; trees in which something was forgotten or changed, and how many of
    these it refuses."""
    start = voices_tree.build(folder / "start")
    make(start, STORES)
    done = shutil.copytree(start, folder / "done")
    said(withdraw.main, *command(done, *CLIPS))
    make(done, STORES)
    right = check(done)[0] == 0
    held, other = "shards/made-audio/00001", "shards/made-audio/00000"  # clip_0_2 is heard in shard 1, neither clip in shard 0
    features, alignment = "features/made/audio/00001.parquet", "alignment/made-audio.parquet"

    def back(*names: str) -> Callable[[Path], None]:
        return lambda tree: [shutil.copy2(start / "results" / name, tree / "results" / name) for name in names] and None

    def flipped(tree: Path) -> None:
        tar = tree / "results" / f"{other}.tar"
        data = bytearray(tar.read_bytes())
        data[600] ^= 1
        tar.write_bytes(data)

    def renamed(tree: Path) -> None:
        """Features of the clip under the name of the one that is heard instead, and the tar made of them."""
        path = tree / "results" / features
        old = {row["item"]: row for row in tables.read(start / "results" / features, tables.FEATURES).to_pylist()}
        new = tables.read(path, tables.FEATURES).to_pylist()
        name = min({row["item"] for row in new} - set(old))
        meta = {key: value for key, value in tables.read_meta(path).items() if key not in withdraw.NO_TABLE}
        rows = [{**(old[CLIPS[0]] if row["item"] == name else row), "item": row["item"]} for row in new]
        path.unlink()
        tables.write_rows(path, rows, tables.FEATURES, meta)
        (tree / "results" / f"{held}.tar").unlink()
        make(tree, STORES)

    broken: dict[str, Callable[[Path], None]] = {
        "a tar": back(f"{held}.tar", f"{held}.parquet"),
        "features": back(features),
        "rows of ALIGNMENT": back(alignment),
        "a tar changed at equal size": flipped,
        "the sound under another name": renamed,
        "a tar without its twin": lambda tree: (tree / "results" / f"{held}.parquet").unlink(),
        "no index": lambda tree: (tree / "results/shards/made-audio/index.parquet").unlink(),
    }
    found = 0
    for number, change in enumerate(broken.values()):
        tree = shutil.copytree(done, folder / str(number))
        change(tree)
        found += check(tree)[0] == 2
    return right, len(broken), found
