"""What it costs to go on at any step of a training: the order of samples is computed, never replayed.

A plan of ten million steps over as many tracklets as MARS has (20,478 in 96 shards; 8,298 of 625 identities to train on; made up, so that
it needs nobody's tables). INDEX is as it really is: every row, its three members, or six where there is sound, each with its SHA-256.
Cost is counted in calls, which no busy machine changes: random generators that are made, and epochs that are planned. Run as a process
(`python -m tests.torture.restart INDEX SPLIT STEP KIND`) it prints CPU seconds, seconds by the clock and the bytes that `/proc/self/io` saw:
of opening the tables, which the seal makes every training read once and whole, and of the order, apart.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from pipeline.base import tables
from pipeline.base.config import AugmentConfig, ClipConfig, MethodConfig, RunConfig, SamplerConfig, StageConfig
from pipeline.base.seeds import rng
from shards import balance, checks, codec, order, windows
from shards.order import Order, Part
from shards.read import Index

ROOT = Path(__file__).resolve().parents[2]
IDENTITIES, TRACKLETS, SHARDS = 625, 8_298, 96
OTHERS = 20_478 - TRACKLETS
"""Tracklets to test on, and those of nobody: rows of INDEX that an order does not use."""
STEPS, AT = 10**7, 10**6
"""Length of the plan, and the step at which it goes on."""
POLICY = "shuffled"
"""What makes the loader draw most: whose voice a clip hears."""
KINDS = ("whole", "windows")
"""Orders over the whole store, and (for streams) over windows of shards."""
SECONDS, BYTES = 1.0, 10**6
"""Of the order, less than that."""


def rows() -> dict[str, dict[str, Any]]:
    """INDEX rows with labels, of made tracklets: every identity has one to some sixty, as in MARS."""
    draw = rng(8, "restart")
    counts = np.ones(IDENTITIES, int)
    weight = draw.exponential(size=IDENTITIES)
    np.add.at(counts, draw.choice(IDENTITIES, TRACKLETS - IDENTITIES, p=weight / weight.sum()), 1)
    labels = np.repeat(np.arange(IDENTITIES), counts)
    frames = draw.integers(2, 200, TRACKLETS)
    made = {}
    for n, (label, count) in enumerate(zip(labels.tolist(), frames.tolist(), strict=True)):
        made[f"{label:04d}T{n:05d}"] = {
            "label": label,
            "frames": count,
            "items": -(-count // 6),
            "shard": f"{n * SHARDS // TRACKLETS:05d}.tar",
        }
    return made


def run_config(kind: str) -> RunConfig:
    sampler = SamplerConfig(identities=8, tracklets=4, window=8 if kind == "windows" else 0, lanes=2 if kind == "windows" else 1)
    settings = MethodConfig(stages={}, clip=ClipConfig(), sampler=sampler, augment=AugmentConfig())
    return RunConfig(
        method="m", dataset="d", split="s", seed=8, stage="teacher", companion="c", test_companion="c", kind="audio", bands=80, item_frames=501,
        height=256, width=128, this=StageConfig(network="dubbernet_teacher", hears=True, task="identify"), settings=settings,
    )  # fmt: skip


def made(kind: str, some: dict[str, dict[str, Any]]) -> Order:
    return Order(some, run_config(kind), POLICY)


def restored(ordered: Order, step: int) -> Part:
    """The batch at a step of the plan, as a training that goes on there asks for it."""
    return ordered.part(*divmod(step, ordered.steps))


def replayed(ordered: Order, step: int) -> Part:
    """Broken on purpose: what a loader does that has to walk there."""
    for before in range(step):
        ordered.part(*divmod(before, ordered.steps))
    return restored(ordered, step)


def digest(part: Part) -> str:
    """Over everything that a part says."""
    return hashlib.sha256(repr([_plain(getattr(part, field.name)) for field in fields(part)]).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else value


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Calls, while the context is open: 'drawn' random generators and 'planned' epochs."""
    calls = {"drawn": 0, "planned": 0}

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return real(*arguments, **named)

        return call

    with (
        patch.object(order, "rng", counting("drawn", order.rng)),
        patch.object(balance, "rng", counting("drawn", balance.rng)),
        patch.object(windows, "rng", counting("drawn", windows.rng)),
        patch.object(balance.Batches, "_make_plan", counting("planned", balance.Batches._make_plan)),
        patch.object(windows.Windows, "_make_plan", counting("planned", windows.Windows._make_plan)),
    ):
        yield calls


def work(kind: str, some: dict[str, dict[str, Any]], step: int, go: Callable[[Order, int], Part] = restored) -> dict[str, int]:
    """Calls until the batch at `step` is known, by an order that has just been made."""
    fresh = made(kind, some)
    with counted() as calls:
        go(fresh, step)
    return dict(calls)


