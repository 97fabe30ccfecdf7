"""Line charts and dot rows as inline SVG; colours come from the page's style sheet, so they follow light and dark.

In:      named series of (x, y), or named values.   Out: SVG markup.
Source:  ours. Every series has a colour and a dash pattern, because not everyone sees colours and some people print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluate.report_page.markup import Html, el

SIZE = (380, 230)
"""Width and height in the units of the text size: a chart is shown about this wide."""
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 38
STYLES = 6
"""Colours and dash patterns in page.css. As many series again are thin and dotted, as many after those broad and pale; then the
first styles come back."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0
    faint: bool = False
    """A single run behind the mean of several."""


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that cover low..high (1, 2 or 5 times a power of ten apart)."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    y_text: Callable[[float], str] = "{:g}".format,
    points: bool = False,
    size: tuple[int, int] = SIZE,
) -> Html:
    """One chart with a frame, a grid and axis labels.

    Args:
        title: read out by screen readers, and shown when pointed at.
        series: at least one with at least one point; y that is not finite is left out.
        x_ticks, y_ticks: labelled positions; the first and last ones are the edges of the plot.
        y_text: label of a y position.
        points: mark each point and give it a text to point at.
    """
    x_span, y_span = (x_ticks[-1] - x_ticks[0]) or 1.0, (y_ticks[-1] - y_ticks[0]) or 1.0
    width, height = size
    right, bottom = width - RIGHT, height - BOTTOM

    def at_x(value: float) -> str:
        return f"{LEFT + (value - x_ticks[0]) / x_span * (right - LEFT):.1f}"

    def at_y(value: float) -> str:
        return f"{bottom - (value - y_ticks[0]) / y_span * (bottom - TOP):.1f}"

    grid = [el("line", x1=LEFT, x2=right, y1=at_y(v), y2=at_y(v), class_="base" if v == y_ticks[0] else None) for v in y_ticks]
    labels = [el("text", y_text(v), x=LEFT - 7, y=f"{float(at_y(v)) + 3.5:.1f}", text_anchor="end") for v in y_ticks]
    labels += [el("text", f"{v:g}", x=at_x(v), y=bottom + 16, text_anchor="middle") for v in x_ticks]
    labels.append(el("text", x_label, x=(LEFT + right) / 2, y=height - 4, text_anchor="middle", class_="axis"))
    drawn: list[Html] = []
    for one in sorted(series, key=lambda s: not s.faint):
        known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
        path = " ".join(f"{'L' if i else 'M'}{at_x(x)} {at_y(y)}" for i, (x, y) in enumerate(known))
        drawn.append(el("path", d=path, class_=_style(one.style) + (" faint" if one.faint else "")))
        if points or len(known) == 1:
            drawn += [
                el(
                    "circle",
                    el("title", f"{one.name}: {x_label} {x:g}: {y_text(y)}"),
                    cx=at_x(x),
                    cy=at_y(y),
                    r=2.6,
                    class_=_style(one.style),
                )
                for x, y in known
                if not one.faint
            ]
    return el(
        "svg",
        el("title", title),
        el("g", grid, class_="grid"),
        el("g", labels, class_="labels"),
        drawn,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
        class_="chart",
    )


def _style(style: int) -> str:
    """Class names of a series' colour and dash pattern."""
    return f"s{style % STYLES}" + ("", " again", " third")[style // STYLES % 3]


def legend(names: Sequence[str]) -> Html:
    """Names beside the line that stands for them, in the order of their styles."""
    return el(
        "ul",
        [
            el(
                "li",
                el("svg", el("path", d="M0 5 H22", class_=_style(i)), viewBox="0 0 22 10", width=22, height=10, aria_hidden="true"),
                " ",
                name,
            )
            for i, name in enumerate(names)
        ],
        class_="legend",
    )


def figure(caption: str, *parts: Html) -> Html:
    """A chart under its heading."""
    return el("figure", el("figcaption", caption), *parts)


DOTS = (400, 34)
"""Width and height of one dot row in the units of the text size."""
SIDE = 16
"""Units left free at both ends of a dot row, for the labels of its axis."""
SPREAD = 4
"""Units by which dots of one row lie apart in height, so that equal values do not hide each other."""


@dataclass(frozen=True, slots=True)
class DotRow:
    """Values under a name: a dot each, and a bar at their mean."""

    name: Html
    """Stands beside the dots, or above them on a narrow screen."""
    title: str
    """The name as plain text."""
    points: Sequence[tuple[str, float]]
    """(what it is a value of, value)."""
    hollow: bool = False
    """Drawn as rings: not comparable with the others."""


def dot_rows(rows: Sequence[DotRow], *, x_ticks: Sequence[float], x_label: str, x_text: Callable[[float], str], mark: float) -> Html:
    """Rows of dots over one axis.

    Args:
        rows: each with at least one point; hollow ones last.
        x_ticks: labelled positions; the first and last ones are the edges.
        x_text: label of a position.
        mark: where a dashed line runs through all rows.
    """
    width, height = DOTS
    span = (x_ticks[-1] - x_ticks[0]) or 1.0

    def at(value: float) -> str:
        return f"{SIDE + (value - x_ticks[0]) / span * (width - 2 * SIDE):.1f}"

    grid = [el("line", x1=at(v), x2=at(v), y1=0, y2=height) for v in x_ticks]
    grid.append(el("line", x1=at(mark), x2=at(mark), y1=0, y2=height, class_="mark"))
    out: list[Html] = []
    for row in rows:
        values = [value for _, value in row.points]
        mean = sum(values) / len(values)
        said = f"{row.title}: {x_label} {', '.join(map(x_text, values))}" + (f"; mean {x_text(mean)}" if len(values) > 1 else "")
        dots = [
            el("circle", el("title", f"{what}: {x_text(value)}"), cx=at(value), cy=f"{height / 2 + SPREAD * (i % 3 - 1):.1f}", r=3.4)
            for i, (what, value) in enumerate(row.points)
        ]
        bar = el("line", x1=at(mean), x2=at(mean), y1=height / 2 - 11, y2=height / 2 + 11, class_="mean") if len(values) > 1 else None
        drawn = el(
            "svg", el("g", grid, class_="grid"), bar, dots, viewBox=f"0 0 {width} {height}", role="img", aria_label=said, class_="chart"
        )
        out.append(el("li", el("span", row.name), drawn, class_="hollow" if row.hollow else None))
    labels = [el("text", x_text(v), x=at(v), y=13, text_anchor="middle") for v in x_ticks]
    labels.append(el("text", x_label, x=width / 2, y=31, text_anchor="middle", class_="axis"))
    axis = el("svg", el("g", labels, class_="labels"), viewBox=f"0 0 {width} {height}", aria_hidden="true", class_="chart")
    return el("ol", out, el("li", el("span"), axis), class_="dots")
