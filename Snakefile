"""dubtrack: from raw folders to a trustworthy report. `snakemake --list` explains every target."""

from snakemake.utils import min_version, validate

min_version("9.0")


configfile: f"{workflow.basedir}/workflow/config/default.yaml"


include: "workflow/rules/common.smk"


validate(config, "workflow/schemas/config.schema.json")


include: "workflow/rules/manifests.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/shards.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"


rule all:
    """Everything the config names under `experiments` and `prepare`, and the report (default: the generated demo)."""
    default_target: True
    input:
        "results/report.html",
        [shards(dataset) for dataset in SETTINGS.prepare],


rule data:
    """The data path alone: manifests and shards of every data set that `all` uses, no training."""
    input:
        [
            shards(*pair)
            for e in SETTINGS.experiments
            for pair in sorted(stores(e, stages_of(e)))
        ],
        [shards(dataset) for dataset in SETTINGS.prepare],


# --- generated demo ---------------------------------------------------------------------------------------------------


rule allocate_audio_demo:
    """Demo: one speaker for each training identity."""
    input:
        alignment("demo", "audio"),


rule pack_demo:
    """Demo: frames and log-mel in WebDataset shards with a Parquet index."""
    input:
        shards("demo", "audio"),


rule verify_demo:
    """Demo: every byte of the shards that are there against their index; names what is wrong, makes nothing."""
    log:
        "logs/verify/demo.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        "python -m shards.verify results/shards/demo-*/ --made-by pack_demo 2>&1 | tee {log}"


rule train_teacher_demo:
    """Demo: small DubberNet teacher, frames and audio."""
    input:
        weights("dubbernet_demo", "demo", "teacher"),


rule train_student_demo:
    """Demo: small DubberNet student, audio in training, frames only in evaluation."""
    input:
        weights("dubbernet_demo", "demo", "student"),


rule evaluate_student_demo:
    """Demo: scores of the student beside its controls (untrained, trained without a teacher)."""
    input:
        scores("dubbernet_demo", "demo", "untrained"),
        scores("dubbernet_demo", "demo", "baseline"),
        scores("dubbernet_demo", "demo", "student"),
    log:
        "logs/tables/evaluate_student_demo.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule legacy_eval_demo:
    """Demo: what the released MARS scorer would have printed for the student, next to the sound numbers."""
    input:
        embeddings=embedded("dubbernet_demo", "demo", "student"),
        config=configs("dubbernet_demo", "demo", "student"),
        tracklets="results/tracklets/demo.parquet",
    log:
        "logs/legacy_eval/demo.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        LEGACY


rule evaluate_student_demo_on_demo_ilidsvid:
    """Demo: the student on the test half of the iLIDS-VID-like set, which it has never seen."""
    input:
        scores_on("dubbernet_demo", "demo", "student", "demo_ilidsvid"),
    log:
        "logs/tables/evaluate_student_demo_on_demo_ilidsvid.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule evaluate_student_demo_on_demo_prid2011:
    """Demo: the student on the test half of the PRID-2011-like set, which it has never seen."""
    input:
        scores_on("dubbernet_demo", "demo", "student", "demo_prid2011"),
    log:
        "logs/tables/evaluate_student_demo_on_demo_prid2011.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule ablate_dubbernet_demo:
    """Demo: what the voice adds, beside its controls, over three seeds (report of its own)."""
    input:
        "results/ablations/dubbernet_demo/report.html",


rule oracle_dubbernet_demo:
    """Demo: what label-derived audio at test time would score (oracle, no result); shows the leak."""
    input:
        "results/ablations/oracle_demo/report.html",


# --- MARS -------------------------------------------------------------------------------------------------------------


rule allocate_audio_mars:
    """MARS: one Common Voice speaker for each training identity."""
    input:
        alignment("mars", "audio"),


rule pack_mars:
    """MARS: frames and log-mel in WebDataset shards with a Parquet index."""
    input:
        shards("mars", "audio"),


rule verify_mars:
    """MARS: every byte of the shards that are there against their index; names what is wrong, makes nothing."""
    log:
        "logs/verify/mars.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        "python -m shards.verify results/shards/mars-*/ --made-by pack_mars 2>&1 | tee {log}"


rule train_teacher_mars:
    """MARS: DubberNet teacher, frames and audio."""
    input:
        weights("dubbernet", "mars", "teacher"),


rule train_student_mars:
    """MARS: DubberNet student, audio in training, frames only in evaluation."""
    input:
        weights("dubbernet", "mars", "student"),


rule evaluate_student_mars:
    """MARS: scores of the student under the three protocols that are called MARS."""
    input:
        scores("dubbernet", "mars", "student"),
    log:
        "logs/tables/evaluate_student_mars.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule legacy_eval_mars:
    """MARS: what the released MARS scorer would have printed for the student, next to the sound numbers."""
    input:
        embeddings=embedded("dubbernet", "mars", "student"),
        config=configs("dubbernet", "mars", "student"),
        tracklets="results/tracklets/mars.parquet",
    log:
        "logs/legacy_eval/mars.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        LEGACY


rule evaluate_student_mars_on_ilidsvid:
    """MARS -> iLIDS-VID: the student on the test half of each configured split of a data set that it has never seen."""
    input:
        scores_on("dubbernet", "mars", "student", "ilidsvid"),
    log:
        "logs/tables/evaluate_student_mars_on_ilidsvid.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule evaluate_student_mars_on_prid2011:
    """MARS -> PRID-2011: the student on the test half of each configured split of a data set that it has never seen."""
    input:
        scores_on("dubbernet", "mars", "student", "prid2011"),
    log:
        "logs/tables/evaluate_student_mars_on_prid2011.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule ablate_dubbernet_mars:
    """MARS: what the voice adds, beside its controls, over three seeds (57 trainings at full size)."""
    input:
        "results/ablations/dubbernet_mars/report.html",


