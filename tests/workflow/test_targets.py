"""Every target a person types exists, explains itself and plans the jobs it should."""

from __future__ import annotations

import re

import pytest

from tests.shards import making
from tests.workflow.conftest import jobs, snakemake

TARGETS = {
    *("all", "data", "pack_own", "train_visual_own", "evaluate_visual_own", "train_student_own", "evaluate_student_own"),
    *(f"verify_{dataset}" for dataset in ("demo", "mars", "ilidsvid", "prid2011", "own")),
    *("oracle_dubbernet_demo", "oracle_dubbernet_mars", "legacy_eval_demo", "legacy_eval_mars"),
    *(
        f"{verb}_{dataset}"
        for verb in ("allocate_audio", "pack", "train_teacher", "train_student", "evaluate_student", "ablate_dubbernet")
        for dataset in ("demo", "mars", "ilidsvid", "prid2011")
    ),
    *(f"evaluate_student_{pair}" for pair in ("demo_on_demo_ilidsvid", "demo_on_demo_prid2011", "mars_on_ilidsvid", "mars_on_prid2011")),
    *(f"evaluate_student_{pair}" for pair in ("ilidsvid_on_prid2011", "prid2011_on_ilidsvid")),
}


def test_named_targets_are_listed_with_a_docstring(tmp_path):
    printed = snakemake(tmp_path, "--list").stdout
    explained = dict(re.findall(r"^(\w+) \((\S.*)\)$", printed, re.MULTILINE))
    assert set(explained) >= TARGETS


def test_mars_is_planned_per_shard_never_per_clip(tmp_path):
    (tmp_path / "mars").mkdir()
    (tmp_path / "voices").mkdir()
    roots = f"roots={{mars: {tmp_path}/mars, common_voice: {tmp_path}/voices}}"
    counted = jobs(snakemake(tmp_path, "--dry-run", "--config", roots, "--", "evaluate_student_mars").stdout)
    assert {name: n for name, n in counted.items() if n == 96} == {"encode_frames": 96, "encode_companion": 96, "pack_shard": 96}
    assert sum(counted.values()) <= 3 * 96 + 15
    assert counted["fit"] == 2  # teacher and student
    assert counted["embed"] == counted["score"] == 1


def planned(folder, *words):
    """Jobs of a dry run on MARS and voices that are (empty) folders."""
    for name in ("mars", "voices"):
        (folder / name).mkdir(exist_ok=True)
    roots = f"roots={{mars: {folder}/mars, common_voice: {folder}/voices}}"
    return jobs(snakemake(folder, "--dry-run", "--config", roots, *words).stdout)


def test_an_ablation_shares_frames_teachers_and_shards(tmp_path):
    """19 trainings per seed (2 without a teacher, 7 teachers, 10 students) and 2 that only hear something else at test."""
    counted = planned(tmp_path, "--", "ablate_dubbernet_mars")
    assert counted["encode_frames"] == 96
    assert counted["encode_companion"] == counted["pack_shard"] == 6 * 96
    assert counted["fit"] == 3 * (19 + 2) and counted["score"] == 3 * 15 and counted["ablation"] == 1


def test_test_identities_are_dubbed_for_oracle_targets_only(tmp_path):
    printed = {name: snakemake(tmp_path, "--dry-run", "--", name).stdout for name in sorted(TARGETS) if name.endswith("_demo")}
    assert {name for name, text in printed.items() if "demo-audio_oracle" in text} == {"oracle_dubbernet_demo"}


def test_a_frozen_encoder_is_a_step_of_its_own(tmp_path):
    counted = planned(tmp_path, "methods={dubbernet: {companion: audio_stub}}", "--", "train_student_mars")
    assert counted["decode_companion"] == counted["encode_tokens"] == 96 and "encode_companion" not in counted


def test_a_weight_file_that_is_not_there_is_never_taken_for_done(tmp_path):
    """An input that nothing makes would let old results pass: the step is planned with its name, and says what is wrong."""
    for setting, option in (
        ("methods={dubbernet: {pretrained: ./no.safetensors}}", "--pretrained no.safetensors"),
        ("methods={dubbernet: {pretrained: No_Such_ViT}}", "--name No_Such_ViT"),
        ("methods={dubbernet: {companion: audio_hubert}}", '"encoder": "hubert_base"'),
    ):
        done = snakemake(tmp_path, "--dry-run", "--printshellcmds", "--config", setting, "--", "train_teacher_mars")
        assert done.returncode == 0 and option in done.stdout, done.stdout


