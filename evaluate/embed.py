"""Turn the test tracklets of a split into one vector each.

In:      config.json, model.safetensors, INDEX (tars beside it) of the companion `test_companion`, SPLIT; with `--test-dataset` and
         `--test-split`: INDEX and SPLIT of another data set than the run was trained on.
Out:     EMBEDDINGS of the roles query, gallery and junk; its meta says what the network saw and heard, and where the weights
         are from.
Source:  specs/dubbernet.md sections 3.3 and 7.1 (model/vectors.py) and 7.4 (who may hear at test time).

A network that only sees never gets the companion: its bytes are hashed with all others of the tar (`--check`) and not looked at
otherwise. A network that hears may do so in shards
whose companion was made for it (INDEX meta `test`; the loader refuses others): the tracklet's own sound, silence, or sound
derived from the label. With the last the meta carries oracle: true, and every number made from these vectors has to carry
the word. What a network heard in training (`trained_on`) does not make it oracle: silence tells nobody apart.

INDEX and SPLIT have to say that they are of the data set and split that is tested, be it the run's own. On another data set (meta
`test_dataset`, `test_split`) only a network that does not hear is tested, and not on data that it was trained on, as far as names and
the digests of TRACKLETS tell that. Cameras there are other cameras: a network that learned an embedding of each takes the mean of
them for all (meta `camera_embedding`; specs/dubbernet.md, B30), however well the indices would fit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from model.api import Network
from model.registry import make
from model.vectors import BATCH_FRAMES, Vectors, tracklet_vectors
from model.weights import load, read_meta
from pipeline.base import cli, origin, tables
from pipeline.base.build import build
from pipeline.base.code import EMBEDDING
from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError, WeightsError
from pipeline.base.files import digest_file, read_json
from shards.loader import DenseLoader, check
from shards.read import Store

ROLES = ("query", "gallery", "junk")
BLIND = ("audio_probe",)
"""Networks that look at no frame."""


def network_of(run: RunConfig, weights: str, device: torch.device | str) -> tuple[Network, dict[str, Any]]:
    """The run's network with its trained weights, in evaluation mode, and the meta data of the weights.

    Raises:
        ConfigError: no such network.
        WeightsError: the file is of another run, or does not fit.
    """
    meta = read_meta(weights)
    for name in ("method", "dataset", "split", "seed", "stage"):
        if name in meta and meta[name] != getattr(run, name):
            raise WeightsError(
                f"{weights}: trained for {name} {meta[name]!r}, config.json says {getattr(run, name)!r}; give both of one run"
            )
    for name in ("classes", "cameras"):
        if not isinstance(meta.get(name), int):
            raise WeightsError(f"{weights}: its meta data do not say how many {name} it was trained with; write it with train.fit")
    network = make(run, meta["classes"], meta["cameras"])
    load(weights, network)
    return network.eval().to(device), meta


def heard(companion: dict[str, Any], run: RunConfig, table: pa.Table, names: Collection[str]) -> dict[str, Any]:
    """What the meta of EMBEDDINGS says about the sound of a network that hears.

    Args:
        companion: entry of INDEX meta; the loader has seen that test tracklets may hear it.
        table: INDEX.
        names: the embedded tracklets.
    """
    sounding = {row["key"] for row in table.select(["key", "items"]).to_pylist() if row["items"]}
    return {
        "companion": run.test_companion,
        "policy": companion["policy"],
        "label_derived": companion["label_derived"],
        "oracle": bool(companion["oracle"] or companion["label_derived"]),  # test tracklets that hear their label: never without the word
        "heard": sum(name in sounding for name in names),
    }


SILENT = {"companion": None, "policy": None, "label_derived": False, "oracle": False, "heard": None}
"""The same of a network that only sees."""


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


def full_precision() -> None:
    """No TF32, neither in matrix products nor in convolutions: features are float32 on every device."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def open_store(index: str, split: pa.Table, how: str) -> Store:
    """The packed tracklets, after a check of the tars that hold those of `ROLES` (`how`: `MachineConfig.check`).

    Raises:
        ShardError: a tar is not what INDEX says; names shard, sample and member.
    """
    store = Store(index)
    roles, names = (split.column(name).to_pylist() for name in ("role", "tracklet"))
    check(store, [name for role, name in zip(roles, names, strict=True) if role in ROLES], how, print, alone=True)
    return store


class Target(NamedTuple):
    """The test half that a run of another data set is tested on."""

    dataset: str
    split: str


def check_data(run: RunConfig, of_index: Mapping[str, Any], of_split: Mapping[str, Any], target: Target | None) -> None:
    """INDEX and SPLIT say that they are of the data set and split that is tested.

    Args:
        of_index, of_split: meta data of INDEX and SPLIT.
        target: None: the run's own are tested.

    Raises:
        ConfigError: names what does not fit.
    """
    tested = target or Target(run.dataset, run.split)
    for what, name, found, wanted in (
        ("--index", "dataset", of_index.get("dataset"), tested.dataset),
        ("--split", "dataset", of_split.get("dataset"), tested.dataset),
        ("--split", "split", of_split.get("split"), tested.split),
    ):
        if found != wanted and target:
            raise ConfigError(f"{what}: is of {name} {found!r}, but --test-{name}={wanted}; give INDEX and SPLIT of what is tested")
        if found != wanted:
            raise ConfigError(
                f"{what}: is of {name} {found!r}, but config.json is for {name} {wanted!r}; give those of the run, or say with --test-dataset "
                "and --test-split which other data set is tested"
            )


