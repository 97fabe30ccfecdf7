"""Every number of a finished workflow run can be followed back to its sources, and all of it is as it was noted (slow)."""

from __future__ import annotations

import pytest

from evaluate import trace
from evaluate.chain import Chain

pytestmark = pytest.mark.slow


def test_every_scored_run_of_a_report_passes_the_check(tiny_run):
    runs = sorted(tiny_run[0].glob("results/runs/*/*/*/*/metrics.json"))
    assert len(runs) == 3
    assert {str(path): told for path in runs if (told := trace.check(Chain(path, {})))} == {}
    page = (tiny_run[0] / "results/report.html").read_text()
    assert all(trace.digest_file(path)[:16] in page for path in runs) and "python -m evaluate.trace" in page
