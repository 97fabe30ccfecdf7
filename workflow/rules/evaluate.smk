# Weights -> embeddings -> scores -> report.


rule embed:
    """One feature per test tracklet: all its frames in consecutive clips, averaged."""
    input:
        config="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/config.json",
        weights="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/model.safetensors",
        index=test_shards_of,
        split="results/splits/{dataset}/{split}.parquet",
    output:
        "results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/embeddings.parquet",
    log:
        "logs/embed/{method}-{dataset}-{split}-{seed}-{stage}.log",
    benchmark:
        "benchmarks/embed/{method}-{dataset}-{split}-{seed}-{stage}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: SETTINGS.methods[wildcards.method].threads or 4
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1,
    params:
        workers=lambda wildcards, threads: machine_of(wildcards).workers,  # see `fit`
        check=lambda wildcards, threads: machine_of(wildcards).check,
        threads=lambda wildcards, threads: torch_threads(wildcards, threads),
        code=source_digest(*EMBEDDING),
    shell:
        "python -m evaluate.embed {output} --config {input.config} --weights {input.weights} --index {input.index}"
        " --split {input.split} --workers {params.workers} --check {params.check:q} --threads {params.threads} > {log} 2>&1"


rule score:
    """Embeddings -> scores under every protocol of the data set."""
    input:
        config="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/config.json",
        embeddings="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/embeddings.parquet",
    output:
        metrics="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/metrics.json",
        queries="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/queries.parquet",
    log:
        "logs/score/{method}-{dataset}-{split}-{seed}-{stage}.log",
    benchmark:
        "benchmarks/score/{method}-{dataset}-{split}-{seed}-{stage}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        protocols=protocols_of,
        scoring=section(SETTINGS.scoring),
        code=source_digest(*SCORING),
    shell:
        "python -m evaluate.score {output.metrics} --queries {output.queries} --embeddings {input.embeddings} --config {input.config}"
        " --protocols {params.protocols} --scoring {params.scoring:q} > {log} 2>&1"


rule embed_across:
    """The same for the test half of another data set: none of it has been trained on, as far as names and digests tell."""
    input:
        config="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/config.json",
        weights="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/model.safetensors",
        index=target_shards,
        split="results/splits/{target}/{target_split}.parquet",
    output:
        "results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/on/{target}-{target_split}/embeddings.parquet",
    log:
        "logs/embed/{method}-{dataset}-{split}-{seed}-{stage}-on-{target}-{target_split}.log",
    benchmark:
        "benchmarks/embed/{method}-{dataset}-{split}-{seed}-{stage}-on-{target}-{target_split}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: SETTINGS.methods[wildcards.method].threads or 4
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1,
    params:
        workers=lambda wildcards, threads: machine_of(wildcards).workers,  # see `fit`
        check=lambda wildcards, threads: machine_of(wildcards).check,
        threads=lambda wildcards, threads: torch_threads(wildcards, threads),
        code=source_digest(*EMBEDDING),
    shell:
        "python -m evaluate.embed {output} --config {input.config} --weights {input.weights} --index {input.index}"
        " --split {input.split} --test-dataset {wildcards.target} --test-split {wildcards.target_split}"
        " --workers {params.workers} --check {params.check:q} --threads {params.threads} > {log} 2>&1"


use rule score as score_across with:
    input:
        config="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/config.json",
        embeddings="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/on/{target}-{target_split}/embeddings.parquet",
    output:
        metrics="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/on/{target}-{target_split}/metrics.json",
        queries="results/runs/{method}/{dataset}-{split}/seed{seed}/{stage}/on/{target}-{target_split}/queries.parquet",
    log:
        "logs/score/{method}-{dataset}-{split}-{seed}-{stage}-on-{target}-{target_split}.log",
    benchmark:
        "benchmarks/score/{method}-{dataset}-{split}-{seed}-{stage}-on-{target}-{target_split}.tsv"


rule report_inputs:
    """Where the report finds what it shows, with the settings and versions of this run."""
    output:
        "results/report/inputs.json",
    log:
        "logs/report_inputs.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        # a function, here and below: in text Snakemake would take braces, of a title for example, for wildcards
        inputs=lambda wildcards: json.dumps(report_inputs(), indent=1),
        code=source_digest("pipeline/put_text.py"),
    shell:
        "printf '%s\\n' {params.inputs:q} | python -m pipeline.put_text {output} > {log} 2>&1"


rule report:
    """One self-contained page: scores with their protocol, curves, frames and voices, ranked lists, what was left out."""
    input:
        report_files(),
        inputs="results/report/inputs.json",
    output:
        html=report(
            "results/report.html",
            caption="../report/scores.rst",
            category="Scores",
            labels={"what": "report"},
        ),
        markdown="results/report.md",
        csv=report(
            "results/report/scores.csv",
            caption="../report/scores.rst",
            category="Scores",
            labels={"what": "table"},
        ),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        config=lambda wildcards: section(SETTINGS.report),
        code=source_digest(
            "evaluate", "evaluate/report_page/page.css", "pipeline/base/pictures.py"
        ),
    shell:
        "python -m evaluate.report {output.html} --markdown {output.markdown} --csv {output.csv} --inputs {input.inputs}"
        " --config {params.config:q} > {log} 2>&1"


use rule report_inputs as ablation_inputs with:
    output:
        "results/ablations/{ablation}/inputs.json",
    log:
        "logs/ablation_inputs/{ablation}.log",
    params:
        inputs=lambda wildcards: json.dumps(report_inputs(wildcards.ablation), indent=1),
        code=source_digest("pipeline/put_text.py"),


rule ablation:
    """The report of one ablation: the table that compares its stages stands first."""
    input:
        lambda wildcards: report_files(wildcards.ablation),
        inputs="results/ablations/{ablation}/inputs.json",
    output:
        html=report(
            "results/ablations/{ablation}/report.html",
            caption="../report/ablation.rst",
            category="Ablations",
            labels={"ablation": "{ablation}", "what": "report"},
        ),
        markdown="results/ablations/{ablation}/report.md",
        csv="results/ablations/{ablation}/scores.csv",
        table=report(
            "results/ablations/{ablation}/ablation.csv",
            caption="../report/ablation.rst",
            category="Ablations",
            labels={"ablation": "{ablation}", "what": "table"},
        ),
    log:
        "logs/ablation/{ablation}.log",
    benchmark:
        "benchmarks/ablation/{ablation}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        config=lambda wildcards: section(
            replace(SETTINGS.report, title=f"Ablation {wildcards.ablation}")
        ),
        code=source_digest(
            "evaluate", "evaluate/report_page/page.css", "pipeline/base/pictures.py"
        ),
    shell:
        "python -m evaluate.report {output.html} --markdown {output.markdown} --csv {output.csv} --ablation-csv {output.table}"
        " --inputs {input.inputs} --config {params.config:q} > {log} 2>&1"
