"""Counts of the data behind the scores.

In:      tables of one data set.   Out: plain values for the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

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
class StoreFacts:
    """One companion of a data set: how it is allotted, and the shards that hold it beside the frames."""

    name: str
    """Title of the entry in inputs.json."""
    shards: int
    samples: int
    bytes: int
    """Bytes of all samples in the tars."""
    companion: dict[str, Any] | None
    """Entry of INDEX meta, or None."""
    items: int
    owners: int
    dubbed: int
    """Tracklets that hear something."""
    probed: int
    unusable: int


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What is known of one data set."""

    split: str
    splits: int
    roles: list[RoleCount]
    frame_size: str
    stores: list[StoreFacts]
    """One per companion."""


def data_facts(group: Sequence[Data], split: str) -> DataFacts:
    """Count one data set, given with all its companions; roles by one of its splits."""
    data = group[0]
    rows = tables.read(data.tracklets, tables.TRACKLETS).to_pylist()
    table = tables.read(data.splits[split], tables.SPLIT)
    role_of = dict(zip(table.column("tracklet").to_pylist(), table.column("role").to_pylist(), strict=True))
    size = tables.read_meta(data.index)["frames"]
    return DataFacts(
        split,
        len(data.splits),
        [_count(role, found) for role in ROLES if (found := [row for row in rows if role_of.get(row["tracklet"], "unused") == role])],
        f"{size['height']}×{size['width']}",
        [_store(one) for one in group],
    )


def _store(data: Data) -> StoreFacts:
    index = tables.read(data.index, tables.INDEX, ["shard", "size"])
    heard = tables.read(data.alignment, tables.ALIGNMENT, ["tracklet", "item", "owner"]) if data.alignment else None
    usable = tables.read(data.probes, tables.PROBES, ["usable"]).column("usable").to_pylist() if data.probes else []
    items, owners, dubbed = (len(pc.unique(heard.column(c))) if heard is not None else 0 for c in ("item", "owner", "tracklet"))
    return StoreFacts(
        data.name,
        len(pc.unique(index.column("shard"))),
        index.num_rows,
        int(np.sum(index.column("size").to_numpy())),
        tables.read_meta(data.index)["companion"],
        items,
        owners,
        dubbed,
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


def left_out(group: Sequence[Data]) -> LeftOut:
    """Broken frames and unusable clips of one data set, given with all its companions."""
    rows = [
        (row["what"], row["path"], row["reason"], row["detail"])
        for path in {path for data in group for path in data.quarantine}
        for row in tables.read(path, tables.QUARANTINE).to_pylist()
    ]
    for path in {data.probes for data in group if data.probes}:
        probes = tables.read(path, tables.PROBES).to_pylist()
        rows += [("clip", row["path"], row["reason"], row["detail"]) for row in probes if not row["usable"]]
    rows = sorted(set(rows))
    counts = Counter((what, reason) for what, _, reason, _ in rows)
    return LeftOut([(what, reason, n) for (what, reason), n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))], rows)
