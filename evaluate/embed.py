"""Turn the test tracklets of a split into one vector each.

In:      config.json, model.safetensors, INDEX (tars beside it), SPLIT.
Out:     EMBEDDINGS of the roles query, gallery and junk; its meta says what the network saw and where the weights are from.
Source:  specs/dubbernet.md sections 3.3 and 7.1 (mean over the tracklet's chunks of the feature after the BNNeck, float32,
         not normalised) and 7.4 (who may hear at test time). Ours: the mean is summed in float64 in the order of the clips,
         so it does not depend on how clips were batched beyond the last digits of the network itself.

A network that only sees never gets the companion: not even its bytes are read. A network that hears may do so where the
sound is the tracklet's own, or where the test identities were dubbed on purpose; then the meta carries oracle: true, and
every number made from these vectors has to carry the word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model.api import Network
from model.registry import MODELS
from model.weights import load, read_meta
from pipeline.base import cli, tables
from pipeline.base.batch import Batch
from pipeline.base.build import build
from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError, ScoreError, WeightsError, did_you_mean
from pipeline.base.files import read_json
from shards.loader import DenseLoader
from shards.read import Store

ROLES = ("query", "gallery", "junk")
BATCH_FRAMES = 384
"""Frames per batch: 64 clips of 6. More does not speed up a CPU and fits any GPU."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Mean feature of each tracklet, tracklets in sorted order."""

    tracklet: list[str]
    clips: np.ndarray
    """int64 [tracklets]; clips that were averaged."""
    values: np.ndarray
    """float32 [tracklets, D]."""


def tracklet_vectors(network: Network, batches: Iterable[Batch], device: torch.device | str) -> Vectors:
    """Embed clips and average those of one tracklet, wherever batches cut it.

    Args:
        network: in evaluation mode, on `device`.
        batches: clips with the name of their tracklet, on the host.

    Raises:
        ScoreError: no clip at all, or a feature that is not finite.
    """
    sums: dict[str, np.ndarray] = {}
    clips: dict[str, int] = {}
    for batch in batches:
        network.check(batch)
        features = network.embed(batch.to(device)).to("cpu", torch.float64).numpy()
        for name, feature in zip(batch.tracklet, features, strict=True):
            if not np.isfinite(feature).all():
                raise ScoreError(
                    f"tracklet {name}: the network's feature holds NaN or infinity; the training diverged, look at metrics.jsonl"
                )
            sums[name] = sums[name] + feature if name in sums else feature.copy()
            clips[name] = clips.get(name, 0) + 1
    if not sums:
        raise ScoreError(f"no clip to embed: the split has no tracklet of the roles {', '.join(ROLES)}")
    names = sorted(sums)
    count = np.array([clips[name] for name in names])
    mean = np.stack([sums[name] for name in names]) / count[:, None]
    return Vectors(names, count, mean.astype(np.float32))


def network_of(run: RunConfig, weights: str, device: torch.device | str) -> tuple[Network, dict[str, Any]]:
    """The run's network with its trained weights, in evaluation mode, and the meta data of the weights.

    Raises:
        ConfigError: no such network.
        WeightsError: the file is of another run, or does not fit.
    """
    if run.this.network not in MODELS:
        raise ConfigError(f"stages.{run.stage}.network='{run.this.network}': no such network{did_you_mean(run.this.network, MODELS)}")
    meta = read_meta(weights)
    for name in ("method", "dataset", "split", "seed", "stage"):
        if name in meta and meta[name] != getattr(run, name):
            raise WeightsError(
                f"{weights}: trained for {name} {meta[name]!r}, config.json says {getattr(run, name)!r}; give both of one run"
            )
    for name in ("classes", "cameras"):
        if not isinstance(meta.get(name), int):
            raise WeightsError(f"{weights}: its meta data do not say how many {name} it was trained with; write it with train.fit")
    network = MODELS[run.this.network](
        run.settings.model, classes=meta["classes"], cameras=meta["cameras"], bands=run.bands, height=run.height, width=run.width
    )
    load(weights, network)
    return network.eval().to(device), meta


