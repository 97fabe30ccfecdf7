"""The table of scores: means over splits and seeds, as rows, as Markdown and as CSV.

In:      runs with their metrics.json and QUERIES.   Out: one :class:`ScoreRow` per data set, method, stage and protocol.
Source:  specs/datasets.md sections 1.3 and 3 (name the protocol, the gallery, valid of all queries, the definition of AP;
         say when one split only was run). The standard deviation is the sample's (n - 1), over runs; the interval is a bootstrap over
         queries (evaluate/bootstrap.py). Neither contains the other.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluate.bootstrap import SEED
from evaluate.queries import DISTANCE, METRICS, RERANKED, Answers, Interval, over_runs
from evaluate.report_page.inputs import Inputs, Run, grouped
from evaluate.score import ORACLE
from pipeline.base.build import build
from pipeline.base.config import ScoringConfig
from pipeline.base.errors import ScoreError

AP_NAMES = {"hit": "AP at hits", "trapezoid": "trapezoid AP"}
COLUMNS = (
    "dataset",
    "trained_on",
    "method",
    "stage",
    "modality",
    "oracle",
    "ranking",
    "protocol",
    "gallery",
    "queries",
    "valid",
    "ap",
    "averaged_over",
    "feature",
    "splits",
    "test_splits",
    "seeds",
    "runs",
    "interval_of",
    "confidence",
    "resamples",
)
"""First columns of the CSV; the metrics follow."""
UNDEFINED = "–"


@dataclass(frozen=True, slots=True)
class Mean:
    """Fractions over runs; None where the protocol does not define the number for every run."""

    mean: float | None
    std: float | None
    """Over runs; None for a single run."""
    interval: Interval = None
    """Over queries; None where none was made."""

    def percent(self, with_std: bool = True, with_interval: bool = False) -> str:
        """For readers: '81.2', '81.2 ± 1.4' or '81.2 ± 1.4 [78.0, 84.1]'."""
        if self.mean is None:
            return UNDEFINED
        spread = f" ± {100 * self.std:.1f}" if with_std and self.std is not None else ""
        return f"{100 * self.mean:.1f}{spread}" + (f" {self.range}" if with_interval and self.interval else "")

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """Mean, standard deviation, low and high end of the interval."""
        return self.mean, self.std, *(self.interval or (None, None))

    @property
    def range(self) -> str:
        """The interval for readers: '[78.0, 84.1]'; '' without one."""
        return "" if self.interval is None else "[{:.1f}, {:.1f}]".format(*(100 * end for end in self.interval))


def chosen(run: Run) -> bool:
    """Whether the run's weights are those of its best look at held-out training identities."""
    return run.kept.get("keep") == "best"


