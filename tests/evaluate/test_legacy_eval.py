"""What the released MARS evaluator compares and prints: by hand, and the counts of specs/dubbernet.md section 7.3 on the public tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from evaluate import legacy_eval
from evaluate.protocols import Subjects, apply, protocol_named
from pipeline.base import cli, origin, tables
from pipeline.base.build import plain
from pipeline.base.errors import ConfigError, ScoreError
from tests.evaluate.test_protocols import mars_subjects, subjects
from tests.evaluate.test_score import OF, RUN, row


def test_one_camera_per_frame_looked_up_per_tracklet():
    """7 frames are two clips of 6, hence 12 entries of camera 3: they cover all five tracklets. One frame is 6 entries."""
    assert legacy_eval.camera_entries(np.array([1, 6, 7, 246, 247, 900])).tolist() == [6, 6, 12, 246, 246, 246]
    assert legacy_eval.compared_cameras(np.array([3, 0, 1, 2, 4]), np.array([7, 1, 1, 1, 1])).tolist() == [3] * 5
    camera, frames = np.array([3, 0, 1, 2, 4, 5, 5, 5]), np.array([2, 2, 2, 2, 2, 2, 2, 2])
    assert legacy_eval.compared_cameras(camera, frames).tolist() == [3] * 6 + [0] * 2
    assert legacy_eval.compared_cameras(camera, frames, clip=1, most_clips=1).tolist() == camera.tolist()  # control: one entry each


def test_lengths_have_to_fit():
    for frames in (np.array([1]), np.array([1, 0])):
        with pytest.raises(ScoreError, match="expected as many, and lengths from 1"):
            legacy_eval.compared_cameras(np.array([0, 1]), frames)


SCENE = (
    ("query", "a", "person", 0, 0.0),
    ("gallery", "0000", "distractor", 1, 1.0),
    ("gallery", "a", "person", 0, 0.5),  # the query's own camera: has to go
    ("gallery", "a", "person", 1, 2.0),  # the right answer
)


def test_the_wrong_entry_stays_and_the_right_one_goes():
    """All gallery entries are taken for camera 1, that of the distractor at the head of the list; the query for its own, 0."""
    made, frames = subjects(*SCENE), np.array([6, 6, 6, 6])
    true, released = legacy_eval.lists(made, None), legacy_eval.lists(made, frames)
    assert (released.query_camera.tolist(), released.gallery_camera.tolist()) == ([0], [1, 1, 1])
    assert legacy_eval.effect(made, true) == legacy_eval.Effect(1, 1, 1, 0, 1, 0, 1, 0)
    assert legacy_eval.effect(made, released) == legacy_eval.Effect(1, 1, 1, 1, 1, 1, 1, 0)
    assert legacy_eval.summary(made, true).cmc[0] == 0 and legacy_eval.summary(made, released).cmc[0] == 1
    turned = subjects(("query", "a", "person", 1, 0.0), *SCENE[1:])  # now its own camera is the one all are taken for
    assert legacy_eval.effect(turned, legacy_eval.lists(turned, frames)) == legacy_eval.Effect(1, 0, 1, 0, 1, 0, 1, 1)


def test_nothing_to_rank_is_refused():
    made = subjects(*SCENE[1:])
    with pytest.raises(ScoreError, match="0 queries and a gallery of 3"):
        legacy_eval.summary(made, legacy_eval.lists(made, None))


def test_two_cameras_are_not_affected():
    made = subjects(
        *(("query", n, "person", 0, i) for i, n in enumerate("abc")), *(("gallery", n, "person", 1, i) for i, n in enumerate("abc"))
    )
    assert legacy_eval.effect(made, legacy_eval.lists(made, None)) == legacy_eval.effect(
        made, legacy_eval.lists(made, np.array([9, 2, 7, 30, 1, 6]))
    )


HEARD = {"policy": "id_speaker", "label_derived": True, "oracle": True}


def command(folder, *, source="mars", modality="frames", meta=None, left_out="", away=0.6, stranger=False):
    """Arguments of the command for SCENE with a second query of camera 1; every tracklet has 6 frames.

    `away`: where the second query is. `stranger`: a third one, whom nobody knows.
    """
    scene = [*SCENE, ("query", "a", "person", 1, away), *([("query", "z", "person", 0, 9.0)] if stranger else [])]
    rows = [row(f"t{i}", role, who, camera, at, kind, modality) for i, (role, who, kind, camera, at) in enumerate(scene)]
    tables.write_rows(folder / "e.parquet", rows, tables.EMBEDDINGS, {**OF, "stage": "s", **(meta or {})})
    same = ("tracklet", "identity", "kind", "camera")
    known = [{name: r[name] for name in same} | {"dataset": "d", "frames": [f"{i}.jpg" for i in range(6)]} for r in rows]
    tables.write_rows(folder / "t.parquet", [r for r in known if r["tracklet"] != left_out], tables.TRACKLETS, {"source": source})
    (folder / "config.json").write_text(json.dumps(plain(dataclasses.replace(RUN, stage="s"))))
    return [f"--embeddings={folder / 'e.parquet'}", f"--tracklets={folder / 't.parquet'}", f"--config={folder / 'config.json'}"]


def table_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_command_prints_the_four_results_by_hand(tmp_path, capsys):
    """True cameras, without queries: t0 finds the distractor first, then t3 (R1 0, AP 1/2); t4 finds t2 at once (R1 1, AP 1).

    With queries: t0 finds t4, distractor, t3, AP (1 + 2/3) / 2; t4 finds t2, distractor, t0: the same; trapezoid (1 + (1/2 + 2/3) / 2) / 2.
    Released: all are taken for camera 1 in the gallery and 0 in the queries, so nothing is removed. t0: t2, distractor, t3; t4: t2,
    distractor, t3: AP (1 + 2/3) / 2 both; one entry of its own camera is kept for each.
    """
    legacy_eval.main(command(tmp_path))
    printed = capsys.readouterr().out
    head, _, *lines = table_of(printed)
    assert printed.startswith("m · s on d, split 0, seed 3\n\n| scored by |") and head == list(legacy_eval.HEAD)
    rule = {"hit": ["AP at hits", "valid queries"], "trapezoid": ["trapezoid AP", "all queries"]}
    assert lines == [
        ["mars_torchreid", "frames only", "50.0", "100.0", "75.0", "3", "2 of 2", *rule["hit"], "0 of 2", "0 of 2"],
        ["mars_official", "frames only", "100.0", "100.0", "79.2", "5", "2 of 2", *rule["trapezoid"], "0 of 4", "0 of 4"],
        ["mars_merged", "frames only", "100.0", "100.0", "83.3", "5", "2 of 2", *rule["hit"], "0 of 4", "0 of 4"],
        ["released evaluator", "frames only", "100.0", "100.0", "83.3", "3", "2 of 2", *rule["hit"], "2 of 2", "0 of 2"],
    ]
    assert "oracle" not in printed and "no score to report" in printed


def test_command_says_oracle_in_every_row(tmp_path, capsys):
    legacy_eval.main(command(tmp_path, modality="frames+audio", meta=HEARD))
    assert [line[1] for line in table_of(capsys.readouterr().out)[2:]] == ["oracle frames + label-derived audio"] * 4
    out = f"--out={tmp_path / 'out.json'}"
    legacy_eval.main([*command(tmp_path, meta={"oracle": True}), out])  # a table that contradicts itself still carries the word
    assert [line[1] for line in table_of(capsys.readouterr().out)[2:]] == ["oracle frames only"] * 4
    (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert run["oracle"] and run["modality"] == "oracle frames only"


def test_the_file_has_every_number_and_what_it_is_one_of(tmp_path, capsys):
    """Two runs, one JSON file: equal to the tables, sealed, the same bytes again, and changed by other features."""
    embeddings, tracklets, config = command(tmp_path)
    name, *_ = embeddings.partition("=")
    files = [embeddings.partition("=")[2]] * 2, [config.partition("=")[2]] * 2
    arguments = [name, *files[0], tracklets, "--config", *files[1], f"--out={tmp_path / 'a.json'}"]
    legacy_eval.main(arguments)
    assert capsys.readouterr().out.count("| mars_merged |") == 2
    assert not origin.broken_seal(tmp_path / "a.json")
    made = json.loads((tmp_path / "a.json").read_text())
    for run in made["runs"]:
        assert [(r["scored_by"], r["sound"]) for r in run["results"]] == [
            *((n, True) for n in legacy_eval.SOUND),
            (legacy_eval.RELEASED, False),
        ]
        torchreid, official, merged, released = run["results"]
        assert (torchreid["R1"], torchreid["mAP"], torchreid["mINP"], torchreid["gallery"]) == (0.5, 0.75, 0.75, 3)
        assert (official["mAP"], official["mINP"], official["ap"], official["averaged_over"]) == (
            pytest.approx(19 / 24),
            None,
            "trapezoid",
            "all",
        )
        assert (merged["mAP"], merged["gallery"], merged["valid"], merged["queries"]) == (pytest.approx(5 / 6), 5, 2, 2)
        assert (released["R1"], released["mAP"], released["positives"]["same_camera_kept"]) == (1, pytest.approx(5 / 6), 2)
        assert set(run["from"]) == {"config", "embeddings", "tracklets"} and run["feature"]["normalised"] is False
    legacy_eval.main([*arguments[:-1], f"--out={tmp_path / 'b.json'}"])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    legacy_eval.main([*command(tmp_path, away=1.5), f"--out={tmp_path / 'c.json'}"])  # control
    assert json.loads((tmp_path / "c.json").read_text())["runs"][0]["results"] != made["runs"][0]["results"]


def test_vectors_of_length_1_where_asked_for(tmp_path, capsys):
    """t0 stands at 0, which has no direction."""
    legacy_eval.main(command(tmp_path))
    assert "as embedded, not normalised" in capsys.readouterr().out and "scaled to length 1" in legacy_eval.note(True)
    with pytest.raises(ScoreError, match="the vector of t0 is 0, so it cannot be scaled"):
        legacy_eval.main([*command(tmp_path), "--normalise"])


def test_another_test_set_is_named(tmp_path, capsys):
    out = f"--out={tmp_path / 'out.json'}"
    for meta, named, title in (
        ({}, ("d", "0"), "m · s on d, split 0, seed 3\n"),
        ({"test_dataset": "mars", "test_split": "official"}, ("mars", "official"), "seed 3, tested on mars, split official\n"),
        ({"test_dataset": "d", "test_split": "1"}, ("d", "1"), "seed 3, tested on d, split 1\n"),
    ):
        legacy_eval.main([*command(tmp_path, meta=meta), out])
        assert title in capsys.readouterr().out
        (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]
        assert (run["test_dataset"], run["test_split"]) == named and run["dataset"] == "d"


def test_an_undefined_mean_is_no_number(tmp_path, capsys):
    """A query that nobody answers: no mAP over all queries, 'null' in JSON."""
    legacy_eval.main([*command(tmp_path, stranger=True), f"--out={tmp_path / 'out.json'}"])
    official = next(line for line in table_of(capsys.readouterr().out) if line[0] == "mars_official")
    assert official[4] == "–" and official[6] == "2 of 3"
    found = json.loads((tmp_path / "out.json").read_text())["runs"][0]["results"]
    assert [r["mAP"] is None for r in found] == [False, True, False, False]


def test_the_command_leaves_its_inputs_alone(tmp_path):
    arguments = command(tmp_path)
    for argument in arguments:
        name, _, path = argument.partition("=")
        before = Path(path).read_bytes()
        with pytest.raises(ConfigError, match=f"--out=.* is the same file as {name}=.*, which this step reads"):
            legacy_eval.main([*arguments, f"--out={path}"])
        assert Path(path).read_bytes() == before
    legacy_eval.main([*arguments, f"--out={tmp_path / 'out.json'}"])  # negative control


def test_runs_have_both_files(tmp_path):
    embeddings, tracklets, config = command(tmp_path)
    with pytest.raises(ScoreError, match="1 files after --embeddings and 2 after --config: give one of each per run"):
        legacy_eval.main([embeddings, tracklets, "--config", *[config.partition("=")[2]] * 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "ilidsvid"}, r"its source is 'ilidsvid', expected 'mars': .* reconstructed for MARS only"),
        ({"left_out": "t2"}, "has no tracklet t2, which was embedded"),
        ({"meta": {"seed": 4}}, "embeddings are of seed 4, config.json is of 3"),
        ({"modality": "frames+audio"}, "do not say whether it was derived from labels"),
    ],
)
def test_command_refuses_in_one_sentence(tmp_path, capsys, change, message):
    arguments = command(tmp_path, **change)
    with pytest.raises(ScoreError, match=message):
        legacy_eval.main(arguments)
    with pytest.raises(SystemExit, match="2"):
        cli.run(lambda: legacy_eval.main(arguments))
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "Traceback" not in shown.err


def test_e3_counts_on_the_real_tables(mars):
    """Every count of the table in section 7.3. Rows of the official table are in the order of the tracklets' names."""
    made = mars_subjects(mars, np.zeros((len(mars.identity), 1), np.float32))
    true, released = legacy_eval.lists(made, None), legacy_eval.lists(made, mars.frames)
    entries = [legacy_eval.camera_entries(mars.frames[rows]) for rows in (released.query, released.gallery)]
    assert [int(one.sum()) for one in entries] == [117_336, 549_432]
    last = [int(np.searchsorted(np.cumsum(one), len(one))) for one in entries]  # the tracklet whose frames the last one looks at
    assert [number + 1 for number in last] == [39, 294]
    assert set(made.kind[released.gallery[: last[1] + 1]]) == {"distractor"}
    assert set(released.gallery_camera.tolist()) == {1}  # cameras of the table count from 1
    assert legacy_eval.effect(made, true) == legacy_eval.Effect(1980, 1840, 6066, 0, 1594, 0, 16_761, 0)
    assert legacy_eval.effect(made, released) == legacy_eval.Effect(1980, 1526, 6066, 4788, 1594, 1257, 16_761, 3608)


