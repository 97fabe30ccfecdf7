"""What the released MARS evaluator would have printed, beside the sound numbers: an explanation, not a protocol.

In:      Subjects in the order of the data set's lists (which is the order of their names) and the length of each tracklet;
         as a command: EMBEDDINGS and config.json of one or more runs, TRACKLETS of MARS.
Out:     the camera that was compared for each tracklet, counts of what that keeps and deletes, CMC and mAP;
         as a command: per run a table in Markdown, the protocols that are called MARS and the released evaluator on the same
         features; with --out also a sealed JSON file with every number and what it is a number of.
Source:  specs/dubbernet.md sections 3.3 and 7.3 (E3). The gallery is that of `mars_torchreid`: no queries, no junk.
         docs/protocols.md takes the four results apart.

Entries of a query's identity and camera have to leave its ranking. To know them, a scorer needs one camera per tracklet. The
released evaluator collects one camera per frame of the test clips and looks that list up by tracklet number: tracklet i gets
the camera of frame i of the list, which is a frame of one of the first tracklets. In the MARS gallery those are distractors
of camera 1, so every entry is taken for camera 1. Where all queries are from one camera and the gallery from another
(iLIDS-VID, PRID-2011) nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate.distance import squared_distances
from evaluate.protocols import CMC_RANKS, Subjects, apply, protocol_named
from evaluate.report_page.summary import AP_NAMES, Mean, markdown_table
from evaluate.retrieval import AveragePrecision, Summary, retrieve, same_identity, summarise
from evaluate.score import IDENTITY, TRAINING_OF, check_origin, normalised, subjects_of, test_set_of, what_it_saw
from pipeline.base import cli, origin, tables
from pipeline.base.build import build
from pipeline.base.code import SCORING
from pipeline.base.config import RunConfig
from pipeline.base.errors import ScoreError
from pipeline.base.files import read_json

CLIP, MOST_CLIPS = 6, 41
"""Frames of a test clip, and clips of a tracklet that are used."""


def camera_entries(frames: np.ndarray, clip: int = CLIP, most_clips: int = MOST_CLIPS) -> np.ndarray:
    """Cameras that the evaluator collects for each tracklet: one per frame of its clips, the last of which is padded.

    Args:
        frames: integers [tracklets]; length of each tracklet, at least 1.

    Returns:
        int64 [tracklets].
    """
    return clip * np.minimum(-(-frames.astype(np.int64) // clip), most_clips)


def compared_cameras(camera: np.ndarray, frames: np.ndarray, clip: int = CLIP, most_clips: int = MOST_CLIPS) -> np.ndarray:
    """The camera that the evaluator takes for each tracklet of one list (of the queries, or of the gallery).

    Args:
        camera: integers [tracklets], the true cameras in the order of the list.
        frames: integers [tracklets]; length of each, at least 1.

    Returns:
        As `camera`: entry i of the cameras of all frames, for tracklet i.

    Raises:
        ScoreError: not one length for each camera, or a tracklet without a frame.
    """
    if camera.shape != frames.shape or (len(frames) and frames.min() < 1):
        raise ScoreError(f"{len(camera)} cameras and {len(frames)} lengths of tracklets: expected as many, and lengths from 1")
    return np.repeat(camera, camera_entries(frames, clip, most_clips))[: len(camera)]


@dataclass(frozen=True, slots=True)
class Lists:
    """Queries and gallery of MARS, and what is compared for each."""

    query: np.ndarray
    """int64; rows of Subjects."""
    gallery: np.ndarray
    """int64; rows of Subjects."""
    query_camera: np.ndarray
    """Integers [queries]; the camera compared."""
    gallery_camera: np.ndarray
    """Integers [gallery]."""


def lists(subjects: Subjects, frames: np.ndarray | None, gallery_roles: Sequence[str] = ("gallery",)) -> Lists:
    """Queries and gallery in the order of `subjects`.

    Args:
        frames: integers [rows of `subjects`], length of each tracklet: cameras as the released evaluator takes them.
            None: the true ones.
        gallery_roles: of which the gallery is made; junk is left out whatever its role.
    """
    query = np.flatnonzero(subjects.role == "query")
    gallery = np.flatnonzero(np.isin(subjects.role, gallery_roles) & (subjects.kind != "junk"))
    taken = [
        subjects.camera[rows] if frames is None else compared_cameras(subjects.camera[rows], frames[rows]) for rows in (query, gallery)
    ]
    return Lists(query, gallery, taken[0], taken[1])


@dataclass(frozen=True, slots=True)
class Effect:
    """What comparing some cameras does, counted; no distance is needed."""

    queries: int
    valid: int
    """Queries with an entry of their identity left in the ranking."""
    same_camera: int
    """Pairs of a query and a gallery entry of its identity that its own camera saw: all of them should be removed."""
    same_camera_kept: int
    asking: int
    """Queries that have such a pair."""
    asking_kept: int
    """Queries that have such a pair left in the ranking."""
    cross_camera: int
    """Pairs of one identity and two cameras, the right answers: none of them should be removed."""
    cross_camera_removed: int


def effect(subjects: Subjects, compared: Lists) -> Effect:
    """Count the pairs that `compared` keeps and removes, against the true cameras."""
    codes, camera = subjects.codes(), subjects.camera
    pairs = same_identity(
        codes[compared.query], codes[compared.gallery], compared.query_camera, compared.gallery_camera, remove_same_camera=True
    )
    same = camera[compared.query][pairs.query] == camera[compared.gallery][pairs.gallery]
    kept = ~pairs.removed
    return Effect(
        queries=pairs.queries,
        valid=len(np.unique(pairs.query[kept])),
        same_camera=int(same.sum()),
        same_camera_kept=int((same & kept).sum()),
        asking=len(np.unique(pairs.query[same])),
        asking_kept=len(np.unique(pairs.query[same & kept])),
        cross_camera=int((~same).sum()),
        cross_camera_removed=int((~same & ~kept).sum()),
    )


def summary(subjects: Subjects, compared: Lists) -> Summary:
    """CMC, mAP (at hits) and mINP over valid queries where the entries to remove are told by the cameras `compared`.

    With the true cameras this is `mars_torchreid`. The true and the compared ones differ in valid queries, too, so their
    scores are means over different queries.

    Raises:
        ScoreError: no query, no gallery, or a vector that is not finite.
    """
    if not len(compared.query) or not len(compared.gallery):
        raise ScoreError(f"{len(compared.query)} queries and a gallery of {len(compared.gallery)}: expected some of each; check the split")
    codes = subjects.codes()
    result = retrieve(
        squared_distances(subjects.vector[compared.query], subjects.vector[compared.gallery]),
        query_identity=codes[compared.query],
        gallery_identity=codes[compared.gallery],
        query_camera=compared.query_camera,
        gallery_camera=compared.gallery_camera,
        remove_same_camera=True,
        ap="hit",
    )
    return summarise(result, "valid", CMC_RANKS)


# --- the four results --------------------------------------------------------------------------------------------------

SOUND = ("mars_torchreid", "mars_official", "mars_merged")
RELEASED = "released evaluator"


@dataclass(frozen=True, slots=True)
class Result:
    """One way to score the same features, and what came out."""

    name: str
    """Protocol, or :data:`RELEASED`."""
    sound: bool
    """Whether cameras are the true ones, so that the score may be reported."""
    description: str
    gallery: int
    """Rows of the gallery as its definition has it."""
    gallery_definition: str
    ap: AveragePrecision
    averaged_over: str
    summary: Summary
    effect: Effect


def results(subjects: Subjects, frames: np.ndarray) -> list[Result]:
    """The same features by every protocol that is called MARS, and by the released evaluator, which stands last.

    Args:
        frames: integers [rows of `subjects`], length of each tracklet.

    Raises:
        ScoreError: no query, no gallery, no query with an answer, or a vector that is not finite.
    """
    out = []
    for name in SOUND:
        outcome = apply(protocol_named(name), subjects)
        rule = outcome.protocol
        out.append(
            Result(
                name,
                True,
                rule.description,
                outcome.gallery_size,
                rule.gallery_definition,
                rule.ap,
                rule.averaged_over,
                outcome.summary,
                effect(subjects, lists(subjects, None, rule.gallery_roles)),
            )
        )
    like, released = protocol_named(SOUND[0]), lists(subjects, frames)
    out.append(
        Result(
            RELEASED,
            False,
            f"{SOUND[0]}, but the camera of a tracklet is looked up by its number in a list that has one camera per frame.",
            len(released.gallery),
            like.gallery_definition,
            like.ap,
            like.averaged_over,
            summary(subjects, released),
            effect(subjects, released),
        )
    )
    return out


# --- command -----------------------------------------------------------------------------------------------------------

HEAD = (
    "scored by",
    "the network saw",
    "R1",
    "R5",
    "mAP",
    "gallery",
    "valid queries",
    "AP",
    "mean over",
    "positives of the same camera kept",
    "true positives removed",
)
NOTE = (
    "Percent. Features ({feature}) and distances are the same in all rows; gallery, queries, AP and cameras are not, so no two "
    "rows may be compared as if one were better. The last row is our reconstruction of the released evaluator, with 6 frames in a clip and at "
    "most 41 clips of a tracklet; it explains a difference between published numbers and is no score to report. docs/protocols.md takes "
    "the rows apart."
)


def tracklet_lengths(tracklets: pa.Table, meta: Mapping[str, Any], names: Sequence[str], where: str) -> np.ndarray:
    """Frames of each of `names`.

    Args:
        tracklets: TRACKLETS, of which 'tracklet' and 'frames' are used.
        meta: its provenance.
        where: its file, for messages.

    Returns:
        int64 [names].

    Raises:
        ScoreError: the table is not of MARS, or lacks a tracklet.
    """
    if meta.get("source") != "mars":
        raise ScoreError(
            f"{where}: its source is {meta.get('source')!r}, expected 'mars': the released evaluator's cameras are reconstructed for MARS only"
        )
    found = dict(zip(tracklets.column("tracklet").to_pylist(), pc.list_value_length(tracklets.column("frames")).to_pylist(), strict=True))
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise ScoreError(
            f"{where}: has no tracklet {missing}, which was embedded; give the TRACKLETS table that the embeddings were made of"
        )
    return np.array([found[name] for name in names], np.int64)


def comparison(found: Sequence[Result], saw: str) -> str:
    """The table in Markdown.

    Args:
        saw: what the network had before it at test time, in words; stands beside the numbers of each row.
    """
    return markdown_table(HEAD, [_row(result, saw) for result in found])


def _row(result: Result, saw: str) -> list[str]:
    scores, counts = result.summary, result.effect
    values = (float(scores.cmc[0]), float(scores.cmc[4]), float(scores.mean_ap))
    return [
        result.name,
        saw,
        *(Mean(_defined(value), None).percent() for value in values),
        f"{result.gallery:,}",
        f"{scores.valid:,} of {scores.queries:,}",
        AP_NAMES[result.ap],
        f"{result.averaged_over} queries",
        f"{counts.same_camera_kept:,} of {counts.same_camera:,}",
        f"{counts.cross_camera_removed:,} of {counts.cross_camera:,}",
    ]


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def numbers(result: Result) -> dict[str, Any]:
    """One result as JSON has it: fractions, null where the rule does not define a number here."""
    scores = result.summary
    return {
        "scored_by": result.name,
        "sound": result.sound,
        "description": result.description,
        "gallery": result.gallery,
        "gallery_definition": result.gallery_definition,
        "queries": scores.queries,
        "valid": scores.valid,
        "ap": result.ap,
        "averaged_over": result.averaged_over,
        **{f"R{k}": _defined(float(scores.cmc[k - 1])) for k in (1, 5, 10, 20)},
        "mAP": _defined(scores.mean_ap),
        "mINP": _defined(scores.mean_inp) if result.ap == "hit" else None,
        "positives": asdict(result.effect),
    }


def note(normalise: bool) -> str:
    """What a reader of the tables has to know."""
    return NOTE.format(feature="scaled to length 1" if normalise else "as embedded, not normalised")


def title(run: RunConfig, meta: Mapping[str, Any]) -> str:
    """Heading of a table: the training, and the test set where it is not the training's own.

    Args:
        meta: of EMBEDDINGS.
    """
    trained = f"{run.method} · {run.stage} on {run.dataset}, split {run.split}, seed {run.seed}"
    dataset, split = test_set_of(meta, run)
    return trained if (dataset, split) == (run.dataset, run.split) else f"{trained}, tested on {dataset}, split {split}"


def compare(embeddings: str, config: str, tracklets: str, normalise: bool = False) -> tuple[str, dict[str, Any]]:
    """One run's four results.

    Args:
        embeddings, config, tracklets: files of the run.
        normalise: as the setting scoring.normalise.

    Returns:
        Heading and table in Markdown; the run as JSON has it.

    Raises:
        ScoreError: the files are not of one run, or not of MARS.
    """
    run = build(RunConfig, read_json(config), config)
    meta, table = tables.read_meta(embeddings), tables.read(embeddings, tables.EMBEDDINGS)
    check_origin(meta, run)
    subjects = normalised(subjects_of(table)) if normalise else subjects_of(table)
    known = tables.read(tracklets, tables.TRACKLETS, ["tracklet", "frames"])
    frames = tracklet_lengths(known, tables.read_meta(tracklets), subjects.tracklet, tracklets)
    saw = what_it_saw(table, meta)
    found = results(subjects, frames)
    about = (*(getattr(run, name) for name in TRAINING_OF), *test_set_of(meta, run))
    return f"{title(run, meta)}\n\n{comparison(found, saw)}", {
        **dict(zip(IDENTITY, about, strict=True)),
        "modality": saw,
        "oracle": bool(meta.get("oracle", False)),
        "feature": {"dim": subjects.vector.shape[1], "normalised": normalise, "distance": "squared euclidean"},
        "results": [numbers(result) for result in found],
        origin.FROM: origin.made_from(config=config, embeddings=embeddings, tracklets=tracklets),
    }


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--embeddings", required=True, nargs="+", metavar="FILE", help="EMBEDDINGS table of each run")
    arguments.add_argument("--config", required=True, nargs="+", metavar="FILE", help="config.json of each run, in the same order")
    arguments.add_argument("--tracklets", required=True, help="TRACKLETS table of the data set, which is MARS")
    arguments.add_argument("--normalise", action="store_true", help="scale vectors to length 1 first, as scoring.normalise does")
    arguments.add_argument("--out", help="JSON file to write, with every number of the tables and what it is a number of")
    args = arguments.parse_args(argv)
    if len(args.embeddings) != len(args.config):
        raise ScoreError(f"{len(args.embeddings)} files after --embeddings and {len(args.config)} after --config: give one of each per run")
    cli.check_outputs({"--out": args.out}, {"--embeddings": args.embeddings, "--config": args.config, "--tracklets": args.tracklets})
    made = [compare(*files, args.tracklets, args.normalise) for files in zip(args.embeddings, args.config, strict=True)]
    print("\n\n".join([*(text for text, _ in made), note(args.normalise)]))
    if args.out:
        code = origin.code_of("evaluate/legacy_eval.py", *SCORING)
        origin.write_sealed(args.out, {"runs": [run for _, run in made], "note": note(args.normalise), origin.CODE: code})


if __name__ == "__main__":
    cli.run(main)
