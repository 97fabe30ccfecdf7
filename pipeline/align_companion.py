"""Say which companion item goes with which run of frames ("dubbing"), after listening to every clip that would be used.

In:      TRACKLETS, SPLIT (one or more), ITEMS, the folder of the items and, if there is one, its list of withdrawn clips.
Out:     ALIGNMENT (run of frames -> item), PROBES (every clip that was decoded, usable or quarantined).
Source:  specs/dubbernet.md 2.3 (allocation) and 10 (controls). Ours: a quarantined clip is replaced by the speaker's next
         clip in table order; a speaker left with too few is matched again with what it has. Counts only fall, so this
         ends; which clips are decoded follows from the tables alone, never from threads. A withdrawn clip is never decoded
         and never heard (rule: pipeline/base/withdrawn.py).

Who is dubbed: persons that train in one of the splits; then, only with `oracle_test_audio`, the other persons of query and
gallery, in a matching of their own with the speakers that training leaves over. So the rows of training are the same with
and without it; under 'id_speaker' and 'shuffled' no speaker that trains in a split is heard at its test. Distractors and junk
never. Policy 'recorded': every tracklet that has sound of its own. Policy 'silence', and 'noise' with `oracle_test_audio`:
every tracklet, of whatever kind and role, because what all hear alike tells nobody apart (hearing nothing would).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.allocation import (
    Piece,
    Run,
    Speaker,
    clips_needed,
    drawn,
    match,
    runs_by_identity,
    runs_by_tracklet,
    unserved_error,
)
from pipeline.base import cli, origin
from pipeline.base.config import AlignmentConfig, CompanionConfig
from pipeline.base.errors import AllocationError, SourceError
from pipeline.base.files import digest_file
from pipeline.base.tables import ALIGNMENT, ITEMS, PROBES, SPLIT, TRACKLETS, read, read_meta, write_rows
from pipeline.base.withdrawn import REASON, alone, read_list, without
from pipeline.features import ENCODERS
from pipeline.voices import Prober, Voices

BATCH = 64
"""Clips of one owner that are decoded before the owner is judged again; a constant, so that threads decide nothing."""
SYNTHETIC = ("silence", "noise")
"""Policies under which no clip is heard."""


# --- who is dubbed ---------------------------------------------------------------------------------------------------


def dubbed_roles(config: AlignmentConfig) -> list[tuple[str, ...]]:
    """Roles whose tracklets are dubbed: those of training and, dubbed after them, those of test."""
    return [("train",), ("query", "gallery")] if config.oracle_test_audio else [("train",)]


def everybody(config: AlignmentConfig) -> bool:
    """Whether every tracklet hears, of whatever kind and role."""
    return config.policy in ("recorded", "silence") or (config.policy == "noise" and config.oracle_test_audio)


def dubbed_tracklets(tracklets: pa.Table, splits: Sequence[pa.Table], phases: Sequence[Sequence[str]]) -> list[pa.Table]:
    """Rows of TRACKLETS to dub in each phase: persons that have one of its roles in one of the splits, and had none before.

    Raises:
        AllocationError: nobody is left to dub.
    """
    person = pc.equal(tracklets.column("kind"), "person")
    before: set[str] = set()
    out = []
    for roles in phases:
        chosen: set[str] = set()
        for split in splits:
            wanted = pc.is_in(split.column("role"), value_set=pa.array(list(roles)))
            chosen.update(split.filter(wanted).column("tracklet").to_pylist())
        new = pa.array(sorted(chosen - before), pa.string())
        out.append(tracklets.filter(pc.and_(person, pc.is_in(tracklets.column("tracklet"), value_set=new))))
        before |= chosen
    if not any(table.num_rows for table in out):
        roles = [role for some in phases for role in some]
        raise AllocationError(f"no person has the role {' or '.join(roles)} in the {len(splits)} splits given: nobody to dub")
    return out


def runs_of(dubbed: pa.Table, run: int, by_identity: bool) -> dict[str, list[Run]]:
    """Runs of each identity, in the order in which they take the speaker's clips."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, identity in enumerate(dubbed.column("identity").to_pylist()):
        members[identity].append(row)
    names, frames = dubbed.column("tracklet").to_pylist(), dubbed.column("frames")
    lengths = pc.list_value_length(frames).to_pylist()
    if by_identity:
        return {who: runs_by_identity({names[row]: frames[row].as_py() for row in members[who]}, run) for who in sorted(members)}
    return {who: runs_by_tracklet({names[row]: lengths[row] for row in members[who]}, run) for who in sorted(members)}


