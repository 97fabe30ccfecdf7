"""Train one stage of a method on one split: the step behind every weight file.

In:      config.json (RunConfig), INDEX with its tars, SPLIT, and the weights that the stage builds on: its teacher's, those of
         the stage it starts from, or a pretrained ViT.
Out:     model.safetensors (the network alone), metrics.jsonl and origin.json (the digests of both, and by what code, commit and
         device they were made: nothing on which the bytes of the weights may depend) in one folder. Resumes by itself from --checkpoints when
         that folder holds a checkpoint of the same settings, data and weights; when all went well, what was made is linked there.
Equal inputs give equal weights to the bit on a CPU with one number of threads; on a GPU nobody has measured it (docs/training.md).
Source:  specs/dubbernet.md sections 5 and 6; promises R1 and R6. The last epoch is kept, or the best on training identities that
         are held out: nothing here sees a test set.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from model import registry, weights
from model.api import Network
from model.blocks.part import compile_parts, recompute_parts
from model.pretrained import load_vit, start_from
from model.ranks import rank, ranks
from pipeline.base import cli, origin, tables
from pipeline.base.build import build, plain
from pipeline.base.code import TRAINING
from pipeline.base.config import MachineConfig, RunConfig
from pipeline.base.errors import ConfigError, ShardError, TrainError
from pipeline.base.files import digest_bytes, digest_file, read_json
from pipeline.base.seeds import seed_for
from shards.loader import check, train_loader
from shards.read import Store
from train.board import open_board
from train.checkpoint import Checkpoints
from train.device import be_deterministic, be_fast, choose_device, cpu_threads, meet, process_group
from train.log import write_records
from train.progress import say
from train.stop import Stop
from train.tasks import TASKS, Task
from train.trainer import Training, require_agreement
from train.validate import Selection, hold_out, make_validator, why_no_look

HARMLESS = ("machine",)
"""Settings that decide where and how fast a training runs, not what comes out."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the data say about a network: sizes that no setting can choose."""

    classes: int
    """Training identities K."""
    cameras: int
    """Cameras of the data set."""
    companion: dict[str, Any] | None
    """INDEX meta of the packed companion: kind, bands, policy, oracle, label_derived, tokens, ...; None where there is none."""
    tracklets: str = ""
    """SHA-256 of the TRACKLETS that the store was packed from; '' where INDEX does not say."""


@dataclass(frozen=True, slots=True)
class Given:
    """Weight files that a stage builds on; '' where it has none."""

    teacher: str = ""
    start: str = ""
    """Weights of the stage that it starts from."""
    pretrained: str = ""
    """safetensors file of a ViT."""


def listens(run: RunConfig) -> bool:
    """Whether batches carry the companion: the stage hears, or its teacher does."""
    return run.this.hears or (run.teacher is not None and run.teacher.this.hears)


def check_given(run: RunConfig, given: Given) -> None:
    """Exactly the weight files are given that the stage builds on. Where it starts from a stage, `pretrained` was for that one.

    Raises:
        TrainError: one is missing, or one too many.
    """
    this, vit = run.this, "" if run.this.start else run.settings.pretrained
    for name, wanted, what in (
        ("teacher", this.teacher, f"the weights of stage {this.teacher}, its teacher"),
        ("start", this.start, f"the weights of stage {this.start}, from which it starts"),
        ("pretrained", vit, f"the ViT '{vit}' of the setting `pretrained`"),
    ):
        found = getattr(given, name)
        if wanted and not found:
            raise TrainError(f"stage {run.stage} needs --{name}, {what}")
        if found and not wanted:
            raise TrainError(f"stage {run.stage} builds on no weights of that kind; leave --{name}={found} out, or change its settings")


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


