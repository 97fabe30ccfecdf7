"""Trials to a sealed JSON file and a table: numbers by hand, what is said with them, and refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from evaluate import score_trials
from evaluate.protocols import apply, protocol_named
from evaluate.score import IDENTITY, TRAINING_OF
from evaluate.score_trials import Wanted, metrics, pairs_of, table, trial_scores, unit
from evaluate.verification import Trials
from pipeline.base import origin, tables
from pipeline.base.build import plain
from pipeline.base.code import VERIFYING
from pipeline.base.config import MethodConfig, RunConfig, ScoringConfig, StageConfig
from pipeline.base.errors import ConfigError, ScoreError, TableError
from pipeline.base.seeds import rng
from tests.workflow.test_digests import ALWAYS, WORDS_ONLY, closure

STAGE = StageConfig(network="dubbernet_student")
RUN = RunConfig(
    method="m", dataset="d", split="0", seed=3, stage="student", companion="none", test_companion="none", kind="", bands=0, item_frames=0,
    height=32, width=16, this=STAGE, settings=MethodConfig(stages={"student": STAGE}, companion="none"),
)  # fmt: skip
QUICK = ScoringConfig(resamples=100)
COSINES = (0.9, 0.8, 0.55, 0.3, 0.6, 0.5, 0.4, 0.2, 0.1, 0.05)
OF = {name: getattr(RUN, name) for name in TRAINING_OF}
"""What meta of EMBEDDINGS says about the training."""


def row(name, identity, vector, kind="person", role="trial", modality="frames"):
    vector = [float(v) for v in vector]
    return {
        "tracklet": name,
        "modality": modality,
        "role": role,
        "identity": identity,
        "kind": kind,
        "camera": 0,
        "clips": 1,
        "vector": vector,
    }


def at(cosine, length):
    """A vector with this cosine to (1, 0)."""
    return length * cosine, length * math.sqrt(1 - cosine**2)


TEN = [row("anchor", "a", (7, 0)), *(row(f"t{k}", "a" if k < 4 else f"b{k}", at(c, 1 + k)) for k, c in enumerate(COSINES))]
"""The ten trials of specs/avcleanse.md section 6.2, as pairs with one anchor; lengths of vectors must not matter."""
TEN_TRIALS = [{"left": "anchor", "right": f"t{k}", "same": k < 4} for k in range(10)]


def crowd(modality="frames", identities=12, clips=4):
    """Identities that can be told apart more or less, and all pairs of their clips."""
    random = rng(5, "crowd")
    middle = random.normal(size=(identities, 8))
    names = [(f"i{i:02d}c{c}", f"i{i:02d}", middle[i] + random.normal(size=8)) for i in range(identities) for c in range(clips)]
    rows = [row(*found, modality=modality) for found in names]
    pairs = [{"left": a[0], "right": b[0], "same": a[1] == b[1]} for k, a in enumerate(names) for b in names[k + 1 :]]
    return rows, pairs


def scored(rows, trials, meta=None, cohort=None, **wanted):
    asked = {"name": "list", "scoring": QUICK, "draw": "trials", **wanted}
    others = None if cohort is None else (tables.table(cohort[0], tables.EMBEDDINGS), {**OF, **cohort[1]})
    return metrics(
        tables.table(rows, tables.EMBEDDINGS), {**OF, **(meta or {})}, RUN, tables.table(trials, tables.TRIALS), Wanted(**asked), others
    )


def test_ten_trials_by_hand():
    out = scored(TEN, TEN_TRIALS)
    assert out["trials"] == {
        "name": "list",
        "rule": "",
        "trials": 10,
        "same": 4,
        "different": 6,
        "repeated": 0,
        "items": 11,
        "identities": 7,
    }
    assert out["feature"] == {"dim": 2, "normalised": True, "score": "cosine", "score_normalisation": None}
    assert (out["eer"]["toolkit"], out["eer"]["reference"]) == (pytest.approx(0.25), pytest.approx(0.25))
    assert [(cost["p_target"], cost["toolkit"], cost["reference"]) for cost in out["min_dcf"]] == [
        (0.05, pytest.approx(0.5), pytest.approx(0.5)),
        (0.01, pytest.approx(0.5), pytest.approx(0.5)),
    ]


def test_both_forms_are_told_apart():
    """Equal vectors give equal scores, hence constant ones: 50 % in our form, 100 % in the other."""
    rows = [row(name, name[0], (1, 2)) for name in ("a1", "a2", "b1", "b2")]
    out = scored(rows, [{"left": "a1", "right": "a2", "same": True}, {"left": "a1", "right": "b1", "same": False}])
    assert out["eer"] == {"toolkit": 0.5, "interval": [0.5, 0.5], "reference": 1.0}
    assert out["min_dcf"][0]["interval"] == [1.0, 1.0]
    said = table(out)
    assert "EER       50.000 % [50.000, 50.000], interpolated; 100.000 % in the reference form" in said


def test_scores_are_those_of_a_plain_loop():
    random = rng(0, "scores")
    vectors = (random.normal(size=(20, 13)) * 10.0 ** random.integers(-18, 18, (20, 1))).astype(np.float32)
    left, right = random.integers(0, 20, 400), random.integers(0, 20, 400)
    exact = vectors.astype(np.float64)
    loop = [float(exact[a] @ exact[b] / np.sqrt((exact[a] @ exact[a]) * (exact[b] @ exact[b]))) for a, b in zip(left, right, strict=True)]
    assert np.abs(trial_scores(unit(vectors), left, right) - loop).max() < 2e-7
    assert np.abs(trial_scores(vectors / np.float32(2), left, right) - loop).max() > 1  # control: lengths do matter to the sum


@pytest.mark.parametrize("chunk", [1, 64, 1000])
def test_a_pair_has_one_score_wherever_it_stands(monkeypatch, chunk):
    random = rng(1, "scores")
    vectors = unit(random.normal(size=(30, 192)).astype(np.float32))
    left, right = random.integers(0, 30, 500), random.integers(0, 30, 500)
    whole = trial_scores(vectors, left, right)
    monkeypatch.setattr(score_trials, "CHUNK", chunk * 192)
    assert np.array_equal(whole, trial_scores(vectors, left, right))
    assert np.array_equal(whole, trial_scores(vectors, right, left))
    assert np.array_equal(whole[::-1], trial_scores(vectors, left[::-1], right[::-1]))
    assert not np.array_equal(whole, trial_scores(vectors, left[::-1], right))  # control


def test_intervals_are_of_what_is_said():
    rows, pairs = crowd()
    found = {draw: scored(rows, pairs, draw=draw) for draw in ("trials", "identities")}
    for draw, out in found.items():
        assert out["bootstrap"] == {"resamples": 100, "confidence": 0.95, "drawn": draw, "seed": 0, "of": "toolkit", "missing": None}
        low, high = out["eer"]["interval"]
        assert 0 < low < out["eer"]["toolkit"] < high < 1
        assert f"95 % of 100 samples of {draw}, seed 0" in table(out)
        assert "minDCF's is too low where different trials are few" in table(out)
    assert np.diff(found["identities"]["eer"]["interval"]) > 1.2 * np.diff(found["trials"]["eer"]["interval"])
    assert "too narrow" in table(found["trials"]) and "too narrow" not in table(found["identities"])
    assert scored(rows, pairs, seed=1)["eer"]["interval"] != found["trials"]["eer"]["interval"]


def test_identities_are_drawn_as_embeddings_name_them():
    """The interval is that of `Trials.resampled` with the identities in the order of their names."""
    rows, pairs = crowd()
    vectors = unit(np.array([r["vector"] for r in rows], np.float32))
    place = {r["tracklet"]: k for k, r in enumerate(rows)}
    left, right = (np.array([place[p[side]] for p in pairs]) for side in ("left", "right"))
    trials = Trials(trial_scores(vectors, left, right), np.array([p["same"] for p in pairs]))
    samples = trials.resampled([0.05, 0.01], 100, 0, (left // 4, right // 4))
    out = scored(rows[::-1], pairs, draw="identities")
    assert out["min_dcf"][1]["interval"] == pytest.approx(np.quantile(samples[:, 2], [0.025, 0.975]).tolist(), abs=1e-15)


def test_no_samples_no_interval():
    out = scored(TEN, TEN_TRIALS, scoring=ScoringConfig(resamples=0))
    assert out["bootstrap"] is None and out["eer"]["interval"] is None and out["min_dcf"][0]["interval"] is None
    assert "EER       25.000 %, interpolated" in table(out) and "interval  none was asked for" in table(out)


def test_a_table_says_what_its_numbers_are_of():
    meta = {"policy": "id_speaker", "label_derived": True, "oracle": True, "companion": "dub", "heard": 11}
    rows = [{**r, "modality": "frames+audio"} for r in TEN]
    out = scored(rows, TEN_TRIALS, meta, name="vox1_o", p_targets=(0.01,))
    assert (out["modality"], out["oracle"], out["companion"]) == ("oracle frames + label-derived audio", True, "dub")
    assert out["heard"] == {"tracklets": 11, "with_sound": 11}
    said = table(out)
    for words in (
        "list      vox1_o",
        "trials    10: 4 same, 6 different",
        "of        11 items, 7 identities",
        "run       method m dataset d split 0 seed 3 stage student",
        "tested on dataset d split 0",
        "sees      oracle frames + label-derived audio",
        "score     cosine of vectors of length 1, 2 values",
        "P_target = 0.01; 0.5000 in the reference form",
    ):
        assert words in said
    assert "0.05" not in said  # nobody asked for it
    assert "frames only" in table(scored(TEN, TEN_TRIALS))


def test_another_test_set_is_named():
    """By both keys that metrics.json has, and on the screen; without them it is the training's own."""
    own, other = scored(TEN, TEN_TRIALS), scored(TEN, TEN_TRIALS, {"test_dataset": "vox", "test_split": "o"})
    assert [own[name] for name in IDENTITY] == ["m", "d", "0", 3, "student", "d", "0"]
    assert [other[name] for name in IDENTITY] == ["m", "d", "0", 3, "student", "vox", "o"]
    assert "tested on dataset vox split o\n" in table(other) and "tested on dataset d split 0\n" in table(own)


