"""docs/protocols.md: every table between marks against the product, every equation against itself; and a changed digit is found."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from evaluate import legacy_eval
from evaluate.bootstrap import Part, intervals
from evaluate.protocols import PROTOCOLS, Subjects, apply
from evaluate.report_page.summary import AP_NAMES, mean_of
from evaluate.verification import Trials, equal_error_rate, min_detection_cost
from pipeline.base.build import plain
from pipeline.base.config import ScoringConfig
from pipeline.sources import ilidsvid, prid2011
from tests.evaluate import four_results, worked_example
from tests.evaluate.test_protocols import mars_subjects

PAGE = four_results.PAGE
NONE = "–"
MADE = ("four results", "ladder official", "ladder cameras", "single changes")
"""Marks whose tables are written by code."""

# --- reading the page ---------------------------------------------------------------------------------------------------


def part(text: str, mark: str) -> str:
    found = re.findall(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", text, re.DOTALL)
    assert len(found) == 1, f"{mark}: marked {len(found)} times"
    return found[0]


def prose() -> str:
    """The page without its line ends."""
    return " ".join(PAGE.read_text().split())


def rows(text: str, mark: str) -> list[list[str]]:
    """Cells of the table between two marks, without its head."""
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in part(text, mark).splitlines()[2:]]


OPERATORS: dict[type, Callable] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def exact(node: ast.AST) -> Fraction:
    """The value of numbers, + - * / and brackets."""
    if isinstance(node, ast.Expression):
        return exact(node.body)
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](exact(node.left), exact(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -exact(node.operand)
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    raise ValueError(ast.dump(node))


def side(text: str) -> tuple[Fraction, Fraction]:
    """Value of one side of an equation, and how far it may be off: half of its last digit if it is a decimal number, else 0."""
    text, percent = text.strip(), text.strip().endswith("%")
    value = exact(ast.parse(text.removesuffix("%").strip(), mode="eval"))
    number = re.fullmatch(r"-?\d+\.(\d+)(?: %)?", text)
    off = Fraction(1, 2 * 10 ** len(number[1])) if number else Fraction(0)
    return (value / 100, off / 100) if percent else (value, off)


@cache
def equation(text: str) -> Fraction:
    """The value of the first side, when all others are the same.

    Raises:
        ValueError: they are not.
    """
    (first, off), *others = map(side, text.split("="))
    for value, more in others:
        if abs(value - first) > off + more:
            raise ValueError(f"{text}: {float(value)} is not {float(first)}")
    return first


def equations(text: str) -> list[str]:
    """What stands in back quotes and is made of numbers alone."""
    return [span for span in re.findall(r"`([^`\n]+)`", text) if re.fullmatch(r"[-\d+*/(). =%]+", span)]


def value(cell: str) -> float:
    """Of a cell with an equation or a number in back quotes; NaN for a dash."""
    return math.nan if cell == NONE else float(equation(cell.strip("`")))


def same(found: float, expected: float | None) -> bool:
    expected = math.nan if expected is None else expected
    return math.isnan(found) == math.isnan(expected) and (math.isnan(found) or abs(found - expected) < 1e-9)


# --- what the product says ----------------------------------------------------------------------------------------------


@cache
def truths() -> dict[str, worked_example.Truth]:
    made = {name: worked_example.by_protocol(name) for name in (*worked_example.PROTOCOLS, "two_camera")}
    return made | {legacy_eval.RELEASED: worked_example.released()}


def said(name: str) -> str:
    """A way to score as the page writes it."""
    return name if name == legacy_eval.RELEASED else f"`{name}`"


@cache
def rules() -> list[list[str]]:
    removed = {True: "entries of the query's identity and camera; junk", False: "junk"}
    return [
        [f"`{p.name}`", "query", ", ".join(p.gallery_roles), removed[p.removes_same_camera], AP_NAMES[p.ap], f"{p.averaged_over} queries"]
        for p in PROTOCOLS.values()
    ]


def written(query: worked_example.Query) -> list[str]:
    """The cells of a query's line that are no numbers to work out."""
    places = [str(place) for place, (_, right) in enumerate(query.ranking, 1) if right]
    ranking = " ".join(f"**{name}**" if right else name for name, right in query.ranking)
    return [query.name, " ".join(query.removed) or NONE, ranking, ", ".join(places) or NONE]


