"""The companion items of a collection by owner, and a listener that decodes each at most once.

In:      ITEMS and the folder of the items.   Out: clips as row numbers; the verdict on each clip that was asked for (rows of PROBES).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.base.config import CompanionConfig
from pipeline.features import audio

EVERY = 20_000
"""Clips between two lines of progress."""


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

    def row(self, clip: int, *columns: str) -> dict[str, Any]:
        """Some columns of one row of ITEMS."""
        return {name: self.items.column(name)[clip].as_py() for name in columns}


@dataclass
class Prober:
    """Decodes clips once each and remembers the verdict. Results do not depend on `threads`."""

    voices: Voices
    root: Path
    config: CompanionConfig
    threads: int
    seen: dict[int, audio.Probe] = field(default_factory=dict)

    def ask(self, clips: Iterable[int]) -> None:
        """Decode the clips that were not decoded yet."""
        new = [clip for clip in dict.fromkeys(clips) if clip not in self.seen]
        with ThreadPoolExecutor(self.threads) as pool:
            for clip, probe in zip(new, pool.map(self._probe, new), strict=True):
                self.seen[clip] = probe
                if len(self.seen) % EVERY == 0:
                    print(f"align_companion: {len(self.seen)} clips decoded", flush=True)

    def _probe(self, clip: int) -> audio.Probe:
        row = self.voices.row(clip, "path", "start", "seconds")
        return audio.probe(self.root / row["path"], row["start"], row["seconds"], self.config.audio)

    def usable(self, clip: int) -> bool:
        return not self.seen[clip].reason

    def rows(self) -> list[dict[str, Any]]:
        """Rows of PROBES."""
        out = []
        for clip, probe in self.seen.items():
            measured = {name: getattr(probe, name) for name in probe.__slots__}
            out.append({**self.voices.row(clip, "item", "owner", "path"), "usable": self.usable(clip), **measured})
        return out
