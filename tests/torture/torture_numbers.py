"""Same bytes, same numbers: log-mel, shards, the order of samples, evaluators that lie, and no network in any of it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

from evaluate.variants import VARIANTS
from pipeline.base.seeds import rng
from tests.evaluate.bad_evaluators import BAD, BROKEN_CODE, HARMLESS, REFUSED, RIGHT, broken_code, flagged, plain
from tests.evaluate.oracle import AVERAGES, agrees, random_case
from tests.torture import mel, offline, restart
from tests.torture.figures import Figure
from tests.workflow import in_one
from tests.workflow.circumstances import BROKEN, CLOCK, OFFLINE, SHUFFLED, aged, differing, digests, marks, site
from tests.workflow.conftest import snakemake

TINY = in_one.REPOSITORY / "workflow" / "config" / "tiny.yaml"
SEED = 2


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    yield log_mel(folder / "mel", scale)
    yield shards(folder / "shards", scale)
    yield order(folder / "order", scale)
    yield bad_evaluators()
    yield oracle(scale)
    yield no_network(folder / "offline", scale)


def count(whole: int, scale: float, least: int = 1) -> int:
    return max(least, round(whole * scale))


# --- log-mel ----------------------------------------------------------------------------------------------------------


def log_mel(folder: Path, scale: float) -> Figure:
    """Golden clips on this processor and as on others, by one and two threads; slips in the code must be refused."""
    exact, expected, some = platform.machine() in mel.EXACT, mel.golden(), mel.clips()
    tried, held, kernels, logs = 0, 0, set(), set()
    environments: list[dict[str, str]] = [{}, *(mel.processors() if exact else [])]
    for environment in environments[: count(len(environments), scale, 3)]:
        for threads in (1, 2):
            made = mel.elsewhere(folder, environment, threads) if exact else mel.about()
            kernels.add(made["blas"])
            logs.add(made["log"])
            tried += len(expected)
            if exact:
                held += sum(made["digests"].get(name) == want["sha256"] for name, want in expected.items())
            else:
                held += len(expected) - len(mel.refused(mel.encoded(folder, some, threads), expected, exact))
    slips = [name for name in mel.BROKEN if exact or not name.startswith("float32")]
    caught = 0
    for name in slips:
        with mel.broken(name):
            caught += bool(mel.refused(mel.encoded(folder, some, 2), expected, exact))
    about, far = mel.about(), mel.without_vector_code(folder, some)
    return Figure(
        "The same clip gives the same stored log-mel, whatever the processor and the number of threads (golden clips x processors x threads)",
        tried,
        held,
        f"in the code: {', '.join(slips)}{'; float32 sums as on other processors' if exact else ''}",
        len(slips) + exact,
        caught + (exact and processors_differ(folder, name="float32 sums")),
        f"{'the same bytes' if exact else f'within {mel.CLOSE}'}; Python {about['python']}, NumPy {about['numpy']}; BLAS code for "
        f"{', '.join(sorted(kernels))}; logarithm of {', '.join(sorted(logs))}; soxr without its vector code, which every x86-64 has: up to "
        f"{far:.3f} away",
    )


def processors_differ(folder: Path, name: str = "") -> bool:
    """Whether some processor makes other bytes than this one, with the product as it is or broken."""
    digests_of = [mel.elsewhere(folder, environment, name=name)["digests"] for environment in ({}, *mel.processors()[:3])]
    return any(other != digests_of[0] for other in digests_of)


# --- shards -----------------------------------------------------------------------------------------------------------


def other_circumstances(folder: Path, number: int, *pieces: str) -> dict[str, str]:
    """An environment in which nothing is as it was that must not matter; `folder` is new."""
    draw = rng(SEED, "circumstances", number)
    zones = ("Asia/Kolkata", "America/St_Johns", "Pacific/Apia", "UTC")
    environments = mel.processors()
    processor = environments[int(draw.integers(len(environments)))]
    named = {
        "TZ": zones[int(draw.integers(len(zones)))],
        "PYTHONHASHSEED": str(draw.integers(1, 2**31)),
        "LC_ALL": ("C", "C.UTF-8")[number % 2],
    }
    return {**site(folder, SHUFFLED, CLOCK, *pieces), **named, **processor}


def shards(folder: Path, scale: float) -> Figure:
    """Runs of the workflow on one, two and four cores, and of its steps in one process, each in circumstances of its own."""
    folder.mkdir()
    first = folder / "first"
    run(first, cores=2)
    whole, sources = digests(first), first / "results" / "demo"
    tried = held = 0
    for number, cores in enumerate((2, 1, 4, 2)[: count(4, scale)]):
        place = folder / f"run {number}"
        if number:  # the first of them draws the data anew, too
            aged(sources, place / "results" / "demo", number)
            run(place, cores, other_circumstances(folder / f"site{number}", number), umask=(0o022, 0o077)[number % 2])
        else:
            run(place, cores)
        tried += 1
        held += not differing(whole, digests(place))
    plain = in_one.elsewhere(sources, folder / "plain", {})
    tried += 1
    held += not differing(digests(first, in_one.STAGES), plain)  # without Snakemake, the same
    for number in range(count(12, scale)):
        aged(sources, folder / f"aged{number}", number)
        environment = other_circumstances(folder / f"other{number}", 100 + number)
        made = in_one.elsewhere(
            folder / f"aged{number}", folder / f"made {number}", environment, 1 + number % 4, (0o022, 0o077, 0o002)[number % 3]
        )
        assert marks(folder / f"other{number}", "shuffled") and marks(folder / f"other{number}", "clock"), "circumstances were not in force"
        tried += 1
        held += not differing(plain, made)
    caught = [name for number, name in enumerate(BROKEN) if broken_is_noticed(folder, sources, number)]
    seeded = in_one.elsewhere(in_one.make_sources(folder / "seeded", seed=8), folder / "of seeded", {})
    return Figure(
        "The same inputs give the same bytes in every manifest, feature, shard and index (runs compared file by file)",
        tried,
        held,
        f"another seed; {', '.join(BROKEN)}",
        len(BROKEN) + 1,
        len(caught) + bool(differing(plain, seeded)),
        f"{len(whole)} files; 1, 2 and 4 cores, shuffled listings, dates of sources, a clock nine years ahead, time zone, hash seed, umask, locale, "
        "working directory, processor",
    )


def run(folder: Path, cores: int, environment: dict[str, str] | None = None, umask: int = 0o022) -> None:
    """The workflow on the smallest data."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ("--configfile", str(in_one.MINI), "--", "pack_demo")
    done = snakemake(folder, *arguments, cores=cores, environment=environment, umask=umask, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stdout[-4000:])


