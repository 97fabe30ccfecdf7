"""Scores of a ranking by the plainest code there is, against which evaluate.retrieval is held on random cases."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from evaluate.retrieval import AveragePrecision, retrieve
from pipeline.base.seeds import rng

AVERAGES: tuple[AveragePrecision, ...] = ("hit", "trapezoid")


class Case(NamedTuple):
    """A few queries and gallery entries."""

    distance: np.ndarray
    """float64 [queries, gallery]"""
    query_identity: np.ndarray
    query_camera: np.ndarray
    gallery_identity: np.ndarray
    gallery_camera: np.ndarray


def random_case(number: int) -> Case:
    """Few distinct distances, so that ties are everywhere; identity -1 matches nothing, on either side."""
    draw = rng(3, "oracle", number)
    q, g = int(draw.integers(1, 7)), int(draw.integers(1, 30))
    distance = draw.integers(0, 5, (q, g)) / 2 - 1
    return Case(distance, draw.integers(-1, 4, q), draw.integers(0, 3, q), draw.integers(-1, 4, g), draw.integers(0, 3, g))


def run(distance, q_identity, q_camera, g_identity, g_camera, ap="hit", same_camera=True):
    return retrieve(
        [np.asarray(distance, float)],
        query_identity=np.asarray(q_identity),
        gallery_identity=np.asarray(g_identity),
        query_camera=np.asarray(q_camera),
        gallery_camera=np.asarray(g_camera),
        remove_same_camera=same_camera,
        ap=ap,
    )


def slow(distance, q_identity, q_camera, g_identity, g_camera, ap):
    """One query at a time, every rank written down: nothing clever."""
    out = []
    for q in range(len(distance)):
        order = sorted(range(len(g_identity)), key=lambda g, row=distance[q]: (row[g], g))
        kept = [g for g in order if not (g_identity[g] == q_identity[q] >= 0 and g_camera[g] == q_camera[q])]
        hits = [rank for rank, g in enumerate(kept, 1) if g_identity[g] == q_identity[q] >= 0]
        points = []
        for k, rank in enumerate(hits, 1):
            before = (k - 1) / (rank - 1) if rank > 1 else 1.0
            points.append(k / rank if ap == "hit" else (before + k / rank) / 2)
        undefined = 0.0 if ap == "trapezoid" and not kept else math.nan
        out.append((hits[0] if hits else 0, sum(points) / len(points) if points else undefined, len(hits) / hits[-1] if hits else math.nan))
    return out


def agrees(case: Case, ap: AveragePrecision) -> bool:
    """Whether the product gives every query the rank, the average precision and the mINP of the oracle."""
    found = run(*case, ap=ap)
    for i, (first, mean, inp) in enumerate(slow(*case, ap=ap)):
        if found.first[i] != first or not _same(found.ap[i], mean) or not _same(found.inp[i], inp):
            return False
    return True


def _same(found: float, expected: float) -> bool:
    return math.isnan(found) if math.isnan(expected) else abs(found - expected) <= 1e-12
