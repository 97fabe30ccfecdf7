"""Runs killed at any instant, two runs at once, locks of the dead and of the living: promises R1, R9 and R14.

A small data run (`pack_demo`) is killed 200 times: 160 at instants drawn uniformly over its length, 40 where a file is opened for
writing, flushed or renamed. Most kills take the whole run; some only snakemake itself, so that its step goes on, some only the step.
Then the same command is typed again, nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pipeline.base.seeds import rng
from tests.torture.figures import Figure
from tests.torture.killing import KINDS, Attack, Outcome, Whole, attack, living, prepare, twice

T = TypeVar("T")
SIDE_BY_SIDE = 2
SHM = Path("/dev/shm")


def attacks(count: int) -> list[Attack]:
    """Kills of the full form: every fifth is aimed, every fifth of each sort begins in an empty folder."""
    chosen = []
    for number in range(count):
        draw = rng(0, "torture", "kills", number)
        aimed = number % 5 == 4
        victim = "head" if number % 7 == 3 else "step" if number % 11 == 5 else "tree"
        turn = number // 5
        kind = KINDS[turn % len(KINDS)] if aimed else ""
        chosen.append(Attack(turn % 5 == 0, victim, kind, float(draw.random()), turn % 2 == 1))
    return chosen


def broken(name: str, count: int) -> list[Attack]:
    """Kills of a product that is broken on purpose, where it shows: behind a flush of a file that is being made."""
    return [Attack(False, "tree", "fsync", (number + 0.5) / count, number % 2 == 1, name) for number in range(count)]


def all_of(work: Callable[[int], T], count: int) -> list[T]:
    """work(0), ..., two at a time."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return list(pool.map(work, range(count)))


def killed(chosen: Sequence[Attack], whole: Whole, folder: Path) -> list[Outcome]:
    def one(number: int) -> Outcome:
        place = folder / f"kill-{number}"
        seen = attack(chosen[number], whole, place, rng(1, "torture", "kills", number))
        if seen.survived() and not seen.left:
            shutil.rmtree(place)
        elif not chosen[number].broken:
            print(f"{place}: {chosen[number]}\n{seen}", flush=True)
        return seen

    folder.mkdir()
    return all_of(one, len(chosen))


def has_left(seen: Outcome, *sorts: str) -> bool:
    """Whether something of each sort was left."""
    return all(any(name.startswith(f"{sort} ") for name in seen.left) for sort in sorts)


def shared_memory() -> set[str]:
    """Segments of Python and torch that are there, where they can be listed (Linux)."""
    return {path.name for path in SHM.iterdir() if path.name.startswith(("sem.mp-", "psm_", "torch_"))} if SHM.is_dir() else set()


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    """Three promises; `scale` 1 is 200 kills."""
    count, few, pairs = max(10, round(200 * scale)), max(2, round(3 * scale)), max(2, round(6 * scale))
    segments = shared_memory()
    whole = prepare(folder)
    chosen = attacks(count)
    seen = killed(chosen, whole, folder / "kills")
    shared = sorted(shared_memory() - segments)
    copies, forgets, stays = (killed(broken(name, few), whole, folder / name) for name in ("copies", "forgets", "stays"))
    aimed = sum(bool(one.kind) for one in chosen)
    victims = {name: sum(one.victim == name for one in chosen) for name in ("head", "step")}
    yield Figure(
        "killed at any instant, the same command goes on: no finished name ever holds other bytes, no finished job is done again, and the "
        "end is the bytes of a run that nobody killed",
        count,
        sum(one.survived() for one in seen),
        "files copied to their name rather than renamed",
        len(copies),
        sum(bool(one.wrong) for one in copies),
        f"{aimed} aimed at a point where a file is opened, flushed or renamed; {victims['head']} times snakemake alone, {victims['step']} "
        f"times a step alone, else the whole run; {sum(one.empty for one in chosen)} from an empty folder; processes outlived snakemake "
        f"{sum(one.orphans > 0 for one in seen)} times, and the next run waited for a step {sum(one.waited for one in seen)} times; {sum(one.late for one in seen)} runs ended before their instant and were "
        f"killed anew; a run takes {whole.seconds[False]:.0f} s",
    )
    yield Figure(
        "after a kill and the next run nothing is left: no temporary file, no process, no record, no shared memory",
        count,
        sum(not one.left for one in seen) if not shared else 0,
        "leftovers of dead writers are not looked for; a run leaves its record, a process and a temporary folder",
        len(forgets) + len(stays),
        sum(has_left(one, "file") for one in forgets) + sum(has_left(one, "record", "process", "temporary") for one in stays),
        f"not counted: {sum(one.kept for one in seen)} temporary folders and solver files of killed Snakemakes, which are not ours to delete"
        + (f"; shared memory left: {shared}" if shared else ""),
    )
    together = all_of(
        lambda number: twice(whole, folder / f"twice-{number}", float(rng(2, "torture", number).uniform(0, whole.seconds[False]))), pairs
    )
    untold = all_of(lambda number: twice(whole, folder / f"untold-{number}", whole.seconds[False] / 2, "lets_go"), max(1, few // 2))
    alive = all_of(lambda number: living(whole, folder / f"alive-{number}"), few)
    unheld = all_of(lambda number: living(whole, folder / f"unheld-{number}", "lets_go"), max(1, few // 2))
    for wrong in filter(None, (*together, *alive)):
        print(*wrong, sep="\n", flush=True)
    stale = [one for one in seen if one.stale]
    yield Figure(
        "two runs in one folder: the second names the first and nothing is damaged; the lock of a dead run goes by itself, that of a living "
        "one never",
        len(together) + len(alive) + len(stale),
        sum(not wrong for wrong in (*together, *alive)) + sum(one.again == 0 for one in stale),
        "a run does not hold its lock",
        len(unheld) + len(untold),
        sum(any("--unlock" in one or "locks were" in one for one in wrong) for wrong in unheld)
        + sum("a living run was taken for a dead one" in wrong for wrong in untold),
        f"{len(together)} times two at once, {len(alive)} times --unlock and a dry run beside a living one, {len(stale)} stale locks",
    )
