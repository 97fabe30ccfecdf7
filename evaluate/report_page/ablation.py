"""The table of an ablation: stages of one method over the same splits and seeds, each compared with another run by run.

In:      Inputs with an Ablation.   Out: :class:`Comparison`, and the same as Markdown and CSV.
Source:  specs/dubbernet.md sections 7.4 and 10. Ours: differences are paired over (split, seed), because what an easy split
         gives to all rows is no difference between them; a row that heard label-derived audio at test is compared with nothing.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from evaluate.queries import Answers, over_runs
from evaluate.report_page.inputs import Ablation, Inputs, Run
from evaluate.report_page.summary import (
    AP_NAMES,
    ORACLE,
    UNDEFINED,
    Mean,
    ScoreRow,
    chosen,
    interval_notes,
    markdown_cell,
    markdown_table,
    mean_of,
    score_row,
    sheet_cell,
)
from pipeline.base.config import CompanionConfig
from pipeline.base.errors import ScoreError, did_you_mean

SHOWN = ("R1", "R5", "mAP", "mINP")
COMPARED = ("mAP", "R1")
ABOVE, BELOW = "▲", "▼"
POLICIES = {
    "id_speaker": "a speaker per identity",
    "shuffled": "shuffled speakers",
    "random_clip": "random clips",
    "single_speaker": "one speaker for all",
    "silence": "silence",
    "noise": "noise",
    "recorded": "recorded sound",
}
"""What is heard in training, in words, by policy of the alignment."""
UNLABELLED = ("recorded", "silence", "noise")
"""Policies that do not look at identity labels."""


def signed(fraction: float) -> str:
    """In points of percent, with its sign: '+1.2', '−0.3'."""
    points = round(100 * fraction, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


@dataclass(frozen=True, slots=True)
class Difference:
    """A score minus that of the row it is compared with, over pairs of runs; in fractions."""

    over: Mean
    same_sign: int
    """1 or -1 where there are several pairs and the difference is above or below 0 in all of them, else 0."""

    @property
    def mark(self) -> str:
        """A sign for readers, '' where pairs disagree or there is only one."""
        return {1: ABOVE, -1: BELOW, 0: ""}[self.same_sign]

    def points(self) -> str:
        """In points of percent: '+1.2 ± 0.3 [−0.4, +2.9] ▲'."""
        if self.over.mean is None:
            return UNDEFINED
        spread = "" if self.over.std is None else f" ± {100 * self.over.std:.1f}"
        return " ".join(filter(None, (f"{signed(self.over.mean)}{spread}", self.range, self.mark)))

    @property
    def range(self) -> str:
        """The interval over queries in points, with signs: '[−0.4, +2.9]'; '' without one."""
        return "" if self.over.interval is None else "[{}, {}]".format(*map(signed, self.over.interval))


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    number: int
    """Place in the table, from 1."""
    stage: str
    words: str
    training: str
    """What it hears in training, in words."""
    score: ScoreRow
    """By the headline protocol; `modality` says what it has before it at test time."""
    runs: list[Run]
    """In order of split and seed, the same for every line."""
    single: dict[str, list[float | None]]
    """By metric: the score of each run."""
    against: int | None
    """Number of the row it is compared with; None for the reference itself and where label-derived audio was heard at test."""
    differences: dict[str, Difference] | None
    """By metric of COMPARED; None where `against` is."""
    remarks: str | None
    """What the training log remarks, in one sentence."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole table."""

    about: Ablation
    protocol: ScoreRow
    """The reference's: protocol, gallery, queries, AP and so on hold for every line."""
    lines: list[Line]
    """In the ablation's order, without the following ones."""
    oracle: list[Line]
    """Lines that heard label-derived audio at test."""
    dubbed: bool
    """Whether any line learned from sound that was allotted by label."""

    @property
    def pairs(self) -> int:
        """Runs of each line."""
        return len(self.about.splits) * len(self.about.seeds)

    @property
    def sample(self) -> str:
        """Splits and seeds, in words."""
        splits, seeds = self.about.splits, self.about.seeds
        if self.pairs == 1:
            return f"single run per row: split {splits[0]}, seed {seeds[0]}"
        return (
            f"{self.pairs} runs per row: {_count('split', splits)} ({', '.join(splits)}) × {_count('seed', seeds)} "
            f"({', '.join(map(str, seeds))})"
        )

    @property
    def rule(self) -> str:
        """The protocol line that stands above the table, after the protocol's name."""
        row = self.protocol
        over = "valid queries" if row.averaged_over == "valid" else "all queries"
        return f"gallery {row.gallery} · {row.valid}/{row.queries} queries valid · {AP_NAMES[row.ap]} · mean over {over} · {self.sample}"

    @property
    def reference(self) -> Line:
        """The row that others are compared with where nothing else is said."""
        return next(line for line in self.lines if line.stage == self.about.reference)

    @property
    def brackets(self) -> str:
        """What the intervals are, or why there are none."""
        rows = [line.score for line in (*self.lines, *self.oracle)]
        of = [row.values[name] for row in rows for name in SHOWN]
        differences = [one.over for line in self.lines if line.differences for one in line.differences.values()]
        paired = " (of differences: query by query)" if any(one.interval for one in differences) else ""
        return "; ".join(interval_notes(rows, [*of, *differences])) + paired

    @property
    def has_intervals(self) -> bool:
        """Whether any number of the table has one."""
        return any(value.interval for line in (*self.lines, *self.oracle) for value in line.score.values.values())

    @property
    def delta(self) -> str:
        """What the differences are to, in one sentence."""
        others = [line for line in self.lines if line.against not in (None, self.reference.number)]
        told = "".join(f"; row {line.number}: to row {line.against}" for line in others)
        return f"Δ: difference to row {self.reference.number} in points{told}."


