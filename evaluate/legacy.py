"""The cameras that the released MARS evaluator compares, and what that does to its scores: an explanation, not a protocol.

In:      Subjects in the order of the data set's lists (which is the order of their names) and the length of each tracklet.
Out:     the camera that was compared for each tracklet, counts of what that keeps and deletes, CMC and mAP.
Source:  specs/dubbernet.md sections 3.3 and 7.3 (E3). The gallery is that of `mars_torchreid`: no queries, no junk.

Entries of a query's identity and camera have to leave its ranking. To know them, a scorer needs one camera per tracklet. The
released evaluator collects one camera per frame of the test clips and looks that list up by tracklet number: tracklet i gets
the camera of frame i of the list, which is a frame of one of the first tracklets. In the MARS gallery those are distractors
of camera 1, so every entry is taken for camera 1. Where all queries are from one camera and the gallery from another
(iLIDS-VID, PRID-2011) nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluate.distance import squared_distances
from evaluate.protocols import CMC_RANKS, Subjects
from evaluate.retrieval import Summary, retrieve, same_identity, summarise
from pipeline.base.errors import ScoreError

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