# --- policies --------------------------------------------------------------------------------------------------------
# Each serves one phase (training, or test after it) and returns the clip of every run, in the order of `runs` (a flat list
# over sorted identities), and notes for the metadata. No choice depends on a phase that comes later.


def id_speaker(runs: Mapping[str, list[Run]], prober: Prober, spent: Set[str]) -> tuple[list[int], dict[str, Any]]:
    """One speaker per identity, one identity per speaker; every clip once, unless `reuse` had to help.

    Speakers in `spent` (those of the phase before) do not take part. With best fit by falling need this still serves
    everybody if anybody can (see `allocation.match`); where not all can be served, training goes first.

    Raises:
        AllocationError: lists the identities that nobody can serve.
    """
    config, voices = prober.config.alignment, prober.voices
    frames = {who: sum(piece.last - piece.first + 1 for run in mine for piece in run) for who, mine in runs.items()}
    needs = {who: clips_needed(frames[who], len(mine), config.run, config.group_scope) for who, mine in runs.items()}
    counts = {owner: len(clips) for owner, clips in voices.clips.items() if owner not in spent}
    while True:
        speakers = [Speaker(owner, voices.order[owner], count) for owner, count in counts.items()]
        matching = match(needs, speakers, config.order, config.fit, config.reuse)
        if matching.unserved:
            bad = sum(bool(probe.reason) for probe in prober.seen.values())
            for row in prober.rows():
                if not row["usable"]:
                    print(cli.printable(f"unusable clip: {row['path']}: {row['reason']}: {row['detail']}"))
            print(cli.printable(f"align_companion: unserved: {'; '.join(map(str, matching.unserved))}"), flush=True)
            free = sum(count > 0 for count in counts.values())
            raise unserved_error(matching.unserved, len(needs), free, bad, config, len(spent))
        wanted = {owner: min(needs[who], counts[owner]) for who, owner in matching.owners.items()}
        taken, left = take(prober, wanted, give_up=True)
        short = {owner: left[owner] for owner in wanted if left[owner] < wanted[owner]}
        if not short:
            break
        counts.update(short)
    clips = [taken[matching.owners[who]][k % len(taken[matching.owners[who]])] for who in runs for k in range(len(runs[who]))]
    reused = [
        {"identity": who, "needs": needs[who], "clips": len(taken[matching.owners[who]]), "owner": matching.owners[who]}
        for who in matching.reused
    ]
    return clips, {"reused": reused}


def take(prober: Prober, wanted: Mapping[str, int], give_up: bool) -> tuple[dict[str, list[int]], dict[str, int]]:
    """The first so many usable clips of each owner, in table order; fewer where the owner has no more.

    Each round decodes, for all owners at once, the next clips that are still needed, at most BATCH of each. With `give_up`,
    an owner who can no longer have enough is not decoded to the end (best fit leaves little to spare, so this is common).

    Returns:
        Clips of each owner; and how many the owner has that are usable or not decoded yet.
    """
    clips = {owner: prober.voices.clips[owner] for owner in wanted}
    taken: dict[str, list[int]] = {owner: [] for owner in wanted}
    heard = dict.fromkeys(wanted, 0)
    while True:
        left = {owner: len(clips[owner]) - heard[owner] + len(taken[owner]) for owner in wanted}
        asked = {
            owner: clips[owner][heard[owner] : heard[owner] + min(count - len(taken[owner]), BATCH)]
            for owner, count in wanted.items()
            if left[owner] >= count or not give_up
        }
        if not any(asked.values()):
            return taken, left
        prober.ask(clip for some in asked.values() for clip in some)
        for owner, some in asked.items():
            heard[owner] += len(some)
            taken[owner] += [clip for clip in some if prober.usable(clip)]


