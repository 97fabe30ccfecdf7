"""The table of an ablation: stages of one method over the same splits and seeds, each compared with one of them run by run.

In:      Inputs with an Ablation.   Out: :class:`Comparison`, and the same as Markdown and CSV.
Source:  specs/dubbernet.md sections 7.4 and 10. Ours: differences are paired over (split, seed), because what an easy split
         gives to all rows is no difference between them; a row that heard label-derived audio at test is compared with nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluate.report_page.inputs import Ablation, Inputs, Run
from evaluate.report_page.summary import (
    AP_NAMES,
    ORACLE,
    UNDEFINED,
    Mean,
    ScoreRow,
    markdown_cell,
    markdown_table,
    mean_of,
    score_row,
)
from pipeline.base.config import CompanionConfig
from pipeline.base.errors import ScoreError

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
    return f"{100 * fraction:+.1f}".replace("-", "−")


@dataclass(frozen=True, slots=True)
class Difference:
    """A score minus that of the reference, over pairs of runs; in fractions."""

    over: Mean
    same_sign: int
    """1 or -1 where there are several pairs and the difference is above or below 0 in all of them, else 0."""

    @property
    def mark(self) -> str:
        """A sign for readers, '' where pairs disagree or there is only one."""
        return {1: ABOVE, -1: BELOW, 0: ""}[self.same_sign]

    def points(self) -> str:
        """In points of percent: '+1.2 ± 0.3 ▲'."""
        if self.over.mean is None:
            return UNDEFINED
        spread = "" if self.over.std is None else f" ± {100 * self.over.std:.1f}"
        return f"{signed(self.over.mean)}{spread} {self.mark}".rstrip()


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
    differences: dict[str, Difference] | None
    """By metric of COMPARED; None for the reference itself and where label-derived audio was heard at test."""
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


def _count(what: str, of: Sequence[object]) -> str:
    return f"{len(of)} {what}{'s' if len(of) > 1 else ''}"


def compare(inputs: Inputs) -> Comparison | None:
    """The ablation of `inputs`, or None.

    Raises:
        ScoreError: a stage lacks the score of a run, stages were scored by different rules, or the reference is oracle.
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
    base = _single(runs[about.reference], protocol)
    lines = []
    for number, stage in enumerate(sorted(about.rows, key=lambda stage: rows[stage].oracle), 1):  # else in the order given
        single = _single(runs[stage], protocol)
        differences = None
        if stage != about.reference and not rows[stage].oracle:
            differences = {name: difference(single[name], base[name]) for name in COMPARED}
        training = _training(inputs, about, stage)
        lines.append(Line(number, stage, about.rows[stage], training, rows[stage], runs[stage], single, differences, _remarks(runs[stage])))
    method = inputs.method(about.method)
    learned = {method.companion_of(stage) for row in about.rows for stage in method.needed(row) if method.stages[stage].hears}
    return Comparison(
        about,
        reference,
        [line for line in lines if not line.score.oracle],
        [line for line in lines if line.score.oracle],
        any(inputs.companion(name).alignment.policy not in UNLABELLED for name in learned),
    )


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
    """Score minus reference, pair by pair; undefined where one of them is."""
    pairs = [None if a is None or b is None else a - b for a, b in zip(values, base, strict=True)]
    known = [value for value in pairs if value is not None]
    agree = len(known) == len(pairs) > 1
    sign = 1 if agree and min(known) > 0 else -1 if agree and max(known) < 0 else 0
    return Difference(mean_of(pairs), sign)


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
    out = []
    if found.pairs > 1:
        chance = 100 * 0.5 ** (found.pairs - 1)
        compared = [line for line in found.lines if line.differences]
        out.append(
            f"± is the sample standard deviation over {found.pairs} runs, of differences over as many pairs (same split, same seed). It says how "
            "far trainings scatter. It is no confidence interval over people: other persons and other cameras were not tried."
        )
        out.append(
            f"{ABOVE} or {BELOW}: above or below the reference in every pair. A row that does not differ at all would earn a mark in "
            f"{chance:.2g} % of cases by chance, and {_count('row', compared)} {'are' if len(compared) > 1 else 'is'} compared here."
        )
    else:
        out.append("One run per row: nothing is known about how far trainings scatter, so a difference of some points may be chance.")
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
    out.append(
        "Every row is scored after its last epoch; no epoch was chosen by its test score. How the settings themselves were found is not "
        "recorded in these files."
    )
    return out


