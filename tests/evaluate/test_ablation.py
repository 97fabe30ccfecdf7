"""The table of an ablation: paired differences by hand, oracle rows set apart, and what it says about itself."""

from __future__ import annotations

import csv
import html
import io
import json
import re

import pytest

from evaluate import report
from evaluate.report_page.ablation import _differences, cautions, compare, difference, signed
from evaluate.report_page.inputs import read_inputs
from evaluate.report_page.summary import score_row
from pipeline.base.errors import ConfigError, ScoreError
from tests.evaluate.pages import ROWS, make, make_ablation, part, protocol, run, scored, seal


def compared(inputs):
    found = compare(read_inputs(inputs))
    assert found is not None
    return found


def test_differences_are_paired_by_hand(tmp_path):
    """student - plain: +10, +4, +1 points of R1, mean 5, std 4.6; mAP is half of it. baseline: -2, 0, -5: 0 is no agreement."""
    lines = {line.stage: line for line in compared(make_ablation(tmp_path)).lines}
    student, baseline, silent = (lines[stage].differences for stage in ("student", "baseline", "silent"))
    assert [round(100 * x, 2) for x in (student["R1"].over.mean, student["R1"].over.std)] == [5.0, 4.58]
    assert round(100 * student["mAP"].over.mean, 2) == 2.5 and bare(student["R1"]) == "+5.0 ± 4.6 ▲"
    assert bare(baseline["R1"]) == "−2.3 ± 2.5" and bare(silent["R1"]) == "−7.7 ± 4.0 ▼"
    assert lines["plain"].differences is None  # the reference


def test_pairing_is_what_makes_the_spread_small():
    """Both vary by 30 points from run to run, their difference by nothing; unpaired, the spread would be that of the runs."""
    one = difference([0.3, 0.6, 0.9], [0.2, 0.5, 0.8])
    assert one.over.mean == pytest.approx(0.1) and one.over.std == pytest.approx(0) and one.same_sign == 1
    other = difference([0.9, 0.3, 0.6], [0.2, 0.5, 0.8])
    assert other.over.mean == pytest.approx(0.1) and other.over.std > 0.4 and other.same_sign == 0


@pytest.mark.parametrize(
    ("values", "base", "sign", "text"),
    [
        ([0.5], [0.4], 0, "+10.0"),  # one pair always agrees with itself
        ([0.5, 0.4], [0.4, 0.4], 0, "+5.0 ± 7.1"),
        ([0.3, 0.2], [0.4, 0.4], -1, "−15.0 ± 7.1 ▼"),
        ([0.5, None], [0.4, 0.4], 0, "–"),
    ],
)
def test_marks(values, base, sign, text):
    found = difference(values, base)
    assert (found.same_sign, found.points()) == (sign, text)


def bare(found):
    """Without the interval."""
    return re.sub(r" \[.*\]", "", found.points())


def test_the_interval_of_a_difference_is_paired_over_queries(tmp_path):
    """Both answer nearly the same queries: what a draw gives to one it gives to the other, so the difference scatters far less than either."""
    lines = {line.stage: line for line in compared(make_ablation(tmp_path)).lines}
    low, high = lines["student"].differences["R1"].over.interval
    own = lines["student"].score.values["R1"].interval
    assert low < 0.05 < high and high - low < 0.6 * (own[1] - own[0])
    assert lines["student"].differences["R1"].range == f"[{signed(low)}, {signed(high)}]"
    assert lines["plain"].differences is None


def test_a_difference_over_other_queries_is_refused(tmp_path):
    inputs = make_ablation(tmp_path, seeds=(0,))
    scored(tmp_path / "student-0", "frames only", {"market": protocol(0.6, valid=1839, queries=1980)})
    with pytest.raises(ScoreError, match=r"'student' was scored with gallery .* 1,839/1,980"):
        compared(inputs)
    found = read_inputs(inputs)
    runs = {stage: [run for run in found.runs if run.stage == stage] for stage in ("student", "plain")}
    single = {stage: {name: [0.5] for name in ("R1", "mAP")} for stage in runs}
    with pytest.raises(ScoreError, match=r"'student' and 'plain' were scored over other queries \(split 0, seed 0\)"):
        _differences("student", "plain", single, runs, score_row(runs["plain"], "market"))