def broken_is_noticed(folder: Path, sources: Path, number: int) -> bool:
    """Whether two runs of a product that lets something in differ, where two of the real one do not."""
    piece = list(BROKEN.values())[number]
    plain = in_one.elsewhere(sources, folder / f"broken{number}", site(folder / f"broken{number}.site", piece))
    other = other_circumstances(folder / f"broken{number}.other", 200 + number, piece) | {"OPENBLAS_CORETYPE": "Prescott"}
    return bool(differing(plain, in_one.elsewhere(sources, folder / f"broken{number}.again", other)))


# --- order of samples -------------------------------------------------------------------------------------------------


def order(folder: Path, scale: float) -> Figure:
    """Going on at a step costs what beginning costs, in calls, seconds and bytes, and gives the batch that walking there gives."""
    folder.mkdir()
    some = restart.rows()
    index, split = restart.write(folder, some)
    tried = caught = 0
    failed: list[str] = []
    cost: dict[str, list[tuple[float, float, int]]] = {"order": [], "tables": []}

    def see(held: bool, what: str) -> None:
        nonlocal tried
        tried += 1
        failed.extend([] if held else [what])

    for kind in restart.KINDS:
        for step in (0, restart.AT, restart.STEPS - 1):
            told = restart.measured(index, split, kind, step)
            for part, found in cost.items():
                found.append((told[part]["seconds"], told[part]["wall"], told[part]["bytes"]))
            at = f"{kind}, step {step:,}"
            see(told["order"]["seconds"] < restart.SECONDS, f"{at}: {told['order']['seconds']:.2f} CPU seconds for the order")
            see(told["order"]["bytes"] < restart.BYTES, f"{at}: {told['order']['bytes']:,} bytes for the order")
            see(restart.tables_are_small(told, index, split), f"{at}: {told['tables']['bytes']:,} bytes for the tables")
            see(told["digest"] == restart.digest(restart.restored(restart.made(kind, some), step)), f"{at}: another batch")
        steps = [0, *rng(SEED, "restart", kind).integers(1, restart.STEPS, count(10, scale, 2)).tolist()]
        see(restart.same_work(kind, some, tuple(steps)), f"{kind}: more calls at some step of {steps}")
        walked = dict(restart.walked(kind, some, range(count(300, scale, 20))))
        for step in rng(SEED, "walk", kind).choice(sorted(walked), count(20, scale, 3)).tolist():
            see(restart.digest(restart.restored(restart.made(kind, some), step)) == walked[step], f"{kind}, step {step}: not as walked to")
        caught += not restart.same_work(kind, some, (0, 20, 60), restart.replayed)
        caught += restart.digest(restart.restored(restart.made(kind, some), 5)) != walked[6]  # one step too few
    cpu, wall, read = ([max(found, key=lambda one: one[n])[n] for found in cost.values()] for n in range(3))
    silent = max(read) <= 0
    return Figure(
        f"Training goes on at any step without replaying the steps before it: step {restart.AT:,} of {restart.STEPS:,} at the size of MARS",
        tried,
        tried - len(failed),
        "an order that walks to its step; an order that is one step behind",
        2 * len(restart.KINDS),
        caught,
        f"at most {cpu[0]:.2f} CPU seconds ({wall[0]:.2f} by the clock) and {read[0] / 1000:.0f} kB read for the order at any step; opening "
        f"INDEX ({restart.TRACKLETS + restart.OTHERS:,} rows) and SPLIT, once, {cpu[1]:.2f} ({wall[1]:.2f}) and {read[1] / 1e6:.1f} MB"
        + (" (bytes: this system does not say)" if silent else "")
        + "".join(f"; failed: {what}" for what in failed[:3]),
    )


