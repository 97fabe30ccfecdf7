"""HTML that cannot be injected into: text is escaped unless it was made here.

In:      tag names and attributes from our own code; text from anywhere.   Out: :class:`Html`.
Source:  ours. Names of tracklets, paths and settings come from other people's files, so escaping is a type, not a habit.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

VOID = frozenset({"meta", "img", "line", "path"})
"""Elements without content; written with a slash, without which SVG inside HTML would swallow what follows."""


class Html(str):
    """Text that is markup already. Only this module and files of ours make it."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"


def text(child: Child) -> Html:
    """Escape what is not markup yet; join what is a sequence; None is nothing."""
    if child is None:
        return Html("")
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int):
        return Html(html.escape(str(child), quote=True))
    return Html("".join(text(part) for part in child))


def el(tag: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """One element. `class_` is the attribute class, `_` in a name is '-', True gives a bare attribute, None or False none."""
    given = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        given.append(f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"')
    opening = f"<{tag}{''.join(given)}"
    return Html(f"{opening}/>" if tag in VOID else f"{opening}>{text(children)}</{tag}>")


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], *, numeric: Iterable[int] = (), class_: str = "") -> Html:
    """A plain table that scrolls sideways on a narrow screen; columns listed in `numeric` are set flush right."""
    right = set(numeric)
    flush = ["n" if i in right else None for i in range(1 + max(right, default=0))]

    def of(i: int) -> str | None:
        return flush[i] if i < len(flush) else None

    top = el("thead", el("tr", [el("th", cell, class_=of(i), scope="col") for i, cell in enumerate(head)]))
    body = el("tbody", [el("tr", [el("td", cell, class_=of(i)) for i, cell in enumerate(row)]) for row in rows])
    return el("div", el("table", top, body, class_=class_ or None), class_="scroll", tabindex=0)


def section(name: str, title: str, *children: Child, lead: Child = None) -> Html:
    """A headed part of the page, with an anchor."""
    return el("section", el("h2", title), el("p", lead, class_="lead") if lead else None, children, id=name)
