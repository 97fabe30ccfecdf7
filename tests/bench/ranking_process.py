"""What `bench_ranking` runs as processes of its own: scoring and re-ranking of made vectors, ours and the plain way.

`python -m tests.bench.ranking_process WHAT QUERIES GALLERY D [FOLDER]`, on one core. The plain forms are what one writes first: a whole matrix
of distances, a sort of each row, a loop over items. `make` only makes the vectors: what the others cost more is their own. `write`
leaves them in FOLDER as a table, which `step` scores as the workflow does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: threads that wait for each other burn the time that is measured

import numpy as np

K1, K2, WEIGHT = 20, 6, 0.3
PER_IDENTITY, CAMERAS = 15, 6


def make(queries: int, gallery: int, width: int) -> tuple[np.ndarray, ...]:
    """float32 vectors in groups that overlap; identities and cameras of both sides: vectors, labels of queries, of the gallery."""
    random = np.random.default_rng(0)
    count = queries + gallery
    identity = random.integers(0, max(2, count // PER_IDENTITY), count)
    camera = random.integers(0, CAMERAS, count)
    centre = random.standard_normal((identity.max() + 1, width), np.float32)
    vectors = random.standard_normal((count, width), np.float32)
    for first in range(0, count, 1024):
        vectors[first : first + 1024] += np.float32(0.55) * centre[identity[first : first + 1024]]
    return vectors[:queries], vectors[queries:], identity[:queries], camera[:queries], identity[queries:], camera[queries:]


def score(queries: np.ndarray, gallery: np.ndarray, *labels: np.ndarray) -> float:
    """mAP, by the product, from vectors."""
    from evaluate.distance import squared_distances

    return _mean_ap(squared_distances(queries, gallery), *labels)


def apply(queries: int, gallery: int, width: int) -> float:
    """mAP, by a protocol of the product: from the vectors of one table, with whatever copies that takes."""
    from evaluate import protocols

    some, _, *labels = make(queries, gallery, width)
    vectors = some.base  # of both sides: a second set would count as the product's memory
    assert vectors is not None
    identity, camera = (np.concatenate([labels[i], labels[i + 2]]) for i in (0, 1))
    role = np.array(["query"] * queries + ["gallery"] * gallery)
    names = [f"{i:08d}" for i in range(len(role))]
    kind = np.full(len(role), "person")
    subjects = protocols.Subjects(names, role, np.char.zfill(identity.astype(str), 5), kind, camera, vectors)
    return protocols.apply(protocols.protocol_named("market"), subjects).summary.mean_ap


def write(folder: Path, queries: int, gallery: int, width: int) -> None:
    """EMBEDDINGS and config.json of a run, in `folder`."""
    import pyarrow as pa

    from pipeline.base import tables
    from pipeline.base.build import plain
    from pipeline.base.config import MethodConfig, RunConfig, StageConfig

    some, _, *labels = make(queries, gallery, width)
    count = queries + gallery
    identity, camera = (np.concatenate([labels[i], labels[i + 2]]) for i in (0, 1))
    values = pa.array(np.asarray(some.base).ravel())
    vector = pa.ListArray.from_arrays(pa.array(np.arange(0, (count + 1) * width, width, dtype=np.int32)), values)
    columns = {
        "tracklet": [f"{i:08d}" for i in range(count)],
        "modality": ["frames"] * count,
        "role": ["query"] * queries + ["gallery"] * gallery,
        "identity": [f"{i:05d}" for i in identity],
        "kind": ["person"] * count,
        "camera": camera.astype(np.int16),
        "clips": np.ones(count, np.int32),
        "vector": vector.cast(tables.EMBEDDINGS.arrow.field("vector").type),
    }
    stage = StageConfig(network="dubbernet_student")
    run = RunConfig(
        method="bench",
        dataset="made",
        split="0",
        seed=0,
        stage="student",
        companion="none",
        test_companion="none",
        kind="",
        bands=0,
        item_frames=0,
        height=32,
        width=16,
        this=stage,
        settings=MethodConfig(stages={"student": stage}, companion="none"),
    )
    of = {name: getattr(run, name) for name in ("method", "dataset", "split", "seed", "stage")}
    tables.write(folder / "embeddings.parquet", pa.table(columns, schema=tables.EMBEDDINGS.arrow), tables.EMBEDDINGS, of)
    (folder / "config.json").write_text(json.dumps(plain(run)))


def step(folder: Path) -> float:
    """mAP that `python -m evaluate.score` writes for the table of :func:`write`."""
    from evaluate import score

    given = ["--embeddings", str(folder / "embeddings.parquet"), "--config", str(folder / "config.json"), "--protocols", "market"]
    score.main([str(folder / "metrics.json"), "--queries", str(folder / "queries.parquet"), *given])
    return float(json.loads((folder / "metrics.json").read_text())["protocols"]["market"]["mAP"])


def plain_score(
    queries: np.ndarray,
    gallery: np.ndarray,
    q_identity: np.ndarray,
    q_camera: np.ndarray,
    g_identity: np.ndarray,
    g_camera: np.ndarray,
) -> float:
    """mAP: the whole float64 matrix, one argsort per query."""
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    distance = (q**2).sum(1)[:, None] + (g**2).sum(1) - 2 * q @ g.T
    values = []
    for i, row in enumerate(distance):
        order = np.argsort(row, kind="stable")
        same = g_identity[order] == q_identity[i]
        hits = same[~(same & (g_camera[order] == q_camera[i]))]
        if hits.any():
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            values.append(precision[hits].mean())
    return float(np.mean(values))


def rerank(queries: np.ndarray, gallery: np.ndarray, *labels: np.ndarray) -> float:
    """mAP after re-ranking, by the product."""
    from evaluate.rerank import reranked_distances

    return _mean_ap(reranked_distances(queries, gallery, K1, K2, WEIGHT), *labels)


def plain_rerank(queries: np.ndarray, gallery: np.ndarray, *labels: np.ndarray) -> float:
    """mAP after re-ranking with matrices of all items against all, and a loop over items."""
    items = np.concatenate([queries, gallery])
    norm = (items.astype(np.float64) ** 2).sum(1)
    distance = np.maximum(norm[:, None] + norm - 2 * items.astype(np.float64) @ items.T.astype(np.float64), 0)
    np.fill_diagonal(distance, 0)
    distance = (distance / distance.max(axis=1, keepdims=True)).astype(np.float32)
    ranking = np.argsort(distance, axis=1, kind="stable")
    half = round(K1 / 2)

    def mutual(i: int, k: int) -> np.ndarray:
        listed = ranking[i, : k + 1]
        return listed[(ranking[listed, : k + 1] == i).any(axis=1)]

    encoding = np.zeros_like(distance)
    for i in range(len(items)):
        own = mutual(i, K1)
        joined = [own]
        for j in own:
            theirs = mutual(j, half)
            if 3 * np.isin(theirs, own).sum() > 2 * len(theirs):
                joined.append(theirs)
        chosen = np.unique(np.concatenate(joined))
        value = np.exp(-distance[i, chosen])
        encoding[i, chosen] = value / value.sum()
    encoding = np.array([encoding[ranking[i, :K2]].mean(axis=0) for i in range(len(items))])
    out = np.empty((len(queries), len(gallery)), np.float32)
    of_gallery = encoding[len(queries) :]
    holders = [np.flatnonzero(column) for column in of_gallery.T]
    for i in range(len(queries)):
        shared = np.zeros(len(gallery))
        for j in np.flatnonzero(encoding[i]):
            shared[holders[j]] += np.minimum(encoding[i, j], of_gallery[holders[j], j])
        out[i] = (1 - WEIGHT) * (1 - shared / (2 - shared)) + WEIGHT * distance[i, len(queries) :]
    return _mean_ap([out], *labels)


def products(queries: np.ndarray, gallery: np.ndarray, *labels: np.ndarray) -> float:
    """No score: the float32 matrix products of all items with all, which no exact search for neighbours can do without."""
    items = np.concatenate([queries, gallery])
    return float(sum((items[first : first + 256] @ items.T)[0, 0] for first in range(0, len(items), 256)))


def _mean_ap(distances, q_identity: np.ndarray, q_camera: np.ndarray, g_identity: np.ndarray, g_camera: np.ndarray) -> float:
    from evaluate.retrieval import retrieve, summarise

    result = retrieve(
        distances,
        query_identity=q_identity,
        gallery_identity=g_identity,
        query_camera=q_camera,
        gallery_camera=g_camera,
        remove_same_camera=True,
        ap="hit",
    )
    return summarise(result, "valid").mean_ap


WORKS = {work.__name__: work for work in (score, plain_score, rerank, plain_rerank, products)}


def run(what: str, queries: int, gallery: int, width: int, folder: Path | None = None) -> float | None:
    """One work; None where vectors are only made."""
    if what == "make":
        make(queries, gallery, width)
        return None
    if folder:
        return step(folder) if what == "step" else write(folder, queries, gallery, width)
    if what == "apply":
        return apply(queries, gallery, width)
    return WORKS[what](*make(queries, gallery, width))


if __name__ == "__main__":
    print(run(sys.argv[1], *map(int, sys.argv[2:5]), *map(Path, sys.argv[5:])))
