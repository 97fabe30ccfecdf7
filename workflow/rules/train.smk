# Settings of one run, then its training.


rule resolve_config:
    """Everything one training depends on, in one file."""
    output:
        "results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/config.json",
    log:
        "logs/resolve_config/{method}-{dataset}-{split}-{seed}-{stage}.log",
    benchmark:
        "benchmarks/resolve_config/{method}-{dataset}-{split}-{seed}-{stage}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        config=lambda wildcards: resolved_sections(
            wildcards.method, wildcards.dataset, wildcards.stage
        ),
        code=source_digest("pipeline/resolve_config.py"),
    shell:
        "python -m pipeline.resolve_config {output} --method {wildcards.method} --dataset {wildcards.dataset} --split {wildcards.split}"
        " --seed {wildcards.seed} --stage {wildcards.stage} --config {params.config:q} > {log} 2>&1"


rule fit:
    """Train one stage. An interrupted training goes on from its last checkpoint, which is no output of this rule."""
    input:
        unpack(teacher_of),
        config="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/config.json",
        index=lambda wildcards: shards(
            wildcards.dataset, SETTINGS.methods[wildcards.method].companion
        ),
        split="results/splits/{dataset}/{split}.parquet",
        pretrained=lambda wildcards: SETTINGS.methods[wildcards.method].pretrained or [],
    output:
        weights="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/model.safetensors",
        metrics="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/metrics.jsonl",
    log:
        "logs/fit/{method}-{dataset}-{split}-{seed}-{stage}.log",
    benchmark:
        "benchmarks/fit/{method}-{dataset}-{split}-{seed}-{stage}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: SETTINGS.methods[wildcards.method].threads or 8
    resources:
        mem_mb=16000,
        runtime=1440,
        gpu=1,
    params:
        folder=lambda wildcards, output: Path(output.weights).parent,
        checkpoints=lambda wildcards: f"results/checkpoints/{wildcards.method}/{wildcards.dataset}-{wildcards.split}/seed{wildcards.seed}/{wildcards.stage}",
        teacher=lambda wildcards, input: (
            f"--teacher {input.teacher}" if "teacher" in input.keys() else ""
        ),
        code=source_digest("train", "model", *LOADER, "pipeline/base/batch.py"),
    shell:
        "python -m train.fit {params.folder} --config {input.config} --index {input.index} --split {input.split} {params.teacher}"
        " --checkpoints {params.checkpoints} --threads {threads} 2>&1 | tee {log}"