def kept_words(runs: Sequence[Run]) -> str:
    """Which weights of these runs of one stage were handed on, for example 'epoch 40, best of 12 looks on 20 held-out training
    identities', or 'last epoch'."""
    found: dict[str, list[int]] = {}
    for run in runs:
        of = run.kept
        if chosen(run):
            found.setdefault(f"best of {of['looks']} looks on {of['identities']} held-out training identities", []).append(of["epoch"])
        else:
            found.setdefault(f"last epoch; {of['remark']}" if of.get("remark") else "last epoch", [])
    out = []
    for words, epochs in found.items():
        numbers = sorted(set(epochs))
        which = f"epoch{'s'[: len(numbers) > 1]} {', '.join(map(str, numbers))}, " if numbers else ""
        out.append(which + words)
    return " / ".join(out)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One line of the score table."""

    dataset: str
    """Test data: the data set, or 'A → B' where it was trained on A and tested on B."""
    trained_on: str
    tested_on: str
    method: str
    stage: str
    ranking: str
    """'distance' or 'reranked'."""
    protocol: str
    description: str
    gallery_definition: str
    modality: str
    oracle: bool
    ap: str
    averaged_over: str
    feature: str
    """How vectors were compared, in words."""
    gallery: str
    """Entries; a range where splits differ."""
    queries: str
    valid: str
    splits: tuple[str, ...]
    """Of the training."""
    test_splits: tuple[str, ...]
    """The same, unless the test data are another set's."""
    seeds: tuple[int, ...]
    runs: int
    values: dict[str, Mean]
    cmc: tuple[float, ...]
    """Mean over runs of the part of queries answered within 1, 2, ... entries."""
    scoring: ScoringConfig

    @property
    def sample(self) -> str:
        """What the mean is over, in words."""
        parts = [_some("split", self.splits), _some("seed", self.seeds)]
        if self.trained_on != self.tested_on:
            parts.append(f"tested on {_some('split', self.test_splits)}")
        if self.runs == 1:
            return ", ".join(parts)
        whole = len(self.splits) * len(self.seeds) * (len(self.test_splits) if self.trained_on != self.tested_on else 1)
        return f"mean ± std of {self.runs} runs: {', '.join(parts)}" + ("" if self.runs == whole else ", not all pairs of them")

    @property
    def rule(self) -> str:
        """The protocol in one line: gallery, valid of all queries, AP."""
        over = "valid queries" if self.averaged_over == "valid" else "all queries"
        return f"gallery {self.gallery} · {self.valid}/{self.queries} queries valid · {AP_NAMES[self.ap]} · mean over {over}"


def _some(what: str, names: Sequence[object]) -> str:
    """'single split (0)' or '2 splits (0, 1)'."""
    return f"{f'{len(names)} {what}s' if len(names) > 1 else f'single {what}'} ({', '.join(map(str, names))})"


def interval_notes(rows: Sequence[ScoreRow], values: Iterable[Mean] | None = None) -> list[str]:
    """What brackets in a table of these rows are, and why some or all are missing.

    Args:
        values: the numbers that are shown; those of the rows unless something else is.
    """
    shown = [value for value in (values or (v for row in rows for v in row.values.values())) if value.mean is not None]
    notes = []
    for how in dict.fromkeys(row.scoring for row in rows):
        one, many = ("query", "queries") if how.unit == "query" else ("identity", "identities, each with all its queries")
        alike = f"where each {one} that can be drawn scores the same"
        if not how.resamples:
            notes.append("no intervals (scoring.resamples is 0)")
        elif any(value.interval for value in shown):
            notes.append(f"[ ] {100 * how.confidence:g} % bootstrap interval over {many}, {how.resamples:,} draws, seed {SEED}")
            notes += [f"none {alike}"] if any(value.interval is None for value in shown) else []
        elif shown:
            notes.append(f"no intervals {alike}")
    return notes


def score_rows(inputs: Inputs, ranking: str = DISTANCE) -> list[ScoreRow]:
    """All lines, data sets and stages in the order they were run, protocols with the headline first.

    Raises:
        ScoreError: as :func:`score_row`, or runs were scored with different settings.
    """
    rows: list[ScoreRow] = []
    for runs in grouped(run for run in inputs.runs if run.metrics is not None).values():
        for protocol in inputs.protocols(runs[0].test_dataset):
            having = [run for run in runs if (ranking, protocol) in run.answers]
            if having:
                rows.append(score_row(having, protocol, ranking))
    if len({row.scoring for row in rows}) > 1:
        raise ScoreError("runs were scored with different settings of scoring, so their rows cannot stand in one table; score them again")
    return rows


