"""The parts of the page with frames and voices: persons and what dubs them, and ranked lists.

In:      tables of data sets that may be shown; ranked lists of metrics.json.   Out: markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evaluate.report_page.figures import STYLES
from evaluate.report_page.inputs import Data, Inputs, Run, grouped
from evaluate.report_page.markup import Child, Html, el, section
from evaluate.report_page.media import Media, may_show, placeholder
from evaluate.report_page.summary import ScoreRow, headline_rows
from pipeline.base import tables
from pipeline.base.files import below

T = TypeVar("T")

STRIP = 6
"""Frames of a tracklet in the gallery of persons."""
VOICES = 3
"""Clips per person."""
HIGH, LOW = 112, 144
"""Pixels of a frame in the gallery, and in ranked lists."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One data set's rows, if its media may stand in the page."""

    name: str
    data: Data
    """Where its media lie, with the first companion that has any sound."""
    rows: dict[str, dict[str, Any]]
    """Row of TRACKLETS by name."""
    heard: dict[str, list[dict[str, Any]]]
    """Rows of ALIGNMENT by tracklet, in time order."""
    left_out: frozenset[str] = frozenset()
    """Paths of broken frames (QUARANTINE), which nobody saw."""

    def frames(self, name: str) -> list[str]:
        """Paths of the frames of a tracklet that were packed."""
        return [path for path in self.rows[name]["frames"] if path not in self.left_out]


def shown_data(inputs: Inputs, media: str) -> dict[str, Shown]:
    """Data sets whose media may be shown, by name."""
    out = {}
    for group in inputs.groups():
        data = next((one for one in group if one.alignment), group[0])
        if may_show(data, media):
            rows = {row["tracklet"]: row for row in tables.read(data.tracklets, tables.TRACKLETS).to_pylist()}
            heard: dict[str, list[dict[str, Any]]] = {}
            for row in tables.read(data.alignment, tables.ALIGNMENT).to_pylist() if data.alignment else []:
                heard.setdefault(row["tracklet"], []).append(row)
            listed = {path for one in group for path in one.quarantine}
            left_out = frozenset(
                path for file in listed for path in tables.read(file, tables.QUARANTINE, ["path"]).column("path").to_pylist()
            )
            out[group[0].name] = Shown(group[0].name, data, rows, heard, left_out)
    return out


def persons_section(shown: Mapping[str, Shown], count: int, media: Media, hidden: Sequence[str]) -> Html | None:
    """Some persons: their frames, and the clips they are dubbed with. `count` is shared out over the data sets."""
    if not count or not (shown or hidden):
        return None
    parts: list[Child] = []
    for position, one in enumerate(shown.values()):
        share = count // len(shown) + (position < count % len(shown))
        chosen = _spread(_persons(one), share)
        if chosen:
            cards = [_person(one, identity, names, media) for identity, names in chosen]
            parts += [el("h3", one.name), el("div", cards, class_="people")]
    if hidden:
        parts.append(
            el("p", f"Frames and voices of {', '.join(hidden)} are not shown: the setting report.media keeps them out.", class_="empty")
        )
    lead = "What a network is trained on: frames of a tracklet and, below them, which clip is heard during which run of frames."
    if any(one.data.dubbed for one in shown.values()):
        lead += " The voice is not that person's. It was given to the identity by its label."
    return section("persons", "Persons and voices", *parts, lead=lead)


def _persons(one: Shown) -> list[tuple[str, list[str]]]:
    """(identity, its tracklets) in sorted order; those that hear something if any does."""
    found: dict[str, list[str]] = {}
    for name, row in sorted(one.rows.items()):
        if row["kind"] == "person" and row["frames"] and (name in one.heard or not one.heard):
            found.setdefault(row["identity"], []).append(name)
    return sorted(found.items())


def _spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, evenly spaced, the first included."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _person(one: Shown, identity: str, names: Sequence[str], media: Media) -> Html:
    first = max(names, key=lambda name: (len({r["item"] for r in one.heard.get(name, [])}), name))
    other = next((name for name in names if one.rows[name]["camera"] != one.rows[first]["camera"]), None)
    cameras = sorted({one.rows[name]["camera"] for name in names})
    frames = sum(len(one.rows[name]["frames"]) for name in names)
    runs = one.heard.get(first, [])
    items = {row["item"]: row for row in runs}
    letters = {item: chr(ord("A") + i) for i, item in enumerate(list(items)[:26])}
    facts = f"{len(names)} tracklet{'s' if len(names) > 1 else ''}, {frames} frames, camera{'s' if len(cameras) > 1 else ''} {_numbers(cameras)}"
    return el(
        "article",
        el("h4", identity, el("span", facts)),
        _strip(one, first, media),
        _runs_bar(runs, letters, len(one.rows[first]["frames"])) if runs else None,
        el("ol", [_voice(one, row, letters[item], media) for item, row in list(items.items())[:VOICES]], class_="voices") if runs else None,
        el("p", f"speaker {runs[0]['owner']}", class_="speaker") if runs else None,
        _strip(one, other, media) if other else None,
        class_="person card",
    )


def _numbers(cameras: Sequence[int]) -> str:
    return ", ".join(str(camera + 1) for camera in cameras)


def _strip(one: Shown, name: str, media: Media) -> Html:
    row = one.rows[name]
    pictures = [
        media.thumbnail(below(one.data.root, path), HIGH, f"{row['identity']}, camera {row['camera'] + 1}")
        for path in _spread(one.frames(name), STRIP)
    ]
    caption = f"{name} · camera {row['camera'] + 1} · {len(row['frames'])} frames"
    return el("figure", el("div", pictures, class_="strip"), el("figcaption", caption))