def test_oracle_stands_beside_the_numbers_whatever_the_table_says_it_saw():
    """A table that contradicts itself still carries the word, and its cohort has to."""
    out = scored(TEN, TEN_TRIALS, {"oracle": True}, cohort=(COHORT, {"oracle": True}), cohort_top=3)
    assert out["oracle"] and out["modality"] == "oracle frames only" and "sees      oracle frames only\n" in table(out)
    assert "oracle" not in table(scored(TEN, TEN_TRIALS, {"oracle": False}))
    for theirs, others in (({"oracle": True}, {}), ({}, {"oracle": True})):
        with pytest.raises(ScoreError, match=r"cohort: made with (oracle )?frames only, the trials' embeddings with (oracle )?frames only"):
            scored(TEN, TEN_TRIALS, theirs, cohort=(COHORT, others), cohort_top=3)


@pytest.mark.parametrize("camera", [-1, 0])
def test_recordings_without_a_camera_are_verified(camera):
    """A camera is compared nowhere; control: a ranking that compares it refuses."""
    rows = [{**r, "camera": camera} for r in TEN]
    assert scored(rows, TEN_TRIALS) == scored(TEN, TEN_TRIALS)
    ranked = _subjects([{**r, "role": "query" if r["tracklet"] == "anchor" else "gallery"} for r in rows])
    with pytest.raises(
        ScoreError, match="11 of 11 tracklets have no known camera" if camera < 0 else "none of 1 queries has a right answer"
    ):
        apply(protocol_named("market"), ranked)