# --- evaluation -------------------------------------------------------------------------------------------------------


def bad_evaluators() -> Figure:
    """Known ways to score wrongly; what changes no rule, and the plain evaluator as it is, must not be flagged."""
    from evaluate.protocols import apply

    return Figure(
        "A wrong evaluator is refused or gives another number (known-bad evaluators)",
        len(BAD),
        sum(map(flagged, BAD)),
        "turned round: the right evaluator on renamed cameras and identities, mirrored and stretched vectors, and the plain evaluator with "
        "nothing wrong, are not flagged",
        len(HARMLESS) + 1,
        sum(not flagged(lambda s, same=same: apply(RIGHT, same(s))) for same in HARMLESS) + (not flagged(plain)),
        f"{len(VARIANTS)} variants of a plain evaluator, {len(REFUSED)} damaged inputs, {len(BAD) - len(VARIANTS) - len(REFUSED)} slips in "
        "the product's code; the first are in docs/wrong_evaluators.md",
    )


def oracle(scale: float) -> Figure:
    """Random rankings full of ties, scored by the product and by the plainest code there is."""
    cases = count(5_000, scale, 60)
    held = sum(agrees(random_case(number), ap) for number in range(cases) for ap in AVERAGES)
    caught = 0
    for name in BROKEN_CODE:
        with broken_code(name):
            caught += not all(agrees(random_case(number), ap) for number in range(60) for ap in AVERAGES)
    return Figure(
        "Ranks, average precision (both definitions) and mINP are those of the plainest code (random rankings with ties)",
        cases * len(AVERAGES),
        held,
        f"{', '.join(BROKEN_CODE)}",
        len(BROKEN_CODE),
        caught,
    )


# --- network ----------------------------------------------------------------------------------------------------------


def no_network(folder: Path, scale: float) -> Figure:
    """The whole path, from generated data to the report, without a network and watched."""
    inside = offline.namespace()
    watched = folder / "watched"
    arguments = ("--configfile", str(TINY), str(in_one.MINI), "--config", "prepare=[]", "--", "all")
    done = snakemake(folder / "run", *arguments, environment=site(watched, OFFLINE), inside=inside, timeout=600)
    finished = done.returncode == 0 and (folder / "run" / "results" / "report.html").is_file()
    if not finished:
        raise RuntimeError(done.stdout[-4000:])
    processes = {line.split()[0] for line in marks(watched, "offline")}
    asked = {line.split()[0] for line in marks(watched, "asked")}
    wanting = offline.ASKING | (offline.LIBRARIES if scale >= 1 else {})
    caught = sum(offline.noticed(folder / f"asking{number}", code) for number, code in enumerate(wanting.values()))
    return Figure(
        "Data path, training, evaluation and report ask for no network (Python processes of a run)",
        len(processes),
        len(processes - asked),
        f"a process that asks for {', '.join(wanting)}{'; a listener outside the namespace that is reached' if inside else ''}",
        len(wanting) + bool(inside),
        caught + (bool(inside) and offline.cut_off(inside)),
        f"{len(marks(watched, 'asked'))} attempts; "
        + ("in a network namespace of its own" if inside else "no network namespace is allowed here: audit hooks alone"),
    )
