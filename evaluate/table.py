"""Print the scores of some runs as a table in which every number stands with what it is a number of.

    python -m evaluate.table results/runs/<method>/<dataset>-<split>/seed<n>/<stage>/metrics.json [...]

In:      metrics.json of one or more runs, QUERIES beside each.
Out:     per data set and protocol a line that says gallery, valid of all queries, AP, what is averaged, how vectors were compared; below
         it one row per network with R1 to R20, mAP, mINP, each with its spread over runs and its interval over queries.
Source:  as the report (evaluate/report_page/summary.py), of which this is the score table alone.

Runs that differ only in split and seed are averaged. The targets `evaluate_...` print their runs with it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluate.protocols import PROTOCOLS
from evaluate.queries import DISTANCE, METRICS, RERANKED
from evaluate.report_page.inputs import Run, grouped, read_scores
from evaluate.report_page.summary import ScoreRow, interval_notes, score_row
from pipeline.base import cli
from pipeline.base.errors import ScoreError
from pipeline.base.files import digest_file

NAMES = {"method": str, "dataset": str, "split": str, "seed": int, "stage": str, "test_dataset": str, "test_split": str}


def run_of(path: Path) -> Run:
    """A scored run, as its metrics.json tells.

    Raises:
        ScoreError: not a metrics.json of evaluate.score, or it does not say of which run.
    """
    metrics, answers = read_scores(path)
    bad = next((name for name, kind in NAMES.items() if not isinstance(metrics.get(name), kind)), None)
    if bad is not None:
        raise ScoreError(f"{path}: does not say of which {bad} it is; delete it and score again")
    names = {name: metrics[name] for name in NAMES}
    return Run(**names, log=[], metrics=metrics, digest=digest_file(path), kept={}, answers=answers)


def table_rows(runs: Sequence[Run]) -> list[ScoreRow]:
    """Means over runs that differ in split and seed only; the headline protocol first, what was re-ranked last.

    Raises:
        ScoreError: a run is there twice.
    """
    seen = [(*run.what, run.split, run.seed, run.test_split) for run in runs]
    twice = next((one for one in seen if seen.count(one) > 1), None)
    if twice is not None:
        raise ScoreError(f"{' '.join(map(str, twice))}: given twice, so it would count twice; name each metrics.json once")
    rows = []
    for group in grouped(runs).values():
        for ranking in (DISTANCE, RERANKED):
            found = {protocol for run in group for kind, protocol in run.answers if kind == ranking}
            headline = {run.metrics["headline"] for run in group if run.metrics is not None}
            for protocol in sorted(found, key=lambda name: (name not in headline, [*PROTOCOLS, name].index(name))):
                rows.append(score_row([run for run in group if (ranking, protocol) in run.answers], protocol, ranking))
    return rows


def told(rows: Sequence[ScoreRow]) -> str:
    """The tables as text: a block for all rows that may stand below each other."""
    groups: dict[object, list[ScoreRow]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.ranking, row.protocol, row.rule, row.feature, row.scoring), []).append(row)
    return "\n\n".join(_block(group) for group in groups.values())


def _block(rows: Sequence[ScoreRow]) -> str:
    first, samples = rows[0], list(dict.fromkeys(row.sample for row in rows))
    how = first.scoring.rerank
    after = f" · RE-RANKED (k1 {how.k1}, k2 {how.k2}, weight {how.weight:g}), no headline" if first.ranking == RERANKED else ""
    shown = [name for name in METRICS if any(row.values[name].mean is not None for row in rows)] or list(METRICS[:1])
    lines = [["network", "sees", *shown, *(["over"] if len(samples) > 1 else [])]]
    for row in rows:
        numbers = [row.values[name].percent(with_interval=True) for name in shown]
        lines.append([f"{row.method} · {row.stage}", row.modality, *numbers, *([row.sample] if len(samples) > 1 else [])])
    spread = ["± sample standard deviation over runs"] if any(row.runs > 1 for row in rows) else []
    return "\n".join(
        [
            f"{first.dataset} · {first.protocol}{after}",
            f"  {first.rule}",
            f"  {' / '.join(samples)} · features: {first.feature}",
            *_aligned(lines),
            f"  {'; '.join(['percent', *interval_notes(rows), *spread])}",
        ]
    )


def _aligned(lines: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  " + "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()


def _width(text: str) -> int:
    """Columns of a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("metrics", type=Path, nargs="+", help="metrics.json of a run")
    args = arguments.parse_args(argv)
    print(told(table_rows([run_of(path) for path in args.metrics])))


if __name__ == "__main__":
    cli.run(main)