def random_clip(runs: Mapping[str, list[Run]], prober: Prober, seed: int) -> tuple[list[int], dict[str, Any]]:
    """Control: any usable clip for any run. An unusable one leaves the pool and is drawn again, so only drawn clips are decoded.

    Test identities draw from all clips, those that training hears among them: here no voice stands for an identity.

    Raises:
        AllocationError: no clip is usable.
    """
    pool: Sequence[int] = range(prober.voices.items.num_rows)
    clips: list[int] = [-1] * sum(len(mine) for mine in runs.values())
    turn = 0
    while True:
        if not pool:
            raise AllocationError("no usable clip: look at --probes of a smaller table, or check the folder of the voices")
        start = 0
        for who, mine in runs.items():
            open_runs = [k for k in range(start, start + len(mine)) if clips[k] < 0]
            for k, clip in zip(open_runs, drawn(pool, len(open_runs), seed, who, turn), strict=True):
                clips[k] = clip
            start += len(mine)
        prober.ask(clips)
        bad = {clip for clip in clips if not prober.usable(clip)}
        if not bad:
            return clips, {}
        pool = [clip for clip in pool if clip not in bad]
        clips = [-1 if clip in bad else clip for clip in clips]
        turn += 1


def single_speaker(runs: Mapping[str, list[Run]], prober: Prober) -> tuple[list[int], dict[str, Any]]:
    """Control: the speaker with most clips (ties by published order) speaks for all, cycling through the usable ones.

    Test identities hear the same speaker, from the first clip on again.

    Raises:
        AllocationError: no speaker has a usable clip.
    """
    wanted = sum(len(mine) for mine in runs.values())
    voices = prober.voices
    for owner in sorted(voices.clips, key=lambda owner: (-len(voices.clips[owner]), voices.order[owner])):
        clips = take(prober, {owner: wanted}, give_up=False)[0][owner]
        if clips:
            return [clips[k % len(clips)] for k in range(wanted)], {"speaker": owner}
    raise AllocationError("no usable clip: look at the folder of the voices")


def recorded(tracklets: pa.Table, prober: Prober) -> tuple[list[tuple[Piece, int]], dict[str, Any]]:
    """The tracklet's own sound, by the frame ranges that ITEMS names (none: the whole tracklet).

    A quarantined item is replaced by the nearest usable one of the same tracklet (the earlier of two); a tracklet without
    any stays without sound and is counted, and so are frames that no range covers.

    Raises:
        SourceError: items of an unknown tracklet, or ranges that overlap or go beyond the end.
    """
    voices = prober.voices
    lengths = dict(zip(tracklets.column("tracklet").to_pylist(), pc.list_value_length(tracklets.column("frames")).to_pylist(), strict=True))
    unknown = sorted(set(voices.clips) - set(lengths))
    if unknown:
        raise SourceError(f"items: {len(unknown)} owners are no tracklet, e.g. '{unknown[0]}'; recorded sound belongs to tracklets")
    ranges: dict[str, list[tuple[int, int, int]]] = {}
    uncovered = 0
    for tracklet in sorted(voices.clips):
        clips = voices.clips[tracklet]
        rows = zip(voices.rows(clips, "first", "last"), clips, strict=True)
        last = lengths[tracklet] - 1
        mine = sorted((0 if r["first"] is None else r["first"], last if r["last"] is None else r["last"], clip) for r, clip in rows)
        expected = 0
        for first, end, _ in mine:
            if not expected <= first <= end <= last:
                raise SourceError(
                    f"items: tracklet {tracklet}: a range {first}..{end}; expected one within {expected}..{last}, not overlapping the one before"
                )
            uncovered += first - expected
            expected = end + 1
        uncovered += last + 1 - expected
        ranges[tracklet] = mine
    prober.ask(clip for mine in ranges.values() for _, _, clip in mine)
    out, silent, replaced = [], 0, 0
    for tracklet, mine in ranges.items():
        good = [k for k, (_, _, clip) in enumerate(mine) if prober.usable(clip)]
        silent += not good
        for k, (first, end, _) in enumerate(mine if good else []):
            nearest = min(good, key=lambda g: (abs(g - k), g))
            replaced += nearest != k
            out.append((Piece(tracklet, first, end), mine[nearest][2]))
    if not out:
        bad = [f"{row['path']} ({row['reason']})" for row in prober.rows() if not row["usable"]]
        found = (
            f"none of {len(bad)} recordings can be used: {', '.join(bad[:3])}{', ...' * (len(bad) > 3)}"
            if bad
            else "no tracklet names a recording"
        )
        raise SourceError(f"items: {found}; give the sound of the tracklets, or train without a companion")
    return out, {
        "tracklets_without_sound": silent + len(lengths) - len(ranges),
        "frames_without_sound": uncovered,
        "runs_replaced": replaced,
    }


