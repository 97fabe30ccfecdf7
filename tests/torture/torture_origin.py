"""Attacks on every file behind a number: `evaluate.trace --check` must name the file, and pass when all is as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from evaluate import trace
from evaluate.chain import Chain
from pipeline.base import code, origin, tables
from pipeline.base.files import digest_file
from pipeline.base.seeds import rng
from tests.conftest import REPOSITORY
from tests.torture import small_run
from tests.torture.figures import Figure
from tests.workflow.conftest import snakemake

Check = Callable[[Chain], list[str]]
HURTS = ("one byte deleted", "one bit flipped", "cut", "one byte added", "another file", "deleted")
PER_FILE = 36
"""Attacks on each file in the full form: six of each kind."""


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
    """So many attacks on each file of a chain; the kinds take turns."""
    files = list(enumerate(sorted(targets(chain).items())))
    return [Attack(path, HURTS[(turn + file) % len(HURTS)], named) for turn in range(number) for file, (path, named) in files]


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
    """Broken checks, and whether attacks that they are blind to go unseen; the real check sees these (see `missed`)."""
    chain = Chain(metrics, {})
    weights, vectors = metrics.with_name("model.safetensors"), metrics.with_name("embeddings.parquet")
    split = next(link.path for link in chain.links if link.name == "SPLIT" and link.path)
    tar = chain.stores[0].index.with_name(chain.stores[0].shards[0].name)
    paths = [link.path for link in chain.links if link.path is not None]
    by_size = check_by_size({path: path.stat().st_size for path in paths}, {path: digest_file(path) for path in paths})
    cases: dict[str, tuple[Check, Path, str]] = {
        "sizes only": (by_size, vectors, "one bit flipped"),
        "no SPLIT": (without({"SPLIT"}), split, "one byte deleted"),
        "no tars": (without_tars, tar, "one bit flipped"),
        "no weights": (without({"weights", "origin"}), weights, "one bit flipped"),
    }
    named = targets(chain)
    caught = {name: bool(missed(metrics, [Attack(path, hurt, named[path])] * 8, 1, check)) for name, (check, path, hurt) in cases.items()}
    with changed_to(metrics, metrics.read_bytes().replace(b'"description": "M', b'"description": "N', 1)):  # still JSON, and no score
        caught["no seals"] = bool(trace.check(Chain(metrics, {}))) and not without_seals(Chain(metrics, {}))
    return caught


@contextmanager
def changed_to(path: Path, data: bytes) -> Iterator[None]:
    """A file that holds something else for the time of a block."""
    before = path.read_bytes()
    path.unlink()  # never through a second name of the file
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def copy_code(checkout: Path) -> list[Path]:
    """A copy of all code; returns the files on which embeddings, scores and trainings depend."""
    for package in origin.PACKAGES:
        shutil.copytree(REPOSITORY / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    of = {checkout / path for path in (*code.TRAINING, *code.EMBEDDING, *code.SCORING)}
    files = {file for path in of for file in (path.rglob("*.py") if path.is_dir() else [path])}
    return sorted(file for file in files if file.stat().st_size)


def code_seen(metrics: Path, checkout: Path, number: int, check: Check = trace.check) -> int:
    """How many of so many changes of the code in another checkout are seen."""
    files = copy_code(checkout)
    seen = 0
    with patch.object(origin, "CHECKOUT", checkout):
        assert trace.check(Chain(metrics, {})) == []
        for turn in range(number):
            draw = rng(2, "code", turn)
            file = files[int(draw.integers(len(files)))]
            with changed_to(file, changed(file.read_bytes(), HURTS[turn % 3], draw, []) or b""):
                seen += any("made by other code" in line for line in check(Chain(metrics, {})))
    shutil.rmtree(checkout)
    return seen


def without_code(chain: Chain) -> list[str]:
    """A check broken on purpose."""
    chain.code.clear()
    return trace.check(chain)


def stale(folder: Path) -> tuple[list[str], list[str]]:
    """What is said of a run whose SPLIT was made anew: at once, and when the stage was evaluated, but not trained, from it."""
    metrics, path = folder / "results" / small_run.RUN / "student/metrics.json", folder / "results/splits/set/official.parquet"
    kept = {file: file.read_bytes() for file in (path, metrics, metrics.with_name("embeddings.parquet"))}
    tables.write(path, tables.read(path, tables.SPLIT), tables.SPLIT, {**tables.read_meta(path), "queries": "chosen anew"})
    before = trace.check(Chain(metrics, {}))
    small_run.evaluate(metrics.parent)
    after = trace.check(Chain(metrics, {}))
    for file, data in kept.items():
        file.write_bytes(data)
    return before, after


def told_apart(before: list[str], after: list[str]) -> bool:
    """One line each: 'damaged or made anew', then 'made anew', with the trainings that are out of date."""
    return (
        [len(before), len(after)] == [1, 1]
        and "damaged, or made anew since" in before[0]
        and "made anew after it was read for" in after[0]
        and all(name in after[0] for name in ("student/model.safetensors", "teacher/model.safetensors", "alignment/set-audio.parquet"))
        and "embeddings.parquet" not in after[0]
    )


def differing(one: Path, two: Path) -> tuple[int, list[str]]:
    """How many files two results of the same settings have, and those that differ; origin.json and the log tell of the machine and the time."""
    machine = ("origin.json", "metrics.jsonl")
    names = [
        sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name not in machine)
        for root in (one, two)
    ]
    assert names[0] == names[1]
    return len(names[0]), [name for name in names[0] if (one / name).read_bytes() != (two / name).read_bytes()]


def swapped(metrics: Path, other: Path) -> bool:
    """Whether the whole and sealed metrics.json of another stage is refused in the place of one."""
    with changed_to(metrics, other.read_bytes()):
        return any(line.startswith(f"{metrics}: is of ") for line in trace.check(Chain(metrics, {})))


def workflow_run(folder: Path) -> list[Path]:
    """A finished `all` on the tiny configuration: its metrics.json."""
    folder.mkdir()
    done = snakemake(folder, "--configfile", str(REPOSITORY / "workflow/config/tiny.yaml"), "--", "all")
    assert done.returncode == 0, done.stdout[-4000:]
    return sorted(folder.glob("results/runs/*/*/*/*/metrics.json"))


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    """All rows; scale 1 takes about two minutes on two cores."""
    runs = workflow_run(folder / "tiny")
    student = next(path for path in runs if path.parent.name == "student")
    tried = attacks(Chain(student, {}), max(1, round(PER_FILE * scale)))
    unseen, caught = missed(student, tried, 0), controls(student)
    yield Figure(
        "a byte that is deleted, added or changed, a cut, an exchange or the loss of a file, anywhere behind a number: seen, and the file named",
        len(tried),
        len(tried) - len(unseen),
        f"checks that are blind to something ({', '.join(caught)})",
        len(caught),
        sum(caught.values()),
        f"{len(targets(Chain(student, {})))} files behind one number, tars included" + "".join(f"; missed: {a}" for a in unseen[:3]),
    )
    moved = Path(shutil.copytree(folder / "tiny", folder / "moved"))
    places = [*runs, *(moved / path.relative_to(folder / "tiny") for path in runs)]
    yield Figure(
        "a run that nobody touched passes, moved to another folder, too",
        len(places),
        sum(trace.check(Chain(path, {})) == [] for path in places),
        "the metrics.json of another stage in the place of one",
        len(runs),
        sum(swapped(mine, other) for mine, other in zip(runs, [*runs[1:], runs[0]], strict=True)),
    )
    small = [small_run.make(folder / name).parents[3] for name in ("one", "two")]
    metrics, changes = folder / "one/results" / small_run.RUN / "student/metrics.json", max(3, round(60 * scale))
    yield Figure(
        "a changed byte in the code of training, embedding or scoring is seen",
        changes,
        code_seen(metrics, folder / "checkout", changes),
        "a check that looks at no code",
        1,
        int(code_seen(metrics, folder / "checkout", 3, without_code) == 0),
    )
    count, other = differing(*small)
    with changed_to(small[1] / "splits/set/official.parquet", b"x"):
        control = differing(*small)[1]
    yield Figure(
        "notes on origin hold no path and no time: the same run in two folders has the same bytes",
        count,
        count - len(other),
        "one file changed",
        1,
        int(len(control) == len(other) + 1),
        ", ".join(other[:3]),
    )
    before, after = stale(folder / "one")
    yield Figure(
        "a table that was made anew is told from a damaged one, and what is out of date is named",
        1,
        int(told_apart(before, after)),
        "the table changed, and nothing made from it yet",
        1,
        int(not told_apart(before, before)),
    )