def score_row(runs: Sequence[Run], protocol: str, ranking: str = DISTANCE) -> ScoreRow:
    """Mean over some runs of one stage, all scored by `protocol`.

    Raises:
        ScoreError: they differ in what the network saw, in the protocol's rules, or in the settings of scoring.
    """
    first = runs[0]
    metrics: list[dict[str, Any]] = [run.metrics for run in runs if run.metrics is not None]
    found = [m[RERANKED if ranking == RERANKED else "protocols"][protocol] for m in metrics]
    where = f"{first.tested}, {first.method}, {first.stage}"
    how = [json.dumps(m["scoring"], sort_keys=True) for m in metrics]
    scoring = json.loads(_same(how, where, "settings of scoring"))
    scoring.pop("seed")
    averaged_over = _same([f["averaged_over"] for f in found], where, "average")
    intervals = _intervals(runs, protocol, ranking, averaged_over, build(ScoringConfig, scoring, "scoring"))
    return ScoreRow(
        dataset=first.tested,
        trained_on=first.dataset,
        tested_on=first.test_dataset,
        method=first.method,
        stage=first.stage,
        ranking=ranking,
        protocol=protocol,
        description=found[0]["description"],
        gallery_definition=found[0]["gallery_definition"],
        modality=_same([_seen(m) for m in metrics], where, "modality") + _sounding(metrics),
        oracle=any(m["oracle"] for m in metrics),
        ap=_same([f["ap"] for f in found], where, "AP definition"),
        averaged_over=averaged_over,
        feature=_same([_feature(m["feature"]) for m in metrics], where, "features"),
        gallery=_range([f["gallery"] for f in found]),
        queries=_range([f["queries"] for f in found]),
        valid=_range([f["valid"] for f in found]),
        splits=tuple(dict.fromkeys(run.split for run in runs)),
        test_splits=tuple(dict.fromkeys(run.test_split for run in runs)),
        seeds=tuple(sorted({run.seed for run in runs})),
        runs=len(runs),
        values={name: replace(mean_of([f[name] for f in found]), interval=intervals[name]) for name in METRICS},
        cmc=tuple(statistics.fmean(column) for column in zip(*(f["cmc"] for f in found), strict=True)),
        scoring=build(ScoringConfig, scoring, "scoring"),
    )


def _intervals(runs: Sequence[Run], protocol: str, ranking: str, averaged_over: str, how: ScoringConfig) -> dict[str, Interval]:
    by_split: dict[str, list[Answers]] = {}
    for run in runs:
        by_split.setdefault(run.test_split, []).append(run.answers[ranking, protocol].over(averaged_over))
    return over_runs(runs[0].test_dataset, by_split, how)


def _feature(feature: Mapping[str, Any]) -> str:
    cameras = f", camera embedding: {feature['camera_embedding']}" if feature.get("camera_embedding") else ""
    return f"{feature['dim']} values, {'length 1' if feature['normalised'] else 'as they are'}, {feature['distance']}{cameras}"


def _seen(metrics: dict[str, Any]) -> str:
    """What the network saw."""
    words = str(metrics["modality"])
    if metrics["oracle"] and ORACLE not in words:
        words = f"{ORACLE} {words}"  # whoever wrote this metrics.json: the word goes wherever the number goes
    return words


def _sounding(metrics: Sequence[dict[str, Any]]) -> str:
    """For how many tracklets there was sound, where it is missing for some."""
    heard = [m["heard"] for m in metrics if m.get("heard")]
    if all(one["with_sound"] == one["tracklets"] for one in heard):
        return ""
    return f", sound for {_range([one['with_sound'] for one in heard])} of {_range([one['tracklets'] for one in heard])} tracklets"