def test_a_name_cannot_write_to_the_terminal():
    assert "\x1b" not in table(scored(TEN, TEN_TRIALS, name="vox\x1b[2J\nEER 0 %"))


def test_a_distractor_matches_nobody():
    rows = [*TEN, row("d1", "0000", (1, 1), "distractor"), row("d2", "0000", (1, 1), "distractor")]
    out = scored(rows, [*TEN_TRIALS, {"left": "d1", "right": "d2", "same": False}, {"left": "d1", "right": "t0", "same": False}])
    assert (out["trials"]["different"], out["trials"]["identities"]) == (8, 9)
    with pytest.raises(ScoreError, match="1 of 11 say 'same' where EMBEDDINGS give two identities, or the reverse"):
        scored(rows, [*TEN_TRIALS, {"left": "d1", "right": "d2", "same": True}])


def test_repeats_are_counted_on_purpose():
    trials = [*TEN_TRIALS, {"left": "t4", "right": "anchor", "same": False}, TEN_TRIALS[0], TEN_TRIALS[0]]
    with pytest.raises(ScoreError, match=r"3 of 13 repeat a pair, .* \(--allow-repeats\); the first is trial 11, t4 and anchor"):
        scored(TEN, trials)
    out = scored(TEN, trials, allow_repeats=True)
    assert (out["trials"]["trials"], out["trials"]["repeated"]) == (13, 3)
    assert "6 same, 7 different; 3 repeat a pair" in table(out)


