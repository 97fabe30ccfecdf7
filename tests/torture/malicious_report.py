"""Malicious names in everything that a report shows; the page must have the elements of a page with harmless names, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from evaluate import report
from pipeline.base import tables
from pipeline.base.files import digest_file
from tests.evaluate import pages
from tests.torture.malicious import Attack, Trap

ADDRESSES = (
    "src",
    "href",
    "srcset",
    "poster",
    "data",
    "action",
    "formaction",
    "xlink:href",
    "style",
    "content",
    "background",
    "http-equiv",
)
"""Attributes whose value can do something."""


class Elements(HTMLParser):
    """What a page is made of: elements in their order with the names of their attributes, and the values that can do something."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, ...]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = [f"{name}={value}" if name in ADDRESSES else name for name, value in attrs]
        self.found.append((tag, *told))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}",))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment",))

    def handle_decl(self, decl: str) -> None:
        self.found.append(("declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.found.append(("instruction",))


def inputs(folder: Path, word: str) -> Path:
    """A small report in which every text that comes from files begins with `word`; returns inputs.json."""
    folder.mkdir(parents=True)
    path = pages.make(folder, identity=f"{word}identity")
    for name, schema in (
        ("t", tables.TRACKLETS),
        ("a", tables.ALIGNMENT),
        ("quarantine", tables.QUARANTINE),
        ("i", tables.INDEX),
        ("s", tables.SPLIT),
    ):
        file = folder / f"{name}.parquet"
        meta = {key: value for key, value in tables.read_meta(file).items() if key not in ("schema", "version")}
        rows = [_told(row, word) for row in tables.read(file, schema).to_pylist()]
        tables.write_rows(file, rows, schema, {**meta, "licence": f"{word}licence", "items": {"licence": f"{word}voices"}})
    value = json.loads(path.read_text())
    for run in value["runs"]:
        run.update(method=f"{word}method", dataset=f"{word}set", split=f"{word}0")
        _edit_run(Path(run["folder"]), word)
    settings = value["settings"]
    settings["methods"] = {f"{word}method": {**settings["methods"]["m"], "pretrained": f"{word}weights"}}
    settings["datasets"] = {f"{word}set": {"protocols": [f"{word}market"]}}
    settings[f"{word}setting"] = f"{word}value"
    value["versions"] = {f"{word}package": f"{word}1.0"}
    data = value["datasets"].pop("set")
    value["datasets"] = {f"{word}set": {**data, "splits": {f"{word}0": data["splits"]["0"]}}}
    path.write_text(json.dumps(value))
    return path


TEXTS = ("tracklet", "item", "owner", "path", "reason", "detail", "what", "identity", "key", "shard")


def _told(row: dict[str, Any], word: str) -> dict[str, Any]:
    """A row whose texts begin with the word. Paths of frames stay: without them there are no pictures to put names on."""
    keep = ("path",) if str(row.get("path", "")).endswith(".mp3") else ()
    return {
        key: f"{word}{value}" if key in TEXTS and key not in keep and not str(value).startswith(word) else value
        for key, value in row.items()
    }


def _edit_queries(file: Path, word: str) -> str:
    """Every name in QUERIES begins with the word; returns its digest."""
    named = ("protocol", "query", "identity")
    rows = [
        {key: f"{word}{value}" if key in named else value for key, value in row.items()}
        for row in tables.read(file, tables.QUERIES).to_pylist()
    ]
    tables.write_rows(file, rows, tables.QUERIES)
    return digest_file(file)


def _edit_run(folder: Path, word: str) -> None:
    file = folder / "metrics.json"
    if file.is_file():
        metrics = json.loads(file.read_text())
        if not any(name.startswith(word) for name in metrics["protocols"]) or not word:
            for protocol in metrics["protocols"].values():
                protocol.update(description=f"{word}rule", gallery_definition=f"{word}gallery")
            metrics["protocols"] = {f"{word}{name}": protocol for name, protocol in metrics["protocols"].items()}
            metrics["modality"] = f"{word}frames"
            metrics["headline"] = f"{word}{metrics['headline']}"
            metrics["made"]["queries"] = _edit_queries(folder / "queries.parquet", word)
            for entry in metrics["ranked"]:
                entry["query"] = f"{word}{entry['query']}"
                for cell in entry["gallery"]:
                    cell["tracklet"] = f"{word}{cell['tracklet']}"
            pages.seal(file, metrics)
    log = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "terms" in line:
            line["terms"] = {f"{word}identity": 1.0 / line["epoch"]}
            line["remarks"] = [f"{word}remark"]
    lines[-1]["kept"] = {"keep": "last", "remark": f"{word}no look"}
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))


def ablation(folder: Path, word: str) -> Path:
    """The same for the table of an ablation."""
    path = pages.make_ablation(folder, remarks={("student", 0): [f"{word}remark"]})
    value = json.loads(path.read_text())
    about = value["ablation"]
    about.update(question=f"{word}question", name=f"{word}name", rows={stage: f"{word}{words}" for stage, words in about["rows"].items()})
    path.write_text(json.dumps(value))
    return path