rule oracle_dubbernet_mars:
    """MARS: what label-derived audio at test time would score (oracle, no result); shows the leak."""
    input:
        "results/ablations/oracle_mars/report.html",


# --- iLIDS-VID --------------------------------------------------------------------------------------------------------


rule allocate_audio_ilidsvid:
    """iLIDS-VID: one Common Voice speaker for each training identity."""
    input:
        alignment("ilidsvid", "audio"),


rule pack_ilidsvid:
    """iLIDS-VID: frames and log-mel in WebDataset shards with a Parquet index."""
    input:
        shards("ilidsvid", "audio"),


rule verify_ilidsvid:
    """iLIDS-VID: every byte of the shards that are there against their index; names what is wrong, makes nothing."""
    log:
        "logs/verify/ilidsvid.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        "python -m shards.verify results/shards/ilidsvid-*/ --made-by pack_ilidsvid 2>&1 | tee {log}"


rule train_teacher_ilidsvid:
    """iLIDS-VID: DubberNet teachers, frames and audio, one for each configured split."""
    input:
        weights("dubbernet", "ilidsvid", "teacher"),


rule train_student_ilidsvid:
    """iLIDS-VID: DubberNet students, one for each configured split."""
    input:
        weights("dubbernet", "ilidsvid", "student"),


rule evaluate_student_ilidsvid:
    """iLIDS-VID: scores of the students on each configured split."""
    input:
        scores("dubbernet", "ilidsvid", "student"),
    log:
        "logs/tables/evaluate_student_ilidsvid.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule evaluate_student_ilidsvid_on_prid2011:
    """iLIDS-VID -> PRID-2011: the students on data that they have never seen, each trained split x each split there."""
    input:
        scores_on("dubbernet", "ilidsvid", "student", "prid2011"),
    log:
        "logs/tables/evaluate_student_ilidsvid_on_prid2011.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule ablate_dubbernet_ilidsvid:
    """iLIDS-VID: what the voice adds, beside its controls, over all configured splits."""
    input:
        "results/ablations/dubbernet_ilidsvid/report.html",


# --- PRID-2011 --------------------------------------------------------------------------------------------------------


rule allocate_audio_prid2011:
    """PRID-2011: one Common Voice speaker for each training identity."""
    input:
        alignment("prid2011", "audio"),


rule pack_prid2011:
    """PRID-2011: frames and log-mel in WebDataset shards with a Parquet index."""
    input:
        shards("prid2011", "audio"),


rule verify_prid2011:
    """PRID-2011: every byte of the shards that are there against their index; names what is wrong, makes nothing."""
    log:
        "logs/verify/prid2011.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        "python -m shards.verify results/shards/prid2011-*/ --made-by pack_prid2011 2>&1 | tee {log}"


rule train_teacher_prid2011:
    """PRID-2011: DubberNet teachers, frames and audio, one for each configured split."""
    input:
        weights("dubbernet", "prid2011", "teacher"),


rule train_student_prid2011:
    """PRID-2011: DubberNet students, one for each configured split."""
    input:
        weights("dubbernet", "prid2011", "student"),


rule evaluate_student_prid2011:
    """PRID-2011: scores of the students on each configured split."""
    input:
        scores("dubbernet", "prid2011", "student"),
    log:
        "logs/tables/evaluate_student_prid2011.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule evaluate_student_prid2011_on_ilidsvid:
    """PRID-2011 -> iLIDS-VID: the students on data that they have never seen, each trained split x each split there."""
    input:
        scores_on("dubbernet", "prid2011", "student", "ilidsvid"),
    log:
        "logs/tables/evaluate_student_prid2011_on_ilidsvid.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule ablate_dubbernet_prid2011:
    """PRID-2011: what the voice adds, beside its controls, over all configured splits."""
    input:
        "results/ablations/dubbernet_prid2011/report.html",


# --- your own tracklets -----------------------------------------------------------------------------------------------


rule pack_own:
    """Own tracklets: frames alone in WebDataset shards."""
    input:
        shards("own", "none"),


rule verify_own:
    """Own tracklets: every byte of the shards that are there against their index; names what is wrong, makes nothing."""
    log:
        "logs/verify/own.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        "python -m shards.verify results/shards/own-*/ --made-by pack_own 2>&1 | tee {log}"


rule train_visual_own:
    """Own tracklets without sound: train on frames alone."""
    input:
        weights("visual", "own", "student"),


rule evaluate_visual_own:
    """Own tracklets without sound: scores."""
    input:
        scores("visual", "own", "student"),
    log:
        "logs/tables/evaluate_visual_own.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE


rule train_student_own:
    """Own tracklets with sound of their own: teacher on both, student on frames."""
    input:
        weights("dubbernet_own", "own", "student"),


rule evaluate_student_own:
    """Own tracklets with sound of their own: scores of teacher (hears recorded sound) and student."""
    input:
        scores("dubbernet_own", "own", "teacher"),
        scores("dubbernet_own", "own", "student"),
    log:
        "logs/tables/evaluate_student_own.log",
    localrule: True
    conda:
        "environment.yml"
    shell:
        TABLE
