"""Train one stage of a method on one split: the step behind every weight file.

In:      config.json (RunConfig), INDEX with its tars, SPLIT, and a teacher's weights where the stage has one.
Out:     model.safetensors (the network alone) and metrics.jsonl in one folder. Resumes by itself from --checkpoints when
         that folder holds a checkpoint of the same settings, data and teacher; the folder goes when all went well.
Equal inputs give equal weights to the bit on one kind of device and, on a CPU, with one number of threads.
Source:  specs/dubbernet.md sections 5 and 6; promises R1 and R6. The last epoch is what is kept: nothing here sees a test set.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model import weights
from model.api import Network
from model.pretrained import load_vit
from model.registry import MODELS
from pipeline.base import cli, tables
from pipeline.base.build import build, plain
from pipeline.base.config import RunConfig, StageConfig
from pipeline.base.errors import ConfigError, TrainError, did_you_mean
from pipeline.base.files import digest_bytes, digest_code, digest_file, read_json
from pipeline.base.seeds import seed_for
from shards.loader import TrainLoader
from shards.read import Store
from train.checkpoint import Checkpoints
from train.tasks import TASKS, Task
from train.trainer import be_deterministic, choose_device, say, train, write_records


@dataclass(frozen=True, slots=True)
class Facts:
    """What the data say about a network: sizes that no setting can choose."""

    classes: int
    """Training identities K."""
    cameras: int
    """Cameras of the data set."""
    companion: dict[str, Any] | None
    """INDEX meta of the packed companion: kind, policy, oracle, label_derived, bands; None where there is none."""


def listens(run: RunConfig) -> bool:
    """Whether batches carry the companion: the stage hears, or its teacher does."""
    return run.this.hears or (bool(run.this.teacher) and run.settings.stages[run.this.teacher].hears)


def check_hearing(run: RunConfig, network: Network, teacher: Network | None) -> None:
    """The stage says what its networks do: one that hears needs `hears`, and `hears` needs one that does.

    A student may have `hears` (its batches carry the companion) or leave it to its teacher's stage.

    Raises:
        ConfigError: otherwise.
    """
    if network.hears and not run.this.hears:
        raise ConfigError(f"stages.{run.stage}: network '{run.this.network}' hears a companion; set hears to true")
    if run.this.hears and not (network.hears or (teacher and teacher.hears)):
        raise ConfigError(f"stages.{run.stage}.hears is true, but neither '{run.this.network}' nor a teacher hears; set it to false")


def make_network(run: RunConfig, stage: StageConfig, facts: Facts) -> Network:
    """A network as initialised: its weights depend on the seed and its own name, not on the stage that asks for it.

    So the control stage that trains for 0 epochs shows the very weights from which another stage starts.
    """
    if stage.network not in MODELS:
        raise ConfigError(f"network '{stage.network}' is not in model/registry.py{did_you_mean(stage.network, MODELS)}")
    torch.manual_seed(seed_for(run.seed, "init", stage.network))
    return MODELS[stage.network](
        run.settings.model, classes=facts.classes, cameras=facts.cameras, bands=run.bands, height=run.height, width=run.width
    )


def load_teacher(path: str | Path, run: RunConfig, facts: Facts) -> Network:
    """The network of the teacher stage with its weights.

    Raises:
        TrainError: the weights were trained for something else; names what.
    """
    wanted = {
        "method": run.method,
        "stage": run.this.teacher,
        "dataset": run.dataset,
        "split": run.split,
        "seed": run.seed,
        "classes": facts.classes,
        "cameras": facts.cameras,
    }
    meta = weights.read_meta(path)
    other = [f"{name} {meta.get(name)} (expected {value})" for name, value in wanted.items() if meta.get(name) != value]
    if other:
        raise TrainError(
            f"{path}: not the teacher of this stage: {', '.join(other)}; train stage {run.this.teacher} with the same settings"
        )
    teacher = make_network(run, run.settings.stages[run.this.teacher], facts)
    weights.load(path, teacher)
    return teacher


def make_task(run: RunConfig, facts: Facts, teacher: Network | None, device: torch.device) -> Task:
    """The stage's network in its task, on the device; what the task adds is initialised apart from the network."""
    network = make_network(run, run.this, facts)
    if run.settings.pretrained:
        load_vit(run.settings.pretrained, network)
    check_hearing(run, network, teacher)
    torch.manual_seed(seed_for(run.seed, "init", "task", run.this.task))
    return TASKS[run.this.task](network, run.settings, teacher).to(device)


