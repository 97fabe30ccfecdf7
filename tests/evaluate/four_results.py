"""Four results that are all called "MARS", of one set of synthetic features on the real tables of MARS: a part of docs/protocols.md.

In:      the public tables of MARS (tests.evaluate.conftest.read_mars).   Out: the tables between the marks of docs/protocols.md.
         `python -m tests.evaluate.four_results` prints them, with --write it puts them into the page.
Source:  specs/dubbernet.md section 7.3. Labels, cameras, lengths and queries are those of MARS; the features are drawn, so the scores
         say how far the rules differ on features of that kind, and nothing about any method or about MARS.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluate import legacy_eval
from evaluate.distance import squared_distances
from evaluate.protocols import Subjects
from evaluate.report_page.summary import AP_NAMES, markdown_table
from evaluate.retrieval import AveragePrecision, Retrieval, Summary, retrieve, summarise
from pipeline.base.seeds import rng
from tests.conftest import REPOSITORY, outside
from tests.evaluate.conftest import Mars, read_mars
from tests.evaluate.test_protocols import mars_subjects

PAGE = REPOSITORY / "docs/protocols.md"
NUMBERS = 64
"""Of a feature."""
CAMERA, NOISE = 0.4, 1.0
"""Standard deviation of what a camera and a tracklet add to the centre of an identity, whose own is 1."""
QUERIES_TOO = ("query", "gallery")


def features(mars: Mars, seed: int = 0, camera: float = CAMERA) -> Subjects:
    """Centre of the identity + what its camera adds to everybody + noise, all normal. Every distractor is an identity of its own."""

    def draw(name: str, rows: int) -> np.ndarray:
        return rng(seed, "four results", name).normal(size=(rows, NUMBERS))

    persons = draw("identity", int(mars.identity.max()) + 1)[np.maximum(mars.identity, 0)]
    centre = np.where(mars.identity[:, None] > 0, persons, draw("distractor", len(mars.identity)))
    views = draw("camera", int(mars.camera.max()) + 1)[mars.camera]
    return mars_subjects(mars, (centre + camera * views + NOISE * draw("noise", len(mars.identity))).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a ladder: what was changed since the step above, and what that gives."""

    changed: str
    gallery: int
    ap: AveragePrecision
    summary: Summary


def ranked(subjects: Subjects, compared: legacy_eval.Lists, ap: AveragePrecision = "hit", remove: bool = True) -> Retrieval:
    codes = subjects.codes()
    return retrieve(
        squared_distances(subjects.vector[compared.query], subjects.vector[compared.gallery]),
        query_identity=codes[compared.query],
        gallery_identity=codes[compared.gallery],
        query_camera=compared.query_camera,
        gallery_camera=compared.gallery_camera,
        remove_same_camera=remove,
        ap=ap,
    )


def only(found: Retrieval, queries: np.ndarray) -> Retrieval:
    """The same with some of the queries.

    Args:
        queries: bool [queries].
    """
    return Retrieval(*(getattr(found, name)[queries] for name in Retrieval.__slots__))


def ladders(subjects: Subjects, frames: np.ndarray) -> tuple[list[Rung], list[Rung], list[Rung]]:
    """From `mars_torchreid` to the authors' protocol, from there to the released evaluator, and two single changes."""
    reduced, merged = legacy_eval.lists(subjects, None), legacy_eval.lists(subjects, None, QUERIES_TOO)
    released = legacy_eval.lists(subjects, frames)
    start, whole, trapezoid = ranked(subjects, reduced), ranked(subjects, merged), ranked(subjects, merged, "trapezoid")
    stays, wrong = ranked(subjects, reduced, remove=False), ranked(subjects, released)
    few, many = len(reduced.gallery), len(merged.gallery)
    junk = int((subjects.kind == "junk").sum())

    def rung(changed: str, gallery: int, found: Retrieval, ap: AveragePrecision = "hit", over: str = "valid") -> Rung:
        return Rung(changed, gallery, ap, summarise(found, "all" if over == "all" else "valid"))

    first = rung("mars_torchreid", few, start)
    official = [
        first,
        rung("queries join the gallery; the same queries ask", many, only(whole, start.valid)),
        rung("the others ask, too: mars_merged", many, whole),
        rung("trapezoid AP; junk is counted, then removed: mars_official", many + junk, trapezoid, "trapezoid", "all"),
    ]
    cameras = [
        first,
        rung("entries of the own camera stay; the same queries ask", few, only(stays, start.valid)),
        rung("all queries ask that then have an answer: pid_only", few, stays),
        rung("right answers leave that it takes for those of the own camera: released evaluator", few, wrong),
    ]
    single = [
        first,
        rung("trapezoid AP alone", few, ranked(subjects, reduced, "trapezoid"), "trapezoid"),
        rung("mean over all queries alone: who has no answer counts as a miss", few, start, over="all"),
    ]
    return official, cameras, single


def percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def change(now: float, before: float) -> str:
    """Of the numbers as they are shown, so that a reader can add up."""
    return "" if np.isnan(now) or np.isnan(before) else f"{round(100 * now, 1) - round(100 * before, 1):+.1f}"


def ladder_table(rungs: Sequence[Rung]) -> str:
    head = ("change", "gallery", "valid queries", "AP", "R1", "", "mAP", "")
    rows = []
    for i, rung in enumerate(rungs):
        now, before = rung.summary, rungs[max(i - 1, 0)].summary
        r1, mean = float(now.cmc[0]), float(now.mean_ap)
        rows.append(
            [
                rung.changed,
                f"{rung.gallery:,}",
                f"{now.valid:,} of {now.queries:,}",
                AP_NAMES[rung.ap],
                percent(r1),
                change(r1, float(before.cmc[0])) if i else "",
                percent(mean),
                change(mean, float(before.mean_ap)) if i else "",
            ]
        )
    return markdown_table(head, rows)


def results_table(found: Sequence[legacy_eval.Result]) -> str:
    head = (
        "scored by",
        "gallery",
        "valid queries",
        "AP",
        "mean over",
        "R1",
        "R5",
        "mAP",
        "positives of the same camera kept",
        "true positives removed",
    )
    rows = []
    for one in found:
        s, e = one.summary, one.effect
        rows.append(
            [
                one.name,
                f"{one.gallery:,}",
                f"{s.valid:,} of {s.queries:,}",
                AP_NAMES[one.ap],
                f"{one.averaged_over} queries",
                *map(percent, (float(s.cmc[0]), float(s.cmc[4]), float(s.mean_ap))),
                f"{e.same_camera_kept:,} of {e.same_camera:,}",
                f"{e.cross_camera_removed:,} of {e.cross_camera:,}",
            ]
        )
    return markdown_table(head, rows)


def single_table(rungs: Sequence[Rung]) -> str:
    """Changes against the first row each, not against the row above."""
    first, *others = rungs
    parts = [ladder_table([first, one]).splitlines() for one in others]
    return "\n".join(parts[0][:3] + [part[3] for part in parts])


Ladders = tuple[list[Rung], list[Rung], list[Rung]]


def made(found: Sequence[legacy_eval.Result], steps: Ladders) -> dict[str, str]:
    """Mark -> what stands between its two."""
    official, cameras, single = steps
    return {
        "four results": results_table(found),
        "ladder official": ladder_table(official),
        "ladder cameras": ladder_table(cameras),
        "single changes": single_table(single),
    }


def rewritten(text: str, parts: dict[str, str]) -> str:
    """The page with these parts."""
    for name, part in parts.items():
        text, times = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m, part=part: f"{m[1]}{part}\n{m[2]}", text, flags=re.DOTALL
        )
        if times != 1:
            raise ValueError(f"{PAGE}: '{name}' is marked {times} times, expected once")
    return text


def main(arguments: Sequence[str]) -> None:
    folder: Path = outside("golden") / "mars_info"
    if not folder.is_dir():
        sys.exit(f"{folder} is not here: the public tables of MARS are no part of the repository; DUBTRACK_SHARED names another place")
    mars = read_mars(folder)
    subjects = features(mars)
    parts = made(legacy_eval.results(subjects, mars.frames), ladders(subjects, mars.frames))
    if "--write" in arguments:
        PAGE.write_text(rewritten(PAGE.read_text(), parts))
    else:
        print("\n\n".join(parts.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
