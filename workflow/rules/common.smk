# Helpers of the rules: settings, paths, wildcard constraints. No work is done here.

import json
import sys
from importlib.metadata import version
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(workflow.basedir))

from pipeline.base.build import build, merge, plain
from pipeline.base.config import SOURCE_LISTS, Settings
from pipeline.base.errors import UserError
from pipeline.base.files import digest_code

# Data sets, companions and methods have files of their own. They lie below default.yaml, --configfile and --config.
for layer in ["companions.yaml", "datasets/*.yaml", "methods/*.yaml"]:
    for file in sorted(Path(workflow.basedir, "workflow/config").glob(layer)):
        config.update(merge(yaml.safe_load(file.read_text()), config))

try:
    SETTINGS = build(Settings, config, "config")
except UserError as error:
    raise WorkflowError(str(error)) from None
config.update(plain(SETTINGS))

# Steps are `python -m ...`: they need the checkout on their path, and this interpreter unless conda brings its own.
_path = (
    ""
    if workflow.deployment_settings.deployment_method
    else f"export PATH={str(Path(sys.executable).parent)!r}:$PATH; "
)
shell.prefix(
    f"set -euo pipefail; {_path}export PYTHONPATH={str(workflow.basedir)!r}${{{{PYTHONPATH:+:$PYTHONPATH}}}}; "
)


wildcard_constraints:
    dataset="|".join(SETTINGS.datasets),
    companion="|".join([*SETTINGS.companions, "none"]),
    method="|".join(SETTINGS.methods),
    name="|".join([*SETTINGS.voices, *SETTINGS.datasets]),
    split="[a-z0-9_]+",
    stage="[a-z][a-z0-9_]*",
    seed=r"\d+",
    shard=r"\d{5}",


LOADER = [
    f"shards/{name}"
    for name in ("loader.py", "balance.py", "draw.py", "read.py", "codec.py", "prepare")
]
"""Code that turns shards into batches."""


def section(value, *names):
    """A settings object as JSON text, whole or only some of its fields: what a step may depend on, and no more."""
    whole = plain(value)
    return json.dumps(
        {name: whole[name] for name in names} if names else whole, sort_keys=True
    )


def source_digest(*paths):
    """Digest of a step's code, so that a change of code runs it again: its own, and what decides bytes in `pipeline.base`."""
    shared = [f"pipeline/base/{name}.py" for name in ("files", "seeds", "tables")]
    return digest_code(*(Path(workflow.basedir) / path for path in [*shared, *paths]))


def probing(companion):
    """What allocation depends on: not the mel settings, which no clip has to be decoded again for."""
    whole = plain(SETTINGS.companions[companion])
    limits = {
        name: whole["audio"][name]
        for name in ("min_seconds", "max_seconds", "silence_dbfs")
    }
    return json.dumps({**whole, "audio": limits}, sort_keys=True)


def root_of(name):
    return (
        str(Path(SETTINGS.roots[name]).expanduser()) if SETTINGS.roots.get(name) else ""
    )


def read_from(name):
    """What roots.<name> is read from: the stamp of the generator, or the lists that the source has there."""
    entry = SETTINGS.datasets.get(name) or SETTINGS.voices[name]
    if entry.generated:
        return "results/demo/demo.json"
    if not root_of(name):
        return []
    files = [Path(root_of(name), file) for file in SOURCE_LISTS[entry.source]]
    if name in SETTINGS.voices:
        table = Path(root_of(name), entry.table)
        files = [table, *(table.with_name(file.name) for file in files)]
    return [str(file) for file in files if file.is_file()]


def items_of(dataset, companion):
    """Name of the collection whose items a companion takes: voices, or the data set's own recordings."""
    chosen = SETTINGS.companions[companion]
    return (
        dataset
        if chosen.alignment.policy == "recorded"
        else chosen.voices or SETTINGS.datasets[dataset].voices
    )


def shard_names(dataset):
    return [f"{number:05d}" for number in range(SETTINGS.datasets[dataset].shards)]


def splits_of(dataset):
    return expand(
        "results/splits/{dataset}/{split}.parquet",
        dataset=dataset,
        split=SETTINGS.datasets[dataset].splits,
    )


def alignment(dataset, companion):
    return f"results/alignment/{dataset}-{companion}.parquet"


def shards(dataset, companion="audio"):
    return f"results/shards/{dataset}-{companion}/index.parquet"


def run_folder(method, dataset, split, seed, stage):
    return f"results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}"


def runs(method, dataset, stage):
    """Run folders of one stage: all splits of the data set, all seeds that the experiments name for it (else seed 0)."""
    named = [
        e.seeds
        for e in SETTINGS.experiments
        if (e.method, e.dataset) == (method, dataset)
    ]
    seeds = sorted({seed for some in named for seed in some}) or [0]
    return [
        run_folder(method, dataset, split, seed, stage)
        for split in SETTINGS.datasets[dataset].splits
        for seed in seeds
    ]


def weights(method, dataset, stage):
    return [f"{folder}/model.safetensors" for folder in runs(method, dataset, stage)]


