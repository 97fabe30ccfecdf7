# Helpers of the rules: settings, paths, wildcard constraints. No work is done here.

import atexit
import json
import shlex
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

sys.path.insert(0, str(workflow.basedir))

from pipeline.base import disk
from pipeline.base.build import build, inherit, merge, plain
from pipeline.base.code import EMBEDDING, SCORING, TRAINING
from pipeline.base.config import HEARING, NEEDS_WEIGHTS, SOURCE_LISTS, Settings
from pipeline.base.errors import UserError
from pipeline.base.files import digest_code
from pipeline.base.running import watch

# Data sets, companions and methods have files of their own. They lie below default.yaml, --configfile and --config.
for layer in [
    "companions.yaml",
    "datasets/*.yaml",
    "methods/*.yaml",
    "ablations.yaml",
]:
    for file in sorted(Path(workflow.basedir, "workflow/config").glob(layer)):
        config.update(merge(yaml.safe_load(file.read_text()), config))

# Snakemake itself reads --configfile, and with this key it runs what the file holds: refused, so that nobody gets used to it.
for file in workflow.config_settings.configfiles:
    if "__use_yte__" in file.read_text():
        raise WorkflowError(
            f"{file}: has '__use_yte__', with which Snakemake has run the expressions in it as Python; settings are plain values: take it out"
        )

try:
    config["methods"] = inherit(config.get("methods", {}), "config.methods")
    SETTINGS = build(Settings, config, "config")
except UserError as error:
    raise WorkflowError(str(error)) from None
config.update(plain(SETTINGS))

# Steps are `python -m ...`: they need the checkout on their path, and this interpreter unless conda brings its own.
_prefix = "set -euo pipefail; "
if not workflow.deployment_settings.deployment_method:
    _prefix += f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
_prefix += f"export PYTHONPATH={shlex.quote(str(workflow.basedir))}${{PYTHONPATH:+:$PYTHONPATH}}; "
# Snakemake formats a prefix: braces in it, of the shell or of a folder's name, are doubled.
shell.prefix(_prefix.replace("{", "{{").replace("}", "}}"))


def tell_of_disk(folder=Path.cwd()):
    """Snakemake shows a traceback or speaks of permissions where it cannot write, and on a full disk logs and their sentences are lost."""
    for place in (folder, folder / "results"):
        if place.is_dir() and (told := disk.trouble(place)):
            print(f"note: {told}", file=sys.stderr)
            return


atexit.register(tell_of_disk)

TABLE = "python -m evaluate.table {input:q} 2>&1 | tee {log:q}"
"""What `evaluate_...` targets do with the metrics.json that they ask for: print them."""
LEGACY = (
    "python -m evaluate.legacy_eval --embeddings {input.embeddings:q} --config {input.config:q} --tracklets {input.tracklets:q}"
    + (" --normalise" if SETTINGS.scoring.normalise else "")
    + " 2>&1 | tee {log:q}"
)
"""What `legacy_eval_...` targets do."""


watch(workflow, logger.warning)


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
    target="|".join(SETTINGS.datasets),
    target_split="[a-z0-9_]+",
    stage="[a-z][a-z0-9_]*",
    ablation=any_of(SETTINGS.ablations),
    seed=r"\d+",
    shard=r"\d{5}",


def section(value, *names):
    """A settings object as JSON text, whole or only some of its fields: what a step may depend on, and no more."""
    whole = plain(value)
    return json.dumps(
        {name: whole[name] for name in names} if names else whole, sort_keys=True
    )


def source_digest(*paths):
    """Digest of a step's code, so that a change of code runs it again: its own, and what decides bytes in `pipeline.base`."""
    shared = [
        f"pipeline/base/{name}.py"
        for name in ("files", "origin", "seal", "seeds", "tables")
    ]
    return digest_code(*(Path(workflow.basedir) / path for path in [*shared, *paths]))


def probing(companion):
    """What allocation depends on: not the mel settings, which no clip has to be decoded again for."""
    whole = plain(SETTINGS.companions[companion])
    audio = SETTINGS.companions[companion].audio
    limits = {
        "min_seconds": audio.shortest,
        "max_seconds": audio.max_seconds,
        "silence_dbfs": audio.silence_dbfs,
        "table_tolerance": audio.table_tolerance,
    }
    tokens = {name: whole["tokens"][name] for name in ("encoder", "store", "tokens")}
    if whole["kind"] != "audio_tokens":
        tokens = {}
    elif tokens["encoder"] != "precomputed":
        tokens = {"encoder": tokens["encoder"]}
    return json.dumps({**whole, "audio": limits, "tokens": tokens}, sort_keys=True)


def encoding(companion):
    """What decoding depends on: of the tokens, who makes them, and only where they are read here all the rest."""
    whole = plain(SETTINGS.companions[companion])
    whole["audio"].pop("table_tolerance")  # decides which clips are used, and no values
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


