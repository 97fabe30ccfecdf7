"""The page holds the numbers and their protocols, asks nobody for anything, and cannot be injected into."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from evaluate import report
from evaluate.report_page.figures import Series, line_chart, ticks
from evaluate.report_page.markup import Html, el, text
from evaluate.report_page.media import Media
from pipeline.base import tables
from pipeline.base.errors import ConfigError, UserError

HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=alert(2)>"


def protocol(r1, ap="hit", **more):
    cmc = [r1] + [1.0] * 49
    return {
        "description": "a rule",
        "gallery_definition": "a set",
        "gallery": 9330,
        "queries": 1980,
        "valid": 1840,
        "skipped_queries": 140,
        "ap": ap,
        "averaged_over": "valid",
        "R1": r1,
        "R5": 1.0,
        "R10": 1.0,
        "R20": 1.0,
        "mAP": r1 / 2,
        "mINP": None,
        "cmc": cmc,
        **more,
    }


def make(folder: Path, *, identity="0001", generated=True, oracle=False, policy="id_speaker", splits=("0",), r1=(0.625,)) -> Path:
    """A data set of four tracklets with pictures and sound, one teacher and one student per split; returns inputs.json."""
    root, voices = folder / "root", folder / "voices"
    names = ["q", "g", "t", "d"]
    rows = []
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), (40 * i, 90, 120)).save(root / name / "1.jpg")
        kind = "distractor" if name == "d" else "person"
        rows.append(
            {"tracklet": name, "dataset": "set", "identity": identity, "kind": kind, "camera": i % 2, "frames": [f"{name}/1.jpg"] * 7}
        )
    voices.mkdir(exist_ok=True)
    (voices / "a.mp3").write_bytes(b"ID3 not really sound")
    tables.write_rows(folder / "t.parquet", rows, tables.TRACKLETS)
    roles = [{"tracklet": n, "role": r, "label": -1} for n, r in zip(names, ["query", "gallery", "train", "gallery"], strict=True)]
    tables.write_rows(folder / "s.parquet", roles, tables.SPLIT)
    run = {"item": "a", "owner": "spk_1", "path": "a.mp3", "start": None, "seconds": 1.5}
    heard = [{"tracklet": "t", "first": 0, "last": 5, **run}, {"tracklet": "t", "first": 6, "last": 6, **run}]
    tables.write_rows(folder / "a.parquet", heard, tables.ALIGNMENT, {"policy": policy})
    quarantine = [{"path": "x/broken.jpg", "what": "frame", "reason": "truncated", "detail": identity}]
    tables.write_rows(folder / "quarantine.parquet", quarantine, tables.QUARANTINE)
    place = {"shard": "0.tar", "items": 0, "size": 1000, "members": [], "digest": "", "frames": 7, "camera": 0, "identity": identity}
    index = [{"key": n, "kind": "person", "offset": 1000 * i, **place} for i, n in enumerate(names)]
    companion = {"kind": "audio", "policy": policy, "oracle": oracle, "label_derived": True, "bands": 80, "seed": 0}
    tables.write_rows(folder / "i.parquet", index, tables.INDEX, {"frames": {"height": 32, "width": 16}, "companion": companion})
    runs = []
    for split, value in zip(splits, r1, strict=True):
        for stage in ("teacher", "student"):
            here = folder / f"{split}-{stage}"
            here.mkdir(exist_ok=True)
            log = [{"epoch": e, "step": e, "steps": 1, "lr": 0.1 / e, "loss": 2.0 / e, "terms": {"identity": 1.0 / e}} for e in (1, 2, 3)]
            lines = [json.dumps(line) for line in [*log, {"done": True}]]
            (here / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            runs.append(
                {
                    "method": "m",
                    "dataset": "set",
                    "split": split,
                    "seed": 0,
                    "stage": stage,
                    "folder": str(here),
                    "scored": stage == "student",
                }
            )
        entry = {"identity": identity, "camera": 0, "query": "q", "chosen": "first", "ap": 0.5, "first_hit": 2, "right_answers": 1}
        cells = [("d", False), ("g", True)]
        entry["gallery"] = [{"tracklet": n, "identity": identity, "camera": 1, "distance": 1.5, "match": m} for n, m in cells]
        metrics = {
            "modality": "frames+audio" if oracle else "frames",
            "oracle": oracle,
            "protocols": {"market": protocol(value), "mars_official": protocol(value / 5, "trapezoid", gallery=12180, valid=1980)},
            "ranked": [entry],
        }
        (folder / f"{split}-student" / "metrics.json").write_text(json.dumps(metrics))
    data = {
        **{
            "tracklets": str(folder / "t.parquet"),
            "splits": {"0": str(folder / "s.parquet")},
            "plan": "",
            "index": str(folder / "i.parquet"),
        },
        **{"alignment": str(folder / "a.parquet"), "probes": None, "quarantine": [str(folder / "quarantine.parquet")]},
        **{"root": str(root), "voices_root": str(voices), "generated": generated, "licence": "CC0 " + identity, "voices_licence": None},
    }
    stages = {"teacher": {"teacher": ""}, "student": {"teacher": "teacher"}}
    settings = {
        "seed": 0,
        "datasets": {"set": {"protocols": ["market", "mars_official"]}},
        "methods": {"m": {"stages": stages}},
        "roots": {"set": "/secret"},
    }
    (folder / "inputs.json").write_text(
        json.dumps({"settings": settings, "versions": {"numpy": "2"}, "runs": runs, "datasets": {"set": data}})
    )
    return folder / "inputs.json"


def run(inputs: Path, name="report", config="{}"):
    """(page, Markdown, CSV) as text."""
    out = [inputs.parent / f"{name}.{end}" for end in ("html", "md", "csv")]
    report.main([str(out[0]), "--markdown", str(out[1]), "--csv", str(out[2]), "--inputs", str(inputs), "--config", config])
    return [path.read_text(encoding="utf-8") for path in out]


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
    assert "| market | 9,330 | 1,840/1,980 | hit | 62.5 |" in markdown
    rows = list(csv.DictReader(io.StringIO(sheet)))
    assert [(r["protocol"], r["R1"], r["mINP"], r["gallery"]) for r in rows] == [
        ("market", "0.625000", "", "9330"),
        ("mars_official", "0.125000", "", "12180"),
    ]


def test_mean_and_std_over_splits(tmp_path):
    """R1 of 50 % and 70 %: mean 60, sample standard deviation 14.1."""
    page, markdown, _ = run(make(tmp_path, splits=("0", "1"), r1=(0.5, 0.7)))
    assert "60.0 ± 14.1" in markdown and "mean ± std of 2 runs: 2 splits, seed 0" in page and "single split" not in page


def test_oracle_is_said_wherever_the_number_is(tmp_path):
    page, markdown, sheet = run(make(tmp_path, oracle=True))
    assert page.count('class="tag warn"') >= 3 and "oracle: label-derived audio" in markdown and ",oracle," in sheet
    assert 'class="tiles"' not in page  # never a headline


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


def test_media_budget_is_kept(tmp_path):
    (tmp_path / "a.mp3").write_bytes(b"x" * 600)
    media = Media(left=1000)
    assert "<audio" in media.player(tmp_path / "a.mp3", "a") and "too long" in media.player(tmp_path / "a.mp3", "a")
    assert "not shown" in media.thumbnail(tmp_path / "a.mp3", 10, "no picture") and len(media.refused) == 2
