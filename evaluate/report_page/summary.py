"""The table of scores: means over splits and seeds, as rows, as Markdown and as CSV.

In:      runs with their metrics.json.   Out: one :class:`ScoreRow` per data set, method, stage and protocol.
Source:  specs/datasets.md sections 1.3 and 3 (name the protocol, the gallery, valid of all queries, the definition of AP;
         say when one split only was run). The standard deviation is the sample's (n - 1).
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluate.report_page.inputs import Inputs, Run, grouped
from pipeline.base.errors import ScoreError

METRICS = ("R1", "R5", "R10", "R20", "mAP", "mINP")
AP_NAMES = {"hit": "AP at hits", "trapezoid": "trapezoid AP"}
COLUMNS = (
    "dataset",
    "method",
    "stage",
    "modality",
    "oracle",
    "protocol",
    "gallery",
    "queries",
    "valid",
    "ap",
    "averaged_over",
    "splits",
    "seeds",
    "runs",
)
"""First columns of the CSV; the metrics follow."""
UNDEFINED = "–"


@dataclass(frozen=True, slots=True)
class Mean:
    """Fractions over runs; None where the protocol does not define the number for every run."""

    mean: float | None
    std: float | None
    """None for a single run."""

    def percent(self, with_std: bool = True) -> str:
        """For readers: '81.2' or '81.2 ± 1.4'."""
        if self.mean is None:
            return UNDEFINED
        spread = f" ± {100 * self.std:.1f}" if with_std and self.std is not None else ""
        return f"{100 * self.mean:.1f}{spread}"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One line of the score table."""

    dataset: str
    method: str
    stage: str
    protocol: str
    description: str
    gallery_definition: str
    modality: str
    oracle: bool
    ap: str
    averaged_over: str
    gallery: str
    """Entries; a range where splits differ."""
    queries: str
    valid: str
    splits: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: int
    values: dict[str, Mean]
    cmc: tuple[float, ...]
    """Mean over runs of the part of queries answered within 1, 2, ... entries."""

    @property
    def sample(self) -> str:
        """What the mean is over, in words."""
        if self.runs == 1:
            return f"single split ({self.splits[0]}), single seed ({self.seeds[0]})"
        parts = [f"{len(self.splits)} splits" if len(self.splits) > 1 else f"split {self.splits[0]}"]
        parts.append(f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else f"seed {self.seeds[0]}")
        return f"mean ± std of {self.runs} runs: {', '.join(parts)}"

    @property
    def rule(self) -> str:
        """The protocol in one line: gallery, valid of all queries, AP."""
        over = "valid queries" if self.averaged_over == "valid" else "all queries"
        return f"gallery {self.gallery} · {self.valid}/{self.queries} queries valid · {AP_NAMES[self.ap]} · mean over {over}"


def score_rows(inputs: Inputs) -> list[ScoreRow]:
    """All lines, data sets and stages in the order they were run, protocols with the headline first."""
    rows = []
    for (dataset, _, _), runs in grouped(run for run in inputs.runs if run.metrics is not None).items():
        for protocol in inputs.protocols(dataset):
            having = [run for run in runs if run.metrics is not None and protocol in run.metrics["protocols"]]
            if having:
                rows.append(_row(having, protocol))
    return rows


