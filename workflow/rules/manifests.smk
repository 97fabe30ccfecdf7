# Sources as shipped -> manifests (Parquet).


rule make_demo:
    """Generated data: people that walk, speakers that speak, in the grammar of every source."""
    output:
        "results/demo/demo.json",
    log:
        "logs/make_demo.log",
    benchmark:
        "benchmarks/make_demo.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        config=section(SETTINGS.demo),
        folder=lambda wildcards, output: Path(output[0]).parent,
        code=source_digest("pipeline/demo"),
    shell:
        "python -m pipeline.demo.make_demo {params.folder} --config {params.config:q} --threads {threads} > {log} 2>&1"


rule read_tracklets:
    """A data set as shipped -> one row per tracklet."""
    input:
        lambda wildcards: read_from(wildcards.dataset),
    output:
        "results/tracklets/{dataset}.parquet",
    log:
        "logs/read_tracklets/{dataset}.log",
    benchmark:
        "benchmarks/read_tracklets/{dataset}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        root=lambda wildcards: root_of(wildcards.dataset),
        config=lambda wildcards: section(
            SETTINGS.datasets[wildcards.dataset], "source", "subset", "generated"
        ),
        code=source_digest("pipeline/read_tracklets.py", "pipeline/sources"),
    shell:
        "python -m pipeline.read_tracklets {output} --dataset {wildcards.dataset} --root={params.root:q} --config {params.config:q} > {log} 2>&1"


rule read_split:
    """Official lists of a data set -> the role and label of every tracklet in one split."""
    input:
        lists=lambda wildcards: read_from(wildcards.dataset),
        tracklets="results/tracklets/{dataset}.parquet",
    output:
        "results/splits/{dataset}/{split}.parquet",
    log:
        "logs/read_split/{dataset}-{split}.log",
    benchmark:
        "benchmarks/read_split/{dataset}-{split}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        root=lambda wildcards: root_of(wildcards.dataset),
        config=lambda wildcards: section(
            SETTINGS.datasets[wildcards.dataset], "source", "subset", "generated"
        ),
        code=source_digest("pipeline/read_split.py", "pipeline/sources"),
    shell:
        "python -m pipeline.read_split {output} --dataset {wildcards.dataset} --split {wildcards.split}"
        " --root={params.root:q} --tracklets {input.tracklets} --config {params.config:q} > {log} 2>&1"


rule read_items:
    """A table of clips (Common Voice), or the recordings of own tracklets -> one row per companion item."""
    input:
        lambda wildcards: read_from(wildcards.name),
    output:
        "results/items/{name}.parquet",
    log:
        "logs/read_items/{name}.log",
    benchmark:
        "benchmarks/read_items/{name}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        root=lambda wildcards: root_of(wildcards.name),
        source=lambda wildcards: (
            SETTINGS.voices[wildcards.name].source
            if wildcards.name in SETTINGS.voices
            else "manifest"
        ),
        config=lambda wildcards: (
            section(SETTINGS.voices[wildcards.name])
            if wildcards.name in SETTINGS.voices
            else section(
                SETTINGS.datasets[wildcards.name], "source", "subset", "generated"
            )
        ),
        code=source_digest("pipeline/read_items.py", "pipeline/sources"),
    shell:
        "python -m pipeline.read_items {output} --name {wildcards.name} --root={params.root:q}"
        " --source {params.source} --config {params.config:q} > {log} 2>&1"


rule align_companion:
    """Which clip goes with which run of frames; clips that cannot be used are quarantined here."""
    input:
        tracklets="results/tracklets/{dataset}.parquet",
        splits=lambda wildcards: splits_of(wildcards.dataset),
        collection=lambda wildcards: f"results/items/{items_of(wildcards.dataset, wildcards.companion)}.parquet",
    output:
        alignment="results/alignment/{dataset}-{companion}.parquet",
        probes="results/alignment/{dataset}-{companion}-probes.parquet",
    log:
        "logs/align_companion/{dataset}-{companion}.log",
    benchmark:
        "benchmarks/align_companion/{dataset}-{companion}.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        root=lambda wildcards: root_of(items_of(wildcards.dataset, wildcards.companion)),
        config=lambda wildcards: probing(wildcards.companion),
        seed=SETTINGS.seed,
        code=source_digest(
            "pipeline/align_companion.py",
            "pipeline/allocation.py",
            "pipeline/voices.py",
            "pipeline/base/withdrawn.py",
            "pipeline/features",
        ),
    shell:
        "python -m pipeline.align_companion {output.alignment} --probes {output.probes} --tracklets {input.tracklets}"
        " --splits {input.splits} --items {input.collection} --root={params.root:q} --config {params.config:q}"
        " --seed {params.seed} --threads {threads} > {log} 2>&1"


rule plan_shards:
    """Which tracklet goes into which shard, balanced by frames."""
    input:
        tracklets="results/tracklets/{dataset}.parquet",
    output:
        "results/plans/{dataset}.parquet",
    log:
        "logs/plan_shards/{dataset}.log",
    benchmark:
        "benchmarks/plan_shards/{dataset}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        shards=lambda wildcards: SETTINGS.datasets[wildcards.dataset].shards,
        code=source_digest("pipeline/plan_shards.py"),
    shell:
        "python -m pipeline.plan_shards {output} --tracklets {input.tracklets} --shards {params.shards} > {log} 2>&1"