def test_page_opens_with_the_table(tmp_path):
    page = run(make_ablation(tmp_path))[0]
    section = part(page, "ablation")
    assert page.index('<section id="ablation">') < page.index('<section id="scores">') and '<a href="#ablation">' in page
    assert "<h2>What does the &lt;voice&gt; add?</h2>" in section and "<voices>" not in page
    rule = (
        "gallery 9,330 · 1,840/1,980 queries valid · AP at hits · mean over valid queries · 3 runs per row: 1 split (0) × 3 seeds (0, 1, 2)"
    )
    assert section.index(rule) < section.index("<table")
    words = [html.unescape(text) for text in re.findall(r'<span class="number">\d</span><b>(.*?)</b>', section)]
    assert words == [*list(ROWS.values())[1:], "hears only"]  # as given, the oracle last
    assert "training: frames; teacher: frames + a speaker per identity" in section
    assert "training: frames; teacher: frames</small>" in section and "training: frames</small>" in section
    assert "training: frames + a speaker per identity (stage teacher)" in section and "test: frames + silence" in section
    assert "training: a speaker per identity, no frames" in section and "test: oracle audio only: label-derived audio" in section
    assert section.count("3 runs (1 × 3)") == 5
    assert '+5.0 <small>± 4.6</small> <b title="above row 2 in all 3 pairs">▲</b>' in section
    assert all(f'<section id="{name}">' in page for name in ("scores", "cmc", "persons", "training", "data"))


def test_oracle_rows_are_set_apart_and_compared_with_nothing(tmp_path):
    page, markdown, _ = run(make_ablation(tmp_path))
    body, apart = re.findall(r"<tbody.*?</tbody>", part(page, "ablation"), re.S)
    assert "oracle" not in body and 'tbody class="oracle"' in apart and ">oracle</span>" in apart
    assert "99.0" in apart and "+" not in re.sub("<.*?>", "", apart)
    assert "Rows marked oracle heard label-derived audio at test" in page
    last = markdown.split("## Scores")[0].split("**Oracle**")[1]
    assert "| hears only |" in last and "Δ" not in last and "hears only" not in markdown.split("**Oracle**")[0]


def test_no_word_of_oracle_without_an_oracle_row(tmp_path):
    rows = {stage: words for stage, words in ROWS.items() if stage != "probe"}
    page, markdown, _ = run(make_ablation(tmp_path, rows=rows))
    assert "oracle" not in part(page, "ablation") and "racle" not in markdown.split("## Scores")[0]


def test_dots(tmp_path):
    section = part(run(make_ablation(tmp_path))[0], "ablation")
    assert section.count("<circle") == 15 and section.count('class="mean"') == 5 and section.count('class="hollow"') == 1
    assert 'aria-label="KD with &lt;voices&gt;: mAP, % 30, 32, 28; mean 30"' in section
    assert "<title>split 0, seed 2: 28</title>" in section and "dashed line at the reference (row 2)" in section


def test_markdown_and_csv(tmp_path):
    inputs = make_ablation(tmp_path)
    _, markdown, sheet = run(inputs)
    block = markdown.split("## Scores")[0]
    assert block.startswith("# dubtrack report\n\n## What does the &lt;voice> add?\n\nPercent, by market: gallery 9,330")
    start = "| 3 | KD with &lt;voices> | frames; teacher: frames + a speaker per identity | frames only | 60.0 ± 4.0 \\["
    assert start in block and "| reference |  |  |\n" in block
    assert re.search(r"\| 2 \| \+2\.5 ± 2\.3 \\\[\+2\.\d, \+\d\.\d\\\] ▲ \| \+5\.0 ± 4\.6 \\\[\+4\.\d, \+5\.\d\\\] ▲ \|\n", block)
    assert "(of differences: query by query). Features: 8 values" in block and "Brackets are over queries" in block
    assert "confidence interval over people" in block and "25 % of cases by chance, and 3 rows are compared" in block
    assert "Δ: difference to row 2 in points." in block and "other persons and other cameras were not tried" in block
    assert "derived from the identity labels" in block and "no epoch was chosen by its test score" in block
    assert sheet.count("\n") == 6  # scores as ever
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.ablation.csv").read_text())))
    assert [row["stage"] for row in rows] == [*list(ROWS)[1:], "probe"]
    student, probe = rows[2], rows[-1]
    assert (student["R1"], student["R1_difference"], student["R1_same_sign"]) == ("0.600000", "0.050000", "1")
    assert (probe["oracle"], probe["R1"], probe["R1_difference"]) == ("oracle", "0.990000", "")
    assert [row["difference_to_row"] for row in rows] == ["2", "", "2", "2", ""]
    assert [row["reference"] for row in rows] == ["", "reference", "", "", ""] and student["seeds"] == "0 1 2"


