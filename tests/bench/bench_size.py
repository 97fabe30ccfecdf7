"""Stages that read names and tables, at 1, 10 and 100 % of MARS and of Common Voice English: does the cost grow as the data do?

Real steps as processes of their own (tests/size lays out what they read). Processor seconds of a whole process, Python's start
included, beside a plain script that reads the same files. The slope is that of log(cost) over log(size), where cost is what a size
costs more than a thousandth of it does (start and imports); 1 is linear. Peak memory stands beside the 2 GB that are asked for.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.allocation import match
from pipeline.base import tables
from pipeline.base.errors import SourceError
from tests.bench.process import Cost, cost
from tests.bench.timing import interleaved, row
from tests.size import common_voice, mars

FRACTIONS = (0.01, 0.1, 1.0)
START = 0.001
"""The fraction whose cost counts as that of starting."""
ROUNDS = 3
"""Runs of each step; one where a run takes long (the whole), or only a part is asked for."""
SHARDS = 96
"""Of the whole (workflow/config/datasets/mars.yaml)."""
CLEAR = 0.2
"""A size takes part in the slope if it costs this share of a start more than starting does; below that, noise is measured."""
ASKED = 2e9
"""Bytes that no step may take more of."""


@dataclass(frozen=True)
class Stage:
    """One step: its command, what it is held against, and what its size is counted in."""

    name: str
    unit: str
    command: Callable[[Path, int], Sequence[str]]
    """Of a folder laid out by tests.size and the number of shards."""
    plain: Callable[[Path], Sequence[str]]
    plain_is: str
    size: Callable[[Path], int]
    """Of the folder, after the step."""


@dataclass
class Figures:
    """What one stage cost at each fraction."""

    sizes: dict[float, int] = field(default_factory=dict)
    ours: dict[float, Cost] = field(default_factory=dict)
    plain: dict[float, Cost] = field(default_factory=dict)


def _dataset(folder: Path) -> list[str]:
    whole = json.loads((folder / "fraction.json").read_text()) == 1
    config = {"source": "mars", "splits": ["official"], "generated": not whole}  # the whole has to pass the official counts
    return ["--dataset", "mars", "--root", f"{folder}/mars", "--config", json.dumps(config)]


def _align(module: str) -> Callable[[Path, int], Sequence[str]]:
    # `reuse`, because the few speakers of a thousandth cannot serve its persons; larger parts need none
    config = json.dumps({"alignment": {"oracle_test_audio": True, "reuse": True}})
    return lambda folder, shards: [
        *("-m", module, f"{folder}/a.parquet", "--probes", f"{folder}/p.parquet", "--tracklets", f"{folder}/t.parquet"),
        *("--splits", f"{folder}/s.parquet", "--items", f"{folder}/i.parquet", "--root", f"{folder}/common_voice"),
        *("--seed", "0", "--threads", "2", "--config", config),
    ]


def _rows(name: str) -> Callable[[Path], int]:
    return lambda folder: pq.read_metadata(folder / name).num_rows


def _frames(folder: Path) -> int:
    counts = tables.read_meta(folder / "t.parquet")["counts"]
    return counts["train frames"] + counts["test frames"]


def _plain(what: str, *names: str) -> Callable[[Path], Sequence[str]]:
    return lambda folder: ["-m", "tests.bench.plain_size", what, *(f"{folder}/{name}" for name in names)]


def _twins(folder: Path) -> list[str]:
    return sorted(str(path) for path in (folder / "shards").glob("*.parquet") if path.stem.isdigit())


STAGES = (
    Stage(
        "read_tracklets",
        "frames",
        lambda folder, shards: ["-m", "pipeline.read_tracklets", f"{folder}/t.parquet", *_dataset(folder)],
        _plain("listing", "mars"),
        "listing and sorting the same folders",
        _frames,
    ),
    Stage(
        "read_split",
        "tracklets",
        lambda folder, shards: [
            *("-m", "pipeline.read_split", f"{folder}/s.parquet", "--tracklets", f"{folder}/t.parquet"),
            *("--split", "official", *_dataset(folder)),
        ],
        _plain("load", "t.parquet"),
        "reading TRACKLETS with pyarrow",
        _rows("t.parquet"),
    ),
    Stage(
        "plan_shards",
        "tracklets",
        lambda folder, shards: [
            *("-m", "pipeline.plan_shards", f"{folder}/plan.parquet", "--tracklets", f"{folder}/t.parquet", "--shards", str(shards))
        ],
        _plain("load", "t.parquet"),
        "reading TRACKLETS with pyarrow",
        _rows("t.parquet"),
    ),
    Stage(
        "read_items",
        "clips",
        lambda folder, shards: [
            *("-m", "pipeline.read_items", f"{folder}/i.parquet", "--name", "cv", "--root", f"{folder}/common_voice"),
            *("--source", "common_voice"),
        ],
        _plain("clips", "common_voice"),
        "both tables with polars, and a stat of each clip",
        _rows("i.parquet"),
    ),
    Stage(
        "align_companion, nothing decoded",
        "clips",
        _align("tests.size.unheard"),
        _plain("load", "t.parquet", "s.parquet", "i.parquet"),
        "reading its three tables with pyarrow",
        _rows("i.parquet"),
    ),
    Stage(
        "align_companion, 0.8 s clips decoded",
        "runs of frames",
        _align("pipeline.align_companion"),
        _plain("load", "t.parquet", "s.parquet", "i.parquet"),
        "reading its three tables with pyarrow",
        _rows("a.parquet"),
    ),
    Stage(
        "index_shards",
        "samples",
        lambda folder, shards: [
            *("-m", "shards.index_shards", f"{folder}/shards/index.parquet", "--tracklets", f"{folder}/shards/tracklets.parquet"),
            *_twins(folder),
        ],
        _plain("join", "shards"),
        "reading and joining the same twins with pyarrow",
        _rows("shards/index.parquet"),
    ),
)


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Cost of each stage at each size, its slope, its peak memory; `scale` is the largest fraction."""
    try:
        mars.read()
    except SourceError as error:
        print(f"size: nothing measured: {error}")
        return []
    fractions = [START, *(fraction for fraction in FRACTIONS if fraction <= scale)]
    figures = {stage.name: Figures() for stage in STAGES}
    with tempfile.TemporaryDirectory() as name:
        for fraction in fractions:
            folder = Path(name) / f"{fraction:g}"
            spent = _measure(folder, fraction, ROUNDS if fraction < scale >= 1 else 1, figures)
            start = time.perf_counter()
            shutil.rmtree(folder)
            print(f"size: {fraction:.1%}: {spent}, removal {time.perf_counter() - start:.0f} s", flush=True)
    return [*(line for stage in STAGES for line in _table(stage, figures[stage.name], fractions)), _matching(fractions[-1])]


