"""Attacks on every file behind a number: `evaluate.trace --check` must name the file, and pass when all is as it was."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from evaluate import trace
from evaluate.chain import Chain
from pipeline.base import origin
from pipeline.base.files import digest_file
from pipeline.base.seeds import rng
from tests.conftest import REPOSITORY
from tests.torture import small_run
from tests.torture.figures import Figure
from tests.workflow.conftest import snakemake

Check = Callable[[Chain], list[str]]
HURTS = ("one byte deleted", "one bit flipped", "cut", "one byte added", "another file", "deleted")
PER_FILE = 18
"""Attacks on each file in the full form: three of each kind."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One file that is changed, and how."""

    path: Path
    hurt: str
    named: str
    """How a line of the check must begin."""


def targets(chain: Chain) -> dict[Path, str]:
    """Every file of a chain, tars included, with how a line about it begins."""
    found = {link.path: f"{link.path}: " for link in chain.links if link.path is not None}
    for store in chain.stores:
        found |= {store.index.with_name(shard.name): f"{store.index.parent}: shard {shard.name}" for shard in store.shards}
    return found


def attacks(chain: Chain, number: int) -> list[Attack]:
    """So many attacks on each file of a chain, by turns of each kind."""
    hurts = itertools.islice(itertools.cycle(HURTS), number)
    return [Attack(path, hurt, named) for hurt in hurts for path, named in sorted(targets(chain).items())]


def changed(data: bytes, hurt: str, draw: np.random.Generator, others: list[bytes]) -> bytes | None:
    """The bytes of a file after an attack; None: it is gone."""
    at = int(draw.integers(len(data)))
    if hurt == "one byte deleted":
        return data[:at] + data[at + 1 :]
    if hurt == "one bit flipped":
        return data[:at] + bytes([data[at] ^ 1 << int(draw.integers(8))]) + data[at + 1 :]
    if hurt == "cut":
        return data[:at]
    if hurt == "one byte added":
        return data[:at] + draw.bytes(1) + data[at:]
    return None if hurt == "deleted" else others[int(draw.integers(len(others)))]


def alike(path: Path, results: Path) -> list[bytes]:
    """Other files of the same kind in the results: of another stage, split or data set; a tar of another shard."""
    mine = path.read_bytes()
    near = [other for other in sorted(results.rglob(f"*{path.suffix}")) if other.is_file() and other != path]
    same = [other for other in near if other.name == path.name] or [other for other in near if other.parent == path.parent] or near
    found = [data for other in same if (data := other.read_bytes()) != mine]
    return found or [mine[::-1]]


def missed(metrics: Path, tried: list[Attack], seed: int, check: Check = trace.check) -> list[Attack]:
    """Attacks that a check did not see, or did not name. Every file is as it was afterwards."""
    unseen = []
    for number, attack in enumerate(tried):
        data = attack.path.read_bytes()
        new = changed(data, attack.hurt, rng(seed, "origin", number), alike(attack.path, metrics.parents[5]))
        try:
            attack.path.unlink()  # never through a second name of the file
            if new is not None:
                attack.path.write_bytes(new)
            told = check(Chain(metrics, {}))
        finally:
            attack.path.unlink(missing_ok=True)
            attack.path.write_bytes(data)
        if not any(line.startswith(attack.named) for line in told):
            unseen.append(attack)
    return unseen


def check_by_size(sizes: dict[Path, int], digests: dict[Path, str]) -> Check:
    """A check broken on purpose: a file of the right size is taken for the right file."""

    def digest(path: Path) -> str:
        return digests[path] if path in digests and path.stat().st_size == sizes[path] else digest_file(path)

    def check(chain: Chain) -> list[str]:
        with patch.object(trace, "digest_file", digest):
            return trace.check(chain)

    return check


def without(names: set[str]) -> Check:
    """A check broken on purpose: links of these names are left out."""

    def check(chain: Chain) -> list[str]:
        chain.links = [link for link in chain.links if link.name not in names]
        return trace.check(chain)

    return check


