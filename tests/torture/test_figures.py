"""A figure that counts nothing, or whose control went unnoticed, is not good; the page has a part for each topic."""

from __future__ import annotations

import re

import pytest

from tests.torture import __main__ as torture
from tests.torture.figures import Figure


@pytest.mark.parametrize(
    ("tried", "held", "controls", "caught", "good"),
    [(2, 2, 1, 1, True), (2, 1, 1, 1, False), (2, 2, 1, 0, False), (0, 0, 1, 1, False), (2, 2, 0, 0, False)],
)
def test_good_means_that_all_held_and_every_control_was_caught(tried, held, controls, caught, good):
    assert Figure("a promise", tried, held, "a control", controls, caught).good() is good


def test_every_topic_has_its_figures_on_the_page():
    page = torture.PAGE.read_text()
    parts = {topic: re.search(rf"<!-- {topic} -->\n(.*?)<!-- /{topic} -->", page, re.DOTALL) for topic in torture.TOPICS}
    assert [topic for topic, part in parts.items() if part is None or "\nMeasured " not in part[1]] == []


def test_the_page_shows_no_promise_that_did_not_hold():
    rows = re.findall(r"^\| .*? \| ([\d,]+)/([\d,]+) \| .*? \| ([\d,]+)/([\d,]+) \|", torture.PAGE.read_text(), re.MULTILINE)
    assert rows and [row for row in rows if row[0] != row[1] or row[2] != row[3]] == []


def test_figures_are_written_between_the_marks_of_their_topic_and_nowhere_else(tmp_path, monkeypatch):
    page = tmp_path / "reliability.md"
    page.write_text("a\n<!-- x -->\nstale\n<!-- /x -->\n<!-- y -->\nkept\n<!-- /y -->\n")
    monkeypatch.setattr(torture, "PAGE", page)
    torture.write("x", [Figure("it holds", 1200, 1200, "it is broken", 1, 1, "0.1 s")])
    text = page.read_text()
    assert "| it holds | 1,200/1,200 | it is broken | 1/1 | 0.1 s |" in text
    assert "stale" not in text and "<!-- y -->\nkept\n<!-- /y -->" in text
    with pytest.raises(SystemExit, match="no part for 'z'"):
        torture.write("z", [])
