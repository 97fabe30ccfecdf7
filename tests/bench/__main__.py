"""Run every benchmark of this folder and print one table.

`python -m tests.bench [TOPIC ...] [--scale X]`: topics are the names behind `bench_`; scale makes the work larger or smaller.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from pathlib import Path

TOPICS = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("topics", nargs="*", default=TOPICS, help=f"which of {', '.join(TOPICS)}")
    arguments.add_argument("--scale", type=float, default=1.0, help="amount of work; 1 is seconds per row")
    chosen = arguments.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}; CPU time of one process unless said otherwise"
    )
    print(f"{'topic':<13}{'what':<58}{'ours':>12}{'baseline':>12}  {'unit':<14}{'ratio':>7}  baseline is")
    for topic in chosen.topics:
        for row in importlib.import_module(f"tests.bench.bench_{topic}").rows(chosen.scale):
            print(
                f"{topic:<13}{row['what']:<58}{row['ours']:>12.4g}{row['baseline']:>12.4g}  {row['unit']:<14}{row['ratio']:>7.2f}  {row['baseline_is']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
