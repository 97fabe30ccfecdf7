"""What wrong evaluators would have printed on the same features, beside the sound numbers: one table in Markdown.

In:      EMBEDDINGS and config.json of a run; of MARS also TRACKLETS; numbers that somebody printed, to look for.
Out:     standard output: the protocol, its numbers, and per variant of `evaluate.variants` its numbers, the difference and the cause.
Source:  promise R10; specs/datasets.md section 1.3 (name protocol, gallery, valid of all queries); specs/dubbernet.md section 7.3.

An explanation of differences, not a score: only the first row is one to report. Nothing is re-ranked here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.legacy_eval import title, tracklet_lengths
from evaluate.protocols import Outcome, apply, protocol_named
from evaluate.report_page.summary import AP_NAMES, UNDEFINED, markdown_table
from evaluate.score import check_origin, normalised, subjects_of, what_it_saw
from evaluate.variants import METRICS, VARIANTS, Case, Printed, Variant, case_of, ours
from pipeline.base import cli, tables
from pipeline.base.build import build
from pipeline.base.config import RunConfig
from pipeline.base.errors import ScoreError, did_you_mean
from pipeline.base.files import read_json

SOUND = "sound"
SAME = "the same"
"""Stands for a difference where all numbers of a row are those of :data:`SOUND`."""
HEAD = ("evaluator", "the network saw", *METRICS, "valid queries", "R1, mAP minus the sound ones", "what it does")
NOTE = (
    f"Percent, {UNDEFINED}: not defined; differences in points. Features and distances are the same in all rows but one that says so. Only the "
    f"row `{SOUND}` is a score to report; the others say what the same features would have printed under a rule that differs in one thing. "
    "Where a row prints the same, its cause is absent here, or the protocol itself does so."
)
NO_LENGTHS = "`{}` is left out: it needs the length of each tracklet of MARS (--tracklets)."
NO_PROOF = "That a variant agrees says that it could explain the numbers, not that they were made so; other features give other numbers."


@dataclass(frozen=True, slots=True)
class Wanted:
    """A number that somebody printed."""

    name: str
    text: str
    """In percent, as it was given."""

    def agrees(self, value: float) -> bool:
        """Whether a fraction rounds to the digits given, either way at a half."""
        digits = len(self.text.partition(".")[2])
        return abs(100 * value - float(self.text)) <= 0.5 * 10.0**-digits + 1e-9


def wanted(texts: Sequence[str]) -> list[Wanted]:
    """Numbers as given on the command line, 'R1=97.0'.

    Raises:
        ScoreError: an unknown name, one given twice, or what is no percentage.
    """
    out: list[Wanted] = []
    for text in texts:
        name, _, number = text.partition("=")
        if name not in METRICS:
            raise ScoreError(f"--printed {text}: '{name}' is no number of the table{did_you_mean(name, METRICS)}; write it like R1=97.0")
        whole, _, part = number.partition(".")
        if not (whole.isascii() and whole.isdigit() and (part == "" or (part.isascii() and part.isdigit()))) or float(number) > 100:
            raise ScoreError(f"--printed {text}: '{number}' is no percentage; expected 0 to 100 with a point, such as {name}=97.0")
        if any(name == other.name for other in out):
            raise ScoreError(f"--printed {text}: {name} is given twice; give each number once")
        out.append(Wanted(name, number))
    if out and all(float(one.text) <= 1 for one in out):
        raise ScoreError(f"--printed {' '.join(texts)}: all are at most 1; expected percent, such as R1=97.0, not fractions")
    return out


def audit(case: Case, outcome: Outcome, saw: str, looked_for: Sequence[Wanted] = ()) -> str:
    """The table and what is to be said of it, in Markdown.

    Args:
        case: of the protocol and subjects of `outcome`.
        saw: what the network had before it at test time, in words; stands beside the numbers of each row.
        looked_for: numbers to find among the rows; may be empty.
    """
    right = ours(outcome)
    rows, agreeing, left_out = [_row(SOUND, saw, right, right, "the protocol as it is")], [], []
    if looked_for and _all_agree(right, looked_for):
        agreeing.append(SOUND)
    for one in VARIANTS.values():
        if one.needs_lengths and case.frames is None:
            left_out.append(NO_LENGTHS.format(one.name))
            continue
        made, does = _made(one, case)
        if made is not None and made.differs(right) and looked_for and _all_agree(made, looked_for):
            agreeing.append(one.name)  # what prints the sound numbers explains nothing that these do not
        rows.append(_row(one.name, saw, made, right, does))
    head: tuple[str, ...] = HEAD
    if looked_for:
        head = (*HEAD, "the printed numbers")
        rows = [[*row, "agrees" if row[0] in agreeing else ""] for row in rows]
    parts = [markdown_table(head, rows), *left_out, *([_found(agreeing, looked_for)] if looked_for else []), NOTE]
    return "\n\n".join(parts)


def _made(one: Variant, case: Case) -> tuple[Printed | None, str]:
    """Its numbers, and what it does; none where it cannot score these lists."""
    try:
        return one.prints(case), one.does
    except ScoreError as error:
        return None, f"{one.does} Here it cannot score: {error}."


def _all_agree(made: Printed, looked_for: Sequence[Wanted]) -> bool:
    return all(one.agrees(made.values[one.name]) for one in looked_for)


def _row(name: str, saw: str, made: Printed | None, right: Printed, does: str) -> list[str]:
    if made is None:
        return [name, saw, *[UNDEFINED] * (len(METRICS) + 2), does]
    difference = ", ".join(_points(made.values[m] - right.values[m]) for m in ("R1", "mAP")) if made.differs(right) else SAME
    difference = "" if name == SOUND else difference
    return [name, saw, *(_percent(made.values[m]) for m in METRICS), f"{made.valid} of {made.queries}", difference, does]


def _percent(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{100 * value:.1f}"


def _points(difference: float) -> str:
    """With its sign; nothing but zero has none."""
    if math.isnan(difference):
        return UNDEFINED
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def _found(agreeing: Sequence[str], looked_for: Sequence[Wanted]) -> str:
    printed = ", ".join(f"{one.name} {one.text}" for one in looked_for)
    if not agreeing:
        return f"Printed were {printed}: none of the rows agrees to the digits given."
    return f"Printed were {printed}: {', '.join(f'`{name}`' for name in agreeing)} would print them on these features. {NO_PROOF}"


def about(outcome: Outcome, saw: str, normalise: bool = False) -> str:
    """Protocol, gallery, valid of all queries, AP, and what the network saw, in one line."""
    protocol, summary = outcome.protocol, outcome.summary
    return (
        f"Protocol `{protocol.name}`: gallery of {outcome.gallery_size} ({protocol.gallery_definition}); {summary.valid} of {summary.queries} "
        f"queries valid; {AP_NAMES[protocol.ap]}; mean over {protocol.averaged_over} queries; vectors {'of length 1' if normalise else 'as they are'}, "
        f"squared Euclidean distance. The network saw: {saw}."
    )


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--embeddings", required=True, help="EMBEDDINGS table")
    arguments.add_argument("--config", required=True, help="config.json of the run")
    arguments.add_argument("--tracklets", help="TRACKLETS table of MARS, for the one variant that needs lengths")
    arguments.add_argument("--protocol", default="market", help="name in evaluate/protocols.py (default: market)")
    arguments.add_argument("--normalise", action="store_true", help="scale vectors to length 1 first, as scoring.normalise does")
    arguments.add_argument("--printed", nargs="+", default=[], metavar="R1=97.0", help="numbers that somebody printed, in percent")
    args = arguments.parse_args(argv)
    protocol, looked_for = protocol_named(args.protocol), wanted(args.printed)
    run = build(RunConfig, read_json(args.config), args.config)
    meta, embeddings = tables.read_meta(args.embeddings), tables.read(args.embeddings, tables.EMBEDDINGS)
    check_origin(meta, run)
    subjects = normalised(subjects_of(embeddings)) if args.normalise else subjects_of(embeddings)
    saw = what_it_saw(embeddings, meta)
    frames = None
    if args.tracklets:
        tracklets = tables.read(args.tracklets, tables.TRACKLETS, ["tracklet", "frames"])
        frames = tracklet_lengths(tracklets, tables.read_meta(args.tracklets), subjects.tracklet, args.tracklets)
    outcome = apply(protocol, subjects)
    print(f"{title(run, meta)}\n\n{about(outcome, saw, args.normalise)}\n")
    print(audit(case_of(protocol, subjects, frames), outcome, saw, looked_for))


if __name__ == "__main__":
    cli.run(main)