@cache
def cameras() -> list[list[str]]:
    made, frames = worked_example.subjects(worked_example.EXAMPLE), worked_example.frames(worked_example.EXAMPLE)
    compared, out = legacy_eval.lists(made, frames), []
    for which, those, looked_up in (
        ("queries", compared.query, compared.query_camera),
        ("gallery", compared.gallery, compared.gallery_camera),
    ):
        entries = legacy_eval.camera_entries(frames[those])
        for row, put, camera in zip(those.tolist(), entries.tolist(), looked_up.tolist(), strict=True):
            out.append([which, made.tracklet[row], *map(str, (made.camera[row], frames[row], put, camera))])
    return out


@cache
def verification() -> dict[str, float]:
    scores, same_identity = worked_example.trials()
    costs = {f"minDCF, P = {p}": min_detection_cost(scores, same_identity, p) for p in (0.05, 0.01, 0.5)}
    return {
        "EER, interpolated": equal_error_rate(scores, same_identity),
        "EER, reference": equal_error_rate(scores, same_identity, "reference"),
        **costs,
    }


@cache
def thresholds() -> list[list]:
    scores, same_identity = worked_example.trials()
    fnr, fpr = Trials(scores, same_identity).error_rates()
    first = ["none", *(str(score) for score in sorted(scores.tolist(), reverse=True))]
    return [
        [name, miss, alarm, *((p * miss + (1 - p) * alarm) / min(p, 1 - p) for p in (0.05, 0.01, 0.5))]
        for name, miss, alarm in zip(first, fnr.tolist(), fpr.tolist(), strict=True)
    ]


@cache
def settings() -> list[list[str]]:
    found = plain(ScoringConfig())
    found |= {f"rerank.{name}": value for name, value in found.pop("rerank").items()}
    return [[f"`scoring.{name}`", str(value).replace("False", "false")] for name, value in found.items()]


# --- the page against the product -----------------------------------------------------------------------------------------


def problems(text: str) -> Iterator[str]:
    """What is wrong with the page, the tables that need the public tables of MARS aside."""
    for span in equations(text):
        try:
            equation(span)
        except (ValueError, SyntaxError, ZeroDivisionError) as error:
            yield str(error)
            return  # tables are read by the same equations
    if rows(text, "rules") != rules():
        yield "rules"
    for mark, tracklets in (("example", worked_example.EXAMPLE), ("two_camera example", worked_example.TWO_CAMERAS)):
        if rows(text, mark) != [list(map(str, one)) for one in tracklets]:
            yield mark
    for name, truth in truths().items():
        if name != "market":  # its lines are those of mars_torchreid
            yield from query_problems(rows(text, name), name, truth)
    lines = [*rows(text, "summary"), *rows(text, "two_camera summary")]
    names = [*worked_example.PROTOCOLS, legacy_eval.RELEASED, "two_camera"]
    if [line[0] for line in lines] != [said(name) for name in names]:
        yield "summary: other rows"
        return
    for name, line in zip(names, lines, strict=True):
        yield from summary_problems(line, name, truths()[name])
    if rows(text, "cameras") != cameras():
        yield "cameras"
    for line, expected in zip(rows(text, "trials"), thresholds(), strict=True):
        if line[0] != expected[0] or not all(same(value(cell), number) for cell, number in zip(line[1:], expected[1:], strict=True)):
            yield f"trials: {line}"
    found = {name: value(cell) for name, cell in rows(text, "verification")}
    if found.keys() != verification().keys() or not all(same(found[name], number) for name, number in verification().items()):
        yield f"verification: {found}"
    if [line[:2] for line in rows(text, "settings")] != settings():
        yield "settings"
    for seeds, mean in rows(text, "spread"):
        if mean_of([float(one) / 100 for one in seeds.split(",")]).percent() != mean:
            yield "spread"


def query_problems(lines: list[list[str]], name: str, truth: worked_example.Truth) -> Iterator[str]:
    if len(lines) != len(truth.queries):
        yield f"{name}: {len(lines)} queries"
        return
    for line, query in zip(lines, truth.queries, strict=True):
        if line[:4] != written(query) or not same(value(line[4]), query.ap) or not same(value(line[5]), query.inp):
            yield f"{name}: {line}, expected {written(query)} {query.ap} {query.inp}"


def summary_problems(line: list[str], name: str, truth: worked_example.Truth) -> Iterator[str]:
    s = truth.summary
    if line[1:3] != [str(truth.gallery), f"{s.valid} of {s.queries}"]:
        yield f"{name}: {line[1:3]}"
    defined = truth.queries[0].inp is not None
    numbers = [*(float(s.cmc[k - 1]) for k in (1, 2, 5)), s.mean_ap, s.mean_inp if defined else None]
    for cell, number in zip(line[3:], numbers, strict=True):
        if not same(value(cell), number):
            yield f"{name}: {cell}, expected {number}"


