# Features -> WebDataset tars with a Parquet twin each, and one index.


rule pack_shard:
    """One tar and, written last, its twin: key, offset, size and digest of every sample."""
    input:
        unpack(companion_parts),
        frames="results/features/{dataset}/frames/{shard}.parquet",
        stream="results/features/{dataset}/frames/{shard}.mjpeg",
    output:
        tar="results/shards/{dataset}-{companion}/{shard}.tar",
        twin="results/shards/{dataset}-{companion}/{shard}.parquet",
    log:
        "logs/pack_shard/{dataset}-{companion}-{shard}.log",
    benchmark:
        "benchmarks/pack_shard/{dataset}-{companion}-{shard}.tsv"
    group:
        "shard"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        companion=lambda wildcards, input: (
            ""
            if wildcards.companion == "none"
            else f"--alignment {input.alignment} --features {input.features} --kind {SETTINGS.companions[wildcards.companion].kind}"
        ),
        code=source_digest(
            "shards/codec.py", "shards/pack_shard.py", "pipeline/base/blocks.py"
        ),
    shell:
        "python -m shards.pack_shard {output.tar} --twin {output.twin} --frames {input.frames} --stream {input.stream}"
        " {params.companion} > {log} 2>&1"


rule index_shards:
    """The twins of all shards -> one verified index."""
    input:
        unpack(heard_in),
        tracklets="results/tracklets/{dataset}.parquet",
        twins=lambda wildcards: expand(
            "results/shards/{{dataset}}-{{companion}}/{shard}.parquet",
            shard=shard_names(wildcards.dataset),
        ),
        tars=lambda wildcards: expand(
            "results/shards/{{dataset}}-{{companion}}/{shard}.tar",
            shard=shard_names(wildcards.dataset),
        ),
    output:
        "results/shards/{dataset}-{companion}/index.parquet",
    log:
        "logs/index_shards/{dataset}-{companion}.log",
    benchmark:
        "benchmarks/index_shards/{dataset}-{companion}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        alignment=lambda wildcards, input: (
            f"--alignment {input.alignment}" if "alignment" in input.keys() else ""
        ),
        code=source_digest(
            "shards/index_shards.py", "shards/read.py", "shards/codec.py"
        ),
    shell:
        "python -m shards.index_shards {output} --tracklets {input.tracklets} {params.alignment} {input.twins} > {log} 2>&1"