def without_tars(chain: Chain) -> list[str]:
    """A check broken on purpose."""
    chain.stores.clear()
    return trace.check(chain)


def without_seals(chain: Chain) -> list[str]:
    """A check broken on purpose: what the files say of themselves is believed."""
    with patch.object(origin, "broken_seal", lambda path: ""):
        return trace.check(chain)


def controls(metrics: Path) -> dict[str, bool]:
    """Broken checks, and whether an attack that they are blind to shows it."""
    chain = Chain(metrics, {})
    split = next(link.path for link in chain.links if link.name == "SPLIT")
    vectors = metrics.with_name("embeddings.parquet")
    tar = chain.stores[0].index.with_name(chain.stores[0].shards[0].name)
    paths = [link.path for link in chain.links if link.path is not None]
    by_size = check_by_size({path: path.stat().st_size for path in paths}, {path: digest_file(path) for path in paths})
    named = targets(chain)
    cases: dict[str, tuple[Check, Attack]] = {
        "sizes only": (by_size, Attack(vectors, "one bit flipped", named[vectors])),
        "no SPLIT": (without({"SPLIT"}), Attack(split, "one byte deleted", named[split])),
        "no tars": (without_tars, Attack(tar, "one bit flipped", named[tar])),
        "no weights": (without({"weights", "origin"}), Attack(metrics.with_name("model.safetensors"), "cut", f"{metrics.parent}")),
    }
    caught = {name: bool(missed(metrics, [attack], 1, check)) for name, (check, attack) in cases.items()}
    data = metrics.read_bytes()
    metrics.write_bytes(data.replace(b'"mAP": 0.', b'"mAP": 1.', 1))  # still JSON
    caught["no seals"] = not without_seals(Chain(metrics, {})) and bool(trace.check(Chain(metrics, {})))
    metrics.write_bytes(data)
    return caught


