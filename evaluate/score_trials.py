"""Score pairs of embeddings: same identity or not.

In:      EMBEDDINGS (one vector per tracklet), TRIALS, and config.json of the run; for normalised scores also EMBEDDINGS of a cohort.
Out:     a JSON file with equal error rate and minDCF in both forms of `evaluate.verification`, intervals, and what they are numbers of;
         digests of the inputs and the code, under a seal over the whole file. On the screen: the same as a small table.
Source:  specs/avcleanse.md section 6. A score is the cosine of two vectors. Every vector is scaled to length 1 once; a trial is one sum
         over two rows, a few hundred trials at a time.

Trials must be what they say: each pair once (in either order), two different items, `same` exactly where EMBEDDINGS give both sides
one identity. A distractor matches nobody. Junk and tracklets that were trained on are no trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate.cohort import identity_means, normalise, statistics
from evaluate.protocols import Subjects
from evaluate.score import IDENTITY, TRAINING_OF, check_origin, subjects_of, test_set_of, what_it_saw
from evaluate.verification import TooFewIdentitiesError, Trials, check_p_target, interval
from pipeline.base import cli, origin, tables
from pipeline.base.build import build
from pipeline.base.code import VERIFYING
from pipeline.base.config import RunConfig, ScoringConfig
from pipeline.base.errors import ScoreError
from pipeline.base.files import read_json

CHUNK = 1 << 16
"""Values of each side that are looked at together: half a MB in float64 stays in the cache, and no memory grows with the list."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """TRIALS as rows of the subjects."""

    left: np.ndarray
    """int64 [trials]; row of the first item."""
    right: np.ndarray
    """int64 [trials]; row of the second item."""
    same: np.ndarray
    """bool [trials]."""
    repeated: int
    """Trials whose pair was there before, in either order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is asked of a list of trials."""

    name: str
    """Name of the list; every result says it."""
    rule: str = ""
    """How the list was made, where TRIALS say it."""
    p_targets: tuple[float, ...] = (0.05, 0.01)
    """Assumed parts of trials of the same identity: 0.05 is the method's, others report 0.01."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """Bootstrap samples and confidence; the rest of it is for rankings."""
    draw: Literal["identities", "trials"] = "identities"
    """What the bootstrap draws; with trials alone intervals are too narrow, since trials share their identities. Those of minDCF may be
    too low in either case (:meth:`Trials.resampled`)."""
    seed: int = 0
    """Of the bootstrap."""
    cohort_top: int = 400
    """Identities of the cohort by which a side is normalised: its nearest."""
    allow_repeats: bool = False
    """Score a pair as often as it is listed, instead of refusing the list."""

    def __post_init__(self) -> None:
        for p_target in self.p_targets:
            check_p_target(p_target)
        if len(set(self.p_targets)) != len(self.p_targets):
            raise ScoreError(f"p_target {', '.join(map(str, self.p_targets))}: name each once")
        if not self.name.strip():
            raise ScoreError("the list of trials has no name; a number says nothing without: original or cleaned, which part")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1.

    Args:
        vectors: float32 [rows, D]; finite, not 0.

    Returns:
        float32 [rows, D]; norms are float64 sums.
    """
    out = np.empty_like(vectors)
    step = max(CHUNK // vectors.shape[1], 1)
    for first in range(0, len(vectors), step):
        rows = vectors[first : first + step].astype(np.float64)
        out[first : first + step] = rows / np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return out


def trial_scores(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Inner products of pairs of rows: cosines where rows have length 1.

    Args:
        vectors: float32 [rows, D].
        left, right: integers [trials], rows.

    Returns:
        float32 [trials]. Products and sums are float64 and rounded once, so that a pair has one score wherever it stands in the list,
        whichever side comes first, and hardly ever another one on another processor.
    """
    out = np.empty(len(left), np.float32)
    step = max(CHUNK // vectors.shape[1], 1)
    for first in range(0, len(left), step):
        one, other = (vectors[side[first : first + step]].astype(np.float64) for side in (left, right))
        out[first : first + step] = np.einsum("nd,nd->n", one, other)
    return out


def pairs_of(trials: pa.Table, subjects: Subjects, allow_repeats: bool = False) -> Pairs:
    """TRIALS as rows of the subjects, checked.

    Raises:
        ScoreError: see the module's docstring; names how many trials are wrong and the first of them.
    """
    if not trials.num_rows:
        raise ScoreError("trials: the table is empty; check the list it was made from")
    names = pa.array(subjects.tracklet, pa.string())
    sides = [pc.index_in(trials.column(side), value_set=names) for side in ("left", "right")]
    _refuse_strangers(trials, sides)
    left, right = (side.to_numpy().astype(np.int64) for side in sides)
    same = trials.column("same").to_numpy()

    def refuse(wrong: np.ndarray, words: str) -> None:
        if wrong.any():
            at = int(np.argmax(wrong))
            pair = f"{subjects.tracklet[left[at]]} and {subjects.tracklet[right[at]]}"
            raise ScoreError(f"trials: {int(wrong.sum())} of {len(wrong)} {words}; the first is trial {at + 1}, {pair}")

    refuse(left == right, "compare an item with itself, which every network can do: leave them out")
    repeats, contradicting = _repeats(left, right, same, len(names))
    refuse(contradicting, "give a pair another answer than an earlier trial of it does: mend the list")
    if not allow_repeats:
        refuse(repeats, "repeat a pair, in the same or the other order: leave them out, or count them on purpose (--allow-repeats)")
    for wrong, words in (
        (subjects.kind == "junk", "hold junk, which belongs to no test: leave them out"),
        (subjects.role == "train", "hold a tracklet with role 'train', which is no test: take trials of test identities"),
    ):
        refuse(wrong[left] | wrong[right], words)
    code = identity_codes(subjects)
    refuse(same != (code[left] == code[right]), "say 'same' where EMBEDDINGS give two identities, or the reverse: one of the two is wrong")
    return Pairs(left, right, same, int(repeats.sum()))


def _refuse_strangers(trials: pa.Table, sides: Sequence[pa.ChunkedArray]) -> None:
    gone = np.stack([pc.is_null(side).to_numpy() for side in sides])
    if gone.any():
        at = int(np.argmax(gone.any(axis=0)))
        item = trials.column("left" if gone[0, at] else "right")[at].as_py()
        raise ScoreError(
            f"trials: {int(gone.any(axis=0).sum())} of {gone.shape[1]} name an item without embedding; the first is trial {at + 1}, '{item}'; "
            "embed these items, or give the list that belongs to these embeddings"
        )


def _repeats(left: np.ndarray, right: np.ndarray, same: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Which trials have a pair that was there before, and which of these give it another answer; bool [trials] each."""
    pair = np.minimum(left, right) * items + np.maximum(left, right)
    order = np.argsort(pair, kind="stable")
    again = np.concatenate([[False], pair[order][1:] == pair[order][:-1]])
    first = np.flatnonzero(~again)[np.cumsum(~again) - 1]  # in the sorted order, the place of the first trial of each one's pair
    repeats, contradicting = np.zeros((2, len(pair)), np.bool_)
    repeats[order] = again
    contradicting[order] = same[order] != same[order][first]
    return repeats, contradicting


def identity_codes(subjects: Subjects) -> np.ndarray:
    """int64 [subjects]; codes from 0 of the identities, in which every distractor is one of its own."""
    alone = subjects.kind != "person"
    names, code = np.unique(subjects.identity, return_inverse=True)
    code = code.astype(np.int64)
    code[alone] = len(names) + np.arange(int(alone.sum()))
    return code


def metrics(
    embeddings: pa.Table,
    meta: Mapping[str, Any],
    run: RunConfig,
    trials: pa.Table,
    wanted: Wanted,
    cohort: tuple[pa.Table, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """All of the JSON file but its digests.

    Args:
        embeddings, meta: EMBEDDINGS of the items of the trials.
        run: its settings.
        trials: TRIALS.
        cohort: EMBEDDINGS of other identities with their meta; None: scores stay cosines.

    Raises:
        ScoreError: embeddings and trials that make no score, in one sentence.
    """
    subjects = _subjects(embeddings)
    check_origin(meta, run)
    saw = what_it_saw(embeddings, meta)
    pairs = pairs_of(trials, subjects, wanted.allow_repeats)
    vectors = unit(subjects.vector)
    scores = trial_scores(vectors, pairs.left, pairs.right)
    items, place = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
    left, right = place[: len(scores)], place[len(scores) :]
    normalisation = None
    if cohort is not None:
        others, tested = _cohort(*cohort, run, subjects, meta, saw)
        scores = normalise(scores, left, right, *statistics(vectors[items], others, wanted.cohort_top))
        normalisation = {"kind": "adaptive s-norm", "top": wanted.cohort_top, "identities": len(others), **tested}
    scored = Trials(scores, pairs.same)
    names, code = np.unique(identity_codes(subjects)[items], return_inverse=True)
    return {
        **_tested(meta, run),
        "modality": saw,
        "oracle": bool(meta.get("oracle", False)),
        "trained_on": run.companion,
        "companion": meta.get("companion"),
        "heard": None if meta.get("heard") is None else {"tracklets": embeddings.num_rows, "with_sound": meta["heard"]},
        "trials": {
            "name": wanted.name,
            "rule": wanted.rule,
            "trials": len(pairs.same),
            "same": scored.same,
            "different": scored.different,
            "repeated": pairs.repeated,
            "items": len(items),
            "identities": len(names),
        },
        "feature": {"dim": subjects.vector.shape[1], "normalised": True, "score": "cosine", "score_normalisation": normalisation},
        **_numbers(scored, (code[left], code[right]), wanted),
    }


def _tested(meta: Mapping[str, Any], run: RunConfig) -> dict[str, Any]:
    """The training, and the test set that EMBEDDINGS are of."""
    return dict(zip(IDENTITY, (*(getattr(run, name) for name in TRAINING_OF), *test_set_of(meta, run)), strict=True))


def _cohort(
    embeddings: pa.Table, meta: Mapping[str, Any], run: RunConfig, subjects: Subjects, their_meta: Mapping[str, Any], saw: str
) -> tuple[np.ndarray, dict[str, str]]:
    """One vector of length 1 per identity that has none of its own in the trials, made as theirs were.

    Returns:
        float64 [identities, D]; test_dataset and test_split of the cohort, which may be others than those of the trials.
    """
    try:
        cohort = _subjects(embeddings)
        check_origin(meta, run)
        found = what_it_saw(embeddings, meta)
    except ScoreError as error:
        raise ScoreError(f"cohort: {error}") from None
    if found != saw:
        raise ScoreError(
            f"cohort: made with {found}, the trials' embeddings with {saw}; expected the same, else their cosines mean something else"
        )
    weights, theirs = (note.get(origin.FROM, {}).get("weights") for note in (meta, their_meta))
    if weights != theirs:
        raise ScoreError("cohort: made by other weights than the trials' embeddings; make both with one network")
    wrong = cohort.kind != "person"
    if wrong.any():
        raise ScoreError(
            f"cohort: {int(wrong.sum())} of {len(wrong)} tracklets are no persons, the first is {cohort.tracklet[int(np.argmax(wrong))]}; "
            "expected identities alone"
        )
    (dataset, split), (their_dataset, _) = test_set_of(meta, run), test_set_of(their_meta, run)
    shared = np.intersect1d(cohort.identity, subjects.identity[subjects.kind == "person"])
    if len(shared) and dataset == their_dataset:  # '0001' of another data set is somebody else
        raise ScoreError(
            f"cohort: {len(shared)} of its identities are also those of the trials' embeddings, the first is {shared[0]}; take others, e.g. of training"
        )
    return identity_means(unit(cohort.vector), identity_codes(cohort)), {"test_dataset": dataset, "test_split": split}


def _numbers(scored: Trials, sides: tuple[np.ndarray, np.ndarray], wanted: Wanted) -> dict[str, Any]:
    """EER and minDCF in both forms; the interval is of the first form (null: none was asked for, or there is none, and why)."""
    low = high = None
    resamples, missing = wanted.scoring.resamples, None
    if resamples:
        try:
            drawn = scored.resampled(wanted.p_targets, resamples, wanted.seed, sides if wanted.draw == "identities" else None)
            low, high = (bound.tolist() for bound in interval(drawn, wanted.scoring.confidence))
        except TooFewIdentitiesError as error:
            missing = str(error)

    def number(column: int, toolkit: float, reference: float) -> dict[str, Any]:
        return {
            "toolkit": toolkit,
            "interval": None if low is None or high is None else [low[column], high[column]],
            "reference": reference,
        }

    return {
        "eer": number(0, scored.equal_error_rate(), scored.equal_error_rate("reference")),
        "min_dcf": [
            {
                "p_target": p_target,
                "c_miss": 1,
                "c_false_alarm": 1,
                **number(1 + k, scored.min_detection_cost(p_target), scored.min_detection_cost(p_target, "reference")),
            }
            for k, p_target in enumerate(wanted.p_targets)
        ],
        "bootstrap": None
        if not resamples
        else {
            "resamples": resamples,
            "confidence": wanted.scoring.confidence,
            "drawn": wanted.draw,
            "seed": wanted.seed,
            "of": "toolkit",
            "missing": missing,
        },
    }


def _subjects(embeddings: pa.Table) -> Subjects:
    """EMBEDDINGS as arrays; a vector that has no direction has no cosine."""
    subjects = subjects_of(embeddings)
    for wrong, words in (
        (~np.isfinite(subjects.vector).all(axis=1), "hold NaN or infinity"),
        (~subjects.vector.any(axis=1), "are 0"),
    ):
        if wrong.any():
            raise ScoreError(
                f"embeddings: {int(wrong.sum())} of {len(subjects.tracklet)} vectors {words}, the first is that of "
                f"{subjects.tracklet[int(np.argmax(wrong))]}; the network diverged or was fed broken input, so there is no score"
            )
    return subjects


def table(made: Mapping[str, Any]) -> str:
    """What :func:`metrics` found, one fact a line."""
    trials, drawn = made["trials"], made["bootstrap"]
    repeated = f"; {trials['repeated']:,} repeat a pair" if trials["repeated"] else ""
    percent = 100 * made["eer"]["toolkit"], 100 * made["eer"]["reference"]
    lines = [
        ("list", trials["name"] + (f"; {trials['rule']}" if trials["rule"] else "")),
        ("trials", f"{trials['trials']:,}: {trials['same']:,} same, {trials['different']:,} different{repeated}"),
        ("of", f"{trials['items']:,} items, {trials['identities']:,} identities"),
        ("run", " ".join(f"{name} {made[name]}" for name in TRAINING_OF)),
        ("tested on", f"dataset {made['test_dataset']} split {made['test_split']}"),
        ("sees", made["modality"]),
        ("score", f"cosine of vectors of length 1, {made['feature']['dim']} values{_normalised(made['feature']['score_normalisation'])}"),
        ("EER", f"{percent[0]:.3f} %{_interval(made['eer'], 100, 3)}, interpolated; {percent[1]:.3f} % in the reference form"),
        *(
            (
                "minDCF",
                f"{cost['toolkit']:.4f}{_interval(cost, 1, 4)}, P_target = {cost['p_target']}; {cost['reference']:.4f} in the reference form",
            )
            for cost in made["min_dcf"]
        ),
        ("interval", _drawn(drawn)),
    ]
    return "\n".join(f"{what:<10}{cli.printable(value)}" for what, value in lines)


def _normalised(by: Mapping[str, Any] | None) -> str:
    return (
        ""
        if by is None
        else f"; {by['kind']} by the {by['top']:,} nearest of {by['identities']:,} other identities of {by['test_dataset']}, split {by['test_split']}"
    )


def _interval(number: Mapping[str, Any], scale: int, digits: int) -> str:
    bounds = number["interval"]
    return "" if bounds is None else f" [{', '.join(f'{scale * bound:.{digits}f}' for bound in bounds)}]"


def _drawn(drawn: Mapping[str, Any] | None) -> str:
    if drawn is None:
        return "none was asked for"
    if drawn["missing"] is not None:
        return f"none: {drawn['missing']}"
    caution = "" if drawn["drawn"] == "identities" else "too narrow, as if trials shared no identities; "
    return (
        f"{100 * drawn['confidence']:g} % of {drawn['resamples']:,} samples of {drawn['drawn']}, seed {drawn['seed']}; {caution}"
        "minDCF's is too low where different trials are few"
    )


def main(argv: list[str] | None = None) -> None:
    scoring, wanted = ScoringConfig(), Wanted(name="defaults")
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="JSON file to write")
    arguments.add_argument("--embeddings", required=True, help="EMBEDDINGS table")
    arguments.add_argument("--trials", required=True, help="TRIALS table")
    arguments.add_argument("--config", required=True, help="config.json of the run")
    arguments.add_argument("--name", required=True, help="name of the list, e.g. vox1_o_cleaned")
    arguments.add_argument(
        "--p-target", type=float, nargs="+", default=wanted.p_targets, metavar="P", help="P_target of minDCF (default: 0.05 and 0.01)"
    )
    arguments.add_argument(
        "--resamples", type=int, default=scoring.resamples, help="bootstrap samples; 0: no interval (default: %(default)s)"
    )
    arguments.add_argument("--confidence", type=float, default=scoring.confidence, help="part of them within (default: %(default)s)")
    arguments.add_argument("--draw", choices=("identities", "trials"), default=wanted.draw, help="what is drawn (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=wanted.seed, help="seed of the bootstrap (default: %(default)s)")
    arguments.add_argument(
        "--cohort", help="EMBEDDINGS of identities that are in no trial, by which scores are normalised (adaptive s-norm)"
    )
    arguments.add_argument(
        "--cohort-top", type=int, default=wanted.cohort_top, metavar="K", help="nearest identities that count (default: %(default)s)"
    )
    arguments.add_argument("--allow-repeats", action="store_true", help="score a pair as often as it is listed")
    args = arguments.parse_args(argv)
    wanted = Wanted(
        name=args.name,
        rule=str(tables.read_meta(args.trials).get("rule", "")),
        p_targets=tuple(args.p_target),
        scoring=ScoringConfig(resamples=args.resamples, confidence=args.confidence),
        draw=args.draw,
        seed=args.seed,
        cohort_top=args.cohort_top,
        allow_repeats=args.allow_repeats,
    )
    read_too = {"--embeddings": args.embeddings, "--trials": args.trials, "--config": args.config, "--cohort": args.cohort}
    cli.check_outputs({"OUT": args.out}, read_too)
    run = build(RunConfig, read_json(args.config), args.config)
    embeddings, trials = tables.read(args.embeddings, tables.EMBEDDINGS), tables.read(args.trials, tables.TRIALS)
    cohort = (tables.read(args.cohort, tables.EMBEDDINGS), tables.read_meta(args.cohort)) if args.cohort else None
    made = metrics(embeddings, tables.read_meta(args.embeddings), run, trials, wanted, cohort)
    read = origin.made_from(config=args.config, embeddings=args.embeddings, trials=args.trials, cohort=args.cohort)
    origin.write_sealed(args.out, {**made, origin.FROM: read, origin.CODE: origin.code_of(*VERIFYING)})
    print(table(made))


if __name__ == "__main__":
    cli.run(main)