def pair(left, right, same=False):
    return {"left": left, "right": right, "same": same}


@pytest.mark.parametrize("allow_repeats", [False, True])
@pytest.mark.parametrize(
    ("rows", "trials", "message"),
    [
        (TEN, [], "trials: the table is empty"),
        (TEN, TEN_TRIALS[:4], "trials: 4 of 4 are of the same identity; both kinds are needed"),
        (TEN, TEN_TRIALS[4:], "trials: 0 of 6 are of the same identity; both kinds are needed"),
        (
            TEN,
            [*TEN_TRIALS, pair("t1", "who"), pair("gone", "t1")],
            "trials: 2 of 12 name an item without embedding; the first is trial 11, 'who'",
        ),
        (TEN, [pair("gone", "who"), *TEN_TRIALS], "1 of 11 name an item without embedding; the first is trial 1, 'gone'"),
        (TEN, [*TEN_TRIALS, pair("t1", "t1", True)], "1 of 11 compare an item with itself.*; the first is trial 11, t1 and t1"),
        (TEN, [*TEN_TRIALS, pair("t0", "anchor")], "1 of 11 give a pair another answer.*; the first is trial 11, t0 and anchor"),
        (TEN, [pair("t0", "t1"), *TEN_TRIALS], "1 of 11 say 'same' where EMBEDDINGS give two identities.*trial 1, t0 and t1"),
        (TEN, [pair("t0", "t9", True), *TEN_TRIALS], "1 of 11 say 'same' where EMBEDDINGS give two identities.*trial 1, t0 and t9"),
        ([*TEN[:-1], row("t9", "b9", (np.nan, 1))], TEN_TRIALS, "1 of 11 vectors hold NaN or infinity, the first is that of t9"),
        ([*TEN, row("x", "b9", (0, np.inf))], TEN_TRIALS, "1 of 12 vectors hold NaN or infinity, the first is that of x"),
        ([*TEN[:-2], row("t8", "b8", (0, 0)), row("t9", "b9", (-0.0, 0))], TEN_TRIALS, "2 of 11 vectors are 0, the first is that of t8"),
        ([*TEN, row("t9", "b9", (1, 0), modality="frames+audio")], TEN_TRIALS, "tracklet t9 is there 2 times"),
        ([*TEN, row("x", "b9", (1, 0), modality="frames+audio")], TEN_TRIALS, r"vectors of modality frames, frames\+audio in one table"),
        ([*TEN, row("x", "b9", (1, 0, 0))], TEN_TRIALS, "vectors of length 2, 3"),
        ([], TEN_TRIALS, "embeddings: the table is empty"),
        ([*TEN[:-1], row("t9", "b9", (1, 0), kind="junk")], TEN_TRIALS, "1 of 10 hold junk.*trial 10, anchor and t9"),
        ([row("anchor", "a", (1, 0), role="train"), *TEN[1:]], TEN_TRIALS, "10 of 10 hold a tracklet with role 'train'"),
    ],
)
def test_what_makes_no_score_is_refused(rows, trials, message, allow_repeats):
    with pytest.raises(ScoreError, match=message) as found:
        scored(rows, trials, allow_repeats=allow_repeats)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ({"p_targets": (0.05, 1.0)}, ScoreError, "p_target=1.0"),
        ({"p_targets": (0.0,)}, ScoreError, "p_target=0.0"),
        ({"p_targets": (math.nan,)}, ScoreError, "p_target=nan"),
        ({"p_targets": (0.05, 0.05)}, ScoreError, "name each once"),
        ({"name": " "}, ScoreError, "has no name"),
    ],
)
def test_what_cannot_be_asked_is_refused(wanted, error, message):
    with pytest.raises(error, match=message):
        scored(TEN, TEN_TRIALS, **wanted)


