# Helpers of the rules: settings, paths, wildcard constraints. No work is done here.

import json
import shlex
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(workflow.basedir))

from pipeline.base.build import build, inherit, merge, plain
from pipeline.base.config import NEEDS_WEIGHTS, SOURCE_LISTS, Settings
from pipeline.base.errors import UserError
from pipeline.base.files import digest_code

# Data sets, companions and methods have files of their own. They lie below default.yaml, --configfile and --config.
for layer in [
    "companions.yaml",
    "datasets/*.yaml",
    "methods/*.yaml",
    "ablations.yaml",
]:
    for file in sorted(Path(workflow.basedir, "workflow/config").glob(layer)):
        config.update(merge(yaml.safe_load(file.read_text()), config))

try:
    config["methods"] = inherit(config.get("methods", {}), "config.methods")
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


def any_of(names):
    """A pattern for wildcards that only takes these names (none: nothing)."""
    return "|".join(names) or "(?!)"


FROZEN = [
    name
    for name, companion in SETTINGS.companions.items()
    if companion.kind == "audio_tokens" and companion.tokens.encoder != "precomputed"
]
"""Companions whose clips go through a frozen encoder, a step of its own."""


wildcard_constraints:
    dataset="|".join(SETTINGS.datasets),
    companion="|".join([*SETTINGS.companions, "none"]),
    method="|".join(SETTINGS.methods),
    name="|".join([*SETTINGS.voices, *SETTINGS.datasets]),
    split="[a-z0-9_]+",
    stage="[a-z][a-z0-9_]*",
    ablation=any_of(SETTINGS.ablations),
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


def encoding(companion):
    """What decoding depends on: of the tokens, who makes them, and only where they are read here all the rest."""
    whole = plain(SETTINGS.companions[companion])
    wanted = {"kind": whole["kind"], "audio": whole["audio"]}
    if companion in FROZEN:
        wanted["tokens"] = {"encoder": whole["tokens"]["encoder"]}
    elif whole["kind"] == "audio_tokens":
        store = str(Path(whole["tokens"]["store"]).expanduser())
        wanted["tokens"] = {**whole["tokens"], "store": store}
    return json.dumps(wanted, sort_keys=True)


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


def stages_of(experiment):
    """Stages that an experiment runs."""
    method = SETTINGS.methods[experiment.method]
    return list(experiment.stages or method.main or method.stages)


def trained(method, stages):
    """These stages and all that they start from or learn from, sorted."""
    return sorted({name for stage in stages for name in method.needed(stage)})


def stores(of, stages):
    """(data set, companion) of all shards that these stages of an experiment or ablation are trained or evaluated on."""
    method = SETTINGS.methods[of.method]
    heard = {method.companion_of(name) for name in trained(method, stages)}
    heard |= {method.test_companion_of(name) for name in stages}
    return {(of.dataset, name) for name in heard}


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
    """What one training depends on, as JSON text: the method with this stage and what it needs, its data set, its companions."""
    chosen, frames = SETTINGS.methods[method], SETTINGS.datasets[dataset].frames
    needed = chosen.needed(stage)
    heard = {chosen.companion_of(name) for name in needed}
    heard = (heard | {chosen.test_companion_of(name) for name in needed}) - {"none"}
    return json.dumps(
        {
            "method": {
                **plain(chosen),
                "main": [],
                "pretrained": Path(
                    chosen.pretrained
                ).name,  # where it lies decides nothing
                "stages": {name: plain(chosen.stages[name]) for name in needed},
            },
            "dataset": {
                "source": SETTINGS.datasets[dataset].source,
                "splits": SETTINGS.datasets[dataset].splits,
                "frames": {"height": frames.height, "width": frames.width},
            },
            "companions": {name: plain(SETTINGS.companions[name]) for name in heard},
        },
        sort_keys=True,
    )


def shards_of(wildcards):
    """INDEX that a stage is trained on."""
    method = SETTINGS.methods[wildcards.method]
    return shards(wildcards.dataset, method.companion_of(wildcards.stage))


def test_shards_of(wildcards):
    """INDEX that a stage is evaluated on."""
    method = SETTINGS.methods[wildcards.method]
    return shards(wildcards.dataset, method.test_companion_of(wildcards.stage))


def file_at(setting, what):
    """A file that the settings name, or one sentence."""
    path = str(Path(setting).expanduser())
    if not setting or not Path(path).is_file():
        found = f"no such file: {setting}" if setting else "empty"
        raise WorkflowError(f"{what}: {found}; give the path of a safetensors file")
    return path


def pretrained_of(wildcards):
    """The weight file that a stage's backbone starts from, if any: the user's own, or a copy of a named one."""
    method = SETTINGS.methods[wildcards.method]
    named = method.settings_of(wildcards.stage).pretrained
    if not named or method.stages[wildcards.stage].start:
        return {}
    if "/" in named or named.endswith(".safetensors"):
        return {"pretrained": file_at(named, f"methods.{wildcards.method}.pretrained")}
    return {"pretrained": f"results/pretrained/{named}.safetensors"}


