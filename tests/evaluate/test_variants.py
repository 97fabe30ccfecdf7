"""The plain evaluator gives our numbers; each variant changes them, in the direction it claims; where its cause is absent it does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from evaluate.protocols import PROTOCOLS, Subjects, apply, protocol_named
from evaluate.variants import METRICS, VARIANTS, Case, case_of, ours
from pipeline.base.errors import ScoreError
from pipeline.base.seeds import rng
from tests.evaluate import zoo_page
from tests.evaluate.bad_evaluators import RIGHT, frames, scene
from tests.evaluate.test_protocols import PAIRS, mars_subjects, subjects

MANY = [name for name, protocol in PROTOCOLS.items() if not protocol.one_camera_each]


def crowd(number: int) -> Subjects:
    """A random set full of ties, with everything that can be in one."""
    draw = rng(number, "crowd")
    count = 60
    role = draw.choice(["query", "gallery", "gallery", "junk"], count)
    kind = np.where(role == "junk", "junk", np.where((role == "gallery") & (draw.random(count) < 0.2), "distractor", "person"))
    vector = draw.integers(0, 4, (count, 2)).astype(np.float32)
    names = [f"t{i:02d}" for i in range(count)]
    return Subjects(names, role, draw.integers(0, 12, count).astype(str), kind, draw.integers(0, 3, count), vector)


@pytest.mark.parametrize("name", MANY)
def test_the_plain_evaluator_is_ours(name):
    protocol = protocol_named(name)
    for made in (scene(), *(crowd(number) for number in range(8))):
        assert not case_of(protocol, made).prints().differs(ours(apply(protocol, made)))


def test_the_plain_evaluator_is_ours_on_two_cameras():
    protocol, made = protocol_named("two_camera"), subjects(*PAIRS)
    assert not case_of(protocol, made).prints().differs(ours(apply(protocol, made)))


def test_a_difference_is_seen():
    right = ours(apply(RIGHT, scene()))
    assert not right.differs(right)
    assert right.differs(replace(right, valid=right.valid - 1))
    for name in METRICS:
        assert right.differs(replace(right, values={**right.values, name: right.values[name] + 1e-6}))
        assert right.differs(replace(right, values={**right.values, name: float("nan")}))


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(RIGHT, scene(), frames(scene()))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_goes_where_it_says(case, name):
    """R1 and mAP never against the claim, and some number with it; 'either': some number differs."""
    one, right = VARIANTS[name], case.prints()
    moved = {metric: value - right.values[metric] for metric, value in one.prints(case).values.items()}
    if one.effect == "either":
        assert max(map(abs, moved.values())) > 1e-9
    else:
        sign = 1 if one.effect == "too high" else -1
        assert min(sign * moved["R1"], sign * moved["mAP"]) > -1e-9 and max(sign * value for value in moved.values()) > 1e-9


def test_there_are_enough_and_each_says_what_it_is():
    assert len(VARIANTS) >= 16
    for name, one in VARIANTS.items():
        assert one.name == name and re.fullmatch(r"[a-z0-9_]+", name)
        assert one.does.endswith(".") and one.seen and one.effect in ("too high", "too low", "either")
    assert len({one.does for one in VARIANTS.values()}) == len(VARIANTS)


# --- turned off: scenes without the cause ----------------------------------------------------------------------------


def where(s: Subjects, keep: np.ndarray) -> Subjects:
    rows = np.flatnonzero(keep)
    return Subjects([s.tracklet[i] for i in rows], s.role[rows], s.identity[rows], s.kind[rows], s.camera[rows], s.vector[rows])


def one_side_each(s: Subjects) -> Subjects:
    """Queries from camera 0, the gallery from camera 1."""
    return where(s, ((s.role == "query") & (s.camera == 0)) | ((s.role != "query") & (s.camera == 1)))


def no_ties(s: Subjects) -> Subjects:
    return replace(s, vector=s.vector + rng(1, "no ties").normal(size=s.vector.shape).astype(np.float32) / 100)


def answerable(s: Subjects) -> Subjects:
    return where(s, (s.role != "query") | np.isin(s.identity, [f"{100 + i:04d}" for i in range(40)]))


def one_answer_first(s: Subjects) -> Subjects:
    """Each query has one right answer, which is nearest."""
    s = one_side_each(answerable(s))
    persons = np.unique(s.identity, return_inverse=True)[1]
    apart = np.zeros((len(persons), persons.max() + 1), np.float32)
    apart[np.arange(len(persons)), persons] = 10 + np.where(s.kind == "person", 0, np.arange(len(persons)))
    return replace(s, vector=apart)


def seen_by(query: int, gallery: tuple[int, ...], s: Subjects) -> Subjects:
    """Queries from one camera, the gallery from others."""
    return where(s, ((s.role == "query") & (s.camera == query)) | ((s.role != "query") & np.isin(s.camera, gallery)))


def one_person(s: Subjects) -> Subjects:
    """Camera 0 asks for the one person there is, the others saw nobody else."""
    return where(seen_by(0, (1, 2), s), seen_by(0, (1, 2), s).identity == "0100")


OFF: dict[str, Callable[[Subjects], Subjects]] = {
    "cameras_per_frame": one_side_each,
    "cameras_of_the_joint_list": lambda s: s,  # see ALWAYS
    "cameras_renumbered_per_list": lambda s: where(s, s.kind == "person"),  # both lists begin with camera 0, then 1, then 2
    "cameras_shifted_by_one": lambda s: seen_by(0, (2,), s),
    "queries_in_the_gallery": one_answer_first,
    "labels_in_order_of_a_set": one_person,
    "features_out_of_step": one_person,
    "similarity_sorted_as_distance": one_person,
    "no_camera_rule": one_side_each,
    "junk_is_wrong": lambda s: where(s, s.kind != "junk"),
    "distractors_match_each_other": lambda s: where(s, s.kind != "distractor"),
    "distractors_left_out": lambda s: where(s, s.kind != "distractor"),
    "only_persons_asked_for": lambda s: where(s, np.isin(s.identity, s.identity[s.role == "query"])),
    "identities_cut_short": lambda s: replace(s, identity=np.char.add(s.identity, "x")),
    "equal_distances_backwards": no_ties,
    "equal_distances_to_the_right": no_ties,
    "ap_of_tied_groups": no_ties,
    "removed_keep_their_places": one_side_each,
    "ap_over_removed_answers": one_side_each,
    "unanswerable_are_wrong": answerable,
    "unanswerable_are_right": answerable,
    "cmc_over_all_queries": answerable,
    "ranks_off_by_one": one_answer_first,
    "rank_5_from_index_1": one_answer_first,
    "trapezoid_called_map": one_answer_first,
    "ap_of_the_first_ten": one_answer_first,
    "ap_by_whole_numbers": one_answer_first,
    "hard_queries_left_out": one_answer_first,
    "best_epoch_by_test_score": one_answer_first,
    "one_split_of_ten": one_answer_first,
    "matched_with_itself": one_answer_first,
}
"""Variant -> a change of the scene after which its cause is absent."""
ITSELF = ("cameras_per_frame", "cameras_shifted_by_one", "no_camera_rule", "removed_keep_their_places", "ap_over_removed_answers")
ALWAYS = {
    "market": ("cameras_of_the_joint_list",),
    "mars_torchreid": ("cameras_of_the_joint_list",),
    "mars_official": ("cameras_of_the_joint_list", *ITSELF),
    "mars_merged": ("cameras_of_the_joint_list", *ITSELF),
    "pid_only": (),
}
"""Protocol -> variants that have their cause in every scene: two lists have cameras, and where queries are in the gallery, each of
them is an entry to remove. The rest is tried under every protocol, each variant under one at least."""
TRIED = [(protocol, name) for protocol in MANY for name in OFF if name not in ALWAYS[protocol]]


@pytest.mark.parametrize(("protocol", "name"), TRIED)
def test_without_its_cause_a_variant_prints_our_numbers(protocol, name):
    """Negative control of all that flags a difference: it can fail to."""
    rule, made = protocol_named(protocol), OFF[name](scene())
    right, found = ours(apply(rule, made)), VARIANTS[name].prints(case_of(rule, made, frames(made)))
    assert found.values == pytest.approx(right.values, abs=1e-9, nan_ok=True)


def test_every_variant_is_tried_without_its_cause():
    assert set(OFF) == {name for _, name in TRIED} == set(VARIANTS)


@pytest.mark.parametrize("protocol", MANY)
@pytest.mark.parametrize("name", ["ap_of_tied_groups", "equal_distances_backwards", "equal_distances_to_the_right"])
def test_ties_are_all_that_these_change(protocol, name):
    """Under every protocol: with ties another mAP, without them ours, whichever AP that is."""
    rule = protocol_named(protocol)
    for made, differs in ((answerable(scene()), True), (answerable(no_ties(scene())), False)):
        right, found = ours(apply(rule, made)), VARIANTS[name].prints(case_of(rule, made))
        assert (abs(found.values["mAP"] - right.values["mAP"]) > 1e-9) == differs


@pytest.mark.parametrize("protocol", MANY)
def test_only_the_variant_of_that_name_changes_which_ap_it_is(protocol):
    """One answer of rank 2 within ten entries: 1/2 at hits, 1/4 by the trapezoid, for all that look at something else."""
    made = subjects(("query", "a1", "person", 0, 0.0), ("gallery", "b", "person", 1, 1.0), ("gallery", "a1", "person", 1, 2.0))
    case = case_of(protocol_named(protocol), made)
    ap = 0.5 if case.protocol.ap == "hit" else 0.25
    for name in ("ap_of_tied_groups", "ap_of_the_first_ten", "ap_by_whole_numbers"):
        assert VARIANTS[name].prints(case).values["mAP"] == case.prints().values["mAP"] == ap
    assert VARIANTS["trapezoid_called_map"].prints(case).values["mAP"] == 0.25


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_up_to_date():
    text = zoo_page.PAGE.read_text()
    assert zoo_page.rewritten(text) == text, "run python -m tests.evaluate.zoo_page"
    stale = text.replace("| ranks_off_by_one |", "| ranks_of_by_one |")
    assert stale != text == zoo_page.rewritten(stale)


# --- by hand ----------------------------------------------------------------------------------------------------------

HAND = (
    ("query", "a1", "person", 0, 0.0),
    ("gallery", "a1", "person", 0, 0.1),  # own camera
    ("gallery", "0000", "distractor", 1, 0.3),
    ("gallery", "a1", "person", 1, 0.5),  # right, rank 2
    ("gallery", "a2", "person", 1, 0.6),
    ("gallery", "a1", "person", 2, 0.7),  # right, rank 4
    ("junk", "00-1", "junk", 1, 0.2),
)


@pytest.mark.parametrize(
    ("name", "first", "ap"),
    [
        ("", 2, (1 / 2 + 2 / 4) / 2),
        ("no_camera_rule", 1, (1 + 2 / 3 + 3 / 5) / 3),
        ("cameras_of_the_joint_list", 2, (1 / 2 + 2 / 4) / 2),  # cameras 0, 0, 1, 1, 1 for 0, 1, 1, 1, 2
        ("cameras_shifted_by_one", 1, (1 + 2 / 4) / 2),  # camera 1 goes, 0 and 2 stay: ranks 1, 4
        ("junk_is_wrong", 3, (1 / 3 + 2 / 5) / 2),
        ("distractors_left_out", 1, (1 + 2 / 3) / 2),
        ("only_persons_asked_for", 1, 1.0),
        ("identities_cut_short", 2, (1 / 2 + 2 / 3 + 3 / 4) / 3),
        ("matched_with_itself", 1, (1 + 2 / 3 + 3 / 5) / 3),
        ("removed_keep_their_places", 3, (1 / 3 + 2 / 5) / 2),
        ("trapezoid_called_map", 2, ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2),
        ("ap_over_removed_answers", 2, (1 / 2 + 2 / 4) / 3),
        ("ap_by_whole_numbers", 2, 0.0),
        ("similarity_sorted_as_distance", 1, (1 + 2 / 3) / 2),
    ],
)
def test_by_hand(name, first, ap):
    case = case_of(RIGHT, subjects(*HAND), np.full(len(HAND), 8))
    case = replace(case, rules=replace(case.rules, places={f"R{k}": k - 1 for k in (1, 2, 3, 4)}))
    made = VARIANTS[name].prints(case) if name else case.prints()
    assert [made.values[f"R{k}"] for k in (1, 2, 3, 4)] == [float(k >= first) for k in (1, 2, 3, 4)]
    assert made.values["mAP"] == pytest.approx(ap)


def test_tied_groups_by_hand():
    """Right, wrong and wrong at one distance: all get the precision at the last, 1/3; as listed it is 1, backwards 1/3.

    Where AP is trapezoid, that is averaged with the precision before the group.
    """
    tied = (HAND[0], ("gallery", "a1", "person", 1, 1.0), *(("gallery", "b", "person", 1, 1.0),) * 2)
    case = case_of(RIGHT, subjects(*tied))
    assert case.prints().values["mAP"] == 1
    for name in ("ap_of_tied_groups", "equal_distances_backwards"):
        assert VARIANTS[name].prints(case).values["mAP"] == pytest.approx(1 / 3)
    trapezoid = replace(protocol_named("mars_official"), gallery_roles=("gallery",))
    case = case_of(trapezoid, subjects(*tied))
    assert case.prints().values["mAP"] == 1  # (1 + 1) / 2
    assert VARIANTS["ap_of_tied_groups"].prints(case).values["mAP"] == pytest.approx((1 + 1 / 3) / 2)


def test_features_that_are_all_equal_get_full_marks_from_one_variant():
    made = scene()
    case = case_of(RIGHT, replace(made, vector=np.ones_like(made.vector)))
    assert case.prints().values["R1"] < 0.1 and VARIANTS["equal_distances_to_the_right"].prints(case).values["mAP"] == 1


def test_what_cannot_be_scored_is_refused():
    made = subjects(*HAND[:3])
    case = case_of(RIGHT, made)
    with pytest.raises(ScoreError, match="none of 1 queries has a right answer"):
        case.prints()
    with pytest.raises(ScoreError, match="needs the length of each tracklet"):
        VARIANTS["cameras_per_frame"].prints(case)
    with pytest.raises(ScoreError, match="2 lengths for 3 tracklets"):
        case_of(RIGHT, made, np.array([8, 8]))
    with pytest.raises(ScoreError, match="NaN or infinity"):
        case_of(RIGHT, replace(made, vector=np.full_like(made.vector, np.nan)))


def test_real_tables_per_frame_cameras_answer_1526_queries(mars):
    """The counts of specs/dubbernet.md section 7.3 come out of the variant, too."""
    made = mars_subjects(mars, rng(0, "mars").normal(size=(len(mars.identity), 2)).astype(np.float32))
    protocol = protocol_named("mars_torchreid")
    case = case_of(protocol, made, mars.frames)
    right, found = ours(apply(protocol, made)), VARIANTS["cameras_per_frame"].prints(case)
    assert (right.valid, found.valid, found.queries) == (1840, 1526, 1980)
    assert not case.prints().differs(right)