def embedded(method, dataset, stage):
    return [f"{folder}/embeddings.parquet" for folder in runs(method, dataset, stage)]


def configs(method, dataset, stage):
    return [f"{folder}/config.json" for folder in runs(method, dataset, stage)]


def scores_on(method, dataset, stage, target):
    """The same on the test half of each split of another data set: every trained split x every split there."""
    return [
        f"{trained}/on/{target}-{split}/metrics.json"
        for trained in runs(method, dataset, stage)
        for split in SETTINGS.datasets[target].splits
    ]


def stages_of(experiment):
    """Stages that an experiment runs."""
    method = SETTINGS.methods[experiment.method]
    return list(experiment.stages or method.main or method.stages)


def trained(method, stages):
    """These stages and all that they start from or learn from, sorted."""
    return sorted({name for stage in stages for name in method.needed(stage)})


def stores(of, stages):
    """(data set, companion) of all shards that these stages of an experiment or ablation are trained, evaluated or tested on."""
    method = SETTINGS.methods[of.method]
    heard = {method.companion_of(name) for name in trained(method, stages)}
    heard |= {method.test_companion_of(name) for name in stages}
    # an ablation has no `test_on`; what is tested there only sees (see `target_shards`)
    seen = {(target, "none") for target in getattr(of, "test_on", ())}
    return {(of.dataset, name) for name in heard} | seen


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


def heard_section(companion):
    """What training depends on: tokens only where there are any, and not where files lie (the shards know their digests)."""
    whole = plain(SETTINGS.companions[companion])
    tokens = {**whole.pop("tokens"), "weights": "", "store": ""}
    return {**whole, "tokens": tokens} if whole["kind"] == "audio_tokens" else whole


def resolved_sections(method, dataset, stage):
    """What one training depends on, as JSON text: the method with this stage and what it needs, its data set, its companions.
    Not its `machine` (see `machine_of`)."""
    chosen = SETTINGS.methods[method].without_machine()
    frames = SETTINGS.datasets[dataset].frames
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
            "companions": {name: heard_section(name) for name in heard},
        },
        sort_keys=True,
    )


def machine_of(wildcards):
    """Where and how fast a stage is trained, with its own `changes`: never a reason to train again."""
    return SETTINGS.methods[wildcards.method].settings_of(wildcards.stage).machine


def threads_of(wildcards):
    """CPUs of a training on each node: those of every rank."""
    each = SETTINGS.methods[wildcards.method].threads or 8
    return each * machine_of(wildcards).ranks


def torch_threads(wildcards, threads, ranks=1):
    """CPU threads of torch: as many as the method says, if it does, even where `--cores` gives the job fewer: their number decides
    the last bits of sums. Else all of the job's.

    Args:
        threads: CPUs of the job. It makes this no reason to run again in Snakemake's eyes (see `fit`).
        ranks: how many share them.
    """
    return SETTINGS.methods[wildcards.method].threads * ranks or threads


def on_nodes(wildcards, value):
    """A resource that only a training on several nodes has; None: it has none of that name."""
    return value if machine_of(wildcards).nodes > 1 else None


def shards_of(wildcards):
    """INDEX that a stage is trained on."""
    method = SETTINGS.methods[wildcards.method]
    return shards(wildcards.dataset, method.companion_of(wildcards.stage))


def test_shards_of(wildcards):
    """INDEX that a stage is evaluated on."""
    method = SETTINGS.methods[wildcards.method]
    return shards(wildcards.dataset, method.test_companion_of(wildcards.stage))


def target_shards(wildcards):
    """INDEX of another data set that a trained stage is tested on: frames alone, so that no voices are needed there."""
    name = f"{wildcards.method} trained on {wildcards.dataset}, tested on {wildcards.target}"
    try:
        SETTINGS.check_across(name, wildcards.dataset, wildcards.target)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    network = SETTINGS.methods[wildcards.method].stages[wildcards.stage].network
    if network in HEARING:
        raise WorkflowError(
            f"{name}: stage '{wildcards.stage}' ({network}) hears, and sound of another data set is not taken; test a stage that only sees"
        )
    return shards(wildcards.target, "none")


def protocols_of(wildcards):
    """Protocols of the data set that is tested on, as words of a command; the first is the headline."""
    tested = getattr(wildcards, "target", wildcards.dataset)
    return " ".join(SETTINGS.datasets[tested].protocols)


def local_file(setting):
    """A file that the settings name, and whether it is there. One that is not is no input: an input that nothing makes would
    let Snakemake take old results for new ones. It is named on the command line, so that the step runs and says so.
    """
    path = Path(setting).expanduser()
    return str(path), path.is_file()


def pretrained_of(method, stage):
    """The weight file that a stage's backbone starts from, and whether it is an input; ('', False) without one."""
    chosen = SETTINGS.methods[method]
    named = chosen.settings_of(stage).pretrained
    if not named or chosen.stages[stage].start:
        return "", False
    if Path(named).name != named or named.endswith(".safetensors"):
        return local_file(named)
    return f"results/pretrained/{named}.safetensors", True