def code_seen(metrics: Path, checkout: Path, number: int) -> tuple[int, int]:
    """(attacks on files of code, those that were seen), in a copy of the checkout, which is left as it was."""
    for package in origin.PACKAGES:
        shutil.copytree(REPOSITORY / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    chain = Chain(metrics, {})
    of = sorted({path for _, note in chain.code for path in note["of"]})
    files = sorted({file for path in of for file in ((checkout / path).rglob("*.py") if (checkout / path).is_dir() else [checkout / path])})
    files = [file for file in files if file.stat().st_size]
    seen = 0
    with patch.object(origin, "CHECKOUT", checkout):
        assert trace.check(chain) == []
        for turn in range(number):
            draw = rng(2, "code", turn)
            file = files[int(draw.integers(len(files)))]
            data = file.read_bytes()
            file.write_bytes(changed(data, HURTS[turn % 3], draw, []) or b"")
            seen += any("made by other code" in line for line in trace.check(chain))
            file.write_bytes(data)
    return number, seen


def stale(folder: Path) -> tuple[list[str], list[str]]:
    """What is said of a run whose SPLIT was made anew: before, and after one of its stages was scored again (which was not trained again)."""
    from pipeline.base import tables

    metrics = folder / "results" / small_run.RUN / "student/metrics.json"
    path = folder / "results/splits/set/official.parquet"
    data = path.read_bytes()
    kept = {name: metrics.with_name(name).read_bytes() for name in ("metrics.json", "embeddings.parquet")}
    meta = tables.read_meta(path)
    tables.write(path, tables.read(path, tables.SPLIT), tables.SPLIT, {**meta, "queries": "chosen anew"})
    before = trace.check(Chain(metrics, {}))
    small_run.evaluate(metrics.parent)
    after = trace.check(Chain(metrics, {}))
    path.write_bytes(data)
    for name, old in kept.items():
        metrics.with_name(name).write_bytes(old)
    return before, after


def same_bytes(one: Path, two: Path) -> tuple[int, list[str]]:
    """Files of two runs of the same settings in different folders, and those that differ; origin.json tells of the day and the machine."""
    names = sorted(
        str(path.relative_to(one)) for path in one.rglob("*") if path.is_file() and path.name not in ("origin.json", "metrics.jsonl")
    )
    return len(names), [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()]


def workflow_run(folder: Path) -> list[Path]:
    """A finished `all` on the tiny configuration: its metrics.json."""
    folder.mkdir()
    done = snakemake(folder, "--configfile", str(REPOSITORY / "workflow/config/tiny.yaml"), "--", "all")
    assert done.returncode == 0, done.stdout[-4000:]
    return sorted(folder.glob("results/runs/*/*/*/*/metrics.json"))


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    """All rows; scale 1 takes about two minutes on two cores."""
    runs = workflow_run(folder / "tiny")
    intact = [trace.check(Chain(path, {})) for path in runs]
    moved = Path(shutil.copytree(folder / "tiny", folder / "moved"))
    elsewhere = [trace.check(Chain(moved / path.relative_to(folder / "tiny"), {})) for path in runs]
    student = next(path for path in runs if path.parent.name == "student")
    caught = controls(student)
    tried = attacks(Chain(student, {}), max(1, round(PER_FILE * scale)))
    unseen = missed(student, tried, 0)
    files = len(targets(Chain(student, {})))
    yield Figure(
        "a byte deleted, added or flipped, a cut, an exchange or the loss of a file, anywhere behind a number, is seen, and the file named",
        len(tried),
        len(tried) - len(unseen),
        f"checks that are blind to something: {', '.join(caught)}",
        len(caught),
        sum(caught.values()),
        f"{files} files behind one number, tars included" + "".join(f"; missed: {a.hurt}, {a.path.name}" for a in unseen[:3]),
    )
    held = sum(not told for told in (*intact, *elsewhere))
    yield Figure(
        "a run that nobody touched passes, also in another place",
        len(runs) * 2,
        held,
        "metrics.json of another stage in the place of one",
        1,
        int(bool(missed_swap(runs))),
    )
    small = [small_run.make(folder / name) for name in ("one", "two")]
    checked, seen = code_seen(small[0] / "student/metrics.json", folder / "checkout", max(3, round(60 * scale)))
    with ExitStack() as stack:
        stack.enter_context(patch.object(trace, "code_state", lambda note: ""))
        blind = code_blind(small[0] / "student/metrics.json", folder / "checkout")
    yield Figure("a changed byte in code of training, embedding or scoring is seen", checked, seen, "a check without code", 1, int(blind))
    count, differing = same_bytes(folder / "one/results", folder / "two/results")
    (folder / "two/results/splits/set/official.parquet").write_bytes(b"x")
    _, control = same_bytes(folder / "one/results", folder / "two/results")
    yield Figure(
        "notes of origin hold no path and no time: the same run in another folder has the same bytes",
        count,
        count - len(differing),
        "one file that differs",
        1,
        int(len(control) == len(differing) + 1),
        ", ".join(differing[:3]),
    )
    before, after = stale(folder / "one")
    out_of_date = [line for line in after if "made anew since" in line and "model.safetensors" in line]
    yield Figure(
        "a table that was made anew is told from a damaged one: what is out of date is named",
        1,
        int(len(after) == 1 == len(out_of_date)),
        "the same table, before anything was made from it",
        1,
        int(len(before) == 1 and "damaged, or made anew since" in before[0]),
    )


def missed_swap(runs: list[Path]) -> list[str]:
    """What is said of a run whose metrics.json is that of another stage."""
    mine, other = runs[:2]
    data = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    told = trace.check(Chain(mine, {}))
    mine.write_bytes(data)
    return [line for line in told if line.startswith(f"{mine}: is of ")]


def code_blind(metrics: Path, checkout: Path) -> bool:
    """Whether a check that never looks at code misses a change there."""
    file = checkout / "evaluate/score.py"
    data = file.read_bytes()
    file.write_bytes(data + b"\n")
    with patch.object(origin, "CHECKOUT", checkout):
        told = trace.check(Chain(metrics, {}))
    file.write_bytes(data)
    return told == []