def _same(values: Sequence[str], where: str, what: str) -> str:
    if len(set(values)) != 1:
        raise ScoreError(
            f"{where}: runs differ in {what} ({', '.join(sorted(set(values)))}), so their mean would mean nothing; score them again"
        )
    return values[0]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def mean_of(values: Sequence[float | None]) -> Mean:
    """Mean and sample standard deviation; undefined where one of the values is."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Mean(None, None)
    return Mean(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def headline_rows(inputs: Inputs, rows: Iterable[ScoreRow]) -> dict[str, ScoreRow]:
    """The row that stands for a data set: its first method and first protocol; a stage that was taught, else the last one.

    Never a row of label-derived audio, of an untrained network, of a control (another companion than the method's own), of another test
    set than the training's, or after re-ranking.
    Among taught stages one whose teacher hears goes first, and one that changes no setting of the method.
    """
    chosen: dict[str, tuple[tuple[bool, bool, bool], ScoreRow]] = {}
    for row in rows:
        if row.trained_on != row.tested_on or row.ranking != DISTANCE:
            continue
        method = inputs.method(row.method)
        this = method.stages[row.stage]
        heard = {method.companion_of(row.stage), method.test_companion_of(row.stage) if this.hears else method.companion}
        if row.oracle or not this.epochs or heard != {method.companion}:
            continue
        claim = (bool(this.teacher), bool(this.teacher and method.stages[this.teacher].hears), not this.changes)
        best, known = chosen.setdefault(row.dataset, (claim, row))
        if (row.method, row.protocol) == (known.method, known.protocol) and claim >= best:
            chosen[row.dataset] = claim, row
    return {dataset: row for dataset, (_, row) in chosen.items()}


def csv_text(rows: Iterable[ScoreRow]) -> str:
    """One line per score row; numbers as fractions with 6 digits, empty where not defined."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = [column for name in METRICS for column in (name, f"{name}_std", f"{name}_low", f"{name}_high")]
    writer.writerow([*COLUMNS, *numbers])
    for row in rows:
        writer.writerow(
            [*map(sheet_cell, (row.tested_on, row.trained_on, row.method, row.stage, row.modality)), ORACLE if row.oracle else ""]
            + [row.ranking, sheet_cell(row.protocol)]
            + [text.replace(",", "") for text in (row.gallery, row.queries, row.valid)]
            + [row.ap, row.averaged_over, row.feature, sheet_cell(" ".join(row.splits)), sheet_cell(" ".join(row.test_splits))]
            + [" ".join(map(str, row.seeds)), row.runs, row.scoring.unit, row.scoring.confidence, row.scoring.resamples]
            + ["" if v is None else f"{v:.6f}" for name in METRICS for v in row.values[name].numbers]
        )
    return out.getvalue()


def markdown_text(title: str, rows: Sequence[ScoreRow], notes: Iterable[str], first: Sequence[str] = ()) -> str:
    """The score table in Markdown, percent, every line with its protocol.

    Args:
        notes: paragraphs below the table.
        first: blocks of Markdown that stand before it.
    """
    head = ["data set", "method · stage", "sees", "protocol", "gallery", "valid/queries", "AP", "mean over", *METRICS, "over", "features"]
    head.append("ranked by")
    lines = []
    for row in rows:
        cells = [row.dataset, f"{row.method} · {row.stage}", row.modality, row.protocol, row.gallery, f"{row.valid}/{row.queries}", row.ap]
        cells.append(f"{row.averaged_over} queries")
        numbers = [row.values[name].percent(with_interval=True) for name in METRICS]
        lines.append([*cells, *numbers, row.sample, row.feature, "distance" if row.ranking == DISTANCE else "re-ranked distance"])
    blocks = [f"# {markdown_cell(title)}", *first, *(["## Scores"] if first else []), markdown_table(head, lines)]
    return "\n\n".join([*blocks, *map(markdown_cell, (*([". ".join(interval_notes(rows))] if rows else []), *notes))]) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text in Markdown, without a final line end."""
    lines = [f"| {' | '.join(map(markdown_cell, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def markdown_cell(value: str) -> str:
    """Text that cannot leave its cell, nor become HTML, a link or a picture (which viewers fetch)."""
    escaped = "".join(f"\\{c}" if c in "\\|[]`" else c for c in value.replace("&", "&amp;").replace("<", "&lt;"))
    return " ".join(escaped.split())


def sheet_cell(value: str) -> str:
    """Text that a spreadsheet does not take for a formula: behind an apostrophe where it begins as one does."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