def test_a_row_may_be_compared_with_another_than_the_reference(tmp_path):
    """baseline - student: -12, -4, -6 points of R1, mean -7.3, std 4.2; all other rows are still compared with plain."""
    inputs = make_ablation(tmp_path, against={"baseline": "student"})
    lines = {line.stage: line for line in compared(inputs).lines}
    assert {stage: line.against for stage, line in lines.items()} == {"baseline": 3, "plain": None, "student": 2, "silent": 2}
    assert bare(lines["baseline"].differences["R1"]) == "−7.3 ± 4.2 ▼" and bare(lines["student"].differences["R1"]) == "+5.0 ± 4.6 ▲"
    page, markdown, _ = run(inputs)
    told = "Δ: difference to row 2 in points; row 1: to row 3."
    assert told in part(page, "ablation") and told in markdown
    assert re.search(r"\| 3 \| −3\.7 ± 2\.1 \\\[[^|]*\] ▼ \| −7\.3 ± 4\.2 \\\[[^|]*\] ▼ \|\n", markdown)
    assert '<td class="n edge to">3</td><td class="n">−3.7 ' in page and 'title="below row 3 in all 3 pairs"' in page
    rows = csv.DictReader(io.StringIO((tmp_path / "report.ablation.csv").read_text()))
    assert [(row["stage"], row["difference_to_row"], row["R1_difference"]) for row in rows][:3] == [
        ("baseline", "3", "-0.073333"),
        ("plain", "", ""),
        ("student", "2", "0.050000"),
    ]


def test_the_reference_itself_may_be_compared(tmp_path):
    lines = {line.stage: line for line in compared(make_ablation(tmp_path, against={"plain": "baseline"})).lines}
    assert lines["plain"].against == 1 and bare(lines["plain"].differences["R1"]) == "+2.3 ± 2.5"


def test_rows_that_share_a_reference_are_said_to_move_together(tmp_path):
    """Said where several rows do, and not where each row has a partner of its own."""
    shared = "Rows that are compared with the same row share its runs"
    assert any(line.startswith(shared) and "marks come together" in line for line in cautions(compared(make_ablation(tmp_path / "a"))))
    rows = {stage: ROWS[stage] for stage in ("baseline", "plain", "student")}
    alone = make_ablation(tmp_path / "b", rows=rows, against={"baseline": "student"})
    assert not any(shared in line for line in cautions(compared(alone)))
    single = cautions(compared(make_ablation(tmp_path / "c", seeds=(0,))))
    assert any(line.startswith(shared) for line in single) and not any("marks" in line for line in single)


def test_splits_share_persons_so_no_rate_of_chance_is_given(tmp_path):
    """One seed over two splits: the same table, other words."""
    inputs = make_ablation(tmp_path, seeds=(0, 1))
    one = " ".join(cautions(compared(inputs)))
    assert "50 % of cases by chance" in one and "other persons and other cameras were not tried" in one
    value = json.loads(inputs.read_text())
    for entry in value["runs"]:
        entry["split"], entry["seed"] = str(entry["seed"]), 0
    inputs.write_text(json.dumps(value))
    many = " ".join(cautions(compared(edited(inputs, splits=["0", "1"], seeds=[0]))))
    assert "splits of one data set share persons, so pairs are not independent" in many and "no rate is given" in many
    assert "by chance, and" not in many and "%" not in many and "were not tried" not in many


def test_a_single_run_has_no_spread_and_says_so(tmp_path):
    page, markdown, _ = run(make_ablation(tmp_path, seeds=(1,)))
    section = part(page, "ablation")
    assert section.count("single run</small>") == 5 and "±" not in section and "▲" not in section and "▼" not in section
    assert "single run per row: split 0, seed 1" in section and "nothing is known about how far trainings scatter" in section
    assert "±" not in markdown.split("## Scores")[0] and section.count('class="mean"') == 0