def check_made_by(path: str, role: str, stage: str, run: RunConfig, facts: Facts) -> None:
    """The weights at `path` are those of `stage`, trained on the data and with the seed of `run`.

    Raises:
        TrainError: they were trained for something else; names what.
    """
    wanted = {
        **{name: getattr(run, name) for name in ("method", "dataset", "split", "seed")},
        "stage": stage,
        "network": run.settings.stages[stage].network,
        "companion": run.settings.companion_of(stage),
        "classes": facts.classes,
        "cameras": facts.cameras,
    }
    meta = weights.read_meta(path)
    other = [f"{name} {meta.get(name)} (expected {value})" for name, value in wanted.items() if meta.get(name) != value]
    if other:
        raise TrainError(
            f"{path}: not the {role} of stage {run.stage}: {', '.join(other)}; train stage {stage} of this run, and give its weights"
        )


def make_network(run: RunConfig, facts: Facts) -> Network:
    """A network as initialised: its weights depend on the seed and its own form, not on the stage that asks for it.

    So the control stage that trains for 0 epochs shows the very weights from which another stage starts; and networks of
    one seed have the same trunk, which is drawn first, whatever is fused into it: rows of an ablation differ in nothing else.
    """
    torch.manual_seed(seed_for(run.seed, "init", "network"))
    return registry.make(run, facts.classes, facts.cameras)


def load_teacher(path: str, run: RunConfig, facts: Facts) -> Network:
    """The network of the teacher's stage, built by its own settings, with its weights.

    Raises:
        TrainError: the weights were trained for something else; names what.
        WeightsError: they do not fit the network.
    """
    assert run.teacher is not None, "check_given comes first"
    check_made_by(path, "teacher", run.teacher.stage, run, facts)
    teacher = make_network(run.teacher, facts)
    weights.load(path, teacher)
    return teacher


def make_task(run: RunConfig, facts: Facts, given: Given, device: torch.device) -> Task:
    """The stage's network and its teacher in its task, on the device; what the task adds is initialised apart from the network.

    Raises:
        ConfigError, TrainError, WeightsError: settings, networks and the given weights do not fit together.
    """
    check_given(run, given)
    teacher = load_teacher(given.teacher, run, facts).to(device) if given.teacher else None
    network = make_network(run, facts)
    check_hearing(run, network, teacher)
    if given.start:
        check_made_by(given.start, "start", run.this.start, run, facts)
        start_from(given.start, network)
        say(f"{run.stage}: starts from stage {run.this.start}")
    elif given.pretrained:
        load_vit(given.pretrained, network)
        say(f"{run.stage}: starts from {Path(given.pretrained).name}")
    else:
        say(f"{run.stage}: starts from random numbers (methods.{run.method}.pretrained is empty)")
    torch.manual_seed(seed_for(run.seed, "init", "task", run.this.task))
    task = TASKS[run.this.task](network, run.settings, teacher).to(device)
    if run.settings.compile:
        require_compiler(device)
        for module in filter(None, (task, teacher)):
            compile_parts(module)
    recompute_parts(task, run.settings.machine.recompute)
    return task


def require_compiler(device: torch.device) -> None:
    """torch.compile makes C++ on a CPU, and C around its kernels on a GPU.

    Raises:
        TrainError: there is no compiler.
    """
    names = ("c++", "g++", "clang++") if device.type == "cpu" else ("cc", "gcc", "clang")
    named = os.environ.get("CXX" if device.type == "cpu" else "CC", "")
    if not any(shutil.which(name) for name in (named, *names) if name):
        raise TrainError(
            f"compile: torch.compile needs a compiler, and none of {', '.join(names)} is on PATH; install one, or set it to false"
        )


def make_selection(run: RunConfig, index: str, facts: Facts, held: pa.Table, network: Network, device: torch.device) -> Selection:
    """Who decides which weights are handed on, with a look at held-out identities where there are any and the network may.

    Raises:
        TrainError: their frames are not here (a stream from elsewhere).
    """
    validation, machine = run.settings.validation, run.settings.machine
    why = why_no_look(network.hears, facts.companion) if validation.identities else ""
    if why:
        say(f"warning: {run.stage}: {why}")
    if why or not validation.identities or rank() > 0:
        return Selection(validation, run.this.epochs, None, why)
    try:
        store = Store(index)
    except ShardError as error:
        if not machine.urls:
            raise
        raise TrainError(
            f"validation.identities={validation.identities}: held-out tracklets are read from tars beside {index}, not from machine.urls "
            f"({error}); copy the tars there, or set it to 0"
        ) from None
    if machine.urls:  # not the tars that were checked with the loader's
        check(store, held.column("tracklet").to_pylist(), machine.check, say, alone=True)
    return Selection(validation, run.this.epochs, make_validator(store, held, run, network.hears, device, machine.workers))