def scores(method, dataset, stage):
    return [f"{folder}/metrics.json" for folder in runs(method, dataset, stage)]


def evaluated(experiment):
    """Stages of an experiment that are scored."""
    stages = SETTINGS.methods[experiment.method].stages
    return [name for name in (experiment.stages or stages) if stages[name].evaluate]


def trained(experiment):
    """Stages of an experiment that are trained: the named ones (or all) and their teachers."""
    stages = SETTINGS.methods[experiment.method].stages
    names = list(experiment.stages or stages)
    return sorted(
        {*names, *(stages[name].teacher for name in names if stages[name].teacher)}
    )


def versions():
    """Versions of what decodes, trains and scores: recorded in the report."""
    names = [
        "torch",
        "torchaudio",
        "torchvision",
        "timm",
        "numpy",
        "pyarrow",
        "polars",
        "pillow",
        "soundfile",
        "soxr",
        "webdataset",
        "snakemake",
    ]
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def resolved_sections(method, dataset, stage):
    """What one training depends on, as JSON text: the method with this stage and its teachers only, its data set, its companion."""
    chosen, frames = SETTINGS.methods[method], SETTINGS.datasets[dataset].frames
    needed, name = [], stage
    while name:
        needed.append(name)
        name = chosen.stages[name].teacher if name not in needed[:-1] else ""
    return json.dumps(
        {
            "method": {
                **plain(chosen),
                "stages": {name: plain(chosen.stages[name]) for name in needed},
            },
            "dataset": {
                "source": SETTINGS.datasets[dataset].source,
                "splits": SETTINGS.datasets[dataset].splits,
                "frames": {"height": frames.height, "width": frames.width},
            },
            "companion": (
                None
                if chosen.companion == "none"
                else plain(SETTINGS.companions[chosen.companion])
            ),
        },
        sort_keys=True,
    )


def companion_parts(wildcards):
    """Tables of the companion that a shard needs; none for shards of frames alone."""
    if wildcards.companion == "none":
        return {}
    return {
        "alignment": alignment(wildcards.dataset, wildcards.companion),
        "features": f"results/features/{wildcards.dataset}/{wildcards.companion}/{wildcards.shard}.parquet",
    }


def teacher_of(wildcards):
    """Weights of the stage that teaches this one, if any."""
    teacher = SETTINGS.methods[wildcards.method].stages[wildcards.stage].teacher
    if not teacher:
        return {}
    return {
        "teacher": f"{run_folder(wildcards.method, wildcards.dataset, wildcards.split, wildcards.seed, teacher)}/model.safetensors"
    }


def report_inputs():
    """Where the report finds everything it shows, as JSON text."""
    datasets = {}
    planned = [(name, "audio") for name in SETTINGS.prepare]
    planned += [
        (e.dataset, SETTINGS.methods[e.method].companion) for e in SETTINGS.experiments
    ]
    for dataset, companion in sorted(
        set(planned), key=lambda pair: (pair[0], pair[1] == "none", pair[1])
    ):
        title = dataset if dataset not in datasets else f"{dataset} with {companion}"
        heard = companion != "none"
        datasets[title] = {
            "tracklets": f"results/tracklets/{dataset}.parquet",
            "splits": {
                split: f"results/splits/{dataset}/{split}.parquet"
                for split in SETTINGS.datasets[dataset].splits
            },
            "plan": f"results/plans/{dataset}.parquet",
            "index": shards(dataset, companion),
            "alignment": alignment(dataset, companion) if heard else None,
            "probes": (
                f"results/alignment/{dataset}-{companion}-probes.parquet"
                if heard
                else None
            ),
            "quarantine": [
                f"results/features/{dataset}/frames/{shard}.quarantine.parquet"
                for shard in shard_names(dataset)
            ],
            "root": root_of(dataset),
            "voices_root": root_of(items_of(dataset, companion)) if heard else None,
            "generated": SETTINGS.datasets[dataset].generated,
        }
    folders = [
        {
            "method": e.method,
            "dataset": e.dataset,
            "split": split,
            "seed": seed,
            "stage": stage,
            "folder": run_folder(e.method, e.dataset, split, seed, stage),
            "scored": stage in evaluated(e),
        }
        for e in SETTINGS.experiments
        for split in e.splits or SETTINGS.datasets[e.dataset].splits
        for seed in e.seeds
        for stage in trained(e)
    ]
    return {
        "settings": plain(SETTINGS),
        "versions": versions(),
        "runs": folders,
        "datasets": datasets,
    }


def report_files():
    """Files behind `report_inputs`, so that the report is made after them."""
    inputs = report_inputs()
    files = []
    for run in inputs["runs"]:
        files += [f"{run['folder']}/metrics.jsonl"]
        if run["scored"]:
            files += [f"{run['folder']}/metrics.json"]
    for parts in inputs["datasets"].values():
        files += [
            parts["tracklets"],
            *parts["splits"].values(),
            parts["plan"],
            parts["index"],
            *parts["quarantine"],
        ]
        files += [parts[name] for name in ("alignment", "probes") if parts[name]]
    return files