def printed(path: Path, title: str) -> dict[str, str]:
    """Texts of the page, the Markdown and the sheets by file name."""
    folder = path.parent
    given = [
        folder / "r.html",
        "--markdown",
        folder / "r.md",
        "--csv",
        folder / "r.csv",
        "--inputs",
        path,
        "--config",
        json.dumps({"title": title}),
    ]
    if json.loads(path.read_text())["ablation"]:
        given += ["--ablation-csv", folder / "ablation.csv"]
    report.main([str(one) for one in given])
    return {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("r.html", "r.md", "r.csv", "ablation.csv")
        if (folder / name).is_file()
    }


def differences(found: dict[str, str], harmless: dict[str, str]) -> list[str]:
    """What a report does that the same report with harmless names does not."""
    wrong = []
    mine, right = Elements(found["r.html"]).found, Elements(harmless["r.html"]).found
    if mine != right:
        place = next((i for i, pair in enumerate(zip(mine, right, strict=False)) if pair[0] != pair[1]), min(len(mine), len(right)))
        wrong.append(f"report.html: element {place} is {mine[place : place + 1]}, with harmless names {right[place : place + 1]}")
    plain = re.sub(r"\\.", "", found["r.md"])
    if "<" in plain or re.search(r"\]\(|\]\[|!\[|`", plain):
        wrong.append("report.md: holds an element, a link, a picture or code")
    if found["r.md"].count("\n") != harmless["r.md"].count("\n"):
        wrong.append("report.md: has other lines")
    for name in found:
        if name.endswith(".csv") and (
            bad := [cell for cell in _cells(found[name]) if cell.startswith(("=", "+", "@", "\t", "\r", "-")) and not _number(cell)]
        ):
            wrong.append(f"{name}: a formula, {bad[0][:40]!r}")
    return wrong


def _cells(sheet: str) -> Iterator[str]:
    import csv

    for row in csv.reader(sheet.splitlines()):
        yield from row


def _number(cell: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", cell) is not None


def same(make: Callable[[Path, str], Path], word: str) -> Callable[[Trap], None]:
    """The report with hostile names, held against the one with harmless names."""

    def run(trap: Trap) -> None:
        hostile = word.replace("{port}", str(trap.port)).replace("{hit}", str(trap.hit))
        found = printed(make(trap.inside / "hostile", hostile), f"{hostile}title")
        right = printed(make(trap.inside / "harmless", "name_"), "name_title")
        if wrong := differences(found, right):
            raise AssertionError("; ".join(wrong))

    return run


def picture(trap: Trap, path: str, voice: bool) -> None:
    """TRACKLETS or ALIGNMENT name a picture or a clip outside of the data set, to have it put into the page."""
    made = pages.make(trap.inside / "r")
    file, schema, column = ("a", tables.ALIGNMENT, "path") if voice else ("t", tables.TRACKLETS, "frames")
    rows = tables.read(made.parent / f"{file}.parquet", schema).to_pylist()
    for row in rows:
        row[column] = path if voice else [path] * 7
    tables.write_rows(made.parent / f"{file}.parquet", rows, schema, {"policy": "id_speaker"})
    printed(made, "x")


WORDS = {
    "a script": "<script>fetch('http://127.0.0.1:{port}/')</script>",
    "an end of an attribute": "\"'><img src=http://127.0.0.1:{port}/x onerror=alert(1)>",
    "SVG": "<svg onload=alert(1)><a xlink:href=javascript:alert(1)>",
    "an end of the style": "</style></title></svg></table><iframe srcdoc='<script>alert(1)</script>'>",
    "a comment and CDATA": "--><!--<![CDATA[<?php system('touch {hit}') ?>]]>",
    "entities": "&lt;script&gt;&#60;script&#62;&quot; onmouseover=alert(1) x=&quot;",
    "links of Markdown": "![x](http://127.0.0.1:{port}/x.png)[y](javascript:alert(1))`a`<http://127.0.0.1:{port}/>",
    "cells of Markdown": "a|b\\|c\\\n\n# heading\n\n- item\n",
    "a formula": '=HYPERLINK("http://127.0.0.1:{port}",1)',
    "another formula": "@SUM(1+1)*cmd|' /C touch {hit}'!A0",
    "a formula behind a tab": "\t=1+1",
    "a terminal's commands": "\x1b]0;x\x07\x1b[2J\u202e",
    "a template": "{{7*7}}${7*7}{wildcards.x}%(x)s#{7*7}",
}


def attacks() -> Iterator[Attack]:
    for what, word in WORDS.items():
        yield Attack(f"report: {what} in every name", same(inputs, word))
        yield Attack(f"ablation: {what} in its words", same(ablation, word))
    for path in ("../../../outside/secret.jpg", "{out}/secret.jpg"):
        shown = lambda trap, path=path: picture(trap, path.replace("{out}", str(trap.outside)), False)  # noqa: E731
        yield Attack(f"report: frame {path}", shown, "is no path below")
    for path in ("../../../outside/secret.mp3", "{out}/secret.mp3"):
        played = lambda trap, path=path: picture(trap, path.replace("{out}", str(trap.outside)), True)  # noqa: E731
        yield Attack(f"report: voice {path}", played, "is no path below")