def test_a_fixed_number_of_threads_stays_the_same_whatever_the_number_of_cores(tmp_path):
    """It decides the last bits of sums; without one the job's CPUs are taken."""
    for setting, given in (
        ("threads: 2", {"train.launch": "2", "evaluate.embed": "2"}),
        ("threads: 2, machine: {ranks: 2}", {"train.launch": "4", "evaluate.embed": "2"}),
        ("threads: 0", {"train.launch": "1", "evaluate.embed": "1"}),
    ):
        words = ["--dry-run", "--printshellcmds", "--config", f"methods={{dubbernet_demo: {{{setting}}}}}", "--", "evaluate_student_demo"]
        done = snakemake(tmp_path, *words, cores=1)
        assert dict(re.findall(r"python -m (train\.launch|evaluate\.embed) .* --threads (\d+) ", done.stdout)) == given, done.stdout


def test_the_released_scorer_is_shown_for_every_seed_of_the_student(tmp_path):
    """One table per run, made of embeddings that are there or are made; what `score` writes is no part of it."""
    setting = "experiments=[{method: dubbernet, dataset: mars, seeds: [0, 1]}]"
    done = snakemake(tmp_path, "--dry-run", "--printshellcmds", "--config", setting, "--", "legacy_eval_mars")
    counted = jobs(done.stdout)
    assert counted["legacy_eval_mars"] == 1 and counted["embed"] == 2 and counted["fit"] == 4 and "score" not in counted
    shown = re.search(r"python -m evaluate\.legacy_eval --embeddings (.*) --config (.*) --tracklets (\S+) ", done.stdout)
    assert shown is not None, done.stdout
    folders = [f"results/runs/dubbernet/mars-official/seed{seed}/student" for seed in (0, 1)]
    assert shown[1].split() == [f"{folder}/embeddings.parquet" for folder in folders]
    assert shown[2].split() == [f"{folder}/config.json" for folder in folders]
    assert shown[3] == "results/tracklets/mars.parquet"


def test_ten_splits_are_ten_trainings_on_one_set_of_shards(tmp_path):
    (tmp_path / "prid").mkdir()
    (tmp_path / "voices").mkdir()
    roots = f"roots={{prid2011: {tmp_path}/prid, common_voice: {tmp_path}/voices}}"
    counted = jobs(snakemake(tmp_path, "--dry-run", "--config", roots, "--", "evaluate_student_prid2011").stdout)
    assert counted["read_split"] == 10 and counted["fit"] == 20 and counted["score"] == 10
    assert counted["pack_shard"] == 8 and counted["read_tracklets"] == 1


def test_another_data_set_is_tested_without_voices_every_trained_split_on_every_split_there(tmp_path):
    """One set of shards of frames alone there, whatever is packed for training on it; voices are for what is trained on."""
    for name in ("mars", "prid", "ilids", "voices"):
        (tmp_path / name).mkdir()
    given = {"mars": "mars", "prid2011": "prid", "ilidsvid": "ilids", "common_voice": "voices"}
    roots = ", ".join(f"{name}: {tmp_path}/{folder}" for name, folder in given.items())
    for target, fits, tests, shards in (
        ("mars_on_ilidsvid", 2, 10, 96 + 8),
        ("mars_on_prid2011", 2, 10, 96 + 8),
        ("ilidsvid_on_prid2011", 20, 100, 8 + 8),
        ("prid2011_on_ilidsvid", 20, 100, 8 + 8),
    ):
        there = target.rpartition("_")[2]
        done = snakemake(tmp_path, "--dry-run", "--config", f"roots={{{roots}}}", "--", f"evaluate_student_{target}")
        counted = jobs(done.stdout)
        assert (counted["fit"], counted["embed_across"], counted["score_across"]) == (fits, tests, tests), done.stdout[-2000:]
        assert counted["pack_shard"] == counted["encode_frames"] == shards and counted["encode_companion"] == shards - 8
        assert f"results/shards/{there}-none/index.parquet" in done.stdout and f"results/alignment/{there}-" not in done.stdout
        assert "embed" not in counted and "score" not in counted


