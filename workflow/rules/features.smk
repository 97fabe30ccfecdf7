# Rows of one shard -> features. One job per shard, never per clip or picture.


rule encode_frames:
    """Frames of one shard: bytes as shipped where they fit, resized once where not."""
    input:
        tracklets="results/tracklets/{dataset}.parquet",
        plan="results/plans/{dataset}.parquet",
    output:
        frames="results/features/{dataset}/frames/{shard}.parquet",
        quarantine="results/features/{dataset}/frames/{shard}.quarantine.parquet",
    log:
        "logs/encode_frames/{dataset}-{shard}.log",
    benchmark:
        "benchmarks/encode_frames/{dataset}-{shard}.tsv"
    group:
        "shard"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        root=lambda wildcards: root_of(wildcards.dataset),
        config=lambda wildcards: section(SETTINGS.datasets[wildcards.dataset].frames),
        code=source_digest("pipeline/encode_frames.py", "pipeline/features/frames.py"),
    shell:
        "python -m pipeline.encode_frames {output.frames} --quarantine {output.quarantine} --tracklets {input.tracklets}"
        " --plan {input.plan} --shard {wildcards.shard} --root={params.root:q} --config {params.config:q} --threads {threads} > {log} 2>&1"


rule encode_companion:
    """Companion items heard in one shard -> log-mel."""
    input:
        plan="results/plans/{dataset}.parquet",
        alignment="results/alignment/{dataset}-{companion}.parquet",
    output:
        "results/features/{dataset}/{companion}/{shard}.parquet",
    log:
        "logs/encode_companion/{dataset}-{companion}-{shard}.log",
    benchmark:
        "benchmarks/encode_companion/{dataset}-{companion}-{shard}.tsv"
    group:
        "shard"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        root=lambda wildcards: root_of(items_of(wildcards.dataset, wildcards.companion)),
        config=lambda wildcards: section(
            SETTINGS.companions[wildcards.companion], "kind", "audio"
        ),
        seed=SETTINGS.seed,
        code=source_digest(
            "pipeline/encode_companion.py",
            "pipeline/features/__init__.py",
            "pipeline/features/audio.py",
        ),
    shell:
        "python -m pipeline.encode_companion {output} --alignment {input.alignment} --plan {input.plan} --shard {wildcards.shard}"
        " --root={params.root:q} --config {params.config:q} --seed {params.seed} --threads {threads} > {log} 2>&1"
