"""Put every promise of docs/reliability.md through its full test: `python -m tests.torture [TOPIC ...] [--scale X] [--docs]`.

Topics are the names behind `torture_`. Each module there has `figures(folder, scale)`, which yields :class:`Figure`. Exit status 1 if a promise
did not hold or a control went unnoticed. `--docs` writes the figures of the topics that ran into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.figures import Figure

ROOT = Path(__file__).resolve().parents[2]
TOPICS = sorted(path.stem.removeprefix("torture_") for path in Path(__file__).parent.glob("torture_*.py"))
PAGE = ROOT / "docs" / "reliability.md"


def table(figures: list[Figure]) -> str:
    """Rows for the page, one for each promise."""
    heading = ["| promise | held | negative control | caught | measured |", "|---|---|---|---|---|"]
    rows = [f"| {f.promise} | {f.held:,}/{f.tried:,} | {f.control} | {f.caught:,}/{f.controls:,} | {f.seen} |" for f in figures]
    return "\n".join(heading + rows)


def write(topic: str, figures: list[Figure]) -> None:
    """Put one topic's figures between its marks in the page.

    Raises:
        SystemExit: the page has no such marks.
    """
    text = PAGE.read_text()
    marks = re.compile(rf"(<!-- {topic} -->\n).*?(<!-- /{topic} -->)", re.DOTALL)
    if not marks.search(text):
        sys.exit(f"{PAGE}: no part for '{topic}'; add the marks <!-- {topic} --> and <!-- /{topic} -->")
    told = f"{table(figures)}\n\nMeasured {datetime.date.today()}, {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}.\n"
    PAGE.write_text(marks.sub(lambda found: f"{found[1]}{told}{found[2]}", text))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("topics", nargs="*", metavar="TOPIC", help=f"which of {', '.join(TOPICS)} (default: all)")
    arguments.add_argument("--scale", type=float, default=1.0, help="amount of work; 1 is what docs/reliability.md reports")
    arguments.add_argument("--docs", action="store_true", help="write the figures into docs/reliability.md")
    chosen = arguments.parse_args()
    if unknown := sorted(set(chosen.topics) - set(TOPICS)):
        arguments.error(f"unknown topic {', '.join(unknown)}; known: {', '.join(TOPICS)}")
    broken = 0
    for topic in chosen.topics or TOPICS:
        start = time.monotonic()
        made = []
        with tempfile.TemporaryDirectory(prefix=f"torture-{topic}-") as folder:
            for figure in importlib.import_module(f"tests.torture.torture_{topic}").figures(Path(folder), chosen.scale):
                made.append(figure)
                verdict = "held" if figure.good() else "BROKEN"
                told = (
                    f"{figure.promise}: {figure.held:,}/{figure.tried:,}; caught {figure.caught:,}/{figure.controls:,} ({figure.control})"
                )
                print(f"{verdict:<7}{topic:<10}{told}{'; ' if figure.seen else ''}{figure.seen}", flush=True)
        print(f"       {topic:<10}{time.monotonic() - start:.0f} s", flush=True)
        broken += sum(not figure.good() for figure in made) + (not made)
        if chosen.docs:
            write(topic, made)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