def test_remarks_of_the_log_stand_at_the_row(tmp_path):
    told = {("student", 0): ["mask_0_zero=0.960: the mask has collapsed"], ("student", 2): ["<b>mask_1"]}
    page, markdown, _ = run(make_ablation(tmp_path, remarks=told))
    note = "Remarked in 2 of 9 epochs; split 0, seed 0, epoch 3: mask_0_zero=0.960: the mask has collapsed."
    assert part(page, "ablation").count('class="remark"') == 1 and note in page and f"- Row 3: {note}" in markdown


def test_an_ablation_without_sound_does_not_speak_of_dubbing(tmp_path):
    rows = {stage: ROWS[stage] for stage in ("baseline", "plain")}
    found = run(make_ablation(tmp_path, rows=rows))[1].split("## Scores")[0]
    assert "dubbing" not in found and "voice would add" not in found


def edited(inputs, **ablation):
    value = json.loads(inputs.read_text())
    value["ablation"] |= ablation
    inputs.write_text(json.dumps(value))
    return inputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0, 1, 2, 3]}, "stage 'probe' has no score by market for split 0, seed 3"),
        ({"rows": {**ROWS, "teacher": "t"}}, "stage 'teacher' has no score by market"),
        ({"reference": "probe"}, "the reference 'probe' heard label-derived audio"),
        ({"dataset": "other"}, "nothing was scored on other"),
        ({"against": {"student": "probe"}}, "'student' with 'probe', but 'probe' heard label-derived audio"),
        ({"against": {"probe": "student"}}, "'probe' with 'student', but 'probe' heard label-derived audio"),
        ({"against": {"student": "student"}}, "'student' is compared with itself"),
        ({"against": {"student": "plaim"}}, "against: 'plaim' is not in rows; did you mean 'plain'"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, message):
    with pytest.raises(ScoreError, match=message):
        compare(read_inputs(edited(make_ablation(tmp_path), **change)))


def test_rows_of_different_rules_are_refused(tmp_path):
    inputs = make_ablation(tmp_path)
    for seed in (0, 1, 2):
        file = tmp_path / f"student-{seed}" / "metrics.json"
        seal(file, json.loads(file.read_text().replace("9330", "11310")))
    with pytest.raises(ScoreError, match=r"'student' was scored with gallery 11,310 .* with gallery 9,330"):
        compare(read_inputs(inputs))


def test_entries_are_checked(tmp_path):
    with pytest.raises(ConfigError, match=r"ablation\.refrence: unknown setting; did you mean 'reference'"):
        read_inputs(edited(make_ablation(tmp_path), refrence="plain"))
    (tmp_path / "b").mkdir()
    plain = make(tmp_path / "b")
    assert compare(read_inputs(plain)) is None
    out = [str(tmp_path / name) for name in ("r.html", "r.md", "r.csv", "a.csv")]
    with pytest.raises(ConfigError, match="has no ablation"):
        report.main([out[0], "--markdown", out[1], "--csv", out[2], "--ablation-csv", out[3], "--inputs", str(plain)])
    assert not any((tmp_path / name).exists() for name in ("r.html", "a.csv"))


def test_same_inputs_same_bytes(tmp_path):
    inputs = make_ablation(tmp_path)
    assert run(inputs, "one") == run(inputs, "two")


def test_rows_whose_epoch_was_chosen_are_told(tmp_path):
    """On identities that are held out; without them, every row is scored after its last epoch."""
    inputs = make_ablation(tmp_path)
    assert "Every row is scored after its last epoch; no epoch was chosen by its test score." in run(inputs)[0]
    kept = {"keep": "best", "epoch": 2, "looks": 3, "identities": 2, "mAP": 0.5, "remark": ""}
    with open(tmp_path / "student-1" / "metrics.jsonl", "a") as log:
        log.write(json.dumps({"done": True, "kept": kept}) + "\n")
    page = run(inputs)[0]
    assert "Rows with a best look at held-out training identities are scored at that epoch, others after their last epoch; no epoch" in page
    assert "Every row is scored" not in page