def weights_meta(run: RunConfig, facts: Facts, network: Network, read: dict[str, str]) -> dict[str, Any]:
    """What `model.safetensors` says about itself.

    `oracle`, `label_derived` and `tokens` speak of the sound that this network hears; `policy` of what was heard in its
    training at all, be it by its teacher only ('' where nothing was).

    Args:
        read: SHA-256 of 'config', 'index', 'split' and of those files of :class:`Given` that there are.
    """
    companion = facts.companion or {}
    heard = companion if network.hears else {}
    return {
        **{name: getattr(run, name) for name in ("method", "dataset", "split", "seed", "stage", "companion", "test_companion")},
        **{name: getattr(run, name) for name in ("height", "width")},
        "network": run.this.network,
        "epochs": run.this.epochs,
        "classes": facts.classes,
        "cameras": facts.cameras,
        "tracklets": facts.tracklets,
        "bands": network.bands,
        "hears": network.hears,
        "oracle": bool(heard.get("oracle", False)),
        "label_derived": bool(heard.get("label_derived", False)),
        "tokens": heard.get("tokens"),
        "policy": companion.get("policy", "") if listens(run) else "",
        origin.FROM: read,
    }


def checkpoint_key(run: RunConfig, *digests: str) -> str:
    """Digest of all that decides the weights: settings (without `HARMLESS` ones), data, weights it builds on, code."""
    code = origin.code_of(*TRAINING)["digest"]
    return digest_bytes(json.dumps([_deciding(plain(run)), code, *digests], sort_keys=True).encode())


def _deciding(run: dict[str, Any]) -> dict[str, Any]:
    """A plain RunConfig without the harmless settings, its own and its teacher's."""
    settings = {name: value for name, value in run["settings"].items() if name not in HARMLESS}
    return {**run, "settings": settings, "teacher": run["teacher"] and _deciding(run["teacher"])}


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path, help="folder for model.safetensors and metrics.jsonl")
    arguments.add_argument("--config", required=True, help="config.json of resolve_config")
    arguments.add_argument("--index", required=True, help="INDEX of the store")
    arguments.add_argument("--split", required=True, help="SPLIT table")
    arguments.add_argument("--teacher", default="", help="model.safetensors of the teacher's stage")
    arguments.add_argument("--start", default="", help="model.safetensors of the stage that this one starts from")
    arguments.add_argument("--pretrained", default="", help="safetensors file of the ViT that the backbone starts from")
    arguments.add_argument("--checkpoints", type=Path, help="folder for the training state; none: nothing is saved on the way")
    arguments.add_argument("--board", type=Path, help="folder for TensorBoard's event files; none: nothing is written for it")
    arguments.add_argument("--machine", default="", help="JSON file of MachineConfig; none: what config.json holds, else its defaults")
    arguments.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: all that this process may use")
    args = arguments.parse_args(argv)

    stop = Stop().listen()
    run = build(RunConfig, read_json(args.config), "config.json")
    if args.machine:
        machine = build(MachineConfig, read_json(args.machine), "machine")
        run = replace(run, settings=replace(run.settings, machine=machine))
    asked = run.settings.machine.ranks * run.settings.machine.nodes
    if asked > 1 and "WORLD_SIZE" not in os.environ:
        raise TrainError(
            f"machine.ranks={run.settings.machine.ranks}, nodes={run.settings.machine.nodes}: train.fit is one process; start it with "
            "python -m train.launch and the same arguments, or with torchrun"
        )
    torch.set_num_threads(cpu_threads(args.threads))
    (be_deterministic if run.settings.deterministic else be_fast)()
    device = choose_device()
    with process_group(device), contextlib.ExitStack() as closing:
        fit(run, args, device, stop, closing)


