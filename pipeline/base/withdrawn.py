"""Clips that were taken out: the list of them, and what the runs that would hear them hear instead.

In:      the list, ``withdrawn.txt`` in the folder of the items (a root of the settings); rows of ALIGNMENT and PROBES.
Out:     the same rows without these clips. Nothing is decoded, so an alignment can be changed where it lies.
Source:  ours. The list is neither an input nor a parameter of a rule: who is on it must not make everything again.

The rule. Clips are allotted as if nobody had been taken out, then each run that would hear a withdrawn clip hears the next one that is
left of the same owner, in the order in which the runs use them, after the last the first. So all other runs stay as they were; and
taking out one clip after the other gives the same rows as taking out all at once (what is nearest would not: it changes with each).
Under policy 'random_clip', where no voice stands for anybody, it is the next clip of any owner.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.base.errors import SourceError
from pipeline.base.files import atomic_open

LIST = "withdrawn.txt"
REASON = "withdrawn"
"""In PROBES.reason."""
UNUSABLE = "unusable"
"""Behind a name in the list, after a tab: the clip was quarantined when it was heard, so that none was allotted to it."""

NOTHING: dict[str, Any] = {
    "samples": 0,
    "rate": 0,
    "seconds": 0.0,
    "rms_dbfs": -200.0,
    "decoder": "",
    "reason": REASON,
    "detail": f"listed in {LIST}",
}
"""What PROBES say of a withdrawn clip, beside its name: nothing that was heard in it."""


# --- the list --------------------------------------------------------------------------------------------------------


def parse(text: str, where: str) -> dict[str, bool]:
    """Withdrawn items; the value says whether the clip counts as usable when clips are allotted.

    Raises:
        SourceError: a line is neither a comment (it begins with '#') nor an item.
    """
    found: dict[str, bool] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        name, _, word = line.strip().partition("\t")
        if not name or name.startswith("#"):
            continue
        if word not in ("", UNUSABLE):
            raise SourceError(
                f"{where}: line {number}: '{word}' behind the clip; expected the name of one clip on each line, or a comment (#)"
            )
        found[name] = not word
    return found


def read_list(root: str | os.PathLike[str]) -> dict[str, bool]:
    """:func:`parse` of the list in a folder of items; empty where there is none.

    Raises:
        SourceError: it cannot be read.
    """
    path = Path(root) / LIST
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: cannot be read ({type(error).__name__}); expected the names of withdrawn clips, one on each line"
        ) from None


def write_list(root: str | os.PathLike[str], items: Mapping[str, bool]) -> None:
    """Write the list, sorted; comments that are there stay, above the names."""
    path = Path(root) / LIST
    kept = (
        path.read_text(encoding="utf-8").splitlines()
        if path.is_file()
        else ["# Clips that nobody hears any more (python -m shards.withdraw)"]
    )
    lines = [line for line in kept if line.startswith("#")]
    lines += [name if items[name] else f"{name}\t{UNUSABLE}" for name in sorted(items)]
    with atomic_open(path) as out:
        out.write(("\n".join(lines) + "\n").encode())


# --- the tables ------------------------------------------------------------------------------------------------------


def stand_ins(rows: Sequence[Mapping[str, Any]], gone: Collection[str], policy: str) -> dict[tuple[str, str], Mapping[str, Any] | None]:
    """What is heard instead of each withdrawn item, by (owner, item); None where its owner has no other.

    Args:
        rows: rows of ALIGNMENT.
        gone: withdrawn items.
        policy: of the alignment.
    """
    used: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row["tracklet"], row["first"])):
        used["" if policy == "random_clip" else row["owner"]].setdefault(row["item"], row)
    out: dict[tuple[str, str], Mapping[str, Any] | None] = {}
    for items in used.values():
        following: Mapping[str, Any] | None = None
        for item in [*items, *items][::-1]:  # twice: after the last comes the first
            if item in gone:
                out[items[item]["owner"], item] = following
            else:
                following = items[item]
    return out


HEARD = ("item", "owner", "path", "start", "seconds")
"""Columns of ALIGNMENT that say what a run hears."""


def without(
    rows: Sequence[Mapping[str, Any]], probes: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], gone: Collection[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Rows of ALIGNMENT and PROBES, and their meta, after taking items out. Call :func:`alone` before.

    Runs that hear another clip are listed in the meta under `withdrawn`; recorded sound that has no other goes: its frames hear
    nothing, which is listed as well.
    """
    instead = stand_ins(rows, gone, meta["policy"])
    before = meta.get("withdrawn", {"replaced": [], "silent": []})
    replaced, silent = ({tuple(run) for run in before[name]} for name in ("replaced", "silent"))
    out = []
    for row in rows:
        if row["item"] not in gone:
            out.append(dict(row))
            continue
        run, other = (row["tracklet"], row["first"]), instead[row["owner"], row["item"]]
        if other is None:
            replaced.discard(run)
            silent.add(run)
        else:
            replaced.add(run)
            out.append({**row, **{name: other[name] for name in HEARD}})
    heard = [{**row, "usable": False, **NOTHING} if row["item"] in gone else dict(row) for row in probes]
    note = {"replaced": sorted(map(list, replaced)), "silent": sorted(map(list, silent))}
    return out, heard, {**meta, "withdrawn": note, "counts": counts(out, heard)}


def alone(rows: Sequence[Mapping[str, Any]], gone: Collection[str], policy: str) -> set[str]:
    """Withdrawn items whose place nobody can take: then clips have to be allotted anew, with these counted as unusable.

    Never under 'recorded': a tracklet may be without sound of its own.
    """
    if policy == "recorded":
        return set()
    return {item for (_, item), other in stand_ins(rows, gone, policy).items() if other is None}


def counts(rows: Sequence[Mapping[str, Any]], probes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the meta of ALIGNMENT and PROBES count."""
    quarantined = Counter(row["reason"] for row in probes if not row["usable"])
    return {
        "tracklets": len({row["tracklet"] for row in rows}),
        "rows": len(rows),
        "items": len({row["item"] for row in rows}),
        "owners": len({row["owner"] for row in rows} - {""}),
        "probed": len(probes),
        "quarantined": dict(sorted(quarantined.items())),
    }