# --- the table -------------------------------------------------------------------------------------------------------


def heard_rows(pairs: Iterable[tuple[Piece, int]], prober: Prober) -> list[dict[str, Any]]:
    """Rows of ALIGNMENT for clips that were probed."""
    pairs = list(pairs)
    clips = list(dict.fromkeys(clip for _, clip in pairs))
    rows = prober.voices.rows(clips, "item", "owner", "path", "start")
    known = {clip: {**row, "seconds": prober.seen[clip].seconds} for clip, row in zip(clips, rows, strict=True)}
    return [{**piece._asdict(), **known[clip]} for piece, clip in pairs]


def synthetic_rows(runs: Mapping[str, list[Run]], config: CompanionConfig) -> list[dict[str, Any]]:
    """Rows of ALIGNMENT for 'silence', or for 'noise_<n>' of the n-th run of every tracklet: no row depends on an identity."""
    out = []
    for mine in runs.values():
        for run in mine:
            (piece,) = run
            item = "silence" if config.alignment.policy == "silence" else f"noise_{piece.first // config.alignment.run}"
            out.append({**piece._asdict(), "item": item, "owner": "", "path": "", "start": None, "seconds": config.audio.max_seconds})
    return out


POLICIES: dict[str, Callable[[Mapping[str, list[Run]], Prober, int, Set[str]], tuple[list[int], dict[str, Any]]]] = {
    "id_speaker": lambda runs, prober, seed, spent: id_speaker(runs, prober, spent),
    "shuffled": lambda runs, prober, seed, spent: id_speaker(runs, prober, spent),  # the loader permutes the identities in each epoch
    "random_clip": lambda runs, prober, seed, spent: random_clip(runs, prober, seed),
    "single_speaker": lambda runs, prober, seed, spent: single_speaker(runs, prober),
}


def allotted(phases: Sequence[Mapping[str, list[Run]]], prober: Prober, seed: int) -> tuple[list[tuple[Piece, int]], dict[str, Any]]:
    """Pieces with their clips, phase by phase, and the notes of the policy; lists in the notes cover all phases.

    Raises:
        AllocationError: a phase cannot be served.
    """
    pairs: list[tuple[Piece, int]] = []
    notes: dict[str, Any] = {}
    spent: set[str] = set()
    for runs in phases:
        clips, found = POLICIES[prober.config.alignment.policy](runs, prober, seed, spent)
        flat = [run for mine in runs.values() for run in mine]
        pairs += [(piece, clip) for run, clip in zip(flat, clips, strict=True) for piece in run]
        notes |= {name: notes.get(name, []) + told if isinstance(told, list) else told for name, told in found.items()}
        spent |= {row["owner"] for row in prober.voices.rows(clips, "owner")}
    return pairs, notes