def fit(run: RunConfig, args: argparse.Namespace, device: torch.device, stop: Stop, closing: contextlib.ExitStack) -> None:
    """Train the stage and write what it leaves; what has to be closed, however it ends, is given to `closing`."""
    given = Given(args.teacher, args.start, args.pretrained)
    check_given(run, given)
    table, about = tables.read(args.index, tables.INDEX), tables.read_meta(args.index)
    if about["dataset"] != run.dataset:
        raise TrainError(f"{args.index}: INDEX of data set '{about['dataset']}', but config.json is for '{run.dataset}'; give both of one")
    chosen, of_split = tables.read(args.split, tables.SPLIT), tables.read_meta(args.split)
    for name, what in (("dataset", "data set"), ("split", "split")):
        if of_split.get(name) != getattr(run, name):
            raise TrainError(
                f"{args.split}: SPLIT of {what} {of_split.get(name)!r}, but config.json is for {getattr(run, name)!r}; give both of one"
            )
    held_out, least = run.settings.validation.identities, run.settings.sampler.identities
    split, held = hold_out(chosen, table, held_out, run.seed, least)
    asked = held.column("tracklet").to_pylist()
    loader = train_loader(args.index, split, run, listens(run), run.settings.machine, device, rank(), ranks(), say, asked, meet)
    closing.callback(loader.close)
    facts = Facts(loader.classes, about["cameras"], about["companion"], about.get(origin.FROM, {}).get("tracklets", ""))
    task = make_task(run, facts, given, device)
    read = origin.made_from(index=args.index, split=args.split, **asdict(given))
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu with {torch.get_num_threads()} threads"
    machine += f", {ranks()} ranks" if ranks() > 1 else ""
    key = checkpoint_key(run, *(f"{role} {digest}" for role, digest in read.items()))
    checkpoints = Checkpoints(args.checkpoints, key, machine, say) if args.checkpoints else None
    if checkpoints and ended_before(checkpoints, args.out):
        say(f"{run.stage}: was trained to its end before; its weights are taken from {args.checkpoints}")
        return

    metrics = args.out / "metrics.jsonl"
    selection = make_selection(run, args.index, facts, held, task.model, device)
    training = Training(task, loader, run, device=device, metrics=metrics, checkpoints=checkpoints, selection=selection, stop=stop)
    if args.board:
        training.board = open_board(run.settings.machine.tensorboard, args.board, training.number)
        if training.board:
            closing.callback(training.board.close)
    trained = training.train()
    if trained.kept["remark"]:
        say(f"{run.stage}: {trained.kept['remark']}")
    if rank() == 0:
        meta = weights_meta(run, facts, trained.network, {**read, **origin.made_from(config=args.config)})
        weights.save(args.out / "model.safetensors", trained.network, {**meta, "kept": trained.kept})
        ended = {"done": True, "stage": run.stage, "epochs": run.this.epochs, "device": machine, "kept": trained.kept}
        write_records(metrics, [*trained.records, ended])
        made = [args.out / "model.safetensors", metrics]
        origin.write_sealed(args.out / "origin.json", circumstances(run, made, machine))
        if checkpoints:
            checkpoints.end([*made, args.out / "origin.json"])


def circumstances(run: RunConfig, made: Sequence[Path], device: str) -> dict[str, Any]:
    """What `origin.json` holds: whose files these are, their digests, and by what they were made."""
    return {
        **{name: getattr(run, name) for name in ("method", "dataset", "split", "seed", "stage")},
        "made": {path.name: digest_file(path) for path in made},
        origin.CODE: origin.code_of(*TRAINING),
        "checkout": origin.code_of(*origin.PACKAGES),
        "commit": origin.commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "device": device,
    }


def ended_before(checkpoints: Checkpoints, out: Path) -> bool:
    """Whether this training has ended before and left its files beside its checkpoints; then they are in `out` again.

    Raises:
        TrainError: the ranks do not see the same.
    """
    ended = checkpoints.ended(out) if rank() == 0 else checkpoints.has_ended()
    require_agreement("training that ended:", int(ended))
    return ended


if __name__ == "__main__":
    cli.run(main)
