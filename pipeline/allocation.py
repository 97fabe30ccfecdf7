"""Who speaks for whom: cut tracklets into runs, count what identities need, match identities with speakers.

In:      plain values (lengths, counts, names).   Out: runs, a matching, drawn clips. No files, no tables, no clock.
Source:  specs/dubbernet.md 2.1 to 2.3. Ours: best fit by falling need, so that large identities are served; every tie is
         broken by name or by the speakers' published order, so the result does not depend on the order of the input.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.base.config import AlignmentConfig
from pipeline.base.errors import AllocationError
from pipeline.base.seeds import rng

SHOWN = 30
"""Unserved identities named in an error; the log of the step names all."""


class Piece(NamedTuple):
    """Consecutive frames of one tracklet, `first` and `last` from 0 and inclusive."""

    tracklet: str
    first: int
    last: int


Run = tuple[Piece, ...]
"""Frames that hear one clip. One piece; several only where runs may cross tracklets (group scope 'identity')."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice: its name, its rank in the published order (breaks ties), how many clips it has."""

    owner: str
    order: int
    clips: int


@dataclass(frozen=True, slots=True)
class Unserved:
    """An identity that no free speaker can serve, with the clips of the largest free one (0: no speaker is left)."""

    identity: str
    need: int
    best: int

    def __str__(self) -> str:
        return f"{self.identity} needs {self.need}, " + (f"best has {self.best}" if self.best else "no speaker left")


@dataclass(frozen=True, slots=True)
class Matching:
    """Speaker of each identity; who got none; who got one whose clips must repeat (only with `reuse`)."""

    owners: dict[str, str]
    unserved: list[Unserved]
    reused: list[str]


def runs_by_tracklet(lengths: Mapping[str, int], run: int) -> list[Run]:
    """Runs of `run` frames that restart at each tracklet; the last run of a tracklet may be short.

    Args:
        lengths: frames of each tracklet.
        run: frames per run.

    Returns:
        Runs in order of (tracklet, first frame).
    """
    return [
        (Piece(tracklet, first, min(first + run, lengths[tracklet]) - 1),)
        for tracklet in sorted(lengths)
        for first in range(0, lengths[tracklet], run)
    ]


def runs_by_identity(frames: Mapping[str, Sequence[str]], run: int) -> list[Run]:
    """Runs of `run` frames over all frames of one identity in order of path, as the released scripts cut them.

    Args:
        frames: relative frame paths of each tracklet of the identity, in time order.
        run: frames per run.

    Returns:
        Runs in order; a run that crosses a tracklet border has one piece on each side.
    """
    order = sorted((path, tracklet, index) for tracklet, paths in frames.items() for index, path in enumerate(paths))
    runs: list[Run] = []
    for start in range(0, len(order), run):
        pieces: list[Piece] = []
        for _, tracklet, index in order[start : start + run]:
            if pieces and pieces[-1].tracklet == tracklet and pieces[-1].last + 1 == index:
                pieces[-1] = Piece(tracklet, pieces[-1].first, index)
            else:
                pieces.append(Piece(tracklet, index, index))
        runs.append(tuple(pieces))
    return runs


def clips_needed(frames: int, runs: int, run: int, scope: Literal["tracklet", "identity"]) -> int:
    """Clips a speaker must have to serve an identity of `frames` frames in `runs` runs.

    As many as there are runs; with scope 'identity' the rule of the released scripts, floor(frames / run) + 1, which asks
    for one more than is used where `run` divides the number of frames.
    """
    return runs if scope == "tracklet" else frames // run + 1


def match(
    needs: Mapping[str, int],
    speakers: Iterable[Speaker],
    order: Literal["need", "identity"] = "need",
    fit: Literal["best", "largest_first"] = "best",
    reuse: bool = False,
) -> Matching:
    """Give each identity a speaker of its own.

    By default identities come by falling need (ties by name), and each gets the smallest free speaker that suffices (ties
    by published order). This serves everybody if anybody can: whoever suffices for one identity suffices for all that come
    after it, so no choice made earlier can be the wrong one (the sets of sufficient speakers are nested; Hall's condition is
    then that the k-th largest speaker suffices for the k-th largest need). Best fit leaves the large speakers over: no other
    choice that serves the same identities leaves more speakers of any size, so who is matched later with the rest (test after
    training) is served if that is possible at all.

    Args:
        needs: clips each identity needs.
        speakers: free speakers; those without clips are never taken.
        order: 'need', or 'identity' (by name, parity).
        fit: 'best', or 'largest_first' (the largest free speaker if it suffices, parity).
        reuse: give an identity that needs more than any free speaker has the largest one; its clips then repeat.

    Returns:
        The matching. Nothing is raised: the caller says what an unserved identity means.
    """
    # Ascending by clips; among equals the published order runs forwards, so bisect_left finds the tie's first.
    free = sorted((s.clips, s.order, s.owner) for s in speakers if s.clips > 0)
    queue = sorted(needs, key=lambda identity: (-needs[identity], identity)) if order == "need" else sorted(needs)
    owners: dict[str, str] = {}
    unserved: list[Unserved] = []
    reused: list[str] = []
    for identity in queue:
        need, largest = needs[identity], free[-1][0] if free else 0
        if largest < need and not (reuse and free):
            unserved.append(Unserved(identity, need, largest))
            continue
        if largest < need:
            reused.append(identity)
        at_least = need if fit == "best" and largest >= need else largest
        owners[identity] = free.pop(bisect_left(free, (at_least,)))[2]
    return Matching(owners, unserved, reused)


def unserved_error(
    unserved: Sequence[Unserved], identities: int, speakers: int, bad: int, config: AlignmentConfig, spent: int = 0
) -> AllocationError:
    """The error that lists who cannot be dubbed and says what would help.

    Args:
        unserved: at least one; the first SHOWN are named.
        identities: how many were to be dubbed.
        speakers: how many speakers have a usable clip.
        bad: how many clips were quarantined on the way.
        config: settings in force; settings that would help are named with their key.
        spent: how many further speakers were allotted before, to training; then `identities` are those of test.
    """
    helps = []
    if any(u.best for u in unserved):
        helps.append("companions.<name>.alignment.reuse: true (a speaker's clips then repeat)")
    if identities > speakers:
        helps.append(f"more speakers than the {speakers} {'left' if spent else 'there are'} for {identities} identities")
    if (config.order, config.fit) != ("need", "best"):
        helps.append("companions.<name>.alignment.order: need and .fit: best (serves everybody if anybody can)")
    helps.append("a larger table of clips (voices.<name>.table)")
    more = f"; and {len(unserved) - SHOWN} more (see the log)" if len(unserved) > SHOWN else ""
    return AllocationError(
        f"{len(unserved)} of {identities} {'test ' * (spent > 0)}identities have no speaker with enough usable clips "
        f"({f'training has taken {spent} of the speakers, ' * (spent > 0)}{bad} clips quarantined): "
        f"{'; '.join(map(str, unserved[:SHOWN]))}{more}. What helps: {', or '.join(helps)}"
    )


def drawn(clips: Sequence[int], count: int, seed: int, *names: str | int) -> list[int]:
    """`count` clips drawn with replacement (policy 'random_clip'), from numbers that only (seed, names) decide."""
    picks = rng(seed, "align", "random_clip", *names).integers(len(clips), size=count)
    return [clips[i] for i in picks]