def test_identities_too_few_to_draw_give_numbers_without_an_interval():
    """Sooner or later a sample of seven identities has not the one with trials of its own."""
    out, drawn = scored(TEN, TEN_TRIALS, draw="identities"), scored(TEN, TEN_TRIALS)
    assert out["eer"] == {**drawn["eer"], "interval": None} and drawn["eer"]["interval"] is not None
    assert [cost["interval"] for cost in out["min_dcf"]] == [None, None]
    assert "of the same identity: too few identities for an interval" in out["bootstrap"]["missing"]
    said = table(out)
    assert "EER       25.000 %, interpolated" in said and f"interval  none: {out['bootstrap']['missing']}" in said
    rows, pairs = crowd()  # control: enough of them
    assert scored(rows, pairs, draw="identities")["bootstrap"]["missing"] is None


def test_embeddings_of_another_run_are_refused():
    with pytest.raises(ScoreError, match="seed 4"):
        scored(TEN, TEN_TRIALS, {"seed": 4})
    scored(TEN, TEN_TRIALS, {"seed": 3})


def test_sound_of_unknown_origin_is_refused():
    with pytest.raises(ScoreError, match="do not say whether it was derived from labels"):
        scored([{**r, "modality": "frames+audio"} for r in TEN], TEN_TRIALS)


def test_the_order_of_trials_decides_nothing_but_ties_of_the_reference():
    rows, pairs = crowd()
    one, other = scored(rows, pairs, draw="identities"), scored(rows[::-1], pairs[::-1], draw="identities")
    assert one == other
    assert one != scored(rows, pairs[1:], draw="identities")  # control
    same = pairs_of(tables.table(pairs, tables.TRIALS), _subjects(rows)).same
    assert same.tolist() == [p["same"] for p in pairs]


COHORT = [
    row(f"n{k}", f"n{k // 2}", vector, role="train")
    for k, vector in enumerate([(1, 0), (2, 0), (4, 3), (8, 6), (0, 5), (0, 1), (-1, 0), (-9, 0)])
]
"""Two items each of four identities: the cohort of specs/avcleanse.md section 6.3."""
PAIR = [row("e", "e", (2, 0)), row("t", "t", (3, 4)), row("e2", "e", (1, 0.1))]