def check_may_hear(companion: dict[str, Any] | None, run: RunConfig) -> None:
    """Refuse a hearing network where its sound at test time would be missing or give the label away unmarked.

    Args:
        companion: entry of INDEX meta.

    Raises:
        ScoreError: says why, and what to evaluate instead.
    """
    if companion is None:
        raise ScoreError(
            f"stage '{run.stage}' hears {run.kind}, but the shards of {run.dataset} hold no companion; evaluate a stage that only sees"
        )
    if not companion["oracle"] and companion["policy"] != "recorded":
        raise ScoreError(
            f"stage '{run.stage}' hears, but the test identities of {run.dataset} have no sound of their own (policy '{companion['policy']}'); "
            "evaluate a stage that only sees, or set alignment.oracle_test_audio, which marks every number as oracle"
        )


def embeddings(vectors: Vectors, split: pa.Table, index: pa.Table, modality: str) -> pa.Table:
    """EMBEDDINGS: role from SPLIT, identity, kind and camera from INDEX."""
    role = dict(zip(split.column("tracklet").to_pylist(), split.column("role").to_pylist(), strict=True))
    facts = {row["key"]: row for row in index.select(["key", "identity", "kind", "camera"]).to_pylist()}
    names = vectors.tracklet
    return tables.table(
        {
            "tracklet": names,
            "modality": [modality] * len(names),
            "role": [role[name] for name in names],
            **{column: [facts[name][column] for name in names] for column in ("identity", "kind", "camera")},
            "clips": vectors.clips.tolist(),
            "vector": list(vectors.values),
        },
        tables.EMBEDDINGS,
    )


def embed(run: RunConfig, weights: str, store: Store, split: pa.Table, batch_frames: int, workers: int) -> tuple[pa.Table, dict[str, Any]]:
    """All test tracklets of a split as EMBEDDINGS, and the table's meta data."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("highest")  # no TF32: features are float32 on every device
    network, trained = network_of(run, weights, device)
    companion = store.meta["companion"]
    if network.hears:
        check_may_hear(companion, run)
    loader = DenseLoader(store, split, ROLES, run, network.hears, workers, batch_frames)
    vectors = tracklet_vectors(network, loader, device)
    modality = f"frames+{network.kind}" if network.hears else "frames"
    sounding = {row["key"] for row in store.table.select(["key", "items"]).to_pylist() if row["items"]}
    meta = {
        **{name: getattr(run, name) for name in ("method", "dataset", "split", "seed", "stage")},
        "network": run.this.network,
        "modality": modality,
        "oracle": bool(network.hears and companion["oracle"]),
        "policy": companion["policy"] if network.hears else None,
        "heard": sum(name in sounding for name in vectors.tracklet) if network.hears else None,
        "feature": "mean over clips of the feature after the BNNeck, float32, not normalised",
        "classes": trained["classes"],
        "cameras": trained["cameras"],
    }
    return embeddings(vectors, split, store.table, modality), meta


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="EMBEDDINGS table to write")
    arguments.add_argument("--config", required=True, help="config.json of the run")
    arguments.add_argument("--weights", required=True, help="model.safetensors of the run")
    arguments.add_argument("--index", required=True, help="INDEX of the shards")
    arguments.add_argument("--split", required=True, help="SPLIT table")
    arguments.add_argument("--batch-frames", type=int, default=BATCH_FRAMES, help="most frames in one batch (default: %(default)s)")
    arguments.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")
    arguments.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's own choice (default: %(default)s)")
    args = arguments.parse_args(argv)
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    run = build(RunConfig, read_json(args.config), args.config)
    split = tables.read(args.split, tables.SPLIT)
    made, meta = embed(run, args.weights, Store(args.index), split, args.batch_frames, args.workers)
    tables.write(args.out, made, tables.EMBEDDINGS, meta)


if __name__ == "__main__":
    cli.run(main)