def _count(what: str, of: Sequence[object]) -> str:
    return f"{len(of)} {what}{'s' if len(of) > 1 else ''}"


def compare(inputs: Inputs) -> Comparison | None:
    """The ablation of `inputs`, or None.

    Raises:
        ScoreError: a stage lacks the score of a run, stages were scored by different rules, or one would be compared with itself,
            or with one that heard label-derived audio at test.
    """
    about = inputs.ablation
    if about is None:
        return None
    protocol = next(iter(inputs.protocols(about.dataset)), None)
    if protocol is None:
        raise ScoreError(f"ablation {about.name}: nothing was scored on {about.dataset}; score its stages first")
    runs = {stage: _runs(inputs, about, stage, protocol) for stage in about.rows}
    rows = {stage: score_row(found, protocol) for stage, found in runs.items()}
    reference = rows[about.reference]
    if reference.oracle:
        raise ScoreError(
            f"ablation {about.name}: the reference '{about.reference}' heard label-derived audio at test, and nothing may be compared with "
            "that; name another"
        )
    for stage, row in rows.items():
        if row.rule != reference.rule:
            raise ScoreError(
                f"ablation {about.name}: '{stage}' was scored with {row.rule}, the reference '{about.reference}' with {reference.rule}; "
                "score them by one protocol on the same splits"
            )
        if row.scoring != reference.scoring:
            raise ScoreError(
                f"ablation {about.name}: '{stage}' and '{about.reference}' were scored with different settings of scoring; score them again"
            )
    single = {stage: _single(found, protocol) for stage, found in runs.items()}
    partner = _partners(about, rows)
    numbers = {stage: i for i, stage in enumerate(sorted(rows, key=lambda stage: rows[stage].oracle), 1)}  # else in the order given
    lines = [
        Line(
            number=number,
            stage=stage,
            words=about.rows[stage],
            training=_training(inputs, about, stage),
            score=rows[stage],
            runs=runs[stage],
            single=single[stage],
            against=numbers[partner[stage]] if stage in partner else None,
            differences=_differences(stage, partner[stage], single, runs, reference) if stage in partner else None,
            remarks=_remarks(runs[stage]),
        )
        for stage, number in numbers.items()
    ]
    method = inputs.method(about.method)
    learned = {method.companion_of(stage) for row in about.rows for stage in method.needed(row) if method.stages[stage].hears}
    return Comparison(
        about,
        reference,
        [line for line in lines if not line.score.oracle],
        [line for line in lines if line.score.oracle],
        any(inputs.companion(name).alignment.policy not in UNLABELLED for name in learned),
    )