def check_target(
    run: RunConfig, trained: Mapping[str, Any], of_index: Mapping[str, Any], of_split: Mapping[str, Any], target: Target
) -> None:
    """The data set that is tested is not the one that was trained on, as far as names and the digests of TRACKLETS tell.

    Args:
        trained: meta data of the weights.
        of_index, of_split: meta data of INDEX and SPLIT, which note the digest of the TRACKLETS that they were made from.

    Raises:
        ConfigError: it is.
    """
    if target.dataset == run.dataset:
        raise ConfigError(
            f"--test-dataset={target.dataset}: the run was trained on it, and persons who train in one of its splits are tested in another; "
            "name another data set, or leave --test-dataset and --test-split out to test the run's own split"
        )
    for what, meta in (("--index", of_index), ("--split", of_split)):
        if trained.get("tracklets") and meta.get(origin.FROM, {}).get("tracklets") == trained["tracklets"]:
            raise ConfigError(
                f"{what}: says that it is of {target.dataset!r}, but was made from the very TRACKLETS that the run was trained on (digest "
                f"{trained['tracklets'][:16]}), so persons who train might be tested; give another data set"
            )


def on_target(network: Network, run: RunConfig, target: Target) -> tuple[RunConfig, dict[str, Any]]:
    """Ready a network for a data set that it was not trained on: the run as the loader is to see it, and what the meta says.

    Raises:
        ConfigError: the network hears.
    """
    if network.hears:
        raise ConfigError(
            f"stage '{run.stage}' of {run.method} hears, and sound of another data set ({target.dataset}) is not taken; test a stage that "
            "only sees there"
        )
    said = "mean of the learned cameras" if network.cameras else None
    network.forget_cameras()
    about = {"test_dataset": target.dataset, "test_split": target.split, "camera_embedding": said}
    return replace(run, dataset=target.dataset, split=target.split, companion="none", test_companion="none"), about


def embed(
    run: RunConfig, weights: str, store: Store, split: pa.Table, batch_frames: int, workers: int, target: Target | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """All test tracklets of a split as EMBEDDINGS, and the table's meta data. With `target`, store and split are of that data set."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    full_precision()
    network, trained = network_of(run, weights, device)
    tested, about = on_target(network, run, target) if target else (run, {})
    loader = DenseLoader(store, split, ROLES, tested, network.hears, workers, batch_frames)
    vectors = tracklet_vectors(network, loader, device)
    modality = "frames" if not network.hears else network.kind if run.this.network in BLIND else f"frames+{network.kind}"
    meta = {
        **{name: getattr(run, name) for name in ("method", "dataset", "split", "seed", "stage")},
        **about,
        "network": run.this.network,
        "modality": modality,
        "trained_on": run.companion,
        **(heard(store.meta["companion"], run, store.table, vectors.tracklet) if network.hears else SILENT),
        "feature": "mean over clips of the embedding (after the BNNeck), float32, not normalised",
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
    arguments.add_argument("--test-dataset", help="data set of INDEX and SPLIT, if it is not the run's (with --test-split)")
    arguments.add_argument("--test-split", help="its split")
    arguments.add_argument("--batch-frames", type=int, default=BATCH_FRAMES, help="most frames in one batch (default: %(default)s)")
    arguments.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")
    arguments.add_argument("--check", choices=("bytes", "sizes"), default="bytes", help="machine.check (default: %(default)s)")
    arguments.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's own choice (default: %(default)s)")
    args = arguments.parse_args(argv)
    for name, least in (("batch_frames", 1), ("workers", 0), ("threads", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')}={getattr(args, name)}: expected {least} or more")
    named = args.test_dataset, args.test_split
    if named != (None, None) and not all(named):
        raise ConfigError(
            f"--test-dataset={named[0] or ''} and --test-split={named[1] or ''}: give both, or neither to test the run's own split"
        )
    target = Target(*named) if all(named) else None
    read_too = {"--config": args.config, "--weights": args.weights, "--index": args.index, "--split": args.split}
    cli.check_outputs({"OUT": args.out}, read_too)
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    run = build(RunConfig, read_json(args.config), args.config)
    split = tables.read(args.split, tables.SPLIT)
    trained, of_index, of_split = read_meta(args.weights), tables.read_meta(args.index), tables.read_meta(args.split)
    trained_with, given = trained.get(origin.FROM, {}).get("config"), digest_file(args.config)
    if trained_with not in (None, given):
        raise WeightsError(f"{args.weights}: trained with other settings than {args.config} holds now; train this stage again")
    if target:
        check_target(run, trained, of_index, of_split, target)
    check_data(run, of_index, of_split, target)
    store = open_store(args.index, split, args.check)
    cli.check_outputs({"OUT": args.out}, {"a tar of --index": [store.path.with_name(name) for name in store.layout.names]})
    made, meta = embed(run, args.weights, store, split, args.batch_frames, args.workers, target)
    read = origin.made_from(config=args.config, weights=args.weights, index=args.index, split=args.split)
    tables.write(args.out, made, tables.EMBEDDINGS, {**meta, origin.FROM: read, origin.CODE: origin.code_of(*EMBEDDING)})


if __name__ == "__main__":
    cli.run(main)
