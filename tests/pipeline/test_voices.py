"""Clips by owner, and verdicts that belong to their clips whatever the chunks and threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.config import AudioConfig, CompanionConfig
from pipeline.base.tables import ITEMS, PROBES, table
from pipeline.features import audio
from pipeline.voices import Prober, Voices


def item(owner: str, order: int, name: str) -> dict[str, Any]:
    row = {"item": name, "kind": "audio", "owner": owner, "owner_order": ord(owner) % 7, "order": order, "path": f"{name}.mp3", "bytes": 1}
    return {**row, "start": None, "seconds": float(order), "first": None, "last": None}


def test_the_clips_of_an_owner_follow_the_order_of_their_table():
    voices = Voices(table([item("b", 2, "x"), item("a", 3, "y"), item("b", 1, "z"), item("a", 3, "w")], ITEMS))
    assert voices.clips == {"a": range(2), "b": range(2, 4)}
    assert voices.rows(range(4), "item", "order") == [{"item": n, "order": k} for n, k in (("w", 3), ("y", 3), ("z", 1), ("x", 2))]
    assert voices.rows([3, 0, 3], "item") == [{"item": "x"}, {"item": "w"}, {"item": "x"}]
    assert voices.order == {"a": ord("a") % 7, "b": ord("b") % 7}


@pytest.mark.parametrize(("threads", "chunk"), [(1, 100), (1, 3), (3, 100), (4, 3), (50, 16)])
def test_each_clip_is_decoded_once_and_keeps_its_own_verdict(monkeypatch, tmp_path, threads, chunk):
    heard = []

    def probe(path: Path, start: float | None, seconds: float | None, config: AudioConfig) -> audio.Probe:
        heard.append(path.name)
        return audio.Probe(0, 0, seconds or 0.0, 0.0, "", "short" if path.name == "c4.mp3" else "", path.name)

    monkeypatch.setattr(audio, "probe", probe)
    monkeypatch.setattr("pipeline.voices.CHUNK", chunk)
    prober = Prober(Voices(table([item("a", k, f"c{k}") for k in range(8)], ITEMS)), tmp_path, CompanionConfig(), threads)
    prober.ask([5, 1, 5, 4, 0])
    prober.ask([])
    prober.ask([1, 7, 6])
    assert sorted(heard) == [f"c{k}.mp3" for k in (0, 1, 4, 5, 6, 7)]
    assert list(prober.seen) == [5, 1, 4, 0, 7, 6]
    assert [prober.usable(clip) for clip in prober.seen] == [True, True, False, True, True, True]
    rows = prober.rows()
    assert [(row["item"], row["detail"], row["seconds"]) for row in rows] == [(f"c{k}", f"c{k}.mp3", float(k)) for k in prober.seen]
    assert table(rows, PROBES).num_rows == 6


@pytest.mark.parametrize(("clips", "threads", "sizes"), [(64, 8, [8] * 8), (9, 4, [3, 3, 3]), (200, 2, [16] * 12 + [8]), (5, 1, [5])])
def test_few_clips_are_shared_among_all_threads(monkeypatch, tmp_path, clips, threads, sizes):
    parts = []

    def probe(self: Prober, some: Sequence[int]) -> list[audio.Probe]:
        parts.append(list(some))
        return [audio.Probe(0, 0, float(clip), 0.0, "", "", "") for clip in some]

    monkeypatch.setattr(Prober, "_probe", probe)
    prober = Prober(Voices(table([item("a", k, f"c{k}") for k in range(clips)], ITEMS)), tmp_path, CompanionConfig(), threads)
    prober.ask(range(clips))
    assert [len(part) for part in sorted(parts)] == sizes
    assert [(clip, found.seconds) for clip, found in prober.seen.items()] == [(clip, float(clip)) for clip in range(clips)]
