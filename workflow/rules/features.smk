# Rows of one shard -> features. One job per shard, never per clip or picture.


rule encode_frames:
    """Frames of one shard: bytes as shipped where they fit, resized once where not."""
    input:
        tracklets="results/tracklets/{dataset}.parquet",
        plan="results/plans/{dataset}.parquet",
    output:
        frames="results/features/{dataset}/frames/{shard}.parquet",
        stream="results/features/{dataset}/frames/{shard}.mjpeg",
        quarantine="results/features/{dataset}/frames/{shard}.quarantine.parquet",
    log:
        "logs/encode_frames/{dataset}-{shard}.log",
    benchmark:
        "benchmarks/encode_frames/{dataset}-{shard}.tsv"
    group:
        "shard"
    conda:
        "../../environment.yml"
    threads: 1  # frames as shipped are copied by one; jobs run side by side
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        root=lambda wildcards: root_of(wildcards.dataset),
        config=lambda wildcards: section(SETTINGS.datasets[wildcards.dataset].frames),
        code=source_digest(
            "pipeline/encode_frames.py",
            "pipeline/base/blocks.py",
            "pipeline/base/pictures.py",
            "pipeline/features/frames.py",
        ),
    shell:
        "python -m pipeline.encode_frames {output.frames} --stream {output.stream} --quarantine {output.quarantine}"
        " --tracklets {input.tracklets} --plan {input.plan} --shard {wildcards.shard} --root={params.root:q}"
        " --config {params.config:q} --threads {threads} > {log} 2>&1"


rule encode_companion:
    """Companion items heard in one shard -> log-mel (or tokens that somebody else has made)."""
    input:
        plan="results/plans/{dataset}.parquet",
        alignment="results/alignment/{dataset}-{companion}.parquet",
    output:
        "results/features/{dataset}/{companion}/{shard}.parquet",
    log:
        "logs/encode_companion/{dataset}-{companion}-{shard}.log",
    benchmark:
        "benchmarks/encode_companion/{dataset}-{companion}-{shard}.tsv"
    wildcard_constraints:
        companion=any_of([name for name in SETTINGS.companions if name not in FROZEN]),
    group:
        "shard"
    conda:
        "../../environment.yml"
    threads: 1  # jobs side by side: start-up and writing of one shard overlap with the clips of another
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        root=lambda wildcards: root_of(items_of(wildcards.dataset, wildcards.companion)),
        config=lambda wildcards: encoding(wildcards.companion),
        seed=SETTINGS.seed,
        code=source_digest(
            "pipeline/encode_companion.py",
            "pipeline/base/withdrawn.py",
            "pipeline/features/__init__.py",
            "pipeline/features/audio.py",
            "pipeline/features/audio_tokens.py",
        ),
    shell:
        "python -m pipeline.encode_companion {output} --alignment {input.alignment} --plan {input.plan} --shard {wildcards.shard}"
        " --root={params.root:q} --config {params.config:q} --seed {params.seed} --threads {threads} > {log} 2>&1"


use rule encode_companion as decode_companion with:
    output:
        temp("results/features/{dataset}/{companion}/{shard}.waves.parquet"),
    log:
        "logs/decode_companion/{dataset}-{companion}-{shard}.log",
    benchmark:
        "benchmarks/decode_companion/{dataset}-{companion}-{shard}.tsv"
    wildcard_constraints:
        companion=any_of(FROZEN),


rule encode_tokens:
    """Waveforms of one shard -> tokens of a frozen encoder, each distinct clip once."""
    input:
        unpack(encoder_weights),
        waves="results/features/{dataset}/{companion}/{shard}.waves.parquet",
    output:
        "results/features/{dataset}/{companion}/{shard}.parquet",
    log:
        "logs/encode_tokens/{dataset}-{companion}-{shard}.log",
    benchmark:
        "benchmarks/encode_tokens/{dataset}-{companion}-{shard}.tsv"
    wildcard_constraints:
        companion=any_of(FROZEN),
    conda:
        "../../environment.yml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=120,
        gpu=1,
    params:
        config=lambda wildcards: section(
            replace(SETTINGS.companions[wildcards.companion].tokens, weights="")
        ),
        weights=lambda wildcards: (
            f"--weights {shlex.quote(local_file(tokens.weights)[0])}"
            if (tokens := SETTINGS.companions[wildcards.companion].tokens).weights
            else ""
        ),
        seed=SETTINGS.seed,
        code=source_digest(
            "model/encode_tokens.py",
            "model/encoders",
            "model/weights.py",
            "model/blocks/audio_tokens.py",
        ),
    shell:
        "python -m model.encode_tokens {output} --waves {input.waves} --config {params.config:q} {params.weights}"
        " --seed {params.seed} --threads {threads} > {log} 2>&1"