def _row(runs: Sequence[Run], protocol: str) -> ScoreRow:
    first = runs[0]
    metrics: list[dict[str, Any]] = [run.metrics for run in runs if run.metrics is not None]
    found = [m["protocols"][protocol] for m in metrics]
    where = f"{first.dataset}, {first.method}, {first.stage}"
    return ScoreRow(
        dataset=first.dataset,
        method=first.method,
        stage=first.stage,
        protocol=protocol,
        description=found[0]["description"],
        gallery_definition=found[0]["gallery_definition"],
        modality=_same([_seen(m) for m in metrics], where, "modality"),
        oracle=any(m["oracle"] for m in metrics),
        ap=_same([f["ap"] for f in found], where, "AP definition"),
        averaged_over=_same([f["averaged_over"] for f in found], where, "average"),
        gallery=_range([f["gallery"] for f in found]),
        queries=_range([f["queries"] for f in found]),
        valid=_range([f["valid"] for f in found]),
        splits=tuple(dict.fromkeys(run.split for run in runs)),
        seeds=tuple(sorted({run.seed for run in runs})),
        runs=len(runs),
        values={name: _mean([f[name] for f in found]) for name in METRICS},
        cmc=tuple(statistics.fmean(column) for column in zip(*(f["cmc"] for f in found), strict=True)),
    )


def _seen(metrics: dict[str, Any]) -> str:
    """What the network saw; where sound is missing for some tracklets, for how many it was there."""
    heard = metrics.get("heard")
    if not heard or heard["with_sound"] == heard["tracklets"]:
        return str(metrics["modality"])
    return f"{metrics['modality']}, sound for {heard['with_sound']} of {heard['tracklets']} tracklets"


def _same(values: Sequence[str], where: str, what: str) -> str:
    if len(set(values)) != 1:
        raise ScoreError(
            f"{where}: runs differ in {what} ({', '.join(sorted(set(values)))}), so their mean would mean nothing; score them again"
        )
    return values[0]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _mean(values: Sequence[float | None]) -> Mean:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Mean(None, None)
    return Mean(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def headline_rows(inputs: Inputs, rows: Iterable[ScoreRow]) -> dict[str, ScoreRow]:
    """The row that stands for a data set: its first method and first protocol; a stage that was taught, else the last one.

    A stage that heard label-derived audio never stands for a data set.
    """
    methods = inputs.settings.get("methods", {})

    def taught(row: ScoreRow) -> bool:
        return bool(methods.get(row.method, {}).get("stages", {}).get(row.stage, {}).get("teacher"))

    chosen: dict[str, ScoreRow] = {}
    for row in rows:
        known = chosen.setdefault(row.dataset, row) if not row.oracle else None
        if known and (row.method, row.protocol) == (known.method, known.protocol) and taught(row) >= taught(known):
            chosen[row.dataset] = row
    return chosen


def csv_text(rows: Iterable[ScoreRow]) -> str:
    """One line per score row; numbers as fractions with 6 digits, empty where not defined."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = [column for name in METRICS for column in (name, f"{name}_std")]
    writer.writerow([*COLUMNS, *numbers])
    for row in rows:
        writer.writerow(
            [row.dataset, row.method, row.stage, row.modality, "oracle" if row.oracle else "", row.protocol]
            + [text.replace(",", "") for text in (row.gallery, row.queries, row.valid)]
            + [row.ap, row.averaged_over, " ".join(row.splits), " ".join(map(str, row.seeds)), row.runs]
            + ["" if v is None else f"{v:.6f}" for name in METRICS for v in (row.values[name].mean, row.values[name].std)]
        )
    return out.getvalue()


def markdown_text(title: str, rows: Sequence[ScoreRow], notes: Iterable[str]) -> str:
    """The score table in Markdown, percent, every line with its protocol; `notes` are paragraphs below it."""
    head = ["data set", "method · stage", "sees", "protocol", "gallery", "valid/queries", "AP", *METRICS, "over"]
    lines = [f"# {_cell(title)}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        sees = f"{row.modality} (oracle: label-derived audio)" if row.oracle else row.modality
        cells = [row.dataset, f"{row.method} · {row.stage}", sees, row.protocol, row.gallery, f"{row.valid}/{row.queries}", row.ap]
        cells += [row.values[name].percent() for name in METRICS] + [row.sample]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join([*lines, "", *(paragraph for note in notes for paragraph in (_cell(note), ""))])


def _cell(value: str) -> str:
    """Text that cannot leave its cell or become HTML."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
