"""`snakemake --report` on a finished run: one page with the scores, which needs no network (slow)."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.conftest import snakemake

pytestmark = pytest.mark.slow

TINY = str(REPOSITORY / "workflow/config/tiny.yaml")


def test_the_page_holds_the_scores_and_fetches_nothing(tiny_run, tmp_path):
    page = tmp_path / "workflow.html"
    done = snakemake(tiny_run[0], "--configfile", TINY, "--report", str(page), "--", "all")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Adding report.html" in done.stdout and "Adding scores.csv" in done.stdout
    text = page.read_text()
    assert "results/report.html" in text and "results/report/scores.csv" in text
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", text)


def test_there_is_none_before_a_run(tmp_path):
    done = snakemake(tmp_path, "--configfile", TINY, "--report", str(tmp_path / "workflow.html"), "--", "all")
    assert done.returncode != 0 and not (tmp_path / "workflow.html").exists()