def _partners(about: Ablation, rows: Mapping[str, ScoreRow]) -> dict[str, str]:
    """By stage that is compared: the stage it is compared with.

    Raises:
        ScoreError: `against` names no row, a row twice, or one that heard label-derived audio at test.
    """
    for stage, other in about.against.items():
        for name in (stage, other):
            if name not in rows:
                raise ScoreError(f"ablation {about.name}: against: '{name}' is not in rows{did_you_mean(name, rows)}")
            if rows[name].oracle:
                raise ScoreError(
                    f"ablation {about.name}: against: '{stage}' with '{other}', but '{name}' heard label-derived audio at test, and nothing "
                    "may be compared with that; take the pair out"
                )
        if stage == other:
            raise ScoreError(f"ablation {about.name}: against: '{stage}' is compared with itself; name another")
    compared = [stage for stage, row in rows.items() if not row.oracle and (stage != about.reference or stage in about.against)]
    return {stage: about.against.get(stage, about.reference) for stage in compared}


def _runs(inputs: Inputs, about: Ablation, stage: str, protocol: str) -> list[Run]:
    """The runs of a stage over all splits and seeds of the ablation, in that order.

    Raises:
        ScoreError: one is missing, or was not scored by the protocol.
    """
    what = (about.dataset, about.method, stage)
    found = {(run.split, run.seed): run for run in inputs.runs if run.what == what}
    out = []
    for split in about.splits:
        for seed in about.seeds:
            run = found.get((split, seed))
            if run is None or run.metrics is None or protocol not in run.metrics["protocols"]:
                raise ScoreError(
                    f"ablation {about.name}: stage '{stage}' has no score by {protocol} for split {split}, seed {seed}; score it (a stage "
                    "with `evaluate: false` never is), or take it out of the rows"
                )
            out.append(run)
    return out


def _single(runs: Sequence[Run], protocol: str) -> dict[str, list[float | None]]:
    return {name: [run.metrics["protocols"][protocol][name] for run in runs if run.metrics is not None] for name in SHOWN}


def difference(values: Sequence[float | None], base: Sequence[float | None]) -> Difference:
    """Score minus base, pair by pair; undefined where one of them is."""
    pairs = [None if a is None or b is None else a - b for a, b in zip(values, base, strict=True)]
    known = [value for value in pairs if value is not None]
    agree = len(known) == len(pairs) > 1
    sign = 1 if agree and min(known) > 0 else -1 if agree and max(known) < 0 else 0
    return Difference(mean_of(pairs), sign)


def _differences(
    stage: str, other: str, single: Mapping[str, Mapping[str, Sequence[float | None]]], runs: Mapping[str, Sequence[Run]], rule: ScoreRow
) -> dict[str, Difference]:
    """By metric of COMPARED: a stage minus another, run by run, and its interval over queries, query by query."""
    by_split: dict[str, list[Answers]] = {}
    for run, base in zip(runs[stage], runs[other], strict=True):
        mine, its = (one.answers[rule.ranking, rule.protocol].over(rule.averaged_over) for one in (run, base))
        if list(mine.query) != list(its.query):
            raise ScoreError(
                f"ablation: '{stage}' and '{other}' were scored over other queries (split {run.split}, seed {run.seed}), so their difference "
                "would mean nothing; score them again"
            )
        by_split.setdefault(run.test_split, []).append(replace(mine, values=mine.values - its.values))
    intervals = over_runs(rule.tested_on, by_split, rule.scoring)
    found = {name: difference(single[stage][name], single[other][name]) for name in COMPARED}
    return {name: replace(one, over=replace(one.over, interval=intervals[name])) for name, one in found.items()}


