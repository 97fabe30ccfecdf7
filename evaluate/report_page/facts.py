"""Counts of the data behind the scores.

In:      tables of one data set.   Out: plain values for the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluate.report_page.inputs import Data
from pipeline.base import tables
from pipeline.base.tables import ROLES


@dataclass(frozen=True, slots=True)
class RoleCount:
    """One role of one split."""

    role: str
    tracklets: int
    identities: int
    """Persons; distractors and junk are nobody."""
    nobody: int
    """Tracklets of distractors or junk."""
    frames: int
    cameras: int


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What is known of one data set."""

    split: str
    splits: int
    roles: list[RoleCount]
    shards: int
    samples: int
    bytes: int
    """Bytes of all samples in the tars."""
    frame_size: str
    companion: dict[str, Any] | None
    """Entry of INDEX meta, or None."""
    items: int
    owners: int
    dubbed: int
    """Tracklets that hear something."""
    probed: int
    unusable: int


def data_facts(data: Data, split: str) -> DataFacts:
    """Count one data set, roles by one of its splits."""
    rows = tables.read(data.tracklets, tables.TRACKLETS).to_pylist()
    table = tables.read(data.splits[split], tables.SPLIT)
    role_of = dict(zip(table.column("tracklet").to_pylist(), table.column("role").to_pylist(), strict=True))
    index = tables.read(data.index, tables.INDEX)
    meta = tables.read_meta(data.index)
    heard = tables.read(data.alignment, tables.ALIGNMENT).to_pylist() if data.alignment else []
    usable = tables.read(data.probes, tables.PROBES, ["usable"]).column("usable").to_pylist() if data.probes else []
    size = meta["frames"]
    return DataFacts(
        split,
        len(data.splits),
        [_count(role, found) for role in ROLES if (found := [row for row in rows if role_of.get(row["tracklet"], "unused") == role])],
        len(set(index.column("shard").to_pylist())),
        index.num_rows,
        int(np.sum(index.column("size").to_numpy())),
        f"{size['height']}×{size['width']}",
        meta["companion"],
        len({row["item"] for row in heard}),
        len({row["owner"] for row in heard}),
        len({row["tracklet"] for row in heard}),
        len(usable),
        usable.count(False),
    )


def _count(role: str, rows: Sequence[dict[str, Any]]) -> RoleCount:
    persons = [row for row in rows if row["kind"] == "person"]
    return RoleCount(
        role,
        len(rows),
        len({row["identity"] for row in persons}),
        len(rows) - len(persons),
        sum(len(row["frames"]) for row in rows),
        len({row["camera"] for row in rows}),
    )


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was not used, and why."""

    reasons: list[tuple[str, str, int]]
    """(what, reason, how many), the most frequent first."""
    rows: list[tuple[str, str, str, str]]
    """(what, path, reason, detail) in the order of the paths."""


def left_out(data: Data) -> LeftOut:
    """Broken frames and unusable clips of one data set."""
    rows = [
        (row["what"], row["path"], row["reason"], row["detail"])
        for path in data.quarantine
        for row in tables.read(path, tables.QUARANTINE).to_pylist()
    ]
    if data.probes:
        probes = tables.read(data.probes, tables.PROBES).to_pylist()
        rows += [("clip", row["path"], row["reason"], row["detail"]) for row in probes if not row["usable"]]
    rows = sorted(set(rows), key=lambda row: (row[0], row[1], row[2]))
    counts = Counter((what, reason) for what, _, reason, _ in rows)
    return LeftOut([(what, reason, n) for (what, reason), n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))], rows)