def _matching(fraction: float) -> dict[str, Any]:
    """The matching of all persons with all speakers, without tables."""
    needs, speakers = mars.needs(mars.draw(mars.read(), fraction, 0)), common_voice.speakers(common_voice.draw(fraction, 0))
    (spent,) = interleaved(ROUNDS, lambda: match(needs, speakers), warm=False)
    what = f"matching: {len(match(needs, speakers).owners):,} of {len(needs):,} persons, {len(speakers):,} speakers"
    return row(what, spent.cpu, 2.0, "s", "what is asked for")


def _measure(folder: Path, fraction: float, rounds: int, figures: dict[str, Figures]) -> str:
    """Lay one fraction out and run every stage on it; where the seconds went, in words."""
    start = time.perf_counter()
    cost("-m", "tests.size", str(folder), "--fraction", str(fraction))
    (folder / "fraction.json").write_text(json.dumps(fraction))
    spent = {"layout": time.perf_counter() - start}
    shards = max(1, round(SHARDS * fraction))
    for stage in STAGES:
        start = time.perf_counter()
        if stage.name == "index_shards":
            command = ["-m", "tests.size.shards", f"{folder}/shards", "--tracklets", f"{folder}/t.parquet"]
            cost(*command, "--root", f"{folder}/mars", "--shards", str(shards))
            spent["packing"] = time.perf_counter() - start
            start = time.perf_counter()
        found: list[tuple[Cost, Cost]] = [(cost(*stage.command(folder, shards)), cost(*stage.plain(folder))) for _ in range(rounds)]
        mine = figures[stage.name]
        mine.ours[fraction], mine.plain[fraction] = (
            Cost(statistics.median(c.cpu for c in side), max(c.memory for c in side)) for side in zip(*found, strict=True)
        )
        mine.sizes[fraction] = stage.size(folder)
        spent[stage.name] = time.perf_counter() - start
    return ", ".join(f"{what} {seconds:.0f} s" for what, seconds in spent.items())


def slope(sizes: Sequence[float], costs: Sequence[float], start: float) -> float:
    """Exponent s of cost - start ~ size ** s, by least squares of the logarithms.

    Sizes weigh by how far their cost stands out of the start, up to twice the start. NaN where the largest does not cost twice the
    start, or fewer than two stand out at all.
    """
    extra = (np.array(costs) - start) / start
    clear = extra > CLEAR
    if clear.sum() < 2 or extra[-1] < 1:
        return math.nan
    return float(np.polyfit(np.log(np.array(sizes)[clear]), np.log(extra[clear]), 1, w=np.minimum(extra[clear], 2))[0])


def _table(stage: Stage, figures: Figures, fractions: Sequence[float]) -> list[dict[str, Any]]:
    out = []
    for fraction in fractions[1:]:
        ours, plain = figures.ours[fraction].cpu, figures.plain[fraction].cpu
        what = f"{stage.name}, {figures.sizes[fraction]:,} {stage.unit}"
        out.append(row(what, ours, plain, "s", stage.plain_is))
    large = fractions[1:]
    found = slope([figures.sizes[f] for f in large], [figures.ours[f].cpu for f in large], figures.ours[START].cpu)
    if not math.isnan(found):
        what, linear = f"{stage.name}, slope", f"linear; {figures.ours[START].cpu:.2f} s of starting taken off"
        out.append(row(what, found, 1.0, "exponent", linear))
    peak = max(figures.ours[f].memory for f in large) / 1e9
    return [*out, row(f"{stage.name}, peak memory", peak, ASKED / 1e9, "GB", "what is asked for")]
