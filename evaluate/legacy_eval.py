"""The cameras that the released MARS evaluator compares, and what that does to its scores: an explanation, not a protocol.

In:      Subjects in the order of the data set's lists (which is the order of their names) and the length of each tracklet;
         as a command: EMBEDDINGS, TRACKLETS of MARS, and config.json of the run.
Out:     the camera that was compared for each tracklet, counts of what that keeps and deletes, CMC and mAP;
         as a command: one small table in Markdown, beside the scores by `mars_torchreid`.
Source:  specs/dubbernet.md sections 3.3 and 7.3 (E3). The gallery is that of `mars_torchreid`: no queries, no junk.

Entries of a query's identity and camera have to leave its ranking. To know them, a scorer needs one camera per tracklet. The
released evaluator collects one camera per frame of the test clips and looks that list up by tracklet number: tracklet i gets
the camera of frame i of the list, which is a frame of one of the first tracklets. In the MARS gallery those are distractors
of camera 1, so every entry is taken for camera 1. Where all queries are from one camera and the gallery from another
(iLIDS-VID, PRID-2011) nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate.distance import squared_distances
from evaluate.protocols import CMC_RANKS, Subjects, apply, protocol_named
from evaluate.report_page.summary import ORACLE, Mean, markdown_table
from evaluate.retrieval import Summary, retrieve, same_identity, summarise
from evaluate.score import check_origin, seen, subjects_of
from pipeline.base import cli, tables
from pipeline.base.build import build
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
    """Queries and gallery of the reduced MARS gallery, and what is compared for each."""

    query: np.ndarray
    """int64; rows of Subjects."""
    gallery: np.ndarray
    """int64; rows of Subjects."""
    query_camera: np.ndarray
    """Integers [queries]; the camera compared."""
    gallery_camera: np.ndarray
    """Integers [gallery]."""


def lists(subjects: Subjects, frames: np.ndarray | None) -> Lists:
    """Queries and gallery in the order of `subjects`.

    Args:
        frames: integers [rows of `subjects`], length of each tracklet: cameras as the released evaluator takes them.
            None: the true ones.
    """
    query = np.flatnonzero(subjects.role == "query")
    gallery = np.flatnonzero((subjects.role == "gallery") & (subjects.kind != "junk"))
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


# --- command -----------------------------------------------------------------------------------------------------------

PROTOCOL = "mars_torchreid"
HEAD = (
    "cameras compared",
    "the network saw",
    "R1",
    "R5",
    "mAP",
    "valid queries",
    "positives of the same camera kept",
    "true positives removed",
)
NOTE = (
    "Percent. Features, distances, gallery and AP are the same in both rows; only the camera that is looked up for each tracklet differs. "
    "The second row is our reconstruction of the released evaluator, with 6 frames in a clip and at most 41 clips of a tracklet. It "
    "averages over other queries than the first, so the rows explain a difference between published numbers; only the first is a score "
    "to report."
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


def comparison(subjects: Subjects, frames: np.ndarray, saw: str) -> str:
    """The table in Markdown: `mars_torchreid`, and what the released evaluator would have printed.

    Args:
        frames: int64 [rows of `subjects`], length of each tracklet.
        saw: what the network had before it at test time, in words; stands beside the numbers of each row.
    """
    true, released = lists(subjects, None), lists(subjects, frames)
    rows = [
        _row(f"the true ones: {PROTOCOL}", saw, apply(protocol_named(PROTOCOL), subjects).summary, effect(subjects, true)),
        _row("as in the released evaluator", saw, summary(subjects, released), effect(subjects, released)),
    ]
    return markdown_table(HEAD, rows)


def _row(cameras: str, saw: str, scores: Summary, counts: Effect) -> list[str]:
    values = (float(scores.cmc[0]), float(scores.cmc[4]), float(scores.mean_ap))
    return [
        cameras,
        saw,
        *(Mean(None if math.isnan(value) else value, None).percent() for value in values),
        f"{scores.valid} of {scores.queries}",
        f"{counts.same_camera_kept} of {counts.same_camera}",
        f"{counts.cross_camera_removed} of {counts.cross_camera}",
    ]


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--embeddings", required=True, help="EMBEDDINGS table")
    arguments.add_argument("--tracklets", required=True, help="TRACKLETS table of the data set, which is MARS")
    arguments.add_argument("--config", required=True, help="config.json of the run")
    args = arguments.parse_args(argv)
    run = build(RunConfig, read_json(args.config), args.config)
    meta, embeddings = tables.read_meta(args.embeddings), tables.read(args.embeddings, tables.EMBEDDINGS)
    check_origin(meta, run)
    subjects = subjects_of(embeddings)
    tracklets = tables.read(args.tracklets, tables.TRACKLETS, ["tracklet", "frames"])
    frames = tracklet_lengths(tracklets, tables.read_meta(args.tracklets), subjects.tracklet, args.tracklets)
    saw = seen(embeddings.column("modality")[0].as_py(), meta)
    if meta.get("oracle") and ORACLE not in saw:
        saw = f"{ORACLE} {saw}"  # whoever wrote the table: the word goes wherever the number goes
    print(f"{run.method} · {run.stage} on {run.dataset}, split {run.split}, seed {run.seed}\n")
    print(f"{comparison(subjects, frames, saw)}\n\n{NOTE}")


if __name__ == "__main__":
    cli.run(main)
