"""The page holds the numbers and their protocols, asks nobody for anything, and cannot be injected into."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import shutil
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from evaluate import report
from evaluate.report_page import sections
from evaluate.report_page.figures import DotRow, Series, dot_rows, legend, line_chart, ticks
from evaluate.report_page.inputs import Run, read_inputs
from evaluate.report_page.markup import Html, el, text
from evaluate.report_page.media import Media
from evaluate.report_page.page import words
from evaluate.report_page.summary import headline_rows, kept_words, markdown_cell, score_rows, sheet_cell
from pipeline.base import pictures, tables
from pipeline.base.errors import ConfigError, UserError
from tests.evaluate.pages import make, part, protocol, run, scored, seal

HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=alert(2)>"


class Tags(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        assert not self.open, self.open

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_numbers_stand_beside_their_protocol(tmp_path):
    page, markdown, sheet = run(make(tmp_path))
    for expected in ("62.5", "12.5", "market", "mars_official", "gallery 9,330 · 1,840/1,980 queries valid · AP at hits", "trapezoid AP"):
        assert expected in page
    assert "single split (0), single seed (0)" in page and "oracle" not in re.sub(r"<style>.*?</style>|“oracle”", "", page, flags=re.S)
    assert re.search(r"\| market \| 9,330 \| 1,840/1,980 \| hit \| valid queries \| 62\.5 \\\[6\d\.\d, 6\d\.\d\\\] \|", markdown)
    rows = list(csv.DictReader(io.StringIO(sheet)))
    assert [(r["protocol"], r["R1"], r["mINP"], r["gallery"]) for r in rows] == [
        ("market", "0.625000", "", "9330"),
        ("mars_official", "0.125000", "", "12180"),
    ]


def test_mean_and_std_over_splits(tmp_path):
    """R1 of 50 % and 70 %: mean 60, sample standard deviation 14.1."""
    page, markdown, _ = run(make(tmp_path, splits=("0", "1"), r1=(0.5, 0.7)))
    assert "60.0 ± 14.1" in markdown and "mean ± std of 2 runs: 2 splits (0, 1), single seed (0)" in page and "single split" not in page


def test_reranked_numbers_have_a_section_of_their_own(tmp_path):
    inputs = make(tmp_path)
    assert 'id="reranked"' not in run(inputs)[0]
    scored(tmp_path / "0-student", "frames only", {"market": protocol(0.5)}, reranked={"market": protocol(0.875)})
    page, markdown, sheet = run(inputs)
    assert "87.5" in part(page, "reranked") and "87.5" not in part(page, "scores") + page.split("<nav")[0]  # nor in a tile
    assert "k1 20, k2 6" in part(page, "reranked")
    assert [line.endswith("| re-ranked distance |") for line in markdown.splitlines() if "| market |" in line] == [False, True]
    assert [(r["ranking"], r["R1"]) for r in csv.DictReader(io.StringIO(sheet))] == [("distance", "0.500000"), ("reranked", "0.875000")]


def test_brackets_are_explained_where_there_are_any(tmp_path):
    inputs = make(tmp_path)
    page = run(inputs)[0]
    assert "[ ] 95 % bootstrap interval over queries, 100 draws, seed 0" in part(page, "scores") and "Brackets say" in page
    file = tmp_path / "0-student" / "metrics.json"
    value = json.loads(file.read_text())
    value["scoring"]["resamples"] = 0
    seal(file, value)
    page, _, sheet = run(inputs)
    assert "features: 8 values, as they are" in part(page, "scores")
    assert "bootstrap" not in page and "no intervals (scoring.resamples is 0)" in part(page, "scores")
    assert {(r["R1_low"], r["R1_high"]) for r in csv.DictReader(io.StringIO(sheet))} == {("", "")}


def test_another_test_set_is_named_and_makes_no_headline(tmp_path):
    inputs = make(tmp_path)
    value = json.loads(inputs.read_text())
    student = value["runs"][1]
    for name in ("0", "7"):
        there = Path(student["folder"]) / "on" / f"other-{name}"
        there.mkdir(parents=True)
        scored(there, "frames only", {"two_camera": protocol(0.3 if name == "0" else 0.425, gallery=89, valid=80, queries=80)})
        value["runs"].append({**student, "test_dataset": "other", "test_split": name})
    inputs.write_text(json.dumps(value))
    page, markdown, sheet = run(inputs)
    assert "<h3>set → other</h3>" in part(page, "scores") and "A → B: trained on A" in part(page, "scores")
    assert "36.2" in part(page, "scores") and "36.2" not in page.split("<nav")[0]
    assert "mean ± std of 2 runs: single split (0), single seed (0), tested on 2 splits (0, 7)" in page
    last = list(csv.DictReader(io.StringIO(sheet)))[-1]
    assert (last["dataset"], last["trained_on"], last["splits"], last["test_splits"], last["runs"]) == ("other", "set", "0", "0 7", "2")
    assert part(page, "training").count("<h3>") == 2  # trained once: its curves are shown once
    assert "2 trainings" in page and "| set → other |" in markdown


def test_edited_numbers_are_refused(tmp_path):
    inputs = make(tmp_path)
    file = tmp_path / "0-student" / "metrics.json"
    run(inputs)  # negative control
    file.write_text(file.read_text().replace('"R1": 0.625', '"R1": 0.925'))
    with pytest.raises(UserError, match=r"not a metrics\.json as evaluate\.score wrote it \(its content is not what it was sealed with\)"):
        run(inputs)


def test_oracle_is_said_wherever_the_number_is(tmp_path):
    page, markdown, sheet = run(make(tmp_path, oracle=True))
    tag, words = 'class="tag warn" title="oracle: heard label-derived audio">oracle</span>', "oracle frames + label-derived audio"
    scores, curves, ranked, data = (part(page, name) for name in ("scores", "cmc", "ranked", "data"))
    assert tag in scores and words in scores
    assert "m · student (oracle)</li>" in curves and "<title>m · student (oracle): rank 1" in curves  # legend, and each point
    assert 'class="tag warn">oracle</span></h3>' in ranked
    assert tag in data  # the shards that it heard
    assert f"| {words} | market |" in markdown
    assert all(row["oracle"] == "oracle" and row["modality"] == words for row in csv.DictReader(io.StringIO(sheet)))
    assert 'class="tiles"' not in page  # never a headline


def test_oracle_is_said_whatever_metrics_call_the_modality(tmp_path):
    """A metrics.json that says oracle and calls its input something else; and the tile, should such a row ever get one."""
    inputs = make(tmp_path, oracle=True)
    file = tmp_path / "0-student" / "metrics.json"
    seal(file, {**json.loads(file.read_text()), "modality": "frames+audio"})
    row = score_rows(read_inputs(inputs))[0]
    assert row.modality == "oracle frames+audio"
    assert "oracle" in sections.headline([row]) and "oracle" not in sections.headline([replace(row, oracle=False, modality="frames only")])


@pytest.mark.parametrize("modality", ["frames only", "frames + silence", "frames + recorded sound", "audio only: recorded sound"])
def test_modality_is_said_and_is_not_oracle(tmp_path, modality):
    inputs = make(tmp_path)
    file = tmp_path / "0-student" / "metrics.json"
    seal(file, {**json.loads(file.read_text()), "modality": modality})
    page, markdown, sheet = run(inputs)
    assert f"m · {modality}</small>" in page and f"| {modality} | market |" in markdown and f",{modality},,distance,market," in sheet
    assert "oracle" not in part(page, "scores") + part(page, "cmc") + part(page, "ranked")


def test_page_asks_nobody_for_anything(tmp_path):
    page = run(make(tmp_path))[0]
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _tag, attributes in tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
                assert value.startswith(("data:image/jpeg;base64,", "data:audio/mpeg;base64,", "#")), value[:60]
    assert "url(" not in page and "@import" not in page
    policy = next(a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "/secret" not in page


def test_hostile_names_are_text(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    clean = {tag for tag, _ in Tags(run(make(tmp_path / "a"))[0]).found}
    page, markdown, _ = run(make(tmp_path / "b", identity=HOSTILE), config=json.dumps({"title": HOSTILE}))
    assert {tag for tag, _ in Tags(page).found} == clean
    assert html.escape(HOSTILE, quote=True) in page and "<script" not in page and "<script" not in markdown


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-x", "'-x"), ("+x", "'+x"), ("\t=1", "'\t=1"), ("a=1", "a=1"), ("", "")],
)
def test_a_cell_of_a_sheet_is_no_formula(value, cell):
    assert sheet_cell(value) == cell


def test_a_cell_of_markdown_is_no_link_nor_picture():
    assert markdown_cell("![x](y) `z` a|b\\\n<p>") == "!\\[x\\](y) \\`z\\` a\\|b\\\\ &lt;p>"


def test_media_only_where_allowed(tmp_path):
    assert "data:image" in run(make(tmp_path))[0]
    page = run(make(tmp_path, generated=False))[0]
    assert "data:image" not in page and "data:audio" not in page and "are not shown" in page
    assert "data:image" in run(make(tmp_path, generated=False), config='{"media": "all"}')[0]
    assert "data:image" not in run(make(tmp_path), config='{"media": "none"}')[0]


def test_right_and_wrong_differ_by_more_than_colour(tmp_path):
    page = run(make(tmp_path))[0]
    assert page.count('class="right"') == 1 and page.count('class="wrong"') == 1
    assert "✓" in page and "✗" in page and "camera 2" in page


STAGES = {
    "teacher": {"network": "dubbernet_teacher", "hears": True, "evaluate": False},
    "deaf": {"network": "dubbernet_visual", "evaluate": False},
    "shuffling": {"network": "dubbernet_teacher", "hears": True, "companion": "audio_shuffled", "evaluate": False},
    "student": {"network": "dubbernet_student", "task": "distill", "teacher": "teacher"},
    "untrained": {"network": "dubbernet_student", "epochs": 0},
    "baseline": {"network": "dubbernet_student"},
    "control": {"network": "dubbernet_student", "task": "distill", "teacher": "shuffling"},
    "plain": {"network": "dubbernet_student", "task": "distill", "teacher": "deaf"},
    "variant": {"network": "dubbernet_student", "task": "distill", "teacher": "teacher", "changes": {"distill": {"mask": "off"}}},
    "in_silence": {"network": "dubbernet_teacher", "start": "teacher", "epochs": 0, "hears": True, "test_companion": "audio_silence"},
    "silenced": {"network": "dubbernet_teacher", "hears": True, "test_companion": "audio_silence"},
    "oracle_teacher": {"network": "dubbernet_teacher", "start": "teacher", "epochs": 0, "hears": True, "test_companion": "audio_oracle"},
}


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        (["untrained", "baseline", "student"], "student"),
        (["student", "plain", "variant", "control", "baseline"], "student"),  # later rows of the method do not push it out
        (["plain", "baseline"], "plain"),
        (["control", "baseline", "silenced"], "baseline"),
        (["variant", "plain"], "variant"),
        (["untrained", "control", "in_silence", "silenced"], None),
        (["oracle_teacher"], None),
    ],
)
def test_who_stands_for_a_data_set(tmp_path, scored, expected):
    """Never oracle, never a control, never an untrained network; the taught one of the method as it is goes first."""
    inputs = make(tmp_path)
    value = json.loads(inputs.read_text())
    value["settings"]["methods"]["m"]["stages"] = STAGES
    metrics = json.loads((tmp_path / "0-student" / "metrics.json").read_text())
    value["runs"] = []
    for stage in scored:
        folder = tmp_path / f"run-{stage}"
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("")
        seal(folder / "metrics.json", {**metrics, "oracle": stage.startswith("oracle")})
        shutil.copy(tmp_path / "0-student" / "queries.parquet", folder)
        what = {"method": "m", "dataset": "set", "split": "0", "seed": 0, "stage": stage}
        value["runs"].append({**what, "folder": str(folder), "scored": True})
    inputs.write_text(json.dumps(value))
    found = headline_rows(read_inputs(inputs), score_rows(read_inputs(inputs)))
    assert (found["set"].stage if found else None) == expected
    assert ('class="tiles"' in run(inputs)[0]) == (expected is not None)


def test_the_files_that_a_report_is_made_of_are_left_alone(tmp_path):
    inputs = make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = ("t", "s", "a", "i", "quarantine", "0-student/queries")
    given = [
        inputs,
        *(tmp_path / f"{name}.parquet" for name in names),
        tmp_path / "0-student/metrics.json",
        tmp_path / "0-teacher/metrics.jsonl",
    ]
    for path in given:
        outs = {"OUT": tmp_path / "new.html", "--markdown": tmp_path / "new.md", "--csv": tmp_path / "new.csv"}
        for name in outs:
            out, markdown, sheet = (str(path if one == name else other) for one, other in outs.items())
            with pytest.raises(ConfigError, match=f"^{name}=.* is the same file as .*, which this step reads; name another file"):
                report.main([out, "--markdown", markdown, "--csv", sheet, "--inputs", str(inputs)])
    with pytest.raises(ConfigError, match=r"--csv=.* is the same file as --markdown=.*, which this step writes, too"):
        report.main([str(tmp_path / "new.html"), "--markdown", str(tmp_path / "x"), "--csv", str(tmp_path / "x"), "--inputs", str(inputs)])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    run(inputs)  # negative control


def test_a_data_set_with_many_companions_is_shown_once(tmp_path):
    inputs = make(tmp_path)
    once = run(inputs)[0]
    value = json.loads(inputs.read_text())
    for name in ("audio_shuffled", "audio_silence"):
        value["datasets"][f"set with {name}"] = {**value["datasets"]["set"]}
    index = tables.read(tmp_path / "i.parquet", tables.INDEX)
    companion = {"kind": "audio", "policy": "shuffled", "oracle": True, "label_derived": True, "test": True, "bands": 80, "seed": 0}
    tables.write(tmp_path / "o.parquet", index, tables.INDEX, {"frames": {"height": 32, "width": 16}, "companion": companion})
    tables.write(tmp_path / "n.parquet", index, tables.INDEX, {"frames": {"height": 32, "width": 16}, "companion": None})
    value["datasets"]["set with audio_shuffled"]["index"] = str(tmp_path / "o.parquet")
    value["datasets"]["set with none"] = {**value["datasets"]["set"], "index": str(tmp_path / "n.parquet"), "alignment": None}
    inputs.write_text(json.dumps(value))
    page = run(inputs)[0]
    assert part(page, "persons") == part(once, "persons") and part(page, "left-out") == part(once, "left-out")
    data = part(page, "data")
    assert data.count("<article") == 1 and data.count('<td class="n">2</td>') == part(once, "data").count('<td class="n">2</td>')
    lines = re.findall(r"<tr><td>(set[^<]*)</td><td>(.*?)</td><td>(.*?)</td>", data)
    assert [(name, re.sub("<.*?>", "", how), nature) for name, how, nature in lines] == [
        ("set", "id_speaker", "label-derived"),
        ("set with audio_shuffled", "shuffled oracle", "label-derived"),
        ("set with audio_silence", "id_speaker", "label-derived"),
        ("set with none", "frames only", "–"),
    ]
    assert page.count("The data of set are generated") == 2  # note and reading


def with_methods(inputs, **methods):
    """inputs.json with these methods beside or instead of `m`, and runs of each."""
    value = json.loads(inputs.read_text())
    stages, runs = value["settings"]["methods"]["m"]["stages"], value["runs"]
    value["settings"]["methods"] = {name: {"stages": stages, **changes} for name, changes in methods.items()}
    value["runs"] = [{**run, "method": name} for name in methods for run in runs]
    inputs.write_text(json.dumps(value))
    return inputs


@pytest.mark.parametrize(
    ("methods", "sentences"),
    [
        ({"m": {}}, ["Backbones started from random numbers (no pretrained weights)."]),
        ({"m": {"pretrained": "/home/me/vit_b.safetensors"}}, ["Backbones started from pretrained weights: vit_b.safetensors."]),
        ({"m": {"pretrained": "vit_base_patch16_224"}}, ["Backbones started from pretrained weights: vit_base_patch16_224."]),
        (
            {"m": {}, "n": {"pretrained": "~/a.safetensors"}},
            [
                "Backbones of m started from random numbers (no pretrained weights).",
                "Backbones of n started from pretrained weights: a.safetensors.",
            ],
        ),
    ],
)
def test_what_backbones_started_from(tmp_path, methods, sentences):
    page, markdown, _ = run(with_methods(make(tmp_path), **methods))
    for text_ in (part(page, "reading"), markdown):
        assert re.findall(r"Backbones.*?(?:safetensors|224|\))\.", text_) == sentences
    assert "/home/me" not in page + markdown and "~/a" not in page


def test_stages_that_started_from_other_weights_are_named(tmp_path):
    """`changes` may take the weights away; a stage with `start` goes on from that stage, and the probe has no backbone."""
    inputs = make(tmp_path)
    value = json.loads(inputs.read_text())
    value["settings"]["methods"]["m"]["pretrained"] = "w/a.safetensors"
    stages = value["settings"]["methods"]["m"]["stages"]
    stages["student"]["changes"] = {"pretrained": ""}
    stages |= {"more": {"network": "dubbernet_teacher", "start": "teacher"}, "probe": {"network": "audio_probe", "hears": True}}
    value["runs"] += [{**value["runs"][0], "stage": stage} for stage in ("more", "probe")]
    inputs.write_text(json.dumps(value))
    assert words(read_inputs(inputs))[-3:-1] == [
        "Backbones (teacher) started from pretrained weights: a.safetensors.",
        "Backbones (student) started from random numbers (no pretrained weights).",
    ]


def test_words_on_dubbing_only_where_sound_is_not_the_tracklets_own(tmp_path):
    said = html.escape("The voice is not that person's", quote=True)
    assert run(make(tmp_path))[0].count(said) == 2
    assert said not in run(make(tmp_path, policy="recorded"))[0]


def test_what_was_left_out_is_listed(tmp_path):
    page = run(make(tmp_path))[0]
    assert "x/broken.jpg" in page and "truncated" in page


def test_same_inputs_same_bytes(tmp_path):
    inputs = make(tmp_path)
    assert run(inputs, "one") == run(inputs, "two")


def test_missing_files_are_one_sentence(tmp_path):
    inputs = make(tmp_path)
    (tmp_path / "0-student" / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="every run has a training log"):
        run(inputs)
    (tmp_path / "inputs.json").write_text('{"settings": {}, "versions": {}, "runs": []}')
    with pytest.raises(ConfigError, match="'datasets' is missing"):
        run(inputs)


def test_markup_escapes_all_but_its_own():
    assert text(["<", Html("<b>"), 1, None]) == "&lt;<b>1"
    assert el("p", "a & b", title='"x"', hidden=True, id=None) == '<p title="&quot;x&quot;" hidden>a &amp; b</p>'


def test_ticks_are_round_and_cover():
    assert ticks(0, 1, 4) == [0, 0.5, 1] and ticks(0.3, 2.7, 3) == [0, 1, 2, 3]
    assert ticks(5, 5)[0] <= 5 <= ticks(5, 5)[-1]


def test_line_chart_places_points():
    """x 0..10 over 322 units from 46, y 0..1 from 192 up to 12."""
    chart = line_chart("t", [Series("s", [0, 10], [0, 1])], x_label="x", x_ticks=[0, 10], y_ticks=[0, 1])
    assert 'd="M46.0 192.0 L368.0 12.0"' in chart


def test_more_series_than_styles_do_not_look_alike():
    classes = re.findall(r'class="(s.*?)"', legend([str(i) for i in range(19)]))
    assert classes[0] == "s0" and classes[6] == "s0 again" and classes[17] == "s5 third"
    assert len(set(classes[:18])) == 18 and classes[18] == "s0"


def test_dot_rows_place_dots_and_mean():
    """x 0..100 over 368 units from 16."""
    rows = [DotRow(Html("<b>a</b>"), "a", [("run 1", 0.0), ("run 2", 50.0)]), DotRow(Html("b"), "b", [("run 1", 100.0)], hollow=True)]
    drawn = dot_rows(rows, x_ticks=[0, 100], x_label="mAP, %", x_text="{:g}".format, mark=25.0)
    assert re.findall(r'cx="([\d.]+)"', drawn) == ["16.0", "200.0", "384.0"]
    assert drawn.count('class="mean"') == 1 and 'x1="108.0" x2="108.0"' in drawn  # the mean of one run is that run
    assert 'aria-label="a: mAP, % 0, 50; mean 25"' in drawn and 'class="hollow"' in drawn


def test_media_budget_is_kept(tmp_path):
    (tmp_path / "a.mp3").write_bytes(b"x" * 600)
    media = Media(left=1000)
    assert "<audio" in media.player(tmp_path / "a.mp3", "a") and "too long" in media.player(tmp_path / "a.mp3", "a")
    assert "not shown" in media.thumbnail(tmp_path / "a.mp3", 10, "no picture") and len(media.refused) == 2


def test_a_broken_frame_that_was_left_out_is_never_shown(tmp_path, monkeypatch):
    inputs = make(tmp_path)
    Image.new("RGB", (16, 32), "red").save(tmp_path / "root/q/bad.png")
    rows = tables.read(tmp_path / "t.parquet", tables.TRACKLETS).to_pylist()
    for row in rows:
        row["frames"] = ["q/bad.png", row["frames"][0], "q/bad.png", "q/bad.png"]
    tables.write_rows(tmp_path / "t.parquet", rows, tables.TRACKLETS)
    opened = []
    read = pictures.read
    monkeypatch.setattr(pictures, "read", lambda path: (opened.append(path.rpartition("/")[2]), read(path))[1])
    run(inputs)
    assert "bad.png" in opened  # the control: where QUARANTINE does not list it
    opened.clear()
    listed = [{"path": "q/bad.png", "what": "frame", "reason": "truncated", "detail": "by hand"}]
    tables.write_rows(tmp_path / "quarantine.parquet", listed, tables.QUARANTINE)
    run(inputs)
    assert set(opened) == {"1.jpg"}


def test_a_picture_that_cannot_be_shown_is_a_placeholder(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    saved = io.BytesIO()
    Image.new("RGB", (16, 32)).save(saved, "PNG")
    files = {
        "cut.png": saved.getvalue()[:20],
        "scans.jpg": b"\xff\xd8\xff" + b"\xff\xda" * 2000,
        "strips.tiff": b"II*\0" + struct.pack("<IHHHIIII", 8, 1, 273, 4, 1 << 22, 8, 0, 0) + bytes(100),
        "empty.jpg": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with open(tmp_path / "zeros.jpg", "wb") as file:
        file.truncate(2 << 30)
    media = Media()
    for name in (*files, "pipe.jpg", "zeros.jpg", "absent.jpg"):
        assert "not shown" in media.thumbnail(tmp_path / name, 32, name), name
    assert len(media.refused) == 7 and "pipe.jpg: empty: the file has no bytes" in media.refused
    assert not any(str(tmp_path) in line for line in media.refused)


def test_a_picture_of_one_row_gives_no_mile_of_thumbnail(tmp_path):
    Image.new("L", (1_000_000, 1)).save(tmp_path / "a.png")
    media = Media()
    assert "data:image/jpeg" in media.thumbnail(tmp_path / "a.png", 100, "a") and not media.refused and media.left > 1_000_000


def test_a_recording_is_looked_at_before_it_is_read(tmp_path, monkeypatch):
    with open(tmp_path / "a.wav", "wb") as file:
        file.truncate(2 << 30)
    os.mkfifo(tmp_path / "b.wav")
    monkeypatch.setattr(Path, "read_bytes", None)
    media = Media()
    assert "too long for this page" in media.player(tmp_path / "a.wav", "a")
    assert "not playable here" in media.player(tmp_path / "b.wav", "b")
    assert "file not found" in media.player(tmp_path / "c.wav", "c")
    assert media.refused == [
        "a.wav: 2,147,483,648 bytes are too many for this page",
        "b.wav: no regular file",
        "c.wav: No such file or directory",
    ]


def test_where_a_part_of_a_recording_was_used_the_player_plays_that_part(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    assert 'src="data:audio/wav;base64,eA==#t=1.250,1.750"' in Media().player(tmp_path / "a.wav", "a", 1.25, 0.5)
    assert 'src="data:audio/wav;base64,eA=="' in Media().player(tmp_path / "a.wav", "a", None, 0.5)


def keep(inputs, stage, kept=None, looks=()):
    """Write into a run's log what was kept, and the mAP of looks by epoch."""
    path = inputs.parent / f"0-{stage}" / "metrics.jsonl"
    *log, done = [json.loads(line) for line in path.read_text().splitlines()]
    for epoch, score in dict(looks).items():
        log[epoch - 1]["validation"] = {"mAP": score, "rank1": 1.0, "valid": 40, "queries": 40, "identities": 20}
    lines = [*log, {**done, **({"kept": kept} if kept else {})}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_which_weights_were_kept(tmp_path):
    """The student's second epoch, by two looks; the teacher could not be looked at."""
    inputs = make(tmp_path)
    plain = run(inputs)[0]
    assert part(plain, "training").count("kept: last epoch<") == 2 and "held-out mAP" not in plain
    assert "Every stage is scored after its last epoch" in part(plain, "reading")
    facts = {"epoch": 2, "looks": 2, "identities": 20, "mAP": 0.5, "remark": ""}
    keep(inputs, "student", {"keep": "best", **facts}, {2: 0.5, 3: 0.25})
    keep(inputs, "teacher", {"keep": "last", **facts, "looks": 0, "remark": "no look: <it> hears"})
    page = run(inputs)[0]
    training = part(page, "training")
    assert "kept: epoch 2, best of 2 looks on 20 held-out training identities" in training
    assert "kept: last epoch; no look: &lt;it&gt; hears" in training
    assert training.count("<figcaption>held-out mAP in percent</figcaption>") == 1
    assert "epoch 2: 50<" in training and "epoch 3: 25<" in training
    assert "Some stages are scored at the epoch that was best on held-out" in part(page, "reading")
    assert "Every stage is scored after" not in page


def test_epochs_that_several_runs_kept():
    best = {"keep": "best", "looks": 3, "identities": 9, "remark": ""}
    runs = [
        Run("m", "d", str(i), 0, "s", [], None, "", {**best, "epoch": epoch} if epoch else {}, {}, "d", str(i))
        for i, epoch in enumerate((40, 30, 40, 0))
    ]
    assert kept_words(runs) == "epochs 30, 40, best of 3 looks on 9 held-out training identities / last epoch"
    assert kept_words(runs[:1]).startswith("epoch 40, best") and kept_words(runs[3:]) == "last epoch"