def test_e3_scores_rise_with_a_camera_nuisance(mars):
    """Weak features that also tell the camera: the same distances score far higher with the cameras that were compared."""
    identity, camera = mars.identity, mars.camera
    random = np.random.default_rng(0)
    persons, views = random.normal(size=(identity.max() + 1, 32)), random.normal(size=(camera.max() + 1, 32))
    vector = persons[np.maximum(identity, 0)] + views[camera] + 1.2 * random.normal(size=(len(identity), 32))
    made = mars_subjects(mars, vector.astype(np.float32))
    true, released = (
        legacy_eval.summary(made, legacy_eval.lists(made, None)),
        legacy_eval.summary(made, legacy_eval.lists(made, mars.frames)),
    )
    proper = apply(protocol_named("mars_torchreid"), made).summary
    assert (true.cmc[0], true.mean_ap, true.valid) == (proper.cmc[0], proper.mean_ap, proper.valid)  # the right cameras: the protocol
    assert released.cmc[0] > true.cmc[0] + 0.1 and released.mean_ap > true.mean_ap + 0.05
    assert (true.valid, released.valid) == (1840, 1526)
    without = Subjects(made.tracklet, made.role, made.identity, made.kind, made.camera, (vector - views[camera]).astype(np.float32))
    free = [legacy_eval.summary(without, legacy_eval.lists(without, frames)).cmc[0] for frames in (None, mars.frames)]
    assert free[1] - free[0] < released.cmc[0] - true.cmc[0]  # control: less to gain where looks do not depend on the camera
