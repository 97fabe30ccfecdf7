"""The companion items of a collection by owner, and a listener that decodes each at most once.

In:      ITEMS and the folder of the items.   Out: clips as row numbers; the verdict on each clip that was asked for (rows of PROBES).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.base.config import CompanionConfig
from pipeline.base.files import below
from pipeline.base.withdrawn import NOTHING
from pipeline.features import audio

EVERY = 20_000
"""Clips between two lines of progress."""
CHUNK = 16
"""Most clips that a thread decodes in one go: handing over one by one costs a tenth of decoding."""


class Voices:
    """ITEMS by owner. A clip is a row number of the sorted table; an owner's clips follow the order of their source table."""

    def __init__(self, items: pa.Table) -> None:
        # The item's name comes last: the order of rows in a file must not matter.
        self.items = items.sort_by([(name, "ascending") for name in ("owner", "order", "item")]).combine_chunks()
        owner = self.items.column("owner")
        code = owner.combine_chunks().dictionary_encode().indices.to_numpy()
        bounds = [0, *(np.flatnonzero(np.diff(code)) + 1).tolist(), len(code)] if len(code) else [0]
        self.clips = {owner[a].as_py(): range(a, b) for a, b in pairwise(bounds)}
        rank = self.items.column("owner_order")
        self.order = {name: rank[clips[0]].as_py() for name, clips in self.clips.items()}

    def rows(self, clips: Sequence[int], *columns: str) -> list[dict[str, Any]]:
        """Some columns of some rows of ITEMS."""
        return self.items.select(columns).take(pa.array(clips, pa.int64())).to_pylist()


@dataclass
class Prober:
    """Decodes clips once each and remembers the verdict; withdrawn ones are never decoded. Results do not depend on `threads`."""

    voices: Voices
    root: Path
    config: CompanionConfig
    threads: int
    gone: Mapping[str, bool] = field(default_factory=dict)
    """Withdrawn items, and whether they count as usable (see `pipeline.base.withdrawn`)."""
    seen: dict[int, audio.Probe] = field(default_factory=dict)
    places: dict[int, bool] = field(default_factory=dict)
    """Withdrawn clips that were asked for, and whether they count as usable."""

    def ask(self, clips: Iterable[int]) -> None:
        """Decode the clips that were not decoded yet."""
        new = [clip for clip in dict.fromkeys(clips) if clip not in self.seen]
        if self.gone:
            items = [row["item"] for row in self.voices.rows(new, "item")]
            self.places.update({clip: self.gone[item] for clip, item in zip(new, items, strict=True) if item in self.gone})
            self.seen.update({clip: audio.Probe(**NOTHING) for clip in new if clip in self.places})
            new = [clip for clip in new if clip not in self.places]
        size = max(min(CHUNK, ceil(len(new) / self.threads)), 1)  # few clips are shared among all threads
        chunks = [new[start : start + size] for start in range(0, len(new), size)]
        with ThreadPoolExecutor(self.threads) as pool:
            for chunk, probes in zip(chunks, pool.map(self._probe, chunks), strict=True):
                for clip, probe in zip(chunk, probes, strict=True):
                    self.seen[clip] = probe
                    if len(self.seen) % EVERY == 0:
                        print(f"align_companion: {len(self.seen)} clips decoded", flush=True)

    def _probe(self, clips: Sequence[int]) -> list[audio.Probe]:
        rows = self.voices.rows(clips, "path", "start", "seconds")
        return [audio.probe(below(self.root, row["path"]), row["start"], row["seconds"], self.config.audio) for row in rows]

    def usable(self, clip: int) -> bool:
        return self.places.get(clip, not self.seen[clip].reason)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of PROBES."""
        about = self.voices.rows(list(self.seen), "item", "owner", "path")
        return [
            {**row, "usable": not probe.reason, **{name: getattr(probe, name) for name in probe.__slots__}}
            for row, probe in zip(about, self.seen.values(), strict=True)
        ]
