"""Scoring from distances and from vectors, and re-ranking: time and memory beside the plain forms.

From distances: counted ranks against a plain loop and against one vectorised sort, of a MARS-sized test set. All three get the same
distances and give the same mAP (checked). From vectors (`ranking_process`): processes of their own on one core, less what making the
vectors costs; tests/test_bench_ranking.py holds that both sides give the same mAP. CPU time, in turns, median; memory is the peak of
the whole process, vectors included. The step of the workflow, which reads a table and writes metrics.json, is measured as a process, too.

Re-ranking is measured at two sizes, both with vectors of 128 numbers: where a dense form fits, beside it; and at 93,820 items, where
matrices would take 35 GB each, beside the products of all pairs alone and the 4 GB that are asked for. With vectors of
768 numbers that takes minutes, so it is measured apart: `python -m tests.bench.bench_ranking`.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from evaluate.retrieval import retrieve, summarise
from tests.bench.process import Cost, cost
from tests.bench.timing import Spent, interleaved, row

QUERIES, GALLERY, IDENTITIES, CAMERAS = 1980, 9330, 620, 6
ROUNDS = 3
MARS = (QUERIES, GALLERY, 768)
LARGE = (2000, 100_000, 768)
DENSE = (1000, 4000, 128)
"""Queries, gallery and width where the dense form of re-ranking fits."""
WHOLE = (3000, 90_820, 128)
WIDE = (3000, 90_820, 768)
ASKED, ASKED_OF_STEP = 4e9, 1e9
"""Bytes that re-ranking 93,820 items may take, and that the step of scoring may for 100,000 vectors."""


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
        *_from_distances(size, ours, loop, sort),
        *_from_vectors(scale),
        *_step(scale),
        *_reranked(scale),
    ]


def _from_distances(size: str, ours: Spent, loop: Spent, sort: Spent) -> list[dict[str, Any]]:
    return [
        row(f"ranks, CMC and mAP of {size} distances", ours.cpu, rival.cpu, "s", words)
        for rival, words in ((loop, "one argsort per query in a Python loop"), (sort, "one vectorised argsort of the whole matrix"))
    ]


def _from_vectors(scale: float) -> list[dict[str, Any]]:
    mars, large = _scaled(MARS, scale), _scaled(LARGE, scale)
    ours, plain = _cost(ROUNDS, mars, "score", "plain_score")
    big, plain_big = _cost(1, large, "apply", "plain_score")
    matrix = "a float64 matrix and one argsort per query"
    return [
        row(f"vectors to CMC and mAP, {_name(mars)}", ours.cpu, plain.cpu, "s", matrix),
        row(f"vectors to CMC and mAP, {_name(large)}", big.cpu, plain_big.cpu, "s", matrix),
        row(f"peak memory of that, {_name(large)}", big.memory / 1e9, plain_big.memory / 1e9, "GB", matrix),
    ]


def _step(scale: float) -> list[dict[str, Any]]:
    large = _scaled(LARGE, scale)
    with tempfile.TemporaryDirectory() as folder:
        works = [["-m", "tests.bench.ranking_process", name, *map(str, large), folder] for name in ("write", "step")]
        _, spent = (cost(*work) for work in works)
    return [row(f"peak memory of the step, {_name(large)}", spent.memory / 1e9, ASKED_OF_STEP / 1e9, "GB", "what is asked for")]


def _reranked(scale: float) -> list[dict[str, Any]]:
    dense, whole = _scaled(DENSE, scale), _scaled(WHOLE, scale)
    ours, plain = _cost(1, dense, "rerank", "plain_rerank")
    large, products = _cost(1, whole, "rerank", "products")
    matrices, alone = "dense matrices and loops over items", "float32 products of all pairs alone"
    return [
        row(f"re-ranking {_name(dense)}", ours.cpu, plain.cpu, "s", matrices),
        row(f"peak memory of re-ranking {_name(dense)}", ours.memory / 1e9, plain.memory / 1e9, "GB", matrices),
        row(f"re-ranking {_name(whole)}", large.cpu, products.cpu, "s", alone),
        row(f"peak memory of re-ranking {_name(whole)}", large.memory / 1e9, ASKED / 1e9, "GB", "what is asked for"),
    ]


def wide(scale: float = 1.0) -> list[dict[str, Any]]:
    """Re-ranking of vectors of 768 numbers."""
    size = _scaled(WIDE, scale)
    ours, products = _cost(1, size, "rerank", "products")
    return [
        row(f"re-ranking {_name(size)}", ours.cpu, products.cpu, "s", "float32 products of all pairs alone"),
        row(f"peak memory of re-ranking {_name(size)}", ours.memory / 1e9, ASKED / 1e9, "GB", "what is asked for"),
    ]


def _scaled(size: tuple[int, int, int], scale: float) -> tuple[int, int, int]:
    return max(8, round(size[0] * scale)), max(64, round(size[1] * scale)), size[2]


def _name(size: tuple[int, int, int]) -> str:
    return " x ".join(f"{n:,}" for n in size)


def _cost(rounds: int, size: tuple[int, int, int], *works: str) -> list[Cost]:
    """Median seconds of each work, less those of making its vectors; and its peak memory."""
    names = ("make", *works)
    measured = [[cost("-m", "tests.bench.ranking_process", name, *map(str, size)) for name in names] for _ in range(rounds)]
    of_work = [list(column) for column in zip(*measured, strict=True)]
    making = statistics.median(each.cpu for each in of_work[0])
    return [Cost(statistics.median(each.cpu for each in column) - making, max(each.memory for each in column)) for column in of_work[1:]]


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


if __name__ == "__main__":
    for each in wide():
        print(f"{each['what']}: {each['ours']:.3g} {each['unit']}; {each['baseline_is']}: {each['baseline']:.3g}")