def test_experiments_are_tested_elsewhere_when_they_say_so(tmp_path):
    """`all` scores stages that only see and are evaluated; `data` packs what they are tested on; without `test_on` neither."""
    elsewhere = "experiments=[{method: dubbernet_demo, dataset: demo, seeds: [0, 1], test_on: [demo_prid2011, demo_ilidsvid]}]"
    counted = jobs(snakemake(tmp_path, "--dry-run", "--config", elsewhere, "--", "all").stdout)
    assert (counted["fit"], counted["embed"], counted["embed_across"]) == (2 * 4, 2 * 3, 2 * 3 * 2)
    assert "demo_prid2011-none/index" in snakemake(tmp_path, "--dry-run", "--config", elsewhere, "--", "data").stdout
    plain = elsewhere.partition(", test_on")[0] + "}]"
    printed = snakemake(tmp_path, "--dry-run", "--config", plain, "--", "all").stdout
    assert "embed_across" not in jobs(printed) and "demo_prid2011-none" not in printed and jobs(printed)["embed"] == 2 * 3


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("mars-official/seed0/student/on/mars-official", "'mars' is the data set that is trained on"),
        ("prid2011-0/seed0/student/on/prid2011-1", "persons who train in one of its splits are tested in another"),
        (
            "mars-official/seed0/teacher/on/prid2011-0",
            "stage 'teacher' (dubbernet_teacher) hears, and sound of another data set is not taken",
        ),
        ("mars-official/seed0/oracle_probe/on/prid2011-0", "stage 'oracle_probe' (audio_probe) hears"),
        (
            "mars-official/seed0/student/on/demo_prid2011-0",
            "expects 256x128; set datasets.demo_prid2011.frames to {height: 256, width: 128}",
        ),
    ],
)
def test_what_may_not_be_tested_elsewhere_is_refused_before_anything_runs(tmp_path, path, sentence):
    done = snakemake(tmp_path, "--dry-run", "--", f"results/runs/dubbernet/{path}/metrics.json")
    assert done.returncode != 0 and sentence in done.stdout
    good = "results/runs/dubbernet/mars-official/seed0/student/on/prid2011-0/metrics.json"  # negative control
    assert snakemake(tmp_path, "--dry-run", "--", good).returncode == 0


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "experiments=[{method: dubbernet_demo, dataset: demo, test_on: [prid2011]}]",
            "set datasets.prid2011.frames to {height: 64, width: 32}",
        ),
        ("experiments=[{method: dubbernet_demo, dataset: demo, test_on: [demo]}]", "'demo' is the data set that is trained on"),
        ("methods={dubbernet: {optim: {lrate: 1}}}", "config.methods.dubbernet.optim.lrate: unknown setting"),
        ("companions={audio: {audio: {hop: 500}}}", "hop=500: must be in 1..window=400"),
        ("experiments=[{method: dubbernett, dataset: demo}]", "did you mean 'dubbernet'?"),
        ("sed=1", "config.sed: unknown setting; did you mean 'seed'?"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, setting, sentence):
    done = snakemake(tmp_path, "--dry-run", "--config", setting)
    assert done.returncode != 0
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("roots", "found"),
    [("{}", "not set"), ("{mars: /nowhere/at/all}", "/nowhere/at/all"), ("{mars: EMPTY}", "empty")],
)
def test_a_root_that_is_not_there_is_one_sentence(tmp_path, roots, found):
    (tmp_path / "empty").mkdir()
    roots = roots.replace("EMPTY", str(tmp_path / "empty"))
    done = snakemake(tmp_path, "--config", f"roots={roots}", "--", "results/plans/mars.parquet")
    assert done.returncode != 0
    sentence = next(line for line in done.stdout.splitlines() if "roots.mars" in line)
    assert found in sentence and "README" in sentence
    assert "Traceback" not in done.stdout


def test_verify_targets_build_nothing_and_check_what_is_there(tmp_path):
    """Always one job; a missing store is a sentence that says what makes it; every store of the data set is looked at, whatever its companion."""
    assert jobs(snakemake(tmp_path, "--dry-run", "--", "verify_mars").stdout) == {"verify_mars": 1}
    done = snakemake(tmp_path, "--", "verify_mars")
    assert done.returncode != 0 and "there is no such store; snakemake pack_mars makes one" in done.stdout
    assert "Traceback" not in done.stdout and sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["logs"]
    for companion in ("audio", "none"):
        (tmp_path / f"results/shards/mars-{companion}").mkdir(parents=True)
        making.make_store(tmp_path / f"results/shards/mars-{companion}", companion == "audio")
    for _ in range(2):  # a second time, too
        done = snakemake(tmp_path, "--", "verify_mars")
        assert done.returncode == 0 and done.stdout.count("index.parquet: every byte is as listed") == 2, done.stdout
    tar = tmp_path / "results/shards/mars-none/00001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    done = snakemake(tmp_path, "--", "verify_mars")
    assert done.returncode != 0 and "shard 00001.tar: its index implies" in done.stdout
    assert "results/shards/mars-audio/index.parquet: every byte is as listed" in done.stdout
    assert "error: not as listed: results/shards/mars-none/index.parquet (1 thing); " in done.stdout
    tar.write_bytes(tar.read_bytes() + b"\0")
    (tmp_path / "results/shards/mars-none/index.parquet").unlink()
    done = snakemake(tmp_path, "--", "verify_mars")
    assert done.returncode != 0 and "mars-none: holds 00000.parquet and 3 more tars and twins, and no index.parquet says" in done.stdout
    assert "in them; snakemake pack_mars makes one" in done.stdout and "Traceback" not in done.stdout
    for path in (tmp_path / "results/shards/mars-none").iterdir():
        path.unlink()
    done = snakemake(tmp_path, "--", "verify_mars")  # an empty folder is no store either
    assert done.returncode != 0 and "results/shards/mars-none/index.parquet: there is no such store" in done.stdout
