"""Known ways to score wrongly, each as one change of one plain evaluator: what it would print on given embeddings.

In:      Subjects, a protocol and, for one variant, the length of each tracklet (:func:`case_of`).
Out:     what our rule prints (:func:`ours`), and what each of :data:`VARIANTS` would: R1, R5, R10, R20, mAP, valid queries.
Source:  specs/datasets.md sections 1.3, 1.4 and 8; specs/dubbernet.md section 7.3; the public threads and released files that each
         variant names. A thread is named where the matter was seen or asked about there, which is not to say that published
         numbers were made that way.

The evaluator sorts, walks down each ranking and knows nothing of `evaluate.retrieval`, which counts ranks. With nothing changed it
gives the same numbers. All test tracklets are sorted once per query (:class:`Ranking`); a variant picks from that order the entries
of its gallery, so all of them cost little more than one. What is not in the protocol's gallery is measured in a second matrix
product, so its distance may differ in the last digit from that of an equal vector inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from evaluate.distance import squared_distances
from evaluate.legacy_eval import compared_cameras
from evaluate.protocols import Outcome, Protocol, Subjects
from evaluate.retrieval import NOBODY
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng

PLACES: Mapping[str, int] = {"R1": 0, "R5": 4, "R10": 9, "R20": 19}
"""Printed rank -> where it stands in the CMC curve, which counts from 0."""
METRICS = (*PLACES, "mAP")


@dataclass(frozen=True, slots=True)
class Printed:
    """What an evaluator prints."""

    queries: int
    valid: int
    """Queries that it takes for answerable."""
    values: Mapping[str, float]
    """:data:`METRICS` as fractions; NaN: not defined."""

    def differs(self, other: Printed, by: float = 1e-9) -> bool:
        """Whether any number is another one."""
        counts = (self.queries, self.valid) != (other.queries, other.valid)
        return counts or any(not _close(self.values[name], other.values[name], by) for name in METRICS)


def _close(a: float, b: float, by: float) -> bool:
    return math.isnan(a) == math.isnan(b) and not abs(a - b) > by


def ours(outcome: Outcome) -> Printed:
    """The right numbers, by `evaluate.protocols`."""
    summary = outcome.summary
    values = {name: float(summary.cmc[place]) for name, place in PLACES.items()}
    return Printed(summary.queries, summary.valid, {**values, "mAP": float(summary.mean_ap)})


# --- the plain evaluator -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranking:
    """All rows of Subjects for each row that asks, nearest first; equal distances in the order of the rows."""

    number: np.ndarray
    """int64 [rows]; line of `order` for a row that asks, -1 for the others."""
    order: np.ndarray
    """int32 [asking, rows]"""
    distance: np.ndarray
    """float32 [asking, rows]; in that order."""


@dataclass(frozen=True, slots=True)
class Lists:
    """What an evaluator is handed: rows of Subjects, and the labels that stand beside them."""

    query: np.ndarray
    """int64; rows."""
    gallery: np.ndarray
    """int64; rows."""
    query_identity: np.ndarray
    """int64; NOBODY matches nothing."""
    gallery_identity: np.ndarray
    query_camera: np.ndarray
    gallery_camera: np.ndarray


AP: TypeAlias = Callable[[np.ndarray, int, np.ndarray], float]
"""Ranks of the right answers (from 1, ascending), how many right answers there are, distances down the ranking -> average precision."""


def at_hits(rank: np.ndarray, answers: int, _: np.ndarray) -> float:
    """Precision at each right answer."""
    return float(np.sum(_counted(rank) / rank) / answers)


def trapezoid(rank: np.ndarray, answers: int, _: np.ndarray) -> float:
    """Mean of the precision at each right answer and just before it."""
    k = _counted(rank)
    before = np.where(rank > 1, (k - 1) / np.maximum(rank - 1, 1), 1.0)
    return float(np.sum((before + k / rank) / 2) / answers)


def _counted(rank: np.ndarray) -> np.ndarray:
    return np.arange(1, len(rank) + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How the plain evaluator ranks and averages. The defaults are right for `market`."""

    removes_same_camera: bool = True
    itself_stays: bool = False
    """A query that is in the gallery answers itself."""
    removed_hold_places: bool = False
    removed_are_answers: bool = False
    """Removed entries are among the right answers that AP divides by."""
    farthest_first: bool = False
    ties: Literal["as listed", "backwards", "right ones first"] = "as listed"
    ap: AP = at_hits
    empty: float = math.nan
    """AP of a query whose ranking is empty."""
    unanswered: Literal["skipped", "wrong", "right", "undefined", "wrong in the CMC"] = "skipped"
    """Queries without a right answer. 'undefined': wrong in the CMC, and no AP, hence no mAP."""
    dropped: float = 0.0
    """Part of the answered queries that is left out, the worst by AP."""
    places: Mapping[str, int] = field(default_factory=lambda: PLACES)


