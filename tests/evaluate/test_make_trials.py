"""Trials of a test half and of a list: which pairs, what is left out, what is drawn, refusals; and the way from there to numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluate import make_trials, score_trials
from evaluate.make_trials import of_list, of_test_half
from evaluate.score import subjects_of
from evaluate.score_trials import pairs_of
from pipeline.base import cli, origin, tables
from pipeline.base.build import plain
from pipeline.base.code import VERIFYING
from pipeline.base.errors import ConfigError, ScoreError
from tests.evaluate.bad_evaluators import scene
from tests.evaluate.test_protocols import subjects
from tests.evaluate.test_score import OF, RUN, SCENE
from tests.workflow.test_digests import ALWAYS, WORDS_ONLY, closure

HAND = (
    ("query", "a", "person", 0, 0.0),  # t00
    ("query", "b", "person", 1, 0.0),  # t01
    ("gallery", "a", "person", 0, 0.0),  # t02: own camera of t00
    ("gallery", "a", "person", 1, 0.0),  # t03: own camera of t01
    ("gallery", "0000", "distractor", 1, 0.0),  # t04
    ("gallery", "b", "person", 2, 0.0),  # t05
    ("junk", "00-1", "junk", 2, 0.0),  # t06
    ("gallery", "00-1", "junk", 2, 0.0),  # t07
)


def listed(made):
    return [(row["left"], row["right"], row["same"]) for row in made.to_pylist()]


def test_which_pairs_by_hand():
    across, words = of_test_half(subjects(*HAND), "cross_camera")
    assert listed(across) == [
        ("t00", "t03", True),
        ("t00", "t04", False),
        ("t00", "t05", False),
        ("t01", "t02", False),
        ("t01", "t05", True),
    ]
    everything, _ = of_test_half(subjects(*HAND), "all_cameras")
    assert set(listed(everything)) - set(listed(across)) == {
        ("t00", "t02", True),
        ("t01", "t03", False),
        ("t01", "t04", False),
    }
    assert words == "every query with every gallery tracklet of another camera"


@pytest.mark.parametrize("pairs", make_trials.PAIRS)
def test_a_distractor_is_nobody_and_junk_is_not_there(pairs):
    """On a scene with both: as a plain double loop says, and accepted by the step that scores."""
    made = scene()
    expected = [
        (made.tracklet[q], made.tracklet[g], bool(made.identity[q] == made.identity[g] and made.kind[g] == "person"))
        for q in np.flatnonzero(made.role == "query")
        for g in np.flatnonzero(made.role == "gallery")
        if made.kind[g] != "junk" and (pairs == "all_cameras" or made.camera[q] != made.camera[g])
    ]
    trials, _ = of_test_half(made, pairs)
    assert listed(trials) == expected
    assert not pairs_of(trials, made).repeated
    named = {name for row in expected for name in row[:2]}
    assert any(name.startswith("0000") for name in named) and not any(name.startswith("00-1") for name in named)


def test_a_distractor_that_asks_is_nobody():
    made, _ = of_test_half(subjects(*HAND, ("query", "0000", "distractor", 0, 0.0)), "cross_camera")
    assert [row for row in listed(made) if row[0] == "t08"] == [("t08", "t03", False), ("t08", "t04", False), ("t08", "t05", False)]


def test_what_is_drawn_is_a_part_of_the_different_ones():
    whole, _ = of_test_half(scene(), "cross_camera")
    some, words = of_test_half(scene(), "cross_camera", different=500)
    every, kept = listed(whole), listed(some)
    assert [row for row in every if row in set(kept)] == kept  # in their order
    assert [row for row in kept if row[2]] == [row for row in every if row[2]] and sum(not row[2] for row in kept) == 500
    total = sum(not row[2] for row in every)
    assert words.endswith(f"; 500 of {total:,} pairs of two identities drawn, seed 0")
    assert len({row[0] for row in kept if not row[2]}) > 100  # all over the queries
    assert listed(of_test_half(scene(), "cross_camera", different=500)[0]) == kept
    assert listed(of_test_half(scene(), "cross_camera", different=500, seed=1)[0]) != kept
    assert listed(of_test_half(scene(), "cross_camera", different=total)[0]) == every


@pytest.mark.parametrize(
    ("rows", "pairs", "different", "message"),
    [
        (HAND, "cross_cameras", 5, "--pairs cross_cameras: no such rule.*cross_camera"),
        (HAND, "cross_camera", 0, "--different 0: expected at least 1"),
        (HAND[2:], "cross_camera", 5, "0 queries and 4 gallery tracklets"),
        (HAND[:2], "cross_camera", 5, "2 queries and 0 gallery tracklets"),
        ((HAND[0], *HAND[6:]), "cross_camera", 5, "1 queries and 0 gallery tracklets that are no junk"),
        ((HAND[0], HAND[3]), "cross_camera", 5, "1 of 1 pairs .* are of one identity; expected both kinds"),
        ((HAND[0], HAND[4]), "cross_camera", 5, "0 of 1 pairs .* are of one identity; expected both kinds"),
        ((HAND[0], HAND[2]), "cross_camera", 5, "0 of 0 pairs .* are of one identity; expected both kinds"),
        (
            (*HAND, ("gallery", "c", "person", -1, 0.0)),
            "cross_camera",
            5,
            "1 tracklets have no known camera .*t08; take --pairs all_cameras",
        ),
    ],
)
def test_what_makes_no_trials_is_refused(rows, pairs, different, message):
    with pytest.raises(ScoreError, match=message):
        of_test_half(subjects(*rows), pairs, different)
    assert of_test_half(subjects(*HAND), "cross_camera", 5)[0].num_rows == 5  # control


def test_recordings_without_a_camera_are_paired():
    made, _ = of_test_half(subjects(*((*row[:3], -1, row[4]) for row in HAND)), "all_cameras")
    assert listed(made) == listed(of_test_half(subjects(*HAND), "all_cameras")[0])


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n", "1 a/1.wav a/2.wav\r\n0\ta/1.wav  b/1.wav"])
def test_a_list_is_read_in_its_order(tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert listed(of_list(tmp_path / "list.txt")) == [("a/1.wav", "a/2.wav", True), ("a/1.wav", "b/1.wav", False)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1 is ''; expected '1 LEFT RIGHT' for the same identity, '0 LEFT RIGHT' for two"),
        (b"1 a b\n\n0 a c\n", "line 2 is ''"),
        (b"1 a b\n0 a\n", "line 2 is '0 a'"),
        (b"1 a b\n0 a c 0.3\n", "line 2 is '0 a c 0.3'"),
        (b"a b 1\n", "line 1 is 'a b 1'"),
        (b"1 a b\n2 a c\n", "line 2 is '2 a c'"),
        (b"1 a b\ntrue a c\n", "line 2 is 'true a c'"),
        (b"1 a b\n0 a \xff\n", "cannot be read as a list of trials in UTF-8"),
    ],
)
def test_a_line_that_is_no_trial_is_refused(tmp_path, data, message):
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(ScoreError, match=message):
        of_list(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"1 a b\n0 a c\n")
    assert of_list(tmp_path / "list.txt").num_rows == 2


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ScoreError, match=r"gone\.txt: cannot be read"):
        of_list(tmp_path / "gone.txt")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    rows = [*SCENE, {**SCENE[3], "tracklet": "g9", "identity": "b", "vector": [9.0, 1.0]}]
    tables.write_rows(tmp_path / "e.parquet", [{**row, "vector": [row["vector"][0], 1.0]} for row in rows], tables.EMBEDDINGS, OF)
    (tmp_path / "config.json").write_text(json.dumps(plain(RUN)))
    return tmp_path


def test_from_a_test_half_to_an_error_rate(files, capsys):
    """The two commands of docs/protocols.md: the numbers say by which rule the pairs were made."""
    given = [f"--embeddings={files / 'e.parquet'}"]
    make_trials.main([str(files / "t.parquet"), *given, "--different=3"])
    said = capsys.readouterr().out
    rule = "every query with every gallery tracklet of another camera; 3 of 4 pairs of two identities drawn, seed 0"
    assert said == f"5 trials: 2 same, 3 different; {rule}\n"
    meta = tables.read_meta(files / "t.parquet")
    assert meta["rule"] == rule and meta[origin.FROM] == origin.made_from(embeddings=files / "e.parquet")
    score_trials.main(
        [str(files / "a.json"), *given, f"--trials={files / 't.parquet'}", f"--config={files / 'config.json'}", "--name=n", "--resamples=0"]
    )
    assert f"list      n; {rule}\n" in capsys.readouterr().out
    made = json.loads((files / "a.json").read_text())
    assert (made["trials"]["rule"], made["trials"]["same"], made["trials"]["different"]) == (rule, 2, 3)
    (files / "list.txt").write_text("1 q1 g2\n0 q1 g9\n")
    make_trials.main([str(files / "l.parquet"), f"--list={files / 'list.txt'}"])
    assert capsys.readouterr().out == "2 trials: 1 same, 1 different; as listed\n"
    assert tables.read_meta(files / "l.parquet")[origin.FROM] == origin.made_from(list=files / "list.txt")


def test_the_same_inputs_give_the_same_bytes_and_vectors_do_not_matter(files):
    given = [f"--embeddings={files / 'e.parquet'}", "--different=2"]
    for name, more in (("a", []), ("b", []), ("c", ["--seed=1"])):
        make_trials.main([str(files / name), *given, *more])
    assert (files / "a").read_bytes() == (files / "b").read_bytes()
    assert tables.read_meta(files / "a") != tables.read_meta(files / "c")
    half = subjects_of(tables.read(files / "e.parquet", tables.EMBEDDINGS))
    half = replace(half, vector=np.ones_like(half.vector))
    assert of_test_half(half, "cross_camera", 2)[0] == tables.read(files / "a", tables.TRIALS)


def test_the_step_refuses_before_it_writes(files, capsys):
    before = (files / "e.parquet").read_bytes()
    with pytest.raises(ConfigError, match="is the same file as --embeddings"):
        make_trials.main([str(files / "e.parquet"), f"--embeddings={files / 'e.parquet'}"])
    assert (files / "e.parquet").read_bytes() == before
    for arguments in ([], [f"--embeddings={files / 'e.parquet'}", "--list=x"]):
        with pytest.raises(SystemExit, match="2"):
            make_trials.main([str(files / "x"), *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.run(lambda: make_trials.main([str(files / "x"), f"--list={files / 'gone.txt'}"]))
    shown = capsys.readouterr()
    assert not (files / "x").exists() and shown.out == "" and shown.err.count("\n") == 1 and "Traceback" not in shown.err


def test_the_noted_code_is_all_that_the_step_runs(repository):
    needed = closure(repository, "evaluate.make_trials") - ALWAYS - WORDS_ONLY
    assert needed <= {"evaluate/make_trials.py", *VERIFYING} and "evaluate/score_trials.py" in needed
