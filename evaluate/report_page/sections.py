"""The parts of the page that are tables, words and curves.

In:      score rows, runs, facts.   Out: markup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from evaluate.report_page.facts import DataFacts, LeftOut, StoreFacts
from evaluate.report_page.figures import Series, figure, legend, line_chart, ticks
from evaluate.report_page.inputs import Data, Inputs, Run, grouped
from evaluate.report_page.markup import Child, Html, el, section, table
from evaluate.report_page.summary import METRICS, UNDEFINED, ScoreRow, interval_notes, kept_words

CMC_SHOWN = 20
UNFOLDED = 6
"""Stages whose training curves are shown at once; where there are more, each is folded."""
LISTED = 40
"""Rows of what was left out that the page lists; all are counted."""

ORACLE = "oracle: heard label-derived audio"


def oracle_mark() -> Html:
    """The word that every number from label-derived test audio carries."""
    return el("span", "oracle", class_="tag warn", title=ORACLE)


def headline(rows: Sequence[ScoreRow]) -> Html | None:
    """One tile per row of :func:`evaluate.report_page.summary.headline_rows`."""
    return el("div", [_tile(row) for row in rows], class_="tiles") if rows else None


def _tile(row: ScoreRow) -> Html:
    def big(name: str) -> Html:
        value = row.values[name]
        spread = el("small", f" ± {100 * value.std:.1f}") if value.std is not None else None
        number = UNDEFINED if value.mean is None else f"{100 * value.mean:.1f}"
        between = el("dd", value.range, class_="range") if value.interval else None
        return el("div", el("dt", name), el("dd", number, spread), between)

    return el(
        "article",
        el("h3", row.dataset, el("span", f"{row.method} · {row.stage}")),
        el("dl", big("R1"), big("mAP"), class_="big"),
        el("p", el("b", row.protocol), " · ", row.rule),
        el("p", row.modality, " ", oracle_mark() if row.oracle else None),
        el("p", row.sample),
        el("p", ". ".join(interval_notes([row], [row.values[name] for name in ("R1", "mAP")]))),
        class_="tile",
    )


LEAD = (
    "Percent. Every number stands under the protocol it was measured by; numbers of different protocols are not comparable. ± is the standard "
    "deviation over runs, where there are several: how far trainings, and splits, scatter."
)
BRACKETS = (
    "Brackets say how far the number might have come out elsewhere had others of the same kind asked; they know nothing of other seeds, other "
    "persons in the gallery or other cameras."
)
ACROSS = "A → B: trained on A, tested on the test half of B, none of which was trained on, as far as names and digests tell."


def score_tables(rows: Sequence[ScoreRow]) -> Html:
    """One table per data set: stages down, protocols one below the other."""
    lead = " ".join([LEAD, *([BRACKETS] if any(value.interval for row in rows for value in row.values.values()) else [])])
    if any(row.trained_on != row.tested_on for row in rows):
        lead = f"{lead} {ACROSS}"
    parts = _tables(rows) if rows else [el("p", "No stage of these runs was evaluated.", class_="empty")]
    return section("scores", "Scores", *parts, lead=lead)


RERANKED_LEAD = (
    "The same distances after k-reciprocal re-ranking ({about}). It looks at all queries at once, which nobody who asks one question can do, so "
    "these numbers are compared with nothing above and never stand in a headline. Protocols whose gallery holds the queries are left out."
)


def reranked_tables(rows: Sequence[ScoreRow]) -> Html | None:
    """The tables of what was re-ranked, in a section of their own."""
    if not rows:
        return None
    how = rows[0].scoring.rerank
    about = f"k1 {how.k1}, k2 {how.k2}, weight of the first distance {how.weight:g}"
    return section("reranked", "After re-ranking", *_tables(rows), lead=RERANKED_LEAD.format(about=about))


def _tables(rows: Sequence[ScoreRow]) -> list[Child]:
    parts: list[Child] = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        mine = [row for row in rows if row.dataset == dataset]
        protocols = list(dict.fromkeys(row.protocol for row in mine))
        features = list(dict.fromkeys(row.feature for row in mine))
        notes = [*interval_notes(mine), *([f"features: {features[0]}"] if len(features) == 1 else [])]
        parts += [el("h3", dataset), _score_table(mine, protocols), el("p", " · ".join(notes), class_="rule")]
        parts.append(_protocol_notes(mine, protocols))
    return parts


def _score_table(rows: Sequence[ScoreRow], protocols: Sequence[str]) -> Html:
    """Protocols one below the other, each under a line that says what its numbers are of."""
    shown = [name for name in METRICS if any(row.values[name].mean is not None for row in rows)]
    features = len({row.feature for row in rows}) > 1
    top = el("tr", el("th", "Network", scope="col"), [el("th", name, class_=_edge("n", i), scope="col") for i, name in enumerate(shown)])
    bodies = []
    for protocol in protocols:
        mine = [row for row in rows if row.protocol == protocol]
        same = len({(row.rule, row.sample) for row in mine}) == 1
        said = [mine[0].rule, mine[0].sample] if same else []
        about = el("th", el("b", protocol), el("small", " · ".join(said)) if said else None, colspan=1 + len(shown), scope="rowgroup")
        bodies.append(el("tbody", el("tr", about, class_="group"), [_score_line(row, shown, not same, features) for row in mine]))
    return el("div", el("table", el("thead", top), bodies, class_="scores"), class_="scroll", tabindex=0)


def _score_line(row: ScoreRow, shown: Sequence[str], alone: bool, features: bool) -> Html:
    """One network by one protocol.

    Args:
        alone: its rule and sample are not said above.
        features: nor are its features said below.
    """
    label = [
        el("b", row.stage),
        " ",
        oracle_mark() if row.oracle else None,
        el("small", f"{row.method} · {row.modality}"),
        el("small", f"{row.rule} · {row.sample}") if alone else None,
        el("small", f"features: {row.feature}") if features else None,
    ]
    cells = [el("td", score_cell(row, name), class_=_edge("n", i)) for i, name in enumerate(shown)]
    return el("tr", el("th", label, scope="row"), cells)


def _edge(name: str, i: int) -> str:
    return name if i else f"{name} edge"


def score_cell(row: ScoreRow, name: str) -> Child:
    """Mean in percent with its standard deviation and its interval, if any."""
    value = row.values[name]
    spread = el("small", f"± {100 * value.std:.1f}") if value.std is not None else None
    return [value.percent(with_std=False), " ", spread, el("small", value.range, class_="range") if value.interval else None]


def _protocol_notes(rows: Sequence[ScoreRow], protocols: Sequence[str]) -> Html:
    example = {p: next(row for row in rows if row.protocol == p) for p in protocols}
    return el(
        "dl",
        [[el("dt", p), el("dd", example[p].description, f" Gallery: {example[p].gallery_definition}.")] for p in protocols],
        class_="notes",
    )


def cmc_figures(rows: Sequence[ScoreRow]) -> Html | None:
    """CMC curves: one chart per data set and protocol, one line per network."""
    if not rows:
        return None
    names = list(dict.fromkeys(_network_name(row) for row in rows))
    charts = []
    for dataset, protocol in dict.fromkeys((row.dataset, row.protocol) for row in rows):
        mine = [row for row in rows if (row.dataset, row.protocol) == (dataset, protocol)]
        lines = [
            Series(
                _network_name(row), list(range(1, CMC_SHOWN + 1)), [100 * v for v in row.cmc[:CMC_SHOWN]], names.index(_network_name(row))
            )
            for row in mine
        ]
        chart = line_chart(
            f"CMC of {dataset} by {protocol}",
            lines,
            x_label="rank",
            x_ticks=[1, 5, 10, 15, 20],
            y_ticks=[0, 20, 40, 60, 80, 100],
            y_text="{:g} %".format,
            points=True,
        )
        about = dict.fromkeys(f"{row.rule} · {row.sample}" for row in mine)
        charts.append(figure(f"{dataset} · {protocol}", chart, el("p", " / ".join(about), class_="about")))
    return section(
        "cmc",
        "Rank curves",
        legend(names),
        el("div", charts, class_="charts"),
        lead="Part of the queries with a right answer among the first entries (CMC); of several runs the mean. Point at a dot to read it.",
    )


def _network_name(row: ScoreRow) -> str:
    return f"{row.method} · {row.stage}" + (" (oracle)" if row.oracle else "")


def training_figures(runs: Sequence[Run]) -> Html | None:
    """Loss terms and learning rate per epoch; one small chart each, because their scales have nothing in common."""
    blocks: list[tuple[str, str, Html]] = []
    for (dataset, method, stage), group in grouped(run for run in runs if run.is_own).items():
        logs = [run.log for run in group if run.log]
        if not logs:
            continue
        terms = [name for name in logs[0][0]["terms"] if all(name in line["terms"] for log in logs for line in log)]
        wanted = [("loss", lambda line: line["loss"])] + [(name, lambda line, name=name: line["terms"][name]) for name in terms]
        charts = [_curve(name, [[float(value(line)) for line in log] for log in logs], logs, i) for i, (name, value) in enumerate(wanted)]
        charts.append(_curve("learning rate", [[float(line["lr"]) for line in log] for log in logs], logs, 5))
        looks = [[line for line in log if "validation" in line] for log in logs]
        if all(looks):
            charts.append(_curve("held-out mAP in percent", [[100 * line["validation"]["mAP"] for line in log] for log in looks], looks, 4))
        many = f"mean of {len(logs)} runs, single runs faint" if len(logs) > 1 else f"split {group[0].split}, seed {group[0].seed}"
        blocks.append((dataset, f"{method} · {stage} · {many} · kept: {kept_words(group)}", el("div", charts, class_="charts small")))
    if not blocks:
        return None
    if len(blocks) > UNFOLDED:
        parts = [[el("details", el("summary", what, " ", el("small", of)), charts)] for of, what, charts in blocks]
    else:
        parts = [[el("h3", of, el("span", what)), charts] for of, what, charts in blocks]
    return section(
        "training", "Training", parts, lead="Means over each epoch, as logged. The weighted sum is “loss”; its terms are unweighted."
    )


def _curve(name: str, values: Sequence[Sequence[float]], logs: Sequence[Sequence[Mapping[str, Any]]], style: int) -> Html:
    shortest = min(map(len, values))
    epochs = [float(line["epoch"]) for line in logs[0][:shortest]]
    mean = [sum(one[i] for one in values) / len(values) for i in range(shortest)]
    faint = [Series(name, epochs, one[:shortest], style, faint=True) for one in values] if len(values) > 1 else []
    everything = [value for one in values for value in one[:shortest]]
    x_ticks = [t for t in ticks(epochs[0], epochs[-1], 4) if t == int(t)] or [epochs[0], epochs[-1]]
    chart = line_chart(
        f"{name} per epoch",
        [*faint, Series(name, epochs, mean, style)],
        x_label="epoch",
        x_ticks=x_ticks,
        y_ticks=ticks(min(everything), max(everything), 3),
        y_text="{:.3g}".format,
        points=len(epochs) <= 30,
        size=(270, 176),
    )
    return figure(name, chart)


def data_section(groups: Sequence[Sequence[Data]], facts: Mapping[str, DataFacts]) -> Html:
    """Counts, shards, companions and licence of every data set; each is given with all its companions."""
    parts: list[Child] = []
    for group in groups:
        name = group[0].name
        known = facts[name]
        rows = [
            [r.role, f"{r.tracklets:,}", f"{r.identities:,}", f"{r.nobody:,}" if r.nobody else UNDEFINED, f"{r.frames:,}", str(r.cameras)]
            for r in known.roles
        ]
        which = f"roles of split {known.split}" + (f", one of {known.splits}" if known.splits > 1 else "")
        kind = el("span", "generated by pipeline/demo", class_="tag") if group[0].generated else None
        parts.append(
            el(
                "article",
                el("h3", name, " ", kind, el("span", which)),
                table(["role", "tracklets", "persons", "distractors or junk", "frames", "cameras"], rows, numeric=range(1, 6)),
                _companions(known) if len(known.stores) > 1 else None,
                el("dl", [[el("dt", name), el("dd", value)] for name, value in _properties(group, known)], class_="props"),
                class_="card",
            )
        )
    return section("data", "Data", *parts)


def _nature(companion: Mapping[str, Any]) -> str:
    return "label-derived" if companion["label_derived"] else "not label-derived"


def _companions(facts: DataFacts) -> Html:
    """All companions of a data set, one line each."""
    rows: list[list[Child]] = []
    for store in facts.stores:
        allotted: Child = "frames only"
        nature = UNDEFINED
        if store.companion is not None:
            allotted = [store.companion["policy"], [" ", oracle_mark()] if store.companion["oracle"] else None]
            nature = _nature(store.companion)
        counts = [f"{n:,}" if n else UNDEFINED for n in (store.items, store.owners, store.dubbed, store.unusable)]
        rows.append([store.name, allotted, nature, *counts, f"{store.shards}, {size_text(store.bytes)}"])
    head = ["shards of", "allotted by", "", "clips", "speakers", "tracklets that hear", "clips unusable", "shards"]
    return table(head, rows, numeric=range(3, 8), class_="companions")


def _properties(group: Sequence[Data], facts: DataFacts) -> list[tuple[str, Child]]:
    out: list[tuple[str, Child]] = []
    if len(facts.stores) == 1:
        out += _store_properties(facts.stores[0], facts.frame_size)
    else:
        out.append(("Frames", f"{facts.frame_size} (height × width), {facts.stores[0].samples:,} samples in each set of shards"))
    out.append(("Licence of frames", group[0].licence))
    voices = dict.fromkeys(data.voices_licence for data in group if data.voices_licence)
    if voices:
        out.append(("Licence of voices", "; ".join(map(str, voices))))
    return out


def _store_properties(store: StoreFacts, frame_size: str) -> list[tuple[str, Child]]:
    """The only companion of a data set."""
    size = f"{store.shards} with {store.samples:,} samples, {size_text(store.bytes)}; frames {frame_size} (height × width)"
    out: list[tuple[str, Child]] = [("Shards", size)]
    if store.companion is None:
        out.append(("Companion", "none"))
    else:
        oracle: Child = [" ", oracle_mark(), " test identities are dubbed, too"] if store.companion["oracle"] else None
        clips = f"{store.items:,} clips of {store.owners:,} speakers, heard by {store.dubbed:,} tracklets" if store.items else "no clips"
        out.append(
            ("Companion", [f"{store.companion['kind']}, policy {store.companion['policy']} ({_nature(store.companion)}): {clips}", oracle])
        )
    if store.probed:
        out.append(("Clips decoded", f"{store.probed:,}, of which {store.unusable:,} could not be used"))
    return out


def size_text(count: int) -> str:
    """Bytes for readers, decimal units."""
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


def left_out_section(found: Mapping[str, LeftOut]) -> Html:
    """Everything that was not used, counted by reason, and listed."""
    parts: list[Child] = []
    for name, left in found.items():
        if not left.rows:
            parts.append(el("p", el("b", name), ": nothing was left out."))
            continue
        counts = el(
            "ul",
            [el("li", el("b", f"{n:,}"), f" {what}{'s' if n > 1 else ''}: {reason}") for what, reason, n in left.reasons],
            class_="chips",
        )
        listed = table(["what", "file", "reason", "detail"], left.rows[:LISTED], class_="files")
        more = f" (the first {LISTED} of {len(left.rows):,})" if len(left.rows) > LISTED else ""
        parts.append(el("article", el("h3", name), counts, el("details", el("summary", f"Files{more}"), listed), class_="card"))
    return section(
        "left-out", "Left out", *parts, lead="Frames and clips that were found broken or unusable. Nothing is skipped in silence."
    )


def _without_folders(value: Any) -> Any:
    """Settings with absolute paths (of weights, of token stores) cut to their last part: folders of this machine are nobody's business."""
    if isinstance(value, Mapping):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(one) for one in value]
    return PurePath(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _splits(run: Run) -> str:
    return run.split if run.is_own else f"{run.split} → {run.test_split}"


def config_section(inputs: Inputs) -> Html:
    """Settings, versions and the list of runs."""
    settings = _without_folders({name: value for name, value in inputs.settings.items() if name != "roots"})
    runs = [
        [r.tested, f"{r.method} · {r.stage}", _splits(r), str(r.seed), el("code", r.digest[:16]) if r.digest else "trained only"]
        for r in inputs.runs
    ]
    return section(
        "config",
        "Configuration",
        el(
            "details",
            el("summary", f"Runs ({len(runs)})"),
            table(["data set", "network", "split", "seed", "SHA-256 of metrics.json"], runs),
        ),
        el("details", el("summary", "Versions"), table(["package", "version"], sorted(inputs.versions.items()))),
        el("details", el("summary", "Settings"), el("pre", json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False), tabindex=0)),
        lead=f"Seed of the data path: {settings.get('seed', UNDEFINED)}. Seeds of trainings are listed with the runs.",
    )