@dataclass(frozen=True, slots=True)
class Case:
    """One protocol on one set of embeddings, ranked."""

    protocol: Protocol
    subjects: Subjects
    frames: np.ndarray | None
    """int64 [rows]; length of each tracklet."""
    codes: np.ndarray
    """int64 [rows]; of the identities."""
    ranking: Ranking
    lists: Lists
    rules: Rules

    def listed(self, query: np.ndarray, gallery: np.ndarray) -> Lists:
        """Other rows with their true labels."""
        return _lists(self.subjects, self.codes, query, gallery)

    def prints(self, lists: Lists | None = None, **rules: Any) -> Printed:
        """The plain evaluator on these lists, with these rules changed.

        Raises:
            ScoreError: no query can be scored.
        """
        return _plain(self.ranking, self.lists if lists is None else lists, replace(self.rules, **rules))


def case_of(protocol: Protocol, subjects: Subjects, frames: np.ndarray | None = None) -> Case:
    """Rank once what all variants look at.

    Args:
        frames: integers [rows of `subjects`], length of each tracklet; without them one variant cannot be run.

    Raises:
        ScoreError: a vector that is not finite, or not one length of each tracklet.
    """
    if frames is not None and len(frames) != len(subjects.tracklet):
        raise ScoreError(f"{len(frames)} lengths for {len(subjects.tracklet)} tracklets: expected one each")
    query = np.flatnonzero(subjects.role == "query")
    entries = np.isin(subjects.role, protocol.gallery_roles) & (subjects.kind != "junk")
    codes = subjects.codes()
    rules = Rules(
        removes_same_camera=protocol.removes_same_camera,
        ap=at_hits if protocol.ap == "hit" else trapezoid,
        empty=math.nan if protocol.ap == "hit" else 0.0,  # an empty ranking is wrong, says the original scorer
        unanswered="skipped" if protocol.averaged_over == "valid" else "undefined",
    )
    ranking = _rank(subjects, np.concatenate([query, _asking_distractors(subjects, entries)]), entries)
    return Case(protocol, subjects, frames, codes, ranking, _lists(subjects, codes, query, np.flatnonzero(entries)), rules)


def _lists(subjects: Subjects, codes: np.ndarray, query: np.ndarray, gallery: np.ndarray) -> Lists:
    return Lists(query, gallery, codes[query], codes[gallery], subjects.camera[query], subjects.camera[gallery])


def _asking_distractors(subjects: Subjects, entries: np.ndarray) -> np.ndarray:
    """Rows of the first distractor of each camera in the gallery."""
    rows = np.flatnonzero(entries & (subjects.kind == "distractor"))
    return rows[np.unique(subjects.camera[rows], return_index=True)[1]]


