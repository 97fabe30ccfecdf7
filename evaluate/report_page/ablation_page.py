"""The first section of an ablation's page: question, table, dots of the single runs, and what all that can show.

In:      a Comparison.   Out: markup.
"""

from __future__ import annotations

import math

from evaluate.report_page.ablation import ABOVE, BELOW, COMPARED, SHOWN, Comparison, Line, cautions, features, signed
from evaluate.report_page.figures import DotRow, dot_rows, figure, ticks
from evaluate.report_page.markup import Child, Html, el, section
from evaluate.report_page.sections import oracle_mark, score_cell
from evaluate.report_page.summary import ORACLE, UNDEFINED

DRAWN = "mAP"


def ablation_section(found: Comparison) -> Html:
    """The table and all that belongs to it."""
    marks = [
        el("li", el("b", ABOVE), " above the row it is compared with in every pair of runs"),
        el("li", el("b", BELOW), " below it in every pair"),
    ]
    return section(
        "ablation",
        found.about.question,
        el("p", el("b", found.protocol.protocol), " · ", found.rule, class_="rule"),
        _table(found),
        el("p", f"{found.brackets} · features: {features(found)}", class_="rule"),
        el("ul", marks, class_="legend") if found.pairs > 1 else None,
        _dots(found),
        el("h3", "What this can and cannot show"),
        el("ul", [el("li", text) for text in cautions(found)], class_="words"),
        lead=f"Percent. {found.delta} Rows are in the order of the question, not of the scores.",
    )


def _table(found: Comparison) -> Html:
    top = el(
        "tr",
        el("th", "", rowspan=2, scope="col"),
        el("th", el("b", found.protocol.protocol), colspan=len(SHOWN), class_="group", scope="colgroup"),
        el("th", el("b", "difference"), colspan=1 + len(COMPARED), class_="group", scope="colgroup"),
    )
    names = [*SHOWN, "Δ to row", *(f"Δ {name}" for name in COMPARED)]
    second = el("tr", [el("th", name, class_=_class(i), scope="col") for i, name in enumerate(names)])
    body = el("tbody", [_row(found, line) for line in found.lines])
    apart = el("tbody", [_row(found, line) for line in found.oracle], class_=ORACLE) if found.oracle else None
    return el("div", el("table", el("thead", top, second), body, apart, class_="scores compared"), class_="scroll", tabindex=0)


def _class(i: int) -> str:
    """Of column i: scores, the row compared with, differences."""
    return {0: "n edge", len(SHOWN): "n edge to"}.get(i, "n")


def _row(found: Comparison, line: Line) -> Html:
    runs = f"{len(line.runs)} runs ({len(found.about.splits)} × {len(found.about.seeds)})" if len(line.runs) > 1 else "single run"
    label = el(
        "th",
        el("span", line.number, class_="number"),
        el("b", line.words),
        " ",
        oracle_mark() if line.score.oracle else None,
        el("span", "reference", class_="tag") if line.stage == found.about.reference else None,
        el("small", f"training: {line.training}"),
        el("small", f"test: {line.score.modality}"),
        el("small", f"{line.stage} · {runs}"),
        el("small", "⚠ ", line.remarks, class_="remark") if line.remarks else None,
        scope="row",
    )
    cells = [score_cell(line.score, name) for name in SHOWN]
    cells += [UNDEFINED if line.against is None else line.against, *(_difference(found, line, name) for name in COMPARED)]
    return el("tr", label, [el("td", cell, class_=_class(i)) for i, cell in enumerate(cells)])


def _difference(found: Comparison, line: Line, name: str) -> Child:
    if line.differences is None:
        return UNDEFINED
    one = line.differences[name]
    if one.over.mean is None:
        return UNDEFINED
    spread = el("small", f"± {100 * one.over.std:.1f}") if one.over.std is not None else None
    said = f"{'above' if one.same_sign > 0 else 'below'} row {line.against} in all {found.pairs} pairs"
    between = el("small", one.range, class_="range") if one.range else None
    return [signed(one.over.mean), " ", spread, " ", el("b", one.mark, title=said) if one.mark else None, between]


def _dots(found: Comparison) -> Html | None:
    """mAP of every run; nothing where the protocol does not define it."""
    rows = [*(_dot_row(line) for line in found.lines), *(_dot_row(line) for line in found.oracle)]
    values = [value for row in rows for _, value in row.points]
    mean = found.protocol.values[DRAWN].mean
    if mean is None or not all(row.points for row in rows):
        return None
    drawn = dot_rows(rows, x_ticks=ticks(min(values), max(values), 5), x_label=f"{DRAWN}, %", x_text="{:.3g}".format, mark=100 * mean)
    many = "one dot per run, bar at the mean" if found.pairs > 1 else "single run per row"
    key = f"{DRAWN} by {found.protocol.protocol}: {many}, dashed line at the reference (row {found.reference.number})"
    return figure(key + ("; rings: oracle" if found.oracle else ""), drawn)


def _dot_row(line: Line) -> DotRow:
    oracle = [" ", oracle_mark()] if line.score.oracle else None
    name = Html(el("span", line.number, class_="number") + el("span", line.words, oracle))
    points = [
        (f"split {run.split}, seed {run.seed}", 100 * value)
        for run, value in zip(line.runs, line.single[DRAWN], strict=True)
        if value is not None and math.isfinite(value)
    ]
    return DotRow(name, line.words, points, line.score.oracle)
