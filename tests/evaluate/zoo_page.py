"""The table of docs/wrong_evaluators.md: ``python -m tests.evaluate.zoo_page`` rewrites it, a test finds it stale."""

from __future__ import annotations

import re
from pathlib import Path

from evaluate.protocols import apply
from evaluate.report_page.summary import markdown_table
from evaluate.variants import METRICS, VARIANTS, Printed, case_of, ours
from tests.evaluate.bad_evaluators import RIGHT, frames, scene

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wrong_evaluators.md"
HEAD = ("evaluator", *METRICS, "valid queries", "as a rule", "what it does", "where it was seen")


def table() -> str:
    """Every variant on the scene of the tests, under the right numbers."""
    made = scene()
    case = case_of(RIGHT, made, frames(made))
    rows = [["right", *_numbers(ours(apply(RIGHT, made))), "", "the protocol market, as evaluate.score has it", ""]]
    for name, one in VARIANTS.items():
        rows.append([name, *_numbers(one.prints(case)), one.effect, one.does, one.seen])
    return markdown_table(HEAD, rows)


def _numbers(made: Printed) -> list[str]:
    return [*(f"{100 * made.values[name]:.1f}" for name in METRICS), f"{made.valid} of {made.queries}"]


def rewritten(text: str) -> str:
    """The page with its table made again."""
    part = table()
    return re.sub(r"(<!-- zoo -->\n).*?(<!-- /zoo -->)", lambda found: f"{found[1]}{part}\n{found[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
