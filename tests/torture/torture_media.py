"""Hostile media (promise R4): nothing crashes, hangs, eats memory or vanishes; cut clips are found, whole ones stay.

In:      files of `media_fuzz`, and those of the folder of real data where it is here.
Out:     figures. `media_trial` holds the checks, `media_child` the process that meets the files.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import soundfile

from pipeline.base.config import AudioConfig
from pipeline.base.seeds import rng
from pipeline.features import audio
from tests.shards.making import make_store
from tests.torture import media_child, media_fuzz, media_trial
from tests.torture.figures import Figure
from tests.torture.media_fuzz import Hostile
from tests.torture.media_trial import CAP, HANG, Job, Result, complaints, lay_out, trial

SHARED = Path(os.environ.get("DUBTRACK_SHARED", media_trial.ROOT.parent / "shared")) / "data"
ROUNDED = 0.0005
"""Seconds by which a table of whole milliseconds may say too little."""
ABSENT = "real files left out, there is no such folder here"
FATAL = ("eats memory", "raises", "hangs", "dies")
"""Variants of the product that :func:`trial` must complain about."""


def real(*parts: str) -> list[Path]:
    """Files of the folder of real data; none where it is absent."""
    folder = SHARED.joinpath(*parts)
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def fixtures(kind: str) -> list[Hostile]:
    """Hostile files that others have published."""
    return [Hostile(path.name, path.read_bytes()) for path in real("hostile_media", kind)]


# --- one file after another ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Laid:
    """Files on the disk."""

    files: list[tuple[str, Path]]
    claims: list[float | None]
    """Seconds that a table of durations says of each clip."""

    def jobs(self, kind: str) -> list[Job]:
        pairs = zip(self.files, self.claims, strict=True)
        return [Job(name, kind, {"path": str(path), "claim": claim}) for (name, path), claim in pairs]

    def first(self, count: int) -> Laid:
        return Laid(self.files[:count], self.claims[:count])

    @property
    def paths(self) -> list[Path]:
        return [path for _, path in self.files]


def clips(folder: Path, count: int, large: bool) -> tuple[Laid, int]:
    """Good, fuzzed, odd and published clips, then the large ones; and how many come before these.

    Two of three have a duration, of which most are wrong for what has become of them.
    """
    goods = media_fuzz.good_clips(6)
    files = [Hostile(f"good {n}", good) for n, good in enumerate(goods)]
    files += [*media_fuzz.fuzzed_clips(count, goods), *media_fuzz.odd_clips(goods[0]), *fixtures("audio")]
    small = len(files)
    files += media_fuzz.large_clips(goods[0]) if large else []
    seconds = [soundfile.info(io.BytesIO(good)).duration for good in goods]
    claims = [*seconds, *(seconds[n % 6] if n % 3 else None for n in range(len(files) - 6))]
    return Laid(lay_out(files, folder, ".mp3"), claims), small


def pictures(folder: Path, count: int, large: bool) -> tuple[Laid, int]:
    """Good, fuzzed, odd and published pictures, then the bombs; and how many come before these."""
    goods = media_fuzz.good_pictures(12 if large else 3)
    files = [Hostile(f"good {n}", good) for n, good in enumerate(goods)]
    files.append(Hostile("wrong size", media_fuzz.saved(np.zeros((99, 99, 3), np.uint8))))
    files += [*media_fuzz.fuzzed_pictures(count, goods), *media_fuzz.odd_pictures(goods[0]), *fixtures("image")]
    small = len(files)
    files += media_fuzz.bombs(goods[0]) if large else []
    return Laid(lay_out(files, folder, ".jpg"), [None] * len(files)), small


def with_controls(jobs: Sequence[Job]) -> list[Job]:
    """At the end, a job again with each fatal variant of the product: one that decodes."""
    one = next(job for job in jobs if job.name.startswith(("wrong size", "good", "HTML")))
    return [*jobs, *(Job(f"{name}: {one.name}", one.kind, {**one.more, "broken": name}) for name in FATAL)]


def survived(jobs: Sequence[Job], folder: Path, promise: str, patience: float = 3 * HANG) -> tuple[Figure, list[Result]]:
    """Figure and results of jobs, without those of the controls."""
    results = trial(with_controls(jobs), folder, patience)
    kept, controls = results[: len(jobs)], results[len(jobs) :]
    bad = complaints(kept)
    slowest, largest = max(kept, key=lambda r: r.seconds), max(kept, key=lambda r: r.megabytes)
    seen = f"longest {slowest.seconds:.1f} s ({slowest.name}), most memory {largest.megabytes:.0f} MB ({largest.name})"
    decoder = max(result.decoder for result in kept)
    seen += f", ffmpeg {decoder:.0f} MB" * (decoder > 0)
    seen += "".join(f"; {ABSENT}" for _ in [0] if not real("hostile_media", "audio"))
    control = "a decoder that hangs, eats memory, raises or aborts"
    return Figure(promise, len(kept), len(kept) - len(bad), control, len(controls), len(complaints(controls)), _told(seen, bad)), kept


def _told(seen: str, bad: Sequence[str]) -> str:
    return seen + (f"; BROKEN: {'; '.join(bad[:5])}" if bad else "")


def reasons(results: Sequence[Result]) -> dict[int, str]:
    """Verdict by number, as the steps say it."""
    return {n: "" if result.outcome == "used" else result.outcome for n, result in enumerate(results)}


# --- through the steps -----------------------------------------------------------------------------------------------


def accounted(tried: int, problems: Sequence[str], promise: str, control: str, caught: Sequence[bool], seen: str) -> Figure:
    return Figure(promise, tried, max(tried - len(problems), 0), control, len(caught), sum(caught), _told(seen, problems))


Run = tuple[Laid, int]
"""Files, and the threads that take them."""


def through_dubbing(runs: Sequence[Run], known: dict[int, str], folder: Path, inside: bool) -> Figure:
    """Every clip through read_items, align_companion and encode_companion; controls on the first 40."""
    problems, tried = [], 0
    for laid, threads in runs:
        tables = media_trial.voices(laid.paths, laid.claims, folder / f"threads {threads}", inside)
        verdicts = media_trial.dub(tables, threads, inside=inside)
        tried += len(laid.files)
        problems += verdicts.complaints + _same(laid, known, verdicts, threads)
    few = runs[0][0].first(40)
    tables = media_trial.voices(few.paths, few.claims, folder / "few", inside)
    caught = [bool(media_trial.dub(tables, 2, "forgets clips", inside).complaints)]
    steady = media_trial.dub(tables, 1, "unsteady", inside)
    caught.append(bool(steady.complaints or _same(few, known, steady, 1)))
    promise = "Each clip is used or listed with its reason, the same one each time, with 1 and 2 threads"
    return accounted(tried, problems, promise, "a step that drops a clip without a row; a verdict that changes", caught, _counted(known))


def _same(laid: Laid, known: dict[int, str], verdicts: media_trial.Verdicts, threads: int) -> list[str]:
    """Differences between the verdicts of a step and those of each file alone."""
    expected = {number: known[number] for number in range(len(laid.files))}
    return media_trial.differences(expected, verdicts.reasons, f"alone, and by {threads} threads") if verdicts.reasons else []


def _counted(known: dict[int, str]) -> str:
    quarantined = sum(bool(reason) for reason in known.values())
    return f"{len(known) - quarantined:,} used and {quarantined:,} quarantined of {len(known):,}"


def through_packing(runs: Sequence[Run], known: dict[int, str], folder: Path, inside: bool) -> Figure:
    """Every picture through encode_frames with `broken: drop`, those of the first run with `stop`, too; controls on the first 40."""
    problems, tried = [], 0
    good = runs[0][0].paths[0].read_bytes()
    for number, (laid, threads) in enumerate(runs):
        tables = media_trial.film(laid.paths, good, folder / f"threads {threads}")
        for how in ("drop", "stop") if number == 0 else ("drop",):
            verdicts = media_trial.pack(tables, threads, {"broken": how}, inside=inside)
            tried += len(laid.files)
            problems += verdicts.complaints + _same(laid, known, verdicts, threads)
    few = media_trial.film(runs[0][0].paths[:40], good, folder / "few")
    caught = [bool(media_trial.pack(few, 1, {"broken": how}, "forgets frames", inside).complaints) for how in ("drop", "stop")]
    promise = "Each picture is packed or listed with its reason, the same one each time; with `broken: stop` the log names all"
    return accounted(tried, problems, promise, "a step that leaves out a picture without a row", caught, _counted(known))


def through_the_loader(laid: Laid, folder: Path, inside: bool) -> Figure:
    """What encode_frames packs with `check: true` is decoded by the loader; without, the loader must stop at some, by name."""
    good = laid.paths[0].read_bytes()
    told: dict[bool, list[str]] = {}
    problems: list[str] = []
    count = 0
    for check in (True, False):
        tables = media_trial.film(laid.paths, good, folder / f"check {check}")
        problems += media_trial.pack(tables, 1, {"broken": "drop", "check": check}, inside=inside).complaints
        frames = media_trial.stored_frames(tables, 1)
        count = len(frames) if check else count
        with media_trial.quiet():
            told[check] = [f"{path}: {said}" for path, jpeg in frames if (said := media_child.load(jpeg))]
    return accounted(
        count,
        [*problems, *told[True]],
        "With `frames.check` the loader decodes every frame that was packed",
        "packed without: the loader must stop",
        [bool(told[False])],
        f"without it the loader stops, by name, at {len(told[False]):,}",
    )


# --- in the place of tables, shards and frames of shards -------------------------------------------------------------


def matlab(**variables: np.ndarray) -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, variables)
    return out.getvalue()


def foreign(folder: Path) -> list[Job]:
    """Files where a .mat table or a shard belongs, and pictures where a frame of a shard belongs: nobody may take one for good."""
    rows = matlab(track_train_info=np.arange(12).reshape(3, 4), ls_set=np.arange(12).reshape(3, 4))
    mats = [
        ("no bytes", b""),
        ("HTML", media_fuzz.HTML),
        ("cut", rows[:150]),
        ("another table", rows),
        ("a cell", matlab(ls_set=np.array([[1]], object))),
    ]
    mats += [(f.name, f.head) for f in fixtures("mat")]
    jobs = []
    good = media_fuzz.good_pictures(1)[0]
    places = {
        "mars": ("bbox_train/0001/0001C1T0001F001.jpg", "info/tracks_train_info.mat"),
        "ilidsvid": (
            "i-LIDS-VID/sequences/cam1/person001/cam1_person001_00001.png",
            "train-test people splits/train_test_splits_ilidsvid.mat",
        ),
    }
    for number, (name, data) in enumerate(mats):
        for source, (frame, place) in places.items():
            root = folder / f"{source}{number}"
            for path, content in ((frame, good), (frame.replace("cam1", "cam2"), good), (place, data)):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
            jobs.append(Job(f"{name} as {place}", "table", {"folder": str(root), "source": source, "path": str(root / place)}))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.json"), io.BytesIO())
    tars = [("no bytes", b""), ("HTML", media_fuzz.HTML), ("another tar", packed.getvalue()), ("zeros", bytes(10240))]
    store = folder / "store"
    store.mkdir(parents=True)
    index = make_store(store)
    for number, (name, data) in enumerate([*tars, *((f.name, f.head) for f in fixtures("tar"))]):
        copy = shutil.copytree(store, folder / f"store{number}")
        (copy / "00000.tar").write_bytes(data)
        jobs.append(Job(f"{name} as a shard", "tar", {"index": str(copy / index.name)}))
    return jobs


NO_FRAMES = ("30,000", "65,535", "0 x 0", "1 x 1", "12 bit", "lossless", "no bytes", "two bytes", "EOI", "5,000 scans", "1,000,000 scans",
             "GIF", "BMP", "WebP", "PNG", "TIFF", "PPM", "fill bytes", "comments", "zeros, 2", "a clip", "an EPS")  # fmt: skip
"""Beginnings of the names of pictures that are no frame of a shard."""


def in_shards(laid: Laid) -> list[Job]:
    """Pictures that no shard can hold, in the place of a frame."""
    return [
        Job(f"{name} in a shard", "stored", {"path": str(path)})
        for name, path in laid.files
        if name.startswith(NO_FRAMES) and "2 GB" not in name
    ]


# --- cut clips -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cuts:
    """What became of clips that were cut; numbers of cuts."""

    lost: int
    """After which fewer samples were decoded."""
    found: int
    """Of these, those after which the clip was quarantined."""
    large: int
    """After which more than `table_tolerance` was missing."""
    large_found: int

    @property
    def enough(self) -> bool:
        """Whether at least 99 of 100 cuts that lose sound are found."""
        return 0 < 0.99 * self.lost <= self.found


def cut_clips(clips: Sequence[tuple[str, bytes, float]], each: int, folder: Path) -> Cuts:
    """Cut every clip `each` times at a uniformly random byte, and ask whether it can be used.

    Args:
        clips: name, bytes, seconds that the table of durations says.
    """
    config, path, lost, found, large, large_found = AudioConfig(), folder / "cut.mp3", 0, 0, 0, 0
    for name, data, claim in clips:
        path.write_bytes(data)
        whole = audio.probe(path, None, claim, config)
        for at in rng(media_fuzz.SEED, "cut", name).integers(0, len(data), each).tolist():
            path.write_bytes(data[:at])
            probe = audio.probe(path, None, claim, config)
            if probe.samples < whole.samples:
                much = whole.seconds - probe.seconds > config.table_tolerance + ROUNDED
                lost, found = lost + 1, found + bool(probe.reason)
                large, large_found = large + much, large_found + (much and bool(probe.reason))
    return Cuts(lost, found, large, large_found)


def listed_clips() -> list[tuple[str, bytes, float]]:
    """Real clips with the durations that their release lists."""
    folder = SHARED / "common_voice_mini" / "tw"
    if not folder.is_dir():
        return []
    rows = [line.split("\t") for line in (folder / "clip_durations.tsv").read_text().splitlines()[1:]]
    return [(name, (folder / "clips" / name).read_bytes(), int(ms) / 1000) for name, ms in rows if (folder / "clips" / name).is_file()]


def made_clips(count: int) -> list[tuple[str, bytes, float]]:
    """Generated clips of 2 to 7 s, as long as those of Common Voice, with the decoded length in ms, as real tables have it."""
    goods = media_fuzz.good_clips(count, (2.0, 7.0))
    return [
        (f"made {n}", good, round(1000 * len(soundfile.read(io.BytesIO(good))[0]) / (48000, 32000)[n % 2]) / 1000)
        for n, good in enumerate(goods)
    ]


def deaf(work: Callable[[], Any]) -> Any:
    """The same work by a product that takes cut clips for whole ones."""
    with media_child.BROKEN["takes cut clips"]():
        return work()


def cuts(made: int, each: int, folder: Path) -> Iterator[Figure]:
    """Cut clips are found; whole clips, real ones without a table included, are not called cut."""
    listed, generated = listed_clips(), made_clips(made)
    folder.mkdir(parents=True, exist_ok=True)
    config = AudioConfig()
    sets: list[tuple[Cuts, Cuts]] = []
    called, longer, path = [], 0, folder / "whole.mp3"
    for clips, what in ((listed, "real"), (generated, "generated")):
        if not clips:
            continue
        with media_trial.quiet():
            found, unheard = cut_clips(clips, each, folder), deaf(lambda clips=clips: cut_clips(clips[:2], each, folder))
        sets.append((found, unheard))
        yield Figure(
            f"A cut {what} clip whose duration is listed is found where more than {1000 * config.table_tolerance:g} ms of sound are lost",
            found.large,
            found.large_found,
            "a probe that reports a cut clip as usable",
            1,
            int(unheard.large_found < unheard.large),
            f"of all {found.lost:,} cuts that lost any sound {found.found:,} found ({100 * found.found / max(found.lost, 1):.2f} %)",
        )
    yield Figure(
        "Of all cuts that lose any sound at least 99 of 100 are found: tried are sets of clips, not cuts",
        len(sets),
        sum(found.enough for found, _ in sets),
        "a probe that reports a cut clip as usable",
        len(sets),
        sum(not unheard.enough for _, unheard in sets),
        "; ".join(f"found {found.found:,} of {found.lost:,}" for found, _ in sets),
    )
    others = [(path.name, path, None) for language in ("en", "fa") for path in real("common_voice_mini", language, "clips")]
    for name, data, claim in [*listed, *generated]:
        path.write_bytes(data)
        called += [name] * (audio.probe(path, None, claim, config).reason == "truncated")
        longer += audio.probe(path, None, claim + 0.048, config).reason == "truncated"
    called += [name for name, file, claim in others if audio.probe(file, None, claim, config).reason == "truncated"]
    total = len(listed) + len(generated)
    yield Figure(
        "No whole clip is called cut",
        total + len(others),
        total + len(others) - len(called),
        "a table that lists 48 ms more",
        total,
        longer,
        _told(
            f"{len(listed)} real clips with a table, {len(others)} without, {len(generated)} generated" + f"; {ABSENT}" * (not listed),
            called,
        ),
    )


LIMITS = f"at most {HANG:g} s and {CAP:g} MB each"
CLIP = f"A hostile clip neither crashes nor hangs nor eats memory ({LIMITS})"
PICTURE = f"A hostile picture neither crashes nor hangs nor eats memory, up to the loader ({LIMITS})"
SHOWN = f"A hostile picture is shown in the report, or a sentence says why not, within the same limits ({LIMITS})"


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    sound, small = clips(folder / "clips", round(1000 * scale), large=True)
    figure, results = survived(sound.jobs("clip"), folder / "alone-clips", CLIP)
    yield figure
    yield through_dubbing([(sound.first(small), 1), (sound, 2)], reasons(results), folder / "dub", inside=False)
    images, small = pictures(folder / "pictures", round(500 * scale), large=True)
    figure, results = survived(images.jobs("picture"), folder / "alone-pictures", PICTURE)
    yield figure
    yield through_packing([(images.first(small), 1), (images, 2)], reasons(results), folder / "pack", inside=False)
    yield through_the_loader(images.first(small), folder / "load", inside=False)
    figure, _ = survived(images.jobs("shown"), folder / "alone-shown", SHOWN)
    yield figure
    yield refused(foreign(folder / "foreign"), in_shards(images), folder / "alone-foreign")
    yield from cuts(round(20 * scale) + 4, round(30 * scale) + 3, folder / "cuts")


def refused(tables: Sequence[Job], frames: Sequence[Job], folder: Path, patience: float = 3 * HANG) -> Figure:
    """Files in the place of tables, shards and frames of shards, each refused by name."""
    promise = "A foreign file in the place of a .mat table, a shard or a frame of a shard is refused, by name"
    figure, _ = survived([*tables, *frames], folder, promise, patience)
    return replace(figure, seen=f"{len(tables)} tables and shards, {len(frames)} frames; {figure.seen}")