def encoder_weights(wildcards):
    """The weight file of a companion's frozen encoder, if it has one."""
    tokens = SETTINGS.companions[wildcards.companion].tokens
    if tokens.encoder not in NEEDS_WEIGHTS:
        return {}
    return {
        "weights": file_at(
            tokens.weights, f"companions.{wildcards.companion}.tokens.weights"
        )
    }


def companion_parts(wildcards):
    """Tables of the companion that a shard needs; none for shards of frames alone."""
    if wildcards.companion == "none":
        return {}
    return {
        "alignment": alignment(wildcards.dataset, wildcards.companion),
        "features": f"results/features/{wildcards.dataset}/{wildcards.companion}/{wildcards.shard}.parquet",
    }


def weights_needed(wildcards):
    """Weights that a stage's training takes: of its teacher, of the stage it starts from, of a pretrained ViT."""
    stage = SETTINGS.methods[wildcards.method].stages[wildcards.stage]
    folder = lambda name: run_folder(
        wildcards.method, wildcards.dataset, wildcards.split, wildcards.seed, name
    )
    from_stages = {
        role: f"{folder(name)}/model.safetensors"
        for role, name in (("teacher", stage.teacher), ("start", stage.start))
        if name
    }
    return from_stages | pretrained_of(wildcards)


def check_media(ablation):
    """Controls hear through the encoder of what they control, or they control nothing."""
    about = SETTINGS.ablations[ablation]
    forms = {}
    for _, name in sorted(stores(about, list(about.rows))):
        if name != "none":
            companion = plain(SETTINGS.companions[name])
            parts = (
                ("kind", "tokens")
                if companion["kind"] != "audio"
                else ("kind", "audio")
            )
            form = json.dumps({part: companion[part] for part in parts}, sort_keys=True)
            forms.setdefault(form, name)
    if len(forms) > 1:
        raise WorkflowError(
            f"ablations.{ablation}: its stages hear through different encoders (companions {', '.join(forms.values())}); "
            "give these companions the same `kind`, `audio` and `tokens`"
        )


def described(dataset, companion):
    """Where the report finds the tables of a data set with one companion."""
    heard = companion != "none"
    stem = f"results/alignment/{dataset}-{companion}"
    return {
        "tracklets": f"results/tracklets/{dataset}.parquet",
        "splits": {
            split: f"results/splits/{dataset}/{split}.parquet"
            for split in SETTINGS.datasets[dataset].splits
        },
        "plan": f"results/plans/{dataset}.parquet",
        "index": shards(dataset, companion),
        "alignment": f"{stem}.parquet" if heard else None,
        "probes": f"{stem}-probes.parquet" if heard else None,
        "quarantine": [
            f"results/features/{dataset}/frames/{shard}.quarantine.parquet"
            for shard in shard_names(dataset)
        ],
        "root": root_of(dataset),
        "voices_root": root_of(items_of(dataset, companion)) if heard else None,
        "generated": SETTINGS.datasets[dataset].generated,
    }


def report_inputs(ablation=""):
    """Where a report finds everything it shows: the report of the experiments, or that of one ablation."""
    if ablation:
        about = SETTINGS.ablations[ablation]
        check_media(ablation)
        chosen, prepared = [(about, list(about.rows))], set()
    else:
        about = None
        chosen = [(e, stages_of(e)) for e in SETTINGS.experiments]
        prepared = {(name, "audio") for name in SETTINGS.prepare}
    datasets, folders = {}, []
    for one, stages in chosen:
        method = SETTINGS.methods[one.method]
        prepared |= stores(one, stages)
        folders += [
            {
                "method": one.method,
                "dataset": one.dataset,
                "split": split,
                "seed": seed,
                "stage": stage,
                "folder": run_folder(one.method, one.dataset, split, seed, stage),
                "scored": stage in stages and method.stages[stage].evaluate,
            }
            for split in one.splits or SETTINGS.datasets[one.dataset].splits
            for seed in one.seeds
            for stage in trained(method, stages)
        ]
    order = [*SETTINGS.companions, "none"]
    for dataset, companion in sorted(
        prepared, key=lambda pair: (pair[0], order.index(pair[1]))
    ):
        title = dataset if dataset not in datasets else f"{dataset} with {companion}"
        datasets[title] = described(dataset, companion)
    table = about and {
        "name": ablation,
        **plain(about),
        "splits": list(about.splits or SETTINGS.datasets[about.dataset].splits),
    }
    used = plain(SETTINGS)
    for name, kept in (
        ("methods", {one.method for one, _ in chosen}),
        ("companions", {companion for _, companion in prepared}),
        ("ablations", {ablation}),
    ):
        used[name] = {key: value for key, value in used[name].items() if key in kept}
    return {
        "settings": used,
        "versions": versions(),
        "runs": folders,
        "datasets": datasets,
        "ablation": table,
    }


def report_files(ablation=""):
    """Files behind `report_inputs`, so that the report is made after them."""
    inputs = report_inputs(ablation)
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