def _runs_bar(runs: Sequence[Mapping[str, Any]], letters: Mapping[str, str], frames: int) -> Html:
    """Which clip each run of frames hears, widths in proportion."""
    parts = []
    for row in runs:
        last = row["last"] + 1 if row["last"] >= row["first"] else frames
        letter = letters.get(row["item"], "…")
        number = (ord(letter) - ord("A")) % STYLES if letter in letters.values() else 0
        parts.append(
            el(
                "span",
                letter,
                style=f"flex:{last - row['first']}",
                class_=f"b{number}",
                title=f"frames {row['first'] + 1}–{last}: {row['item']}",
            )
        )
    return el("div", parts, class_="runs", role="img", aria_label="which clip each run of frames hears")


def _voice(one: Shown, row: Mapping[str, Any], letter: str, media: Media) -> Html:
    name = el("b", letter, class_=f"b{(ord(letter) - ord('A')) % STYLES}")
    if not row["path"]:
        return el("li", name, placeholder("synthetic signal, no file", row["item"]))
    path = below(one.data.voices_root or one.data.root, row["path"])
    player = media.player(path, f"clip {letter}: {row['item']}", row["start"], row["seconds"])
    return el("li", name, player, el("small", f"{row['seconds']:.1f} s"))


def ranked_section(inputs: Inputs, rows: Sequence[ScoreRow], shown: Mapping[str, Shown], count: int, media: Media) -> Html | None:
    """Ranked lists of one run per data set: some queries as they come, and the worst ones."""
    parts: list[Child] = []
    for dataset, run in _runs_to_show(inputs, rows).items():
        assert run.metrics is not None
        lists = _lists(run.metrics["ranked"], count)
        if not lists:
            continue
        title = f"{run.method} · {run.stage} · {inputs.protocols(dataset)[0]} · split {run.split}, seed {run.seed}"
        oracle = el("span", "oracle", class_="tag warn") if run.metrics["oracle"] else None
        parts.append(el("h3", dataset, el("span", title), " ", oracle))
        parts += [_list(entry, shown.get(dataset), media) for entry in lists]
    if not parts:
        return None
    key = el(
        "ul",
        el("li", el("span", "✓", class_="mark right"), " the same person"),
        el("li", el("span", "✗", class_="mark wrong"), " somebody else"),
        class_="legend",
    )
    lead = (
        "A query and the first ten gallery entries, nearest first. Entries of the query's own camera and identity, and junk, have been "
        "removed as the protocol says."
    )
    return section("ranked", "Ranked lists", key, *parts, lead=lead)


def _runs_to_show(inputs: Inputs, rows: Sequence[ScoreRow]) -> dict[str, Run]:
    """The first run of each data set's headline; where all that was scored is oracle, the first run of that."""
    groups = grouped(run for run in inputs.runs if run.metrics is not None)
    out = {what[0]: runs[0] for what, runs in reversed(groups.items())}
    for dataset, row in headline_rows(inputs, rows).items():
        out[dataset] = groups[dataset, row.method, row.stage][0]
    return {data.name: out[data.name] for data in inputs.datasets if data.name in out}


def _lists(ranked: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Half of them from the first queries, one per person as far as possible, and half from the worst; none twice."""
    first = [entry for entry in ranked if entry["chosen"] == "first"]
    fresh, seen = [], set()
    for entry in first:
        if entry["identity"] not in seen:
            fresh.append(entry)
            seen.add(entry["identity"])
    chosen = [*fresh, *(entry for entry in first if entry not in fresh)][: count - count // 2]
    names = {entry["query"] for entry in chosen}
    worst = [entry for entry in ranked if entry["chosen"] == "worst" and entry["query"] not in names]
    return chosen + worst[: count // 2]


def _list(entry: Mapping[str, Any], shown: Shown | None, media: Media) -> Html:
    why = el("span", "among the worst", class_="tag") if entry["chosen"] == "worst" else None
    answers = entry["right_answers"]
    facts = f"AP {100 * entry['ap']:.1f} %, first right answer at rank {entry['first_hit']}, {answers} right answer{'s' if answers > 1 else ''} in the gallery"
    query = el(
        "figure",
        _middle(entry["query"], shown, media),
        el("figcaption", el("b", "query"), el("span", entry["identity"]), el("span", f"camera {entry['camera'] + 1}")),
        class_="query",
    )
    cells = [_cell(rank, cell, shown, media) for rank, cell in enumerate(entry["gallery"], 1)]
    return el("article", el("p", facts, " ", why), el("div", query, cells, class_="row scroll", tabindex=0), class_="ranked")


def _cell(rank: int, cell: Mapping[str, Any], shown: Shown | None, media: Media) -> Html:
    right = bool(cell["match"])
    mark = el(
        "span", "✓" if right else "✗", class_="mark right" if right else "mark wrong", title="the same person" if right else "somebody else"
    )
    return el(
        "figure",
        _middle(cell["tracklet"], shown, media),
        el("figcaption", el("b", rank, " ", mark), el("span", cell["identity"]), el("span", f"camera {cell['camera'] + 1}")),
        class_="right" if right else "wrong",
        title=f"{cell['tracklet']}, squared distance {cell['distance']:g}",
    )


def _middle(name: str, shown: Shown | None, media: Media) -> Html:
    """The frame in the middle of a tracklet."""
    row = shown.rows.get(name) if shown else None
    if shown is None or row is None or not (paths := shown.frames(name)):
        return placeholder("not shown", name)
    return media.thumbnail(below(shown.data.root, paths[len(paths) // 2]), LOW, name)