def weights_meta(run: RunConfig, facts: Facts, network: Network, config_digest: str, teacher_digest: str) -> dict[str, Any]:
    """What `model.safetensors` says about itself. `oracle` and `label_derived` speak of the sound that this network hears."""
    heard = facts.companion if network.hears and facts.companion else {}
    return {
        **{name: getattr(run, name) for name in ("method", "dataset", "split", "seed", "stage", "height", "width")},
        "network": run.this.network,
        "epochs": run.this.epochs,
        "classes": facts.classes,
        "cameras": facts.cameras,
        "bands": network.bands,
        "hears": network.hears,
        "oracle": bool(heard.get("oracle", False)),
        "label_derived": bool(heard.get("label_derived", False)),
        "config": config_digest,
        "teacher": teacher_digest,
        "pretrained": digest_file(run.settings.pretrained) if run.settings.pretrained else "",
    }


def checkpoint_key(run: RunConfig, *digests: str) -> str:
    """Digest of all that decides the weights: settings (without those that only decide how fast), data, teacher, code."""
    settings = plain(run)
    for harmless in ("workers", "checkpoint_epochs"):
        del settings["settings"][harmless]
    checkout = Path(__file__).parent.parent
    code = digest_code(*(checkout / folder for folder in ("train", "model", "shards", "pipeline/base/batch.py", "pipeline/base/seeds.py")))
    return digest_bytes(json.dumps([settings, code, *digests], sort_keys=True).encode())


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path, help="folder for model.safetensors and metrics.jsonl")
    arguments.add_argument("--config", required=True, help="config.json of resolve_config")
    arguments.add_argument("--index", required=True, help="INDEX of the store")
    arguments.add_argument("--split", required=True, help="SPLIT table")
    arguments.add_argument("--teacher", help="model.safetensors of the teacher stage")
    arguments.add_argument("--checkpoints", type=Path, help="folder for the training state; none: nothing is saved on the way")
    arguments.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: all that this process may use")
    args = arguments.parse_args(argv)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends loader processes too; the checkpoint is the safety
    be_deterministic()
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    run = build(RunConfig, read_json(args.config), "config.json")
    if bool(args.teacher) != bool(run.this.teacher):
        raise TrainError(
            f"stage {run.stage} "
            + (f"needs --teacher, the weights of stage {run.this.teacher}" if run.this.teacher else "has no teacher; leave --teacher out")
        )
    store = Store(args.index)
    if store.meta["dataset"] != run.dataset:
        raise TrainError(
            f"{args.index}: INDEX of data set '{store.meta['dataset']}', but config.json is for '{run.dataset}'; give both of one"
        )
    loader = TrainLoader(store, tables.read(args.split, tables.SPLIT), run, listens(run), run.settings.workers)
    facts = Facts(loader.classes, store.meta["cameras"], store.meta["companion"])
    device = choose_device()
    teacher = load_teacher(args.teacher, run, facts).to(device) if args.teacher else None
    task = make_task(run, facts, teacher, device)
    digests = [digest_file(path) if path else "" for path in (args.index, args.split, args.teacher, run.settings.pretrained)]
    machine = "cuda" if device.type == "cuda" else f"cpu with {torch.get_num_threads()} threads"
    checkpoints = Checkpoints(args.checkpoints, checkpoint_key(run, *digests), machine, say) if args.checkpoints else None

    metrics = args.out / "metrics.jsonl"
    records = train(task, loader, run, device=device, metrics=metrics, checkpoints=checkpoints)
    weights.save(args.out / "model.safetensors", task.model, weights_meta(run, facts, task.model, digest_file(args.config), digests[2]))
    write_records(metrics, [*records, {"done": True, "stage": run.stage, "epochs": run.this.epochs, "device": machine}])
    if checkpoints:
        checkpoints.remove()


if __name__ == "__main__":
    cli.run(main)