def test_scores_are_normalised_by_a_cohort(monkeypatch):
    """The golden trial, and what is said of it."""
    given = []
    monkeypatch.setattr(score_trials, "Trials", lambda scores, same: given.append(scores) or Trials(scores, same))
    out = scored(PAIR, [pair("e", "t"), pair("e2", "e", True)], cohort=(COHORT, {}), cohort_top=3)
    assert given[0][0] == pytest.approx(-0.5174549, abs=1e-6)
    assert out["feature"]["score_normalisation"] == {
        "kind": "adaptive s-norm", "top": 3, "identities": 4, "test_dataset": "d", "test_split": "0",
    }  # fmt: skip
    assert "2 values; adaptive s-norm by the 3 nearest of 4 other identities of d, split 0\n" in table(out)
    scored(PAIR, [pair("e", "t"), pair("e2", "e", True)])
    assert given[1][0] == pytest.approx(0.6)  # control: the cosine


HEARD = {"policy": "silence", "label_derived": False, "oracle": False}


@pytest.mark.parametrize(
    ("rows", "meta", "top", "message"),
    [
        ([*COHORT, row("x", "a", (1, 1))], {}, 3, "1 of its identities are also those of the trials' embeddings, the first is a"),
        ([*COHORT, row("x", "0000", (1, 1), "distractor")], {}, 3, "1 of 9 tracklets are no persons, the first is x"),
        (
            [{**r, "modality": "frames+audio"} for r in COHORT],
            HEARD,
            3,
            "made with frames . silence, the trials' embeddings with frames only",
        ),
        (COHORT, {"from": {"weights": "1234"}}, 3, "other weights"),
        (COHORT, {"seed": 4}, 3, "cohort: embeddings are of seed 4"),
        ([*COHORT, row("x", "x", (np.nan, 1))], {}, 3, "cohort: embeddings: 1 of 9 vectors hold NaN"),
        ([], {}, 3, "cohort: embeddings: the table is empty"),
        (COHORT, {}, 5, "cohort: its 5 nearest of 4 identities were asked for; expected 2..4"),
        ([row(r["tracklet"], r["identity"], (*r["vector"], 1)) for r in COHORT], {}, 3, "vectors of 3 values, the trials' have 2"),
        ([*COHORT, row("n8", "n0", (-1, 0)), row("n9", "n0", (-1, 0))], {}, 3, "vectors of 1 identities cancel out"),
    ],
)
def test_a_cohort_that_measures_nothing_is_refused(rows, meta, top, message):
    with pytest.raises(ScoreError, match=message):
        scored(TEN, TEN_TRIALS, cohort=(rows, meta), cohort_top=top)
    scored(TEN, TEN_TRIALS, cohort=(COHORT, {}), cohort_top=3)


def test_a_cohort_of_another_data_set_is_said_and_its_names_are_others():
    """Identity 'a' of the cohort's data set is not that of the trials'; of another split of the same data set it is."""
    rows = [*COHORT, row("x", "a", (1, 1))]
    out = scored(TEN, TEN_TRIALS, cohort=(rows, {"test_dataset": "vox", "test_split": "dev"}), cohort_top=3)
    assert "5 other identities of vox, split dev" in table(out) and out["test_dataset"] == "d"
    with pytest.raises(ScoreError, match="1 of its identities are also those of the trials' embeddings"):
        scored(TEN, TEN_TRIALS, cohort=(rows, {"test_dataset": "d", "test_split": "1"}), cohort_top=3)


def _subjects(rows):
    return score_trials.subjects_of(tables.table(rows, tables.EMBEDDINGS))


@pytest.fixture
def files(tmp_path):
    """Paths of the inputs as arguments; the step's other arguments are added by the test."""
    rows, pairs = crowd()
    (tmp_path / "config.json").write_text(json.dumps(plain(RUN)))
    tables.write_rows(tmp_path / "e.parquet", rows, tables.EMBEDDINGS, {**OF, "oracle": False})
    tables.write_rows(tmp_path / "t.parquet", pairs, tables.TRIALS)
    given = [
        f"--{what}={tmp_path / name}" for what, name in (("embeddings", "e.parquet"), ("trials", "t.parquet"), ("config", "config.json"))
    ]
    return tmp_path, [*given, "--name=crowd", "--resamples=100"]