def _training(inputs: Inputs, about: Ablation, stage: str) -> str:
    """What a stage learned from: what its network or its teacher heard."""
    method = inputs.method(about.method)
    this = method.stages[stage]
    if not this.epochs:
        return f"{_training(inputs, about, this.start)} (stage {this.start})" if this.start else "untrained"
    companion = method.companion_of(stage)
    sound = _sound(inputs.companion(companion)) if companion != "none" else ""
    if this.teacher:
        return f"frames; teacher: frames + {sound}" if method.stages[this.teacher].hears else "frames; teacher: frames"
    if this.hears:
        return f"{sound}, no frames" if this.network == "audio_probe" else f"frames + {sound}"
    return "frames"


def _sound(companion: CompanionConfig) -> str:
    words = POLICIES[companion.alignment.policy]
    return f"{words} ({companion.tokens.encoder} tokens)" if companion.kind == "audio_tokens" else words


def _remarks(runs: Sequence[Run]) -> str | None:
    """How many epochs of these runs have remarks in the training log, and the last ones."""
    epochs = sum(len(run.log) for run in runs)
    remarked = [(run, line) for run in runs for line in run.log if line.get("remarks")]
    if not remarked:
        return None
    run, line = max(remarked, key=lambda pair: pair[1]["epoch"])
    last = "; ".join(line["remarks"])
    return f"Remarked in {len(remarked)} of {epochs} epochs; split {run.split}, seed {run.seed}, epoch {line['epoch']}: {last}."


def cautions(found: Comparison) -> list[str]:
    """What such a table can and cannot show."""
    out = _scatter(found)
    if found.has_intervals:
        many = "queries" if found.protocol.scoring.unit == "query" else "identities with all their queries"
        out.append(
            f"Brackets are over {many}, with trainings, gallery and cameras as they are: how a number might move had others been asked for. They "
            "do not contain the scatter of trainings."
        )
    if any(count > 1 for count in Counter(line.against for line in found.lines if line.against).values()):
        marks = ", and their marks come together" if found.pairs > 1 else ""
        out.append(
            "Rows that are compared with the same row share its runs. Where those are low or high by chance, all differences to it are "
            f"shifted alike{marks}: they are not independent of each other."
        )
    if found.dubbed:
        out.append(
            "The dubbing was derived from the identity labels of the training half. What it adds is privileged information in training; the "
            "table cannot show what a person's own voice would add."
        )
    if found.oracle:
        out.append(
            f"Rows marked {ORACLE} heard label-derived audio at test. They show how much of the answer the sound gives away, are no "
            "re-identification accuracy, and are compared with nothing."
        )
    held_out = any(chosen(run) for line in (*found.lines, *found.oracle) for run in line.runs)
    rows = "Rows with a best look at held-out training identities are scored at that epoch, others" if held_out else "Every row is scored"
    out.append(
        f"{rows} after {'their' if held_out else 'its'} last epoch; no epoch was chosen by its test score. How the settings themselves were "
        "found is not recorded in these files."
    )
    return out


def _scatter(found: Comparison) -> list[str]:
    """What ± and marks say about chance."""
    if found.pairs == 1:
        return ["One run per row: nothing is known about how far trainings scatter, so a difference of some points may be chance."]
    spread = f"± is the sample standard deviation over {found.pairs} runs, of differences over as many pairs (same split, same seed)."
    mark = f"{ABOVE} or {BELOW}: above or below the row it is compared with, in every pair."
    if len(found.about.splits) > 1:  # pairs of different splits train and test on the same persons: no sign test
        return [
            f"{spread} It says how far trainings and splits scatter. It is no confidence interval over people: splits of one data set share "
            "persons, so pairs are not independent.",
            f"{mark} For the same reason no rate is given at which chance alone would earn a mark.",
        ]
    compared = [line for line in found.lines if line.differences]
    many = f"{_count('row', compared)} {'is' if len(compared) == 1 else 'are'} compared here"
    return [
        f"{spread} It says how far trainings scatter. It is no confidence interval over people: other persons and other cameras were not tried.",
        f"{mark} A row that does not differ at all would earn a mark in a column in {100 * 0.5 ** (found.pairs - 1):.2g} % of cases by chance, "
        f"and {many}.",
    ]


