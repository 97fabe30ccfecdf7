"""The command that tells what wrong evaluators would have printed: its table, the search for printed numbers, what it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest

from evaluate import audit
from evaluate.protocols import PROTOCOLS, apply
from evaluate.score import normalised
from evaluate.variants import METRICS, VARIANTS, case_of, ours
from pipeline.base import cli, tables
from pipeline.base.build import plain
from pipeline.base.errors import ScoreError, UserError
from tests.evaluate.bad_evaluators import RIGHT, frames, scene
from tests.evaluate.test_protocols import subjects
from tests.evaluate.test_score import OF, RUN

HEARD = {"policy": "id_speaker", "label_derived": True, "oracle": True}
LENGTHS = "cameras_per_frame"


def command(folder, *, modality="frames", meta=None, lengths=True, source="mars", left_out="", vector=None):
    """Arguments of the command for the scene of bad evaluators."""
    made = scene()
    rows = [
        {
            "tracklet": name,
            "modality": modality,
            "role": str(made.role[i]),
            "identity": str(made.identity[i]),
            "kind": str(made.kind[i]),
            "camera": int(made.camera[i]),
            "clips": 1,
            "vector": made.vector[i].tolist() if vector is None else vector,
        }
        for i, name in enumerate(made.tracklet)
    ]
    tables.write_rows(folder / "e.parquet", rows, tables.EMBEDDINGS, {**OF, "stage": "s", **(meta or {})})
    (folder / "config.json").write_text(json.dumps(plain(dataclasses.replace(RUN, stage="s"))))
    arguments = [f"--embeddings={folder / 'e.parquet'}", f"--config={folder / 'config.json'}"]
    if lengths:
        known = [
            {name: row[name] for name in ("tracklet", "identity", "kind", "camera")}
            | {"dataset": "d", "frames": [f"{k}.jpg" for k in range(length)]}
            for row, length in zip(rows, frames(made).tolist(), strict=True)
            if row["tracklet"] != left_out
        ]
        tables.write_rows(folder / "t.parquet", known, tables.TRACKLETS, {"source": source})
        arguments.append(f"--tracklets={folder / 't.parquet'}")
    return arguments


def table_of(text):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return dict(zip(lines[0], zip(*lines[2:], strict=True), strict=True))


def rows_of(text):
    columns = table_of(text)
    return {row[0]: dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)}


def test_all_rows_are_there_and_say_what_they_are(tmp_path, capsys):
    audit.main(command(tmp_path))
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    assert list(rows) == [audit.SOUND, *VARIANTS]
    right = ours(apply(RIGHT, scene()))
    assert [rows[audit.SOUND][name] for name in METRICS] == [f"{100 * right.values[name]:.1f}" for name in METRICS]
    case = case_of(RIGHT, scene(), frames(scene()))
    for name, one in VARIANTS.items():
        found = one.prints(case)
        assert [rows[name][metric] for metric in METRICS] == [f"{100 * found.values[metric]:.1f}" for metric in METRICS]
        assert rows[name]["valid queries"] == f"{found.valid} of {found.queries}" and rows[name]["the network saw"] == "frames only"
        moved = [round(100 * (found.values[m] - right.values[m]), 1) + 0.0 for m in ("R1", "mAP")]
        assert [float(part) for part in rows[name]["R1, mAP minus the sound ones"].split(", ")] == moved
    assert printed.startswith("m · s on d, split 0, seed 3\n\nProtocol `market`: gallery of ")
    assert "120 of 124 queries valid; AP at hits; mean over valid queries" in printed
    assert "Only the row `sound` is a score to report" in printed and "oracle" not in printed and "Printed were" not in printed


def test_without_lengths_one_variant_is_left_out_and_said_so(tmp_path, capsys):
    audit.main(command(tmp_path, lengths=False))
    printed = capsys.readouterr().out
    assert list(rows_of(printed)) == [audit.SOUND, *(name for name in VARIANTS if name != LENGTHS)]
    assert audit.NO_LENGTHS.format(LENGTHS) in printed


def test_oracle_stands_in_every_row(tmp_path, capsys):
    audit.main(command(tmp_path, modality="frames+audio", meta=HEARD))
    printed = capsys.readouterr().out
    assert set(table_of(printed)["the network saw"]) == {"oracle frames + label-derived audio"}
    assert "The network saw: oracle frames + label-derived audio." in printed
    audit.main(command(tmp_path, meta={"oracle": True}))  # a table that contradicts itself still carries the word
    assert set(table_of(capsys.readouterr().out)["the network saw"]) == {"oracle frames only"}


@pytest.mark.parametrize("name", [audit.SOUND, LENGTHS, "no_camera_rule", "trapezoid_called_map"])
def test_printed_numbers_are_found(tmp_path, capsys, name):
    arguments = command(tmp_path)
    audit.main(arguments)
    row = rows_of(capsys.readouterr().out)[name]
    audit.main([*arguments, "--printed", *(f"{metric}={row[metric]}" for metric in METRICS)])
    printed = capsys.readouterr().out
    assert {found for found, line in rows_of(printed).items() if line["the printed numbers"] == "agrees"} == {name}
    assert f"R1 {row['R1']}" in printed and f": `{name}` would print them on these features." in printed and audit.NO_PROOF in printed


def test_vectors_of_length_1(tmp_path, capsys):
    audit.main([*command(tmp_path), "--normalise"])
    printed = capsys.readouterr().out
    right = ours(apply(RIGHT, normalised(scene())))
    assert [rows_of(printed)[audit.SOUND][name] for name in METRICS] == [f"{100 * right.values[name]:.1f}" for name in METRICS]
    assert "vectors of length 1, squared Euclidean" in printed and right.values != ours(apply(RIGHT, scene())).values


def test_another_test_set_is_named(tmp_path, capsys):
    audit.main(command(tmp_path, meta={"test_dataset": "mars", "test_split": "official"}))
    assert capsys.readouterr().out.startswith("m · s on d, split 0, seed 3, tested on mars, split official\n\nProtocol")
    audit.main(command(tmp_path, meta={"test_dataset": "d", "test_split": "0"}))  # control: its own
    assert capsys.readouterr().out.startswith("m · s on d, split 0, seed 3\n\nProtocol")


def test_no_row_agrees(tmp_path, capsys):
    audit.main([*command(tmp_path), "--printed", "R1=97.0", "mAP=12.3"])
    printed = capsys.readouterr().out
    assert "Printed were R1 97.0, mAP 12.3: none of the rows agrees to the digits given." in printed and audit.NO_PROOF not in printed
    assert set(table_of(printed)["the printed numbers"]) == {""}


@pytest.mark.parametrize(
    ("text", "percent", "agrees"),
    [
        ("97.0", 97.0499, True),
        ("97.0", 96.951, True),
        ("97.0", 97.0501, False),
        ("97", 97.4, True),
        ("97", 97.6, False),
        ("97.00", 97.006, False),
        ("97.0", float("nan"), False),
    ],
)
def test_agreement_is_to_the_digits_given(text, percent, agrees):
    assert audit.Wanted("R1", text).agrees(percent / 100) is agrees


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["R2=9.0"], "'R2' is no number of the table.*write it like R1=97.0"),
        (["mAp=9.0"], "'mAp' is no number of the table.*mAP"),
        (["R1"], "'' is no percentage"),
        (["R1=97.0%"], "'97.0%' is no percentage"),
        (["R1=nan"], "'nan' is no percentage"),
        (["R1=1e1"], "'1e1' is no percentage"),
        (["R1=-1"], "'-1' is no percentage"),
        (["R1=100.1"], "'100.1' is no percentage"),
        (["R1=9.0", "R1=9.1"], "R1 is given twice"),
        (["R1=0.97", "mAP=0.9"], "expected percent"),
    ],
)
def test_what_is_no_printed_number_is_refused(texts, message):
    with pytest.raises(ScoreError, match=message):
        audit.wanted(texts)
    assert [one.text for one in audit.wanted(["R1=100", "mAP=0.9"])] == ["100", "0.9"]


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ({}, ["--protocol=mars_oficial"], "did you mean 'mars_official'"),
        ({"source": "ilidsvid"}, [], "its source is 'ilidsvid', expected 'mars'"),
        ({"left_out": "0101C0T0"}, [], "has no tracklet 0101C0T0, which was embedded"),
        ({"meta": {"seed": 4}}, [], "embeddings are of seed 4, config.json is of 3"),
        ({"modality": "frames+audio"}, [], "do not say whether it was derived from labels"),
        ({"vector": [float("nan"), 0.0]}, [], "NaN or infinity"),
    ],
)
def test_command_refuses_in_one_sentence(tmp_path, capsys, change, more, message):
    arguments = [*command(tmp_path, **change), *more]
    with pytest.raises(UserError, match=message):
        audit.main(arguments)
    with pytest.raises(SystemExit, match="2"):
        cli.run(lambda: audit.main(arguments))
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "Traceback" not in shown.err


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if not protocol.one_camera_each])
def test_every_protocol_can_be_asked_for(tmp_path, capsys, name):
    audit.main([*command(tmp_path), f"--protocol={name}"])
    printed = capsys.readouterr().out
    outcome = apply(PROTOCOLS[name], scene())
    assert f"Protocol `{name}`: gallery of {outcome.gallery_size} " in printed
    assert rows_of(printed)[audit.SOUND]["valid queries"] == f"{outcome.summary.valid} of {outcome.summary.queries}"


def test_a_row_that_prints_the_sound_numbers_says_so_and_explains_none(tmp_path, capsys):
    """Under pid_only nothing is removed, so no variant of cameras changes anything and every query of the scene is answered."""
    arguments = [*command(tmp_path), "--protocol=pid_only"]
    audit.main(arguments)
    rows = rows_of(capsys.readouterr().out)
    same = {name for name, row in rows.items() if row["R1, mAP minus the sound ones"] == audit.SAME}
    removed = {"no_camera_rule", "removed_keep_their_places", "ap_over_removed_answers"}
    answered = {"unanswerable_are_wrong", "unanswerable_are_right", "cmc_over_all_queries"}
    assert same == removed | answered | {name for name in VARIANTS if name.startswith("cameras_")}
    assert rows["rank_5_from_index_1"]["R1, mAP minus the sound ones"] == "0.0, 0.0"  # R5 is another one
    audit.main([*arguments, "--printed", *(f"{metric}={rows[audit.SOUND][metric]}" for metric in METRICS)])
    printed = capsys.readouterr().out
    assert f": `{audit.SOUND}` would print them" in printed
    assert {name for name, row in rows_of(printed).items() if row["the printed numbers"]} == {audit.SOUND}


def test_a_variant_that_cannot_score_says_why():
    """Shifted cameras remove the only right answer."""
    made = subjects(("query", "a1", "person", 0, 0.0), ("gallery", "a1", "person", 1, 1.0), ("gallery", "b1", "person", 2, 2.0))
    row = rows_of(audit.audit(case_of(RIGHT, made), apply(RIGHT, made), "frames only"))["cameras_shifted_by_one"]
    assert row["R1"] == "–" and row["what it does"].endswith("Here it cannot score: none of 1 queries has a right answer left.")
