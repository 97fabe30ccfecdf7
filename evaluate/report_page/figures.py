"""Line charts as inline SVG, drawn from numbers; colours come from the page's style sheet, so they follow light and dark.

In:      named series of (x, y).   Out: SVG markup.
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
"""Colours and dash patterns in page.css; further series start again."""


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
        drawn.append(el("path", d=path, class_=f"s{one.style % STYLES}" + (" faint" if one.faint else "")))
        if points or len(known) == 1:
            drawn += [
                el(
                    "circle",
                    el("title", f"{one.name}: {x_label} {x:g}: {y_text(y)}"),
                    cx=at_x(x),
                    cy=at_y(y),
                    r=2.6,
                    class_=f"s{one.style % STYLES}",
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


def legend(names: Sequence[str]) -> Html:
    """Names beside the line that stands for them, in the order of their styles."""
    return el(
        "ul",
        [
            el(
                "li",
                el("svg", el("path", d="M0 5 H22", class_=f"s{i % STYLES}"), viewBox="0 0 22 10", width=22, height=10, aria_hidden="true"),
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