def ablation_markdown(found: Comparison) -> list[str]:
    """The table as blocks of Markdown: question, protocol line, table, remarks, cautions."""
    signs = ["Δ to row", *(f"Δ{name}" for name in COMPARED)]
    head = ["row", "what is different", "training", "at test"]
    lines = [[*_told(line), *_differed(line)] for line in found.lines]
    blocks = [f"## {markdown_cell(found.about.question)}", markdown_cell(f"Percent, by {found.protocol.protocol}: {found.rule}.")]
    blocks.append(found.delta)
    blocks.append(markdown_table([*head, *SHOWN, *signs], lines))
    if found.oracle:
        blocks.append("**Oracle**: label-derived audio at test, compared with nothing:")
        blocks.append(markdown_table([*head, *SHOWN], map(_told, found.oracle)))
    noted = [f"- Row {line.number}: {markdown_cell(line.remarks)}" for line in (*found.lines, *found.oracle) if line.remarks]
    blocks += ["\n".join(noted)] if noted else []
    blocks.append(markdown_cell(f"{found.brackets}. Features: {features(found)}."))
    blocks.append("What this can and cannot show:")
    return [*blocks, "\n".join(f"- {markdown_cell(text)}" for text in cautions(found))]


def features(found: Comparison) -> str:
    """How vectors were compared, in words."""
    return "; ".join(dict.fromkeys(line.score.feature for line in (*found.lines, *found.oracle)))


def _told(line: Line) -> list[str]:
    values = [line.score.values[name].percent(with_interval=True) for name in SHOWN]
    return [str(line.number), line.words, line.training, line.score.modality, *values]


def _differed(line: Line) -> list[str]:
    if line.differences is None:
        return ["reference", *("" for _ in COMPARED)]
    return [str(line.against), *(line.differences[name].points() for name in COMPARED)]


CSV_FIRST = ("ablation", "row", "stage", "words", "reference", "training", "modality", "oracle", "dataset", "method", "protocol")
CSV_RULE = ("gallery", "queries", "valid", "ap", "averaged_over", "feature", "splits", "seeds", "runs")
CSV_INTERVAL = ("interval_of", "confidence", "resamples")


def ablation_csv(found: Comparison) -> str:
    """One line per row of the table; numbers as fractions with 6 digits, empty where not defined."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    scores = [column for name in SHOWN for column in (name, f"{name}_std", f"{name}_low", f"{name}_high")]
    parts = ("difference", "difference_std", "difference_low", "difference_high", "same_sign")
    differences = [f"{name}_{what}" for name in COMPARED for what in parts]
    writer.writerow([*CSV_FIRST, *CSV_RULE, *CSV_INTERVAL, *scores, "difference_to_row", *differences, "remarks"])
    for line in (*found.lines, *found.oracle):
        row, about = line.score, found.about
        told = [sheet_cell(about.name), line.number, *map(sheet_cell, (line.stage, line.words))]
        told += ["reference" if line.stage == about.reference else "", line.training, sheet_cell(row.modality)]
        told += [ORACLE if row.oracle else "", *map(sheet_cell, (row.dataset, row.method, row.protocol))]
        told += [text.replace(",", "") for text in (row.gallery, row.queries, row.valid)]
        told += [row.ap, row.averaged_over, row.feature, sheet_cell(" ".join(about.splits)), " ".join(map(str, about.seeds)), row.runs]
        told += [row.scoring.unit, row.scoring.confidence, row.scoring.resamples]
        told += _fractions(value for name in SHOWN for value in row.values[name].numbers)
        told.append("" if line.against is None else line.against)
        for name in COMPARED:
            of = line.differences[name] if line.differences else None
            told += [*_fractions(of.over.numbers), of.same_sign] if of else [""] * len(parts)
        writer.writerow([*told, sheet_cell(line.remarks or "")])
    return out.getvalue()


def _fractions(values: Iterable[float | None]) -> list[str]:
    return ["" if value is None else f"{value:.6f}" for value in values]