def test_the_page_is_what_the_product_says():
    text = PAGE.read_text()
    assert list(problems(text)) == []
    assert len(equations(text)) > 90


def places(text: str) -> list[int]:
    """Where digits stand that the page answers for: bodies of tables between marks (not those that code writes), and equations."""
    made = [re.search(rf"<!-- {mark} -->.*?<!-- /{mark} -->", text, re.DOTALL) for mark in (*MADE, "sizes", "coverage")]
    out = set()
    for table in re.finditer(r"<!-- ([\w ]+) -->\n.*?\n.*?\n(.*?)<!-- /\1 -->", text, re.DOTALL):
        out |= {table.start(2) + m.start() for m in re.finditer(r"\d", table[2])}
    for span in re.finditer(r"`[-\d+*/(). =%]+`", text):
        if "=" in span[0]:
            out |= {span.start() + m.start() for m in re.finditer(r"\d", span[0])}
    return sorted(at for at in out if not any(one and one.start() <= at < one.end() for one in made))


def test_every_changed_digit_is_found():
    """Control: one digit after the other becomes another one."""
    text = PAGE.read_text()
    found = places(text)
    assert len(found) > 900 and not list(problems(text))
    missed = []
    for at in found:
        changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        if next(problems(changed), None) is None:
            missed.append(text[max(at - 30, 0) : at + 30])
    assert missed == []


def test_an_equation_is_held_to_its_digits():
    assert equation("(1/2 + 2/5) / 2 = 9/20 = 45.0 %") == Fraction(9, 20)
    assert equation("1/3 = 0.333 = 33.3 %") == Fraction(1, 3)
    for wrong in ("1/3 = 0.334", "1/3 = 3/10", "2/3 = 66.6 %", "1/2 = 51 %"):
        with pytest.raises(ValueError, match="is not"):
            equation(wrong)


def test_the_interval_by_hand():
    """Two valid queries: the percentiles of the mean over two drawn ones are the two APs themselves."""
    ap = np.array([query.ap for query in truths()["mars_torchreid"].queries if not math.isnan(query.ap)])
    alone, together = (Part(ap[:, None], unit) for unit in ("ab", "aa"))
    assert intervals("worked example", [alone], ScoringConfig()) == [pytest.approx((0.45, 0.75))]
    assert intervals("worked example", [together], ScoringConfig()) == [None]  # control: drawn together they are one, which tells nothing
    assert "reaches from `45.0 %` to `75.0 %`" in prose()


def test_all_queries_on_the_gallery_without_queries():
    """The sentence below the table of results."""
    rule = replace(PROTOCOLS["mars_torchreid"], averaged_over="all")
    found = apply(rule, worked_example.subjects(worked_example.EXAMPLE)).summary
    assert float(found.cmc[0]) == pytest.approx(1 / 3) and math.isnan(found.mean_ap)
    assert "R1 would be `1/3 = 33.3 %` and mAP undefined" in prose()


def test_where_each_side_has_one_camera_nothing_is_removed():
    two = worked_example.subjects(worked_example.TWO_CAMERAS)
    one, other = (apply(PROTOCOLS[name], two) for name in ("two_camera", "pid_only"))
    assert one.per_query.first.tolist() == other.per_query.first.tolist() and one.summary.mean_ap == other.summary.mean_ap
    here, there = (truths()[name].summary.mean_ap for name in ("mars_torchreid", "pid_only"))
    assert here != there  # control: elsewhere it does


def test_numbers_in_sentences():
    """What stands outside tables and equations."""
    text = prose()
    scores = worked_example.SAME, worked_example.DIFFERENT
    constant = np.ones(4), np.array([True, False, True, False])
    assert (equal_error_rate(*constant, "reference"), equal_error_rate(*constant)) == (1, 0.5)
    for sentence in (
        f"**: {four_results.NUMBERS} normal numbers for the centre of each identity",
        f"plus {four_results.CAMERA} times {four_results.NUMBERS} numbers that a camera",
        f"plus {four_results.NUMBERS} of noise for each tracklet",
        f"of {legacy_eval.CLIP} frames, the last one padded, at most {legacy_eval.MOST_CLIPS} of them",
        f"same identity: {', '.join(map(str, scores[0]))}; others: {', '.join(map(str, scores[1]))}.",
        "is 100 % for constant scores, where ours is 50 %",
    ):
        assert sentence in text, sentence
    trials = worked_example.trials()
    for p in (0.05, 0.01, 0.5):  # "the two forms agree"
        assert min_detection_cost(*trials, p) == pytest.approx(min_detection_cost(*trials, p, "reference"))
    assert four_results.NOISE == 1


