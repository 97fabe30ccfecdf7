"""Ranking of a MARS-sized test set: counted ranks against a plain loop and against one vectorised sort.

All three get the same distances and give the same mAP (checked). One core, CPU time, interleaved, median.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evaluate.retrieval import retrieve, summarise
from tests.bench.timing import interleaved, row

QUERIES, GALLERY, IDENTITIES, CAMERAS = 1980, 9330, 620, 6
ROUNDS = 3


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Seconds to go from distances to CMC and mAP; `scale` shrinks both sides."""
    problem = _problem(max(8, round(QUERIES * scale)), max(32, round(GALLERY * scale)))
    found: dict[str, float] = {}

    def by(name: str, rank: Callable[..., float]) -> Callable[[], None]:
        return lambda: found.update({name: rank(*problem)})

    ours, loop, sort = interleaved(ROUNDS, by("ours", _ours), by("loop", _loop), by("sort", _sort), warm=False)
    if max(found.values()) - min(found.values()) > 1e-9:
        raise AssertionError(f"the rivals disagree on mAP: {found}")
    size = f"{len(problem[0]):,} x {problem[0].shape[1]:,}"
    return [
        row(f"ranks, CMC and mAP of {size} distances", ours.cpu, rival.cpu, "s", words)
        for rival, words in ((loop, "one argsort per query in a Python loop"), (sort, "one vectorised argsort of the whole matrix"))
    ]


def _problem(queries: int, gallery: int) -> tuple[np.ndarray, ...]:
    """float32 distances without ties; a third of the gallery are distractors (-1), as in MARS."""
    random = np.random.default_rng(0)
    identities = max(2, round(IDENTITIES * gallery / GALLERY))
    g_identity = random.integers(0, identities, gallery)
    g_identity[: gallery // 3] = -1
    q_identity, q_camera = random.integers(0, identities, queries), random.integers(0, CAMERAS, queries)
    g_camera = random.integers(0, CAMERAS, gallery)
    distance = random.permuted(np.tile(np.arange(gallery, dtype=np.float32), (queries, 1)), axis=1)
    return (
        np.where(q_identity[:, None] == g_identity, distance * np.float32(0.3) + np.float32(0.5), distance),
        q_identity,
        q_camera,
        g_identity,
        g_camera,
    )


def _ours(distance: np.ndarray, q_identity: np.ndarray, q_camera: np.ndarray, g_identity: np.ndarray, g_camera: np.ndarray) -> float:
    result = retrieve(
        [distance],
        query_identity=q_identity,
        gallery_identity=g_identity,
        query_camera=q_camera,
        gallery_camera=g_camera,
        remove_same_camera=True,
        ap="hit",
    )
    return summarise(result, "valid").mean_ap


def _loop(distance: np.ndarray, q_identity: np.ndarray, q_camera: np.ndarray, g_identity: np.ndarray, g_camera: np.ndarray) -> float:
    values = []
    for q in range(len(distance)):
        order = np.argsort(distance[q], kind="stable")
        same = g_identity[order] == q_identity[q]
        hits = same[~(same & (g_camera[order] == q_camera[q]))]
        if hits.any():
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            values.append(precision[hits].mean())
    return float(np.mean(values))


def _sort(distance: np.ndarray, q_identity: np.ndarray, q_camera: np.ndarray, g_identity: np.ndarray, g_camera: np.ndarray) -> float:
    order = np.argsort(distance, axis=1, kind="stable")
    same = g_identity[order] == q_identity[:, None]
    gone = same & (g_camera[order] == q_camera[:, None])
    hits = same & ~gone
    rank = np.cumsum(~gone, axis=1)
    good = hits.sum(axis=1)
    precision = np.where(hits, np.cumsum(hits, axis=1) / np.maximum(rank, 1), 0.0).sum(axis=1)
    return float((precision[good > 0] / good[good > 0]).mean())
