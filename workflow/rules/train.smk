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


rule pretrained:
    """A ViT that `pretrained` names, copied out of the local cache; fetched only where `download` is true."""
    output:
        "results/pretrained/{vit}.safetensors",
    log:
        "logs/pretrained/{vit}.log",
    wildcard_constraints:
        vit="[^/]+",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        download="--download" if SETTINGS.download else "",
        code=source_digest("model/fetch_pretrained.py", "model/weights.py"),
    shell:
        "python -m model.fetch_pretrained {output:q} --name {wildcards.vit:q} {params.download} > {log:q} 2>&1"


rule fit:
    """Train one stage. An interrupted training goes on from its last checkpoint, which is no output of this rule."""
    input:
        unpack(weights_needed),
        config="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/config.json",
        index=shards_of,
        split="results/splits/{dataset}/{split}.parquet",
    output:
        weights="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/model.safetensors",
        metrics="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/metrics.jsonl",
        origin="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/origin.json",
    log:
        "logs/fit/{method}-{dataset}-{split}-{seed}-{stage}.log",
    benchmark:
        "benchmarks/fit/{method}-{dataset}-{split}-{seed}-{stage}.tsv"
    conda:
        "../../environment.yml"
    threads: threads_of
    resources:
        mem_mb=lambda wildcards: 16000 * machine_of(wildcards).ranks,
        runtime=1440,
        gpu=lambda wildcards: machine_of(wildcards).ranks * machine_of(wildcards).nodes,
        nodes=lambda wildcards: machine_of(wildcards).nodes,
        # several nodes (profiles/slurm): one task each, started by the step itself (train.launch) with srun
        mpi=lambda wildcards: on_nodes(wildcards, "srun"),
        tasks=lambda wildcards: on_nodes(wildcards, machine_of(wildcards).nodes),
        tasks_per_gpu=lambda wildcards: on_nodes(wildcards, 0),
        slurm_extra=lambda wildcards: on_nodes(
            wildcards, f"--gpus-per-node={machine_of(wildcards).ranks}"
        ),
    params:
        folder=lambda wildcards, output: Path(output.weights).parent,
        checkpoints=lambda wildcards: f"results/checkpoints/{wildcards.method}/{wildcards.dataset}-{wildcards.split}/seed{wildcards.seed}/{wildcards.stage}",
        board=lambda wildcards: f"results/tensorboard/{wildcards.method}/{wildcards.dataset}-{wildcards.split}/seed{wildcards.seed}/{wildcards.stage}",
        given=weights_given,
        # a function of `threads`, too, is no reason to run again in Snakemake's eyes (tests/workflow/test_rerun.py): what is
        # wanted here, and the only way; even an `ancient` file trains again once it was deleted
        machine=lambda wildcards, threads: section(machine_of(wildcards)),
        threads=lambda wildcards, threads: torch_threads(
            wildcards, threads, machine_of(wildcards).ranks
        ),
        code=source_digest(*TRAINING),
    shell:
        "printf '%s\\n' {params.machine:q} | python -m pipeline.put_text {params.folder}/machine.json 2>&1 | tee {log};"
        " python -m train.launch {params.folder} --config {input.config} --index {input.index} --split {input.split} {params.given}"
        " --machine {params.folder}/machine.json --checkpoints {params.checkpoints} --board {params.board} --threads {params.threads} 2>&1"
        " | (trap '' TERM; tee {log})"