def _rank(subjects: Subjects, asking: np.ndarray, entries: np.ndarray) -> Ranking:
    """The gallery in one matrix product, as the protocol measures it, and all other rows in another.

    Args:
        asking: rows that are ranked for.
        entries: bool [rows]; the protocol's gallery.
    """
    vector, rows = subjects.vector, len(subjects.tracklet)
    parts = [part for part in (np.flatnonzero(entries), np.flatnonzero(~entries)) if len(part)]
    order, distance = np.empty((len(asking), rows), np.int32), np.empty((len(asking), rows), np.float32)
    start = 0
    for blocks in zip(*(squared_distances(vector[asking], vector[part]) for part in parts), strict=True):
        stop = start + len(blocks[0])
        for part, block in zip(parts, blocks, strict=True):
            distance[start:stop, part] = block
        order[start:stop] = np.argsort(distance[start:stop], axis=1, kind="stable")
        distance[start:stop] = np.take_along_axis(distance[start:stop], order[start:stop], axis=1)
        start = stop
    number = np.full(rows, -1)
    number[asking] = np.arange(len(asking))
    return Ranking(number, order, distance)


def _plain(ranking: Ranking, lists: Lists, rules: Rules) -> Printed:
    """One query after the other down its ranking, then the means."""
    place = np.full(len(ranking.number), -1)
    place[lists.gallery] = np.arange(len(lists.gallery))
    first, ap = np.zeros(len(lists.query), np.int64), np.full(len(lists.query), np.nan)
    for q in range(len(lists.query)):
        first[q], ap[q] = _query(ranking, lists, rules, place, q)
    return _means(first, ap, rules)


def _query(ranking: Ranking, lists: Lists, rules: Rules, place: np.ndarray, q: int) -> tuple[int, float]:
    """Rank of the first right answer (0: there is none), and average precision.

    Args:
        place: int64 [rows]; position in ``lists.gallery``, -1 for rows that are not in it.
    """
    line = ranking.number[lists.query[q]]
    entry, distance = place[ranking.order[line]], ranking.distance[line]
    entry, distance = entry[entry >= 0], distance[entry >= 0]
    if rules.farthest_first:
        entry, distance = entry[::-1], distance[::-1]
    identity = lists.query_identity[q]
    same = (lists.gallery_identity[entry] == identity) & (identity != NOBODY)
    gone = same & (lists.gallery_camera[entry] == lists.query_camera[q]) & rules.removes_same_camera
    if rules.itself_stays:
        gone &= lists.gallery[entry] != lists.query[q]
    right = same & ~gone
    answers = int(np.count_nonzero(same if rules.removed_are_answers else right))
    if not rules.removed_hold_places:
        right, distance = right[~gone], distance[~gone]
    if rules.ties != "as listed":
        right = right[_among_equals(distance, right, rules.ties)]
    rank = np.flatnonzero(right) + 1
    if len(rank):
        return int(rank[0]), rules.ap(rank, answers, distance)
    return 0, math.nan if len(right) else rules.empty


def _among_equals(distance: np.ndarray, right: np.ndarray, ties: str) -> np.ndarray:
    """The same ranking with entries of equal distance in another order."""
    group = np.cumsum(np.diff(distance, prepend=distance[:1]) != 0)
    return np.lexsort((-np.arange(len(group)) if ties == "backwards" else ~right, group))


def _means(first: np.ndarray, ap: np.ndarray, rules: Rules) -> Printed:
    queries, answered = len(first), first > 0
    if rules.unanswered in ("wrong", "right"):
        first, ap = np.where(answered, first, rules.unanswered == "right"), np.where(answered, ap, rules.unanswered == "right")
        counted, averaged = np.ones(queries, np.bool_), np.ones(queries, np.bool_)
        valid = queries
    else:
        valid = int(answered.sum())
        if not valid:
            raise ScoreError(f"none of {queries} queries has a right answer left")
        counted = answered if rules.unanswered == "skipped" else np.ones(queries, np.bool_)
        averaged = answered if rules.unanswered == "wrong in the CMC" else counted
    if rules.dropped:
        worst = np.argsort(np.where(answered, ap, np.inf), kind="stable")[: math.ceil(rules.dropped * valid)]
        counted, averaged = counted.copy(), averaged.copy()
        counted[worst] = averaged[worst] = False
        valid -= len(worst)
        if not valid:
            raise ScoreError(f"none of {queries} queries is left")
    found = first[counted]
    values = {name: float(np.mean((found > 0) & (found <= place + 1))) for name, place in rules.places.items()}
    return Printed(queries, valid, {**values, "mAP": float(ap[averaged].mean())})