def test_the_step_seals_what_it_prints(files, capsys):
    folder, given = files
    score_trials.main([str(folder / "a.json"), *given, "--p-target", "0.3"])
    said = capsys.readouterr().out
    made = json.loads((folder / "a.json").read_text())
    assert said == table(made) + "\n" and [cost["p_target"] for cost in made["min_dcf"]] == [0.3]
    assert made[origin.FROM] == origin.made_from(
        config=folder / "config.json", embeddings=folder / "e.parquet", trials=folder / "t.parquet"
    )
    assert made[origin.CODE] == origin.code_of(*VERIFYING)
    assert origin.broken_seal(folder / "a.json") == ""
    (folder / "b.json").write_text((folder / "a.json").read_text().replace('"same": ', '"same":  '))
    assert origin.broken_seal(folder / "b.json")  # control


def test_the_step_notes_its_cohort(files):
    folder, given = files
    tables.write_rows(folder / "c.parquet", [row(f"n{k}", f"n{k}", v) for k, v in enumerate(np.eye(8))], tables.EMBEDDINGS, OF)
    score_trials.main([str(folder / "a.json"), *given, f"--cohort={folder / 'c.parquet'}", "--cohort-top=5"])
    made = json.loads((folder / "a.json").read_text())
    assert made["feature"]["score_normalisation"]["top"] == 5
    assert made[origin.FROM]["cohort"] == origin.made_from(c=folder / "c.parquet")["c"]
    score_trials.main([str(folder / "b.json"), *given])
    plainly = json.loads((folder / "b.json").read_text())
    assert "cohort" not in plainly[origin.FROM] and plainly["eer"] != made["eer"]


def test_the_same_inputs_give_the_same_bytes(files):
    folder, given = files
    for name, more in (("a", []), ("b", []), ("c", ["--seed=1"])):
        score_trials.main([str(folder / name), *given, *more])
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes() != (folder / "c").read_bytes()


def test_the_step_refuses_before_it_writes(files):
    folder, given = files
    with pytest.raises(ConfigError, match="resamples=50"):
        score_trials.main([str(folder / "x"), *given, "--resamples=50"])
    with pytest.raises(ScoreError, match=r"p_target=5\.0"):
        score_trials.main([str(folder / "x"), *given, "--p-target=5"])
    with pytest.raises(TableError, match="expected 'trials'"):
        score_trials.main([str(folder / "x"), *given, f"--trials={folder / 'e.parquet'}"])
    assert not (folder / "x").exists()


def test_the_step_leaves_its_inputs_alone(files):
    folder, given = files
    tables.write_rows(folder / "c.parquet", [row(f"n{k}", f"n{k}", v) for k, v in enumerate(np.eye(8))], tables.EMBEDDINGS, OF)
    given = [*given, f"--cohort={folder / 'c.parquet'}", "--cohort-top=5"]
    for name, what in (("t.parquet", "trials"), ("e.parquet", "embeddings"), ("config.json", "config"), ("c.parquet", "cohort")):
        before = (folder / name).read_bytes()
        with pytest.raises(ConfigError, match=f"OUT=.* is the same file as --{what}=.*, which this step reads; name another file"):
            score_trials.main([f"{folder}/./{name}", *given])
        assert (folder / name).read_bytes() == before
    score_trials.main([str(folder / "x"), *given])  # negative control


def test_the_noted_code_is_all_that_the_step_runs(repository):
    """Nothing of ours that the step imports is missing from its note."""
    needed = closure(repository, "evaluate.score_trials") - ALWAYS - WORDS_ONLY
    assert needed <= set(VERIFYING) and "evaluate/verification.py" in needed
    assert all((repository / path).is_file() for path in VERIFYING)
