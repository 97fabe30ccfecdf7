"""Make the trials that `evaluate.score_trials` scores: of the test half of a retrieval set, or of a list in a text file.

In:      EMBEDDINGS of any network on that test half, of which no vector is used; or a file with one trial a line,
         '<1|0> <left> <right>', where 1 says the same identity and the names are those of EMBEDDINGS.
Out:     TRIALS; its meta says by which rule they were made, and the digest of what they were made from.
Source:  specs/avcleanse.md section 1 (grammar of lists); the rules of pairs are ours. One table does for every network that is tested
         on this half: it depends on names, roles, identities and cameras alone.

Of a test half each query makes a trial with each gallery tracklet. Junk is left out; a distractor is another identity than everybody
else. Pairs of one identity are all taken; of the others, which are far more, a number is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from evaluate.protocols import Subjects
from evaluate.score import subjects_of
from evaluate.score_trials import identity_codes
from pipeline.base import cli, origin, tables
from pipeline.base.code import VERIFYING
from pipeline.base.errors import ScoreError, did_you_mean
from pipeline.base.seeds import rng

PAIRS: Mapping[str, str] = {
    "cross_camera": "every query with every gallery tracklet of another camera",
    "all_cameras": "every query with every gallery tracklet",
}
"""Rule -> what it takes. Where cameras tell persons apart, pairs within one are easier than any camera makes them elsewhere."""
DIFFERENT = 500_000
"""Pairs of two identities that are drawn unless another number is asked for: about as many as the longest VoxCeleb lists have trials."""


def of_test_half(subjects: Subjects, pairs: str, different: int = DIFFERENT, seed: int = 0) -> tuple[pa.Table, str]:
    """All pairs by a rule of :data:`PAIRS`.

    Args:
        pairs: name of the rule.
        different: how many pairs of two identities at most; the same seed draws the same ones.

    Returns:
        TRIALS, in the order of the names of queries, then of gallery tracklets; what was taken, in words.

    Raises:
        ScoreError: no such rule, no query or gallery, a camera that has to be known and is not, or only one kind of pair.
    """
    if pairs not in PAIRS:
        raise ScoreError(f"--pairs {pairs}: no such rule{did_you_mean(pairs, PAIRS)}")
    if different < 1:
        raise ScoreError(f"--different {different}: expected at least 1 pair of two identities")
    code, kept = identity_codes(subjects), subjects.kind != "junk"
    query, gallery = (np.flatnonzero((subjects.role == role) & kept) for role in ("query", "gallery"))
    if not len(query) or not len(gallery):
        raise ScoreError(f"embeddings: {len(query)} queries and {len(gallery)} gallery tracklets that are no junk; expected some of each")
    across = pairs == "cross_camera"
    nowhere = np.concatenate([query, gallery])[subjects.camera[np.concatenate([query, gallery])] < 0]
    if across and len(nowhere):
        raise ScoreError(
            f"embeddings: {len(nowhere)} tracklets have no known camera (below 0), the first is {subjects.tracklet[nowhere[0]]}; take "
            "--pairs all_cameras, which compares none"
        )

    def partners(row: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the gallery that are of the same identity, and of others."""
        allowed = gallery[subjects.camera[gallery] != subjects.camera[row]] if across else gallery
        same = code[allowed] == code[row]
        return allowed[same], allowed[~same]

    end = np.cumsum([len(partners(row)[1]) for row in query.tolist()])
    total = int(end[-1])
    chosen = np.arange(total)
    if total > different:
        chosen = np.sort(rng(seed, "make_trials").choice(total, different, replace=False, shuffle=False))
    left, right = [], []
    for row, first, stop in zip(query.tolist(), np.append(0, end[:-1]).tolist(), end.tolist(), strict=True):
        same, others = partners(row)
        drawn = chosen[np.searchsorted(chosen, first) : np.searchsorted(chosen, stop)] - first
        right.append(np.sort(np.concatenate([same, others[drawn]])))
        left.append(np.full(len(right[-1]), row))
    one, other = np.concatenate(left), np.concatenate(right)
    answer = code[one] == code[other]
    if answer.all() or not answer.any():
        raise ScoreError(
            f"embeddings: {int(answer.sum())} of {len(answer)} pairs ({PAIRS[pairs]}) are of one identity; expected both kinds: take "
            "another rule of --pairs, or another test half"
        )
    names = pa.array(subjects.tracklet, pa.string())
    words = PAIRS[pairs] + (f"; {different:,} of {total:,} pairs of two identities drawn, seed {seed}" if total > different else "")
    return pa.table([names.take(pa.array(one)), names.take(pa.array(other)), pa.array(answer)], schema=tables.TRIALS.arrow), words


def of_list(path: str | os.PathLike[str]) -> pa.Table:
    """TRIALS from lines '<1|0> <left> <right>', in their order.

    Raises:
        ScoreError: names the file, the line, and what is wrong there.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreError(f"{path}: cannot be read as a list of trials in UTF-8 ({error})") from None
    rows = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        fields = line.split()
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise ScoreError(
                f"{path}: line {number} is {line[:80]!r}; expected '1 LEFT RIGHT' for the same identity, '0 LEFT RIGHT' for two"
            )
        rows.append({"left": fields[1], "right": fields[2], "same": fields[0] == "1"})
    return tables.table(rows, tables.TRIALS)


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="TRIALS table to write")
    given = arguments.add_mutually_exclusive_group(required=True)
    given.add_argument("--embeddings", help="EMBEDDINGS of a test half, to pair its queries with its gallery")
    given.add_argument("--list", help="text file with lines '<1|0> <left> <right>'")
    arguments.add_argument("--pairs", default="cross_camera", help=f"{', '.join(PAIRS)}: which pairs of a test half (default: %(default)s)")
    arguments.add_argument(
        "--different", type=int, default=DIFFERENT, metavar="N", help="pairs of two identities, at most (default: %(default)s)"
    )
    arguments.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: %(default)s)")
    args = arguments.parse_args(argv)
    cli.check_outputs({"OUT": args.out}, {"--embeddings": args.embeddings, "--list": args.list})
    if args.embeddings:
        made, rule = of_test_half(subjects_of(tables.read(args.embeddings, tables.EMBEDDINGS)), args.pairs, args.different, args.seed)
    else:
        made, rule = of_list(args.list), "as listed"
    note = {
        "rule": rule,
        origin.FROM: origin.made_from(embeddings=args.embeddings, list=args.list),
        origin.CODE: origin.code_of("evaluate/make_trials.py", *VERIFYING),
    }
    tables.write(args.out, made, tables.TRIALS, note)
    same = int(np.count_nonzero(made.column("same").to_numpy()))
    print(cli.printable(f"{made.num_rows:,} trials: {same:,} same, {made.num_rows - same:,} different; {rule}"))


if __name__ == "__main__":
    cli.run(main)