def encoder_weights(wildcards):
    """The weight file of a companion's frozen encoder, where it has one."""
    tokens = SETTINGS.companions[wildcards.companion].tokens
    path, there = local_file(tokens.weights)
    return {"weights": path} if tokens.encoder in NEEDS_WEIGHTS and there else {}


def heard_in(wildcards):
    """ALIGNMENT of the shards; none for shards of frames alone."""
    if wildcards.companion == "none":
        return {}
    return {"alignment": alignment(wildcards.dataset, wildcards.companion)}


def companion_parts(wildcards):
    """Tables of the companion that a shard needs; none for shards of frames alone."""
    if wildcards.companion == "none":
        return {}
    return {
        **heard_in(wildcards),
        "features": f"results/features/{wildcards.dataset}/{wildcards.companion}/{wildcards.shard}.parquet",
    }


def stages_needed(wildcards):
    """Weights of the stages that a training takes: its teacher's, those of the stage that it starts from."""
    stage = SETTINGS.methods[wildcards.method].stages[wildcards.stage]
    folder = lambda name: run_folder(
        wildcards.method, wildcards.dataset, wildcards.split, wildcards.seed, name
    )
    return {
        role: f"{folder(name)}/model.safetensors"
        for role, name in (("teacher", stage.teacher), ("start", stage.start))
        if name
    }


def weights_needed(wildcards):
    """All weight files that a training takes and that are there or can be made."""
    path, there = pretrained_of(wildcards.method, wildcards.stage)
    return stages_needed(wildcards) | ({"pretrained": path} if there else {})


def weights_given(wildcards):
    """The same as options of `train.fit`, with a pretrained file that is not there."""
    path, _ = pretrained_of(wildcards.method, wildcards.stage)
    given = stages_needed(wildcards) | ({"pretrained": path} if path else {})
    return " ".join(f"--{role} {shlex.quote(file)}" for role, file in given.items())


def form_of(companion):
    """What decides how a network hears a companion, as text: not whose voice it is, nor which clips are quarantined."""
    whole = plain(SETTINGS.companions[companion])
    tokens = whole["kind"] == "audio_tokens"
    form = {**whole["tokens" if tokens else "audio"], "kind": whole["kind"]}
    for name in ("store", "min_seconds", "silence_dbfs", "table_tolerance"):
        form.pop(name, None)
    return json.dumps(form, sort_keys=True)


def check_ablation(ablation):
    """Every row has numbers, and controls hear through the encoder of what they control, or they control nothing."""
    about = SETTINGS.ablations[ablation]
    for stage in about.rows:
        if not SETTINGS.methods[about.method].stages[stage].evaluate:
            raise WorkflowError(
                f"ablations.{ablation}.rows: stage '{stage}' of {about.method} is not evaluated, so it has no numbers to compare; "
                "take it out of the rows, or set its evaluate to true"
            )
    forms = {}
    for _, name in sorted(stores(about, list(about.rows))):
        if name != "none":
            forms.setdefault(form_of(name), name)
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


def reported(one, split, seed, stage, wanted):
    """Entries of one trained stage in a report: its own, then one for each split of each data set that it is tested on besides.

    `folder` is that of the training, with its log; scores on another data set lie below it (see `scored_in`).
    """
    chosen = SETTINGS.methods[one.method].stages[stage]
    folder = run_folder(one.method, one.dataset, split, seed, stage)
    tested = [(one.dataset, split, wanted and chosen.evaluate)]
    if wanted and chosen.is_evaluated_seeing:
        tested += [
            (target, other, True)
            for target in getattr(one, "test_on", ())
            for other in SETTINGS.datasets[target].splits
        ]
    return [
        {
            "method": one.method,
            "dataset": one.dataset,
            "split": split,
            "seed": seed,
            "stage": stage,
            "test_dataset": test_dataset,
            "test_split": test_split,
            "folder": folder,
            "scored": scored,
        }
        for test_dataset, test_split, scored in tested
    ]


def scored_in(entry):
    """Folder of metrics.json of an entry of `reported`."""
    if entry["test_dataset"] == entry["dataset"]:
        return entry["folder"]
    return f"{entry['folder']}/on/{entry['test_dataset']}-{entry['test_split']}"


def report_inputs(ablation=""):
    """Where a report finds everything it shows: the report of the experiments, or that of one ablation."""
    if ablation:
        about = SETTINGS.ablations[ablation]
        check_ablation(ablation)
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
            entry
            for split in one.splits or SETTINGS.datasets[one.dataset].splits
            for seed in one.seeds
            for stage in trained(method, stages)
            for entry in reported(one, split, seed, stage, stage in stages)
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
            names = ("metrics.json", "queries.parquet")
            files += [f"{scored_in(run)}/{name}" for name in names]
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
