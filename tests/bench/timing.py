"""What all benches share: processor time, works measured in turns, and the row that is printed."""

from __future__ import annotations

import resource
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spent:
    """Median seconds of one work."""

    cpu: float
    """Of this process and of the processes it started."""
    wall: float


def cpu() -> float:
    """Processor seconds of this process and of the children that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def interleaved(rounds: int, *works: Callable[[], object], new: Sequence[Path] = (), warm: bool = True) -> list[Spent]:
    """Call each work once a round, in turn.

    Args:
        rounds: that are measured.
        works: what is called.
        new: files and folders that are removed before each call.
        warm: begin with a round that is not measured.
    """
    found: list[list[tuple[float, float]]] = [[] for _ in works]
    for number in range(-1 if warm else 0, rounds):
        for work, mine in zip(works, found, strict=True):
            _remove(new)
            start, begun = cpu(), time.perf_counter()
            work()
            if number >= 0:
                mine.append((cpu() - start, time.perf_counter() - begun))
    return [Spent(*(statistics.median(column) for column in zip(*mine, strict=True))) for mine in found]


def in_thread(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Processor seconds of :func:`interleaved`, in a thread: the memory of the main thread is managed otherwise."""
    with ThreadPoolExecutor(1) as pool:
        return [spent.cpu for spent in pool.submit(interleaved, rounds, *works).result()]


def row(what: str, ours: float, baseline: float, unit: str, baseline_is: str) -> dict[str, Any]:
    """A row whose ratio is above 1 where ours is better: more where the unit is one per second, else less."""
    ratio = ours / baseline if unit.endswith("/s") else baseline / ours
    return {"what": what, "ours": ours, "baseline": baseline, "unit": unit, "ratio": ratio, "baseline_is": baseline_is}


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