# --- the variants ------------------------------------------------------------------------------------------------------


Effect = Literal["too high", "too low", "either"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to score wrongly."""

    name: str
    does: str
    """What it does, in one sentence."""
    seen: str
    """Where: threads of public repositories (owner/name#number), a released file, or 'a common slip'."""
    effect: Effect
    """What it does to the numbers as a rule."""
    prints: Callable[[Case], Printed]
    needs_lengths: bool = False


VARIANTS: dict[str, Variant] = {}
"""By name."""
COMMON = "a common slip; no released code of it was looked for"


def variant(does: str, seen: str, effect: Effect, *, needs_lengths: bool = False) -> Callable[[Callable[[Case], Printed]], Callable]:
    """Enter a function of a Case into :data:`VARIANTS` under its own name."""

    def enter(prints: Callable[[Case], Printed]) -> Callable[[Case], Printed]:
        name = prints.__name__
        VARIANTS[name] = Variant(name=name, does=does, seen=seen, effect=effect, prints=prints, needs_lengths=needs_lengths)
        return prints

    return enter


# cameras


@variant(
    "Collects one camera per frame of the test clips and looks that list up by tracklet number, so the first tracklets' cameras stand "
    "for all.",
    "the released test scripts of DubberNet and of AishahAADU/VID-Trans-ReID (VID_Test.py)",
    "too high",
    needs_lengths=True,
)
def cameras_per_frame(case: Case) -> Printed:
    """With clips of 6 frames, at most 41 of a tracklet, as DubberNet has them."""
    if case.frames is None:
        raise ScoreError("cameras_per_frame: needs the length of each tracklet")
    lists = case.lists
    query, gallery = (compared_cameras(case.subjects.camera[rows], case.frames[rows]) for rows in (lists.query, lists.gallery))
    return case.prints(replace(lists, query_camera=query, gallery_camera=gallery))


@variant(
    "Takes the camera of a gallery entry from one list of queries and gallery together, in which the queries come first.",
    "mikwieczorek/centroids-reid#21, #41",
    "too high",
)
def cameras_of_the_joint_list(case: Case) -> Printed:
    joint = np.concatenate([case.lists.query_camera, case.lists.gallery_camera])
    return case.prints(replace(case.lists, gallery_camera=joint[: len(case.lists.gallery)]))


@variant(
    "Removes nothing: entries that the query's own camera saw count as right answers.",
    "SiddhantKapil/LA-Transformer#3, PKU-IMRE/VERI-Wild#7 (its test code, not its paper), ryanaleksander/softened-similarity-learning#4",
    "too high",
)
def no_camera_rule(case: Case) -> Printed:
    return case.prints(removes_same_camera=False)


@variant(
    "Numbers the cameras of the queries and of the gallery each in its own order of appearance.",
    "JDAI-CV/fast-reid#121 (each list renumbers its cameras)",
    "too high",
)
def cameras_renumbered_per_list(case: Case) -> Printed:
    lists = case.lists
    return case.prints(replace(lists, query_camera=_by_appearance(lists.query_camera), gallery_camera=_by_appearance(lists.gallery_camera)))


def _by_appearance(camera: np.ndarray) -> np.ndarray:
    first, back = np.unique(camera, return_index=True, return_inverse=True)[1:]
    return np.argsort(np.argsort(first))[back]


@variant("Counts the cameras of the queries from 1 and those of the gallery from 0.", COMMON, "too high")
def cameras_shifted_by_one(case: Case) -> Printed:
    return case.prints(replace(case.lists, query_camera=case.lists.query_camera + 1))


# who is in the lists


@variant(
    "Ranks junk (neither right nor wrong) as wrong answers.",
    "Yu-Wu/Exploit-Unknown-Gradually#3; asked about in huanghoujing/person-reid-triplet-loss-baseline#5",
    "too low",
)
def junk_is_wrong(case: Case) -> Printed:
    junk = np.flatnonzero((case.subjects.kind == "junk") & (case.subjects.role != "query"))
    return case.prints(case.listed(case.lists.query, np.union1d(case.lists.gallery, junk)))


@variant(
    "Lets distractors ask, too (here the first of each camera), and takes their common number 0 for one person.",
    COMMON,
    "either",
)
def distractors_match_each_other(case: Case) -> Printed:
    subjects, codes = case.subjects, case.codes.copy()
    codes[subjects.kind == "distractor"] = codes.max() + 1
    asking = _asking_distractors(subjects, np.isin(np.arange(len(codes)), case.lists.gallery))
    query, gallery = np.concatenate([case.lists.query, asking]), np.setdiff1d(case.lists.gallery, asking)
    return case.prints(_lists(subjects, codes, query, gallery))


@variant(
    "Leaves the distractors out of the gallery.",
    "a common slip; why they belong there is asked in KaiyangZhou/deep-person-reid#532",
    "too high",
)
def distractors_left_out(case: Case) -> Printed:
    gallery = case.lists.gallery
    return case.prints(case.listed(case.lists.query, gallery[case.subjects.kind[gallery] != "distractor"]))


@variant("Keeps only those persons in the gallery who are asked for.", COMMON, "too high")
def only_persons_asked_for(case: Case) -> Printed:
    keep = np.isin(case.lists.gallery_identity, case.lists.query_identity)
    return case.prints(case.listed(case.lists.query, case.lists.gallery[keep]))


@variant(
    "Adds the queries to the gallery, where they answer each other: another protocol under the same name.",
    "jackie840129/STE-NVAN#1 (as the authors of MARS have it)",
    "either",
)
def queries_in_the_gallery(case: Case) -> Printed:
    return case.prints(case.listed(case.lists.query, np.union1d(case.lists.gallery, case.lists.query)))


@variant("Has the queries in the gallery and lets each find itself, at distance 0.", COMMON, "too high")
def matched_with_itself(case: Case) -> Printed:
    return case.prints(case.listed(case.lists.query, np.union1d(case.lists.gallery, case.lists.query)), itself_stays=True)


# labels and features


@variant(
    "Numbers the persons in the order of a set, which differs between the list of the queries and that of the gallery.",
    "JDAI-CV/fast-reid#523 (a user's own data set code, in which each process had an order of its own)",
    "too low",
)
def labels_in_order_of_a_set(case: Case) -> Printed:
    """A pseudo-random order for each list stands for that of a set."""
    lists = case.lists
    return case.prints(
        replace(lists, query_identity=_by_set(lists.query_identity, "query"), gallery_identity=_by_set(lists.gallery_identity, "gallery"))
    )


def _by_set(codes: np.ndarray, side: str) -> np.ndarray:
    persons, back = np.unique(codes[codes != NOBODY], return_inverse=True)
    out = codes.copy()
    out[codes != NOBODY] = rng(0, "variants", "set", side).permutation(len(persons))[back]
    return out


@variant("Cuts the last character off the identities, as a field of fixed width does, so some persons become one.", COMMON, "either")
def identities_cut_short(case: Case) -> Printed:
    short = np.unique([name[:-1] for name in case.subjects.identity.tolist()], return_inverse=True)[1]
    codes = np.where(case.codes == NOBODY, NOBODY, short)
    return case.prints(_lists(case.subjects, codes, case.lists.query, case.lists.gallery))


@variant("Has the features of the gallery in another order than its labels, as from a loader that shuffles.", COMMON, "too low")
def features_out_of_step(case: Case) -> Printed:
    lists = case.lists
    other = rng(0, "variants", "loader").permutation(len(lists.gallery))
    return case.prints(replace(lists, gallery_identity=lists.gallery_identity[other], gallery_camera=lists.gallery_camera[other]))


# the ranking


@variant(
    "Sorts similarities as if they were distances, so the farthest entry comes first.",
    "a common slip; asked about in layumi/Person_reID_baseline_pytorch#73, where the code is right",
    "too low",
)
def similarity_sorted_as_distance(case: Case) -> Printed:
    return case.prints(farthest_first=True)


@variant(
    "Of equally near entries takes the later one first, as a sort that is not stable may.",
    "argsort without a stable kind, as in VID_Test.py of AishahAADU/VID-Trans-ReID and the evaluators it goes back to",
    "either",
)
def equal_distances_backwards(case: Case) -> Printed:
    return case.prints(ties="backwards")


@variant(
    "Of equally near entries takes a right answer first (counts only nearer wrong ones), which gives 100 to features that are all equal.",
    "batra-mlp-lab/visdial-rl#10 (ranks of answers in dialogue)",
    "too high",
)
def equal_distances_to_the_right(case: Case) -> Printed:
    return case.prints(ties="right ones first")


@variant(
    "Lets removed entries keep their places in the ranking.",
    "a common slip; asked about in layumi/2016_person_re-ID#3, where the code is right",
    "too low",
)
def removed_keep_their_places(case: Case) -> Printed:
    return case.prints(removed_hold_places=True)


@variant(
    "Prints rank 5 from index 1 of the curve, which is rank 2, and rank 10 from index 5, which is rank 6.",
    "rank 5: the released teacher and test scripts of DubberNet",
    "too low",
)
def rank_5_from_index_1(case: Case) -> Printed:
    return case.prints(places={**PLACES, "R5": 1, "R10": 5})


@variant("Prints rank k from index k of the curve, which is rank k + 1.", "valerystrizh/pytorch-histogram-loss#4", "too high")
def ranks_off_by_one(case: Case) -> Printed:
    return case.prints(places={name: place + 1 for name, place in PLACES.items()})


# the means


@variant(
    "Divides by all queries, those included that nobody could answer.",
    "asked about in layumi/Person_reID_baseline_pytorch#191 and Yux1angJi/GTA-UAV#22; that MARS has such queries, in "
    "jiyanggao/Video-Person-ReID#6",
    "too low",
)
def unanswerable_are_wrong(case: Case) -> Printed:
    return case.prints(unanswered="wrong")


@variant("Counts queries that nobody could answer as answered.", COMMON, "too high")
def unanswerable_are_right(case: Case) -> Printed:
    return case.prints(unanswered="right")


@variant("Takes the CMC over all queries but mAP over the valid ones.", COMMON, "too low")
def cmc_over_all_queries(case: Case) -> Printed:
    return case.prints(unanswered="wrong in the CMC")


@variant("Leaves out the hardest tenth of the queries as mistakes of the data.", COMMON, "too high")
def hard_queries_left_out(case: Case) -> Printed:
    return case.prints(dropped=0.1)


@variant(
    "Prints trapezoid AP (a definition of its own, right by its name) where others print AP at hits.",
    "the difference is discussed in JDAI-CV/fast-reid#18, layumi/Person_reID_baseline_pytorch#16 and wangguanan/light-reid#6; in "
    "Cysu/open-reid#50 it comes with the version of scikit-learn",
    "too low",
)
def trapezoid_called_map(case: Case) -> Printed:
    return case.prints(ap=trapezoid)


@variant(
    "Gives all equally near entries the precision at the last of them, as scikit-learn's average_precision_score does.",
    "Cysu/open-reid#50 (AP by average_precision_score)",
    "either",
)
def ap_of_tied_groups(case: Case) -> Printed:
    return case.prints(ap=_grouped if case.protocol.ap == "hit" else _grouped_trapezoid)


def _groups(rank: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right answers, int64, and precision, float64, down to the last entry of each group of equals, and before the first (0 and 1)."""
    last = np.flatnonzero(np.append(np.diff(distance) != 0, True)) + 1
    right = np.searchsorted(rank, last, side="right")
    return np.append(0, right), np.append(1.0, right / last)


def _grouped(rank: np.ndarray, answers: int, distance: np.ndarray) -> float:
    right, precision = _groups(rank, distance)
    return float(np.sum(np.diff(right) * precision[1:]) / answers)


def _grouped_trapezoid(rank: np.ndarray, answers: int, distance: np.ndarray) -> float:
    right, precision = _groups(rank, distance)
    return float(np.sum(np.diff(right) * (precision[1:] + precision[:-1]) / 2) / answers)


@variant(
    "Takes AP over the first ten entries only, and over the right answers among them.",
    "asked about in SiddhantKapil/LA-Transformer#7",
    "too high",
)
def ap_of_the_first_ten(case: Case) -> Printed:
    def first_ten(rank: np.ndarray, _: int, distance: np.ndarray) -> float:
        near = rank[rank <= 10]
        return case.rules.ap(near, len(near), distance) if len(near) else 0.0

    return case.prints(ap=first_ten)


@variant("Divides AP by right answers that were removed, too.", "wl-zhao/DIML#2 (the query itself among them)", "too low")
def ap_over_removed_answers(case: Case) -> Printed:
    return case.prints(removed_are_answers=True)


@variant(
    "Divides 1 by the number of right answers as whole numbers, which is 0 for more than one.",
    "layumi/Person_reID_baseline_pytorch#4 (under Python 2)",
    "too low",
)
def ap_by_whole_numbers(case: Case) -> Printed:
    def whole(rank: np.ndarray, answers: int, distance: np.ndarray) -> float:
        return (1 // answers) * case.rules.ap(rank, 1, distance)

    return case.prints(ap=whole)


# what is scored

EPOCHS, NOISE = 5, 0.1
"""Epochs that are looked at, and how far their vectors are from those given (part of the standard deviation of each dimension)."""


@variant(
    f"Takes the best of {EPOCHS} epochs by R1 on the test set; here the others are the same vectors with a little noise.",
    "the released training scripts of DubberNet and AishahAADU/VID-Trans-ReID (VID_Trans_ReID.py); asked about in "
    "KaiyangZhou/deep-person-reid#13",
    "too high",
)
def best_epoch_by_test_score(case: Case) -> Printed:
    vector = case.subjects.vector
    entries = np.isin(np.arange(len(vector)), case.lists.gallery)
    best = case.prints()
    for epoch in range(1, EPOCHS):
        noise = rng(0, "variants", "epoch", epoch).standard_normal(vector.shape, np.float32)
        noise *= np.float32(NOISE) * vector.std(axis=0)
        noise += vector
        ranking = _rank(replace(case.subjects, vector=noise), case.lists.query, entries)
        found = replace(case, ranking=ranking).prints()
        best = max(best, found, key=lambda printed: printed.values["R1"])
    return best


@variant(
    "Gives the number of one split where the rule is the mean of ten; here a split is every tenth person who is asked for.",
    "the released data set code of AishahAADU/VID-Trans-ReID (iLDSVID.py, split 0 by default) and of DubberNet",
    "either",
)
def one_split_of_ten(case: Case) -> Printed:
    some = np.unique(case.lists.query_identity)[::10]
    return case.prints(case.listed(case.lists.query[np.isin(case.lists.query_identity, some)], case.lists.gallery))