def test_links_and_files_exist():
    text = PAGE.read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert Path(PAGE.parent, path).exists(), path
    assert re.findall(r"python -m ([\w.]+)", text) == [
        "tests.evaluate.four_results",
        "evaluate.legacy_eval",
        "evaluate.make_trials",
        "evaluate.score_trials",
        "tests.evaluate.coverage",
    ]


# --- the public tables of MARS ----------------------------------------------------------------------------------------------


def sizes(mars) -> list[list[str]]:
    made = mars_subjects(mars, np.zeros((len(mars.identity), 1), np.float32))
    out = []
    for name in ("mars_torchreid", "mars_official", "mars_merged"):
        outcome = apply(PROTOCOLS[name], made)
        out.append(["MARS", f"`{name}`", f"{outcome.gallery_size:,}", f"{outcome.summary.valid:,} of {outcome.summary.queries:,}"])
    for name, half in (("PRID-2011", prid2011.HALF), ("iLIDS-VID", ilidsvid.HALF)):
        out.append([f"{name}, each of ten splits", "`two_camera`", str(half), f"{half} of {half}"])
    return out


def test_sizes_are_those_of_the_sets(mars):
    assert rows(PAGE.read_text(), "sizes") == sizes(mars)


class Scored(NamedTuple):
    """The synthetic features, scored once for all tests."""

    subjects: Subjects
    results: list[legacy_eval.Result]
    ladders: four_results.Ladders


@pytest.fixture(scope="module")
def scored(mars) -> Scored:
    subjects = four_results.features(mars)
    return Scored(subjects, legacy_eval.results(subjects, mars.frames), four_results.ladders(subjects, mars.frames))


def test_the_four_results_are_made_again(mars, scored):
    text, made = PAGE.read_text(), four_results.made(scored.results, scored.ladders)
    assert set(made) == set(MADE)
    assert four_results.rewritten(text, made) == text, "python -m tests.evaluate.four_results --write"
    for mark in MADE:  # control: a changed digit is found
        table = part(text, mark)
        at = text.index(table) + [m.start() for m in re.finditer(r"\d", table)][-1]
        changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        assert four_results.rewritten(changed, made) != changed
    other = legacy_eval.results(four_results.features(mars, seed=1), mars.frames)
    assert four_results.results_table(other) != made["four results"]  # control: other features, other numbers


def test_the_ladders_end_at_the_four_results(mars, scored):
    """Every step is a change of one rule, the ends are what the product scores; and without a camera in the features little is gained."""
    found = {one.name: one.summary for one in scored.results}
    official, looked_up, single = scored.ladders
    for rung, name in (
        (official[0], "mars_torchreid"),
        (official[2], "mars_merged"),
        (official[3], "mars_official"),
        (looked_up[0], "mars_torchreid"),
        (looked_up[3], legacy_eval.RELEASED),
    ):
        assert (rung.summary.valid, rung.summary.mean_ap) == (found[name].valid, found[name].mean_ap), name
        assert rung.summary.cmc.tolist() == found[name].cmc[: len(rung.summary.cmc)].tolist()
    assert looked_up[2].summary.mean_ap == apply(PROTOCOLS["pid_only"], scored.subjects).summary.mean_ap
    assert math.isnan(single[2].summary.mean_ap)
    free = four_results.features(mars, camera=0.0)
    gained = [
        legacy_eval.summary(s, legacy_eval.lists(s, mars.frames)).cmc[0] - legacy_eval.summary(s, legacy_eval.lists(s, None)).cmc[0]
        for s in (scored.subjects, free)
    ]
    assert gained[1] < gained[0] / 2


def test_on_mars_the_released_evaluator_is_pid_only_on_other_queries(mars, scored):
    """What the page says: whoever is taken for camera 1 loses all right answers, whoever is not loses none."""
    subjects = scored.subjects
    released = legacy_eval.lists(subjects, mars.frames)
    wrong, stays = (four_results.ranked(subjects, released, remove=remove) for remove in (True, False))
    taken = released.query_camera == 1
    assert not wrong.valid[taken].any() and (wrong.good[~taken] == stays.good[~taken]).all() and wrong.valid.sum() == 1526
    left = four_results.only(stays, wrong.valid)
    assert left.first.tolist() == wrong.first[wrong.valid].tolist() and left.ap.tolist() == wrong.ap[wrong.valid].tolist()
    assert not np.array_equal(wrong.good, stays.good)  # control: some did lose