def ablation_markdown(found: Comparison) -> list[str]:
    """The table as blocks of Markdown: question, protocol line, table, remarks, cautions."""
    signs = [f"Δ{name}" for name in COMPARED]
    head = ["row", "what is different", "training", "at test"]
    lines = [[*_told(line), *(_difference(found, line, name) for name in COMPARED)] for line in found.lines]
    blocks = [f"## {markdown_cell(found.about.question)}", markdown_cell(f"Percent, by {found.protocol.protocol}: {found.rule}.")]
    reference = next(line for line in found.lines if line.stage == found.about.reference)
    blocks.append(f"Δ: difference to row {reference.number} in points.")
    blocks.append(markdown_table([*head, *SHOWN, *signs], lines))
    if found.oracle:
        blocks.append("**Oracle**: label-derived audio at test, compared with nothing:")
        blocks.append(markdown_table([*head, *SHOWN], map(_told, found.oracle)))
    noted = [f"- Row {line.number}: {markdown_cell(line.remarks)}" for line in (*found.lines, *found.oracle) if line.remarks]
    blocks += ["\n".join(noted)] if noted else []
    blocks.append("What this can and cannot show:")
    return [*blocks, "\n".join(f"- {markdown_cell(text)}" for text in cautions(found))]


def _told(line: Line) -> list[str]:
    values = [line.score.values[name].percent() for name in SHOWN]
    return [str(line.number), line.words, line.training, line.score.modality, *values]


def _difference(found: Comparison, line: Line, name: str) -> str:
    if line.differences is None:
        return "reference" if name == COMPARED[0] else ""
    return line.differences[name].points()


CSV_FIRST = ("ablation", "row", "stage", "words", "reference", "training", "modality", "oracle", "dataset", "method", "protocol")
CSV_RULE = ("gallery", "queries", "valid", "ap", "averaged_over", "splits", "seeds", "runs")


def ablation_csv(found: Comparison) -> str:
    """One line per row of the table; numbers as fractions with 6 digits, empty where not defined."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    scores = [column for name in SHOWN for column in (name, f"{name}_std")]
    differences = [f"{name}_{what}" for name in COMPARED for what in ("difference", "difference_std", "same_sign")]
    writer.writerow([*CSV_FIRST, *CSV_RULE, *scores, *differences, "remarks"])
    for line in (*found.lines, *found.oracle):
        row, about = line.score, found.about
        told = [about.name, line.number, line.stage, line.words, "reference" if line.stage == about.reference else "", line.training]
        told += [row.modality, ORACLE if row.oracle else "", row.dataset, row.method, row.protocol]
        told += [text.replace(",", "") for text in (row.gallery, row.queries, row.valid)]
        told += [row.ap, row.averaged_over, " ".join(about.splits), " ".join(map(str, about.seeds)), row.runs]
        told += _fractions(value for name in SHOWN for value in (row.values[name].mean, row.values[name].std))
        for name in COMPARED:
            of = line.differences[name] if line.differences else None
            told += [*_fractions([of.over.mean, of.over.std]), of.same_sign] if of else ["", "", ""]
        writer.writerow([*told, line.remarks or ""])
    return out.getvalue()


def _fractions(values: Iterable[float | None]) -> list[str]:
    return ["" if value is None else f"{value:.6f}" for value in values]