def same_work(kind: str, some: dict[str, dict[str, Any]], steps: tuple[int, ...], go: Callable[[Order, int], Part] = restored) -> bool:
    """Whether no step costs more than the first does."""
    return len({tuple(work(kind, some, step, go).values()) for step in steps}) == 1


def walked(kind: str, some: dict[str, dict[str, Any]], steps: range) -> Iterator[tuple[int, str]]:
    """These steps and the digest of each, by one order that goes from step to step."""
    walking = made(kind, some)
    for step in steps:
        yield step, digest(restored(walking, step))


# --- as a process of its own ------------------------------------------------------------------------------------------


def write(folder: Path, some: dict[str, dict[str, Any]]) -> tuple[Path, Path]:
    """INDEX (without its tars) and SPLIT of these rows and of all others."""
    index, split = folder / "index.parquet", folder / "split.parquet"
    about = {"dataset": "d", "cameras": 6, "frames": {"height": 256, "width": 128}, "companion": {"kind": "audio", "bands": 80}}
    draw = rng(8, "restart", "others")
    others = {
        f"{9000 + n // 20:04d}T{n:05d}": {"label": -1, "frames": count, "items": 0, "shard": f"{n * SHARDS // OTHERS:05d}.tar"}
        for n, count in enumerate(draw.integers(2, 200, OTHERS).tolist())
    }
    place: dict[str, int] = {}
    listed = []
    for key, row in {**some, **others}.items():
        at = place.get(row["shard"], 0)
        members, size = _members(key, row, at, draw)
        place[row["shard"]] = at + size
        listed.append(
            {"key": key, "identity": key[:4], "kind": "person", "camera": 0, "offset": at, "size": size}
            | {name: row[name] for name in ("shard", "frames", "items")}
            | {"members": members, "digest": codec.digest(members)}
        )
    tables.write_rows(index, listed, tables.INDEX, about)
    roles = [
        {"tracklet": key, "role": "train" if row["label"] >= 0 else "gallery", "label": row["label"]}
        for key, row in (some | others).items()
    ]
    tables.write_rows(split, roles, tables.SPLIT)
    return index, split


def _members(key: str, row: dict[str, Any], offset: int, draw: np.random.Generator) -> tuple[list[dict[str, Any]], int]:
    """Members of a sample as INDEX lists them, and the bytes that they take in the tar; sizes as of MARS."""
    frames, items = row["frames"], row["items"]
    sizes = {codec.META: 200 + 40 * frames, codec.FRAMES: frames * int(draw.integers(2_000, 4_000)), codec.FRAME_LENGTHS: 128 + 4 * frames}
    if items:
        values = 128 + 160 * items * int(draw.integers(200, 501))
        sizes |= dict(zip(codec.companion_suffixes("audio"), (values, 128 + 4 * items, 128 + 2 * frames), strict=True))
    listed, at = [], offset
    for suffix, size in sizes.items():
        digest = hashlib.sha256(f"{key}.{suffix}".encode()).hexdigest()
        listed.append({"suffix": suffix, "offset": at + codec.BLOCK, "size": size, "digest": digest})
        at += codec.BLOCK + size + -size % codec.BLOCK
    return listed, at - offset


def measured(index: Path, split: Path, kind: str, step: int) -> dict[str, Any]:
    """A new process that goes on at a step: seconds and bytes of the tables and of the order, and the digest of its batch."""
    command = [sys.executable, "-m", "tests.torture.restart", str(index), str(split), str(step), kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def _read_bytes() -> int:
    """Bytes that this process has asked the system for; -1 where it does not say."""
    account = Path("/proc/self/io")
    return int(account.read_text().split("rchar:")[1].split()[0]) if account.exists() else -1


def tables_are_small(told: dict[str, Any], index: Path, split: Path) -> bool:
    """Whether the tables were read once, and footers again; also true where the system does not say."""
    return told["tables"]["bytes"] < 1.1 * (index.stat().st_size + split.stat().st_size) + 100_000


def main() -> None:
    index, split, step, kind = sys.argv[1:]
    tables.read(split, tables.SPLIT)  # pyarrow loads its own libraries when it first reads
    own = -_read_bytes() + _read_bytes()  # what asking itself reads
    marks = [_now()]
    run = run_config(kind)
    rows = checks.rows(Index(index), tables.read(split, tables.SPLIT), ["train"], run)  # as a training does
    marks.append(_now())
    ordered = made(kind, rows)
    part = restored(ordered, int(step))
    marks.append(_now())
    said: dict[str, Any] = {"steps": ordered.steps, "digest": digest(part)}
    for name, before, after in (("tables", *marks[:2]), ("order", *marks[1:])):
        seconds, wall, read = (b - a for a, b in zip(before, after, strict=True))
        said[name] = {"seconds": seconds, "wall": wall, "bytes": read - own}
    print(json.dumps(said))


def _now() -> tuple[float, float, int]:
    return time.process_time(), time.monotonic(), _read_bytes()


if __name__ == "__main__":
    main()