def align(
    tracklets: pa.Table, splits: Sequence[pa.Table], items: pa.Table, root: Path, config: CompanionConfig, seed: int, threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Rows of ALIGNMENT, rows of PROBES, and what to note beside them.

    Args:
        tracklets: TRACKLETS.
        splits: SPLIT tables; together they say who trains and who is tested.
        items: ITEMS.
        root: folder that ITEMS.path is relative to; withdrawn.txt lies there.
        config: policy and limits.
        seed: of the data path; only the policies random_clip and noise use it.
        threads: decoders at work at once; no effect on the result.

    Raises:
        AllocationError: identities cannot be served (see :func:`id_speaker`).
        ConfigError: settings that no clip can be encoded with (said here, before an hour of decoding).
    """
    ENCODERS[config.kind].check(config)
    how = config.alignment
    gone = dict(read_list(root))
    prober = Prober(Voices(items), root, config, threads, gone)
    while True:
        rows, notes, roles = _rows(tracklets, splits, prober, seed)
        unplaced = alone(rows, gone, how.policy)
        if not unplaced:
            break
        print(f"align_companion: withdrawn, and their speakers have no other clip in use: {', '.join(sorted(unplaced))}; allotting anew")
        gone |= dict.fromkeys(unplaced, False)
        prober = Prober(prober.voices, root, config, threads, gone, {clip: p for clip, p in prober.seen.items() if p.reason != REASON})
    synthetic, own = how.policy in SYNTHETIC, how.policy == "recorded"
    label_derived = not own and not synthetic
    meta = {
        "policy": how.policy,
        "oracle": how.oracle_test_audio and label_derived,
        "label_derived": label_derived,
        "test": everybody(how) or how.oracle_test_audio,  # test tracklets hear, too
        "seed": seed,
        "run": how.run,
        "group_scope": "tracklet" if synthetic or own else how.group_scope,
        "order": how.order,
        "fit": how.fit,
        "reuse": how.reuse,
        "limits": {name: getattr(config.audio, name) for name in ("min_seconds", "silence_dbfs", "table_tolerance")},
        "unserved": [],
        "kind": config.kind,
        "dubbed": sorted(role for some in roles for role in some),
        **notes,
    }
    return without(rows, prober.rows(), meta, gone)


def _rows(
    tracklets: pa.Table, splits: Sequence[pa.Table], prober: Prober, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any], list[tuple[str, ...]]]:
    """Rows of ALIGNMENT as if nobody had been taken out, notes of the policy, and the roles that are dubbed in each phase."""
    config = prober.config
    how = config.alignment
    if how.policy == "recorded":
        pairs, notes = recorded(tracklets, prober)
        return heard_rows(pairs, prober), notes, []
    synthetic = how.policy in SYNTHETIC
    roles = [] if everybody(how) else dubbed_roles(how)
    dubbed = [tracklets] if everybody(how) else dubbed_tracklets(tracklets, splits, roles)
    phases = [runs_of(some, how.run, by_identity=how.group_scope == "identity" and not synthetic) for some in dubbed if some.num_rows]
    if synthetic:
        return [row for runs in phases for row in synthetic_rows(runs, config)], {}, roles
    pairs, notes = allotted(phases, prober, seed)
    return heard_rows(pairs, prober), notes, roles


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="ALIGNMENT to write")
    arguments.add_argument("--probes", required=True, help="PROBES to write")
    arguments.add_argument("--tracklets", required=True)
    arguments.add_argument("--splits", required=True, nargs="+")
    arguments.add_argument("--items", required=True)
    arguments.add_argument("--root", required=True, type=Path, help="folder that ITEMS.path is relative to")
    arguments.add_argument("--seed", type=int, required=True)
    arguments.add_argument("--threads", type=int, default=1)
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    config = cli.load(CompanionConfig, args.config, "companion")
    splits = [read(path, SPLIT, ["tracklet", "role"]) for path in args.splits]
    rows, probes, meta = align(
        read(args.tracklets, TRACKLETS), splits, read(args.items, ITEMS), args.root, config, args.seed, max(args.threads, 1)
    )
    meta |= {"dataset": read_meta(args.tracklets)["dataset"], "items": read_meta(args.items)}
    meta[origin.FROM] = origin.made_from(tracklets=args.tracklets, items=args.items)
    if meta["dubbed"]:  # else no role decides: one more split changes nothing
        named = {read_meta(path).get("split", str(number)): path for number, path in enumerate(args.splits)}
        meta[origin.FROM] |= {f"split {name}": digest_file(path) for name, path in sorted(named.items())}
    write_rows(args.probes, probes, PROBES, {"policy": meta["policy"], "counts": meta["counts"]})
    write_rows(args.out, rows, ALIGNMENT, meta)
    counts = meta["counts"]
    quarantined = ", ".join(f"{n} {reason}" for reason, n in counts["quarantined"].items()) or "none"
    print(
        f"align_companion: {counts['probed']} clips probed, quarantined: {quarantined}; {counts['owners']} speakers, {counts['items']} items "
        f"for {counts['rows']} runs of {counts['tracklets']} tracklets ({meta['policy']})"
    )


if __name__ == "__main__":
    cli.run(main)
