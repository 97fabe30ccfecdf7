"""Nothing in a shard, manifest, setting, checkpoint or medium runs code or leads out of its folder (promise R11).

The corpus (`malicious.py` and its parts) goes through the readers of real use, in this process under Python's audit events; some of it
again through steps as processes; settings made of commands through real runs of the workflow; and our own code is held against a
list of what it may not do. Every figure's control is the same check on a product that is broken on purpose.
"""

from __future__ import annotations

import html
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from evaluate.report_page import pictures, summary
from pipeline import encode_companion, voices
from pipeline.base import tables
from pipeline.base.files import read_json
from pipeline.features import audio
from shards import codec, read, show_shard, stream
from tests.conftest import REPOSITORY
from tests.torture import (
    code_rules,
    malicious_config,
    malicious_media,
    malicious_report,
    malicious_runs,
    malicious_shards,
    malicious_tables,
    malicious_weights,
)
from tests.torture.figures import Figure
from tests.torture.malicious import Attack, replaced, spring
from train import checkpoint

PARTS = (malicious_shards, malicious_tables, malicious_media, malicious_weights, malicious_config)
STEPS = (
    "tar: member named above",
    "INDEX: sample named ../../outside/x",
    "sample: paths and items that lead out or obey a terminal",
    "TRACKLETS: frame ../../outside/secret.jpg",
    "ALIGNMENT: path '../outside/secret.wav'",
    "tracklets.csv: frame '../outside/secret.jpg'",
    "tracklets.csv: person and camera '$(touch {hit})'",
    "train.tsv: clip ../../outside/secret.mp3",
    "train.tsv: formula and HTML",
    ".pth: pickle of protocol 4",
    ".pth: a zip made by hand",
    "pretrained: named hf-hub:evil/model",
)
"""Attacks that are run again with each step as a process of its own."""


def corpus() -> list[Attack]:
    """All malicious files but those of the report."""
    return [attack for part in PARTS for attack in part.attacks()]


def named(*names: str) -> list[Attack]:
    """Attacks of the corpus by name.

    Raises:
        KeyError: there is none of that name.
    """
    known = {attack.name: attack for attack in [*corpus(), *malicious_report.attacks()]}
    return [known[name] for name in names]


def harmful(outcome: str) -> bool:
    """Whether code ran, or a file outside, a program or a connection was touched."""
    return outcome.startswith("HARM")


def sprung(attacks: Sequence[Attack], folder: Path, processes: bool = False) -> dict[str, str]:
    """What went wrong in each, by its name; '' where nothing did."""
    outcomes = {}
    with quiet():
        for number, attack in enumerate(attacks):
            with tempfile.TemporaryDirectory(dir=folder, prefix=f"{number}-") as root:
                outcomes[attack.name] = spring(attack, Path(root) / "trap", processes)
    return outcomes


@contextmanager
def quiet() -> Iterator[None]:
    """Without what decoders write about broken files, past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# --- products broken on purpose ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Broken:
    """A product that is broken on purpose, and the attacks that must notice."""

    name: str
    attacks: tuple[str, ...]
    how: Callable[[], AbstractContextManager[Any]]
    harm: bool = True
    """Whether it must be noticed as harm, or as another end than the entry says."""


def together(*changes: tuple[object, str, object]) -> Callable[[], AbstractContextManager[Any]]:
    def how() -> AbstractContextManager[Any]:
        stack = ExitStack()
        for change in changes:
            stack.enter_context(replaced(*change))
        return stack

    return how


def _trusting_npy(data: bytes, where: str) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=True)


def _trusting_below(root: Path, path: str) -> Path:
    return root / path


def _trusting_state(folder: Path, *fields: str) -> Any:
    return read_json(folder / checkpoint.STATE)


class _AnyTar(stream.Known):
    """Gives on what comes, as before headers were compared."""

    def read(self, count: int) -> bytes:
        return self._file.read(count)


_OPEN, _LOAD, _YAML, _INIT = Image.open, torch.load, yaml.load, stream.Tars.__init__

BROKEN = (
    Broken(
        "arrays are read with allow_pickle",
        ("npy in a shard: object array, a pickle inside",),
        together((codec, "npy_array", _trusting_npy)),
    ),
    Broken(
        "a stream starts commands without the switch",
        ("urls pipe:touch {hit} without the switch", "urls http://127.0.0.1:{port}/{shard} without the switch"),
        together((stream.Tars, "__init__", lambda self, index, urls="", commands=False: _INIT(self, index, urls, True))),
    ),
    Broken(
        "torch.load runs pickles",
        (".pth: pickle of protocol 4", ".pth: torch.save beside tensors"),
        together((torch, "load", lambda path, **options: _LOAD(path, map_location="cpu", weights_only=False))),
    ),
    Broken(
        "YAML is read with the loader that calls",
        ("YAML: python/object/apply", "YAML: python/object/new"),
        together((yaml, "load", lambda text, Loader: _YAML(text, Loader=yaml.UnsafeLoader))),
    ),
    Broken(
        "Pillow may try every format",
        ("report: EPS named .jpg", "frame: EPS named .jpg"),
        together((Image, "open", lambda file, formats=None: _OPEN(file))),
    ),
    Broken(
        "an extractor believes the names in a sample",
        ("sample: paths and items that lead out or obey a terminal",),
        together((show_shard, "extract", malicious_shards.trusting_extract)),
    ),
    Broken(
        "a report joins paths of tables as they are",
        ("report: voice {out}/secret.mp3", "report: frame ../../../outside/secret.jpg"),
        together((pictures, "below", _trusting_below)),
    ),
    Broken(
        "names in a checkpoint are believed", ("ended training: a name that leads out",), together((checkpoint, "_state", _trusting_state))
    ),
    Broken(
        "headers of a tar are not compared",
        ("tar: sparse member", "tar: member that is a symbolic link", "tar: member named above"),
        together((stream, "Known", _AnyTar)),
        harm=False,
    ),
    Broken(
        "an INDEX may leave gaps",
        ("tar: link in a gap that INDEX leaves between members", "tar: xz bomb whose members INDEX lists off the blocks"),
        together((read.Layout, "_unfilled", lambda self, at, size, row_of, counts, sizes: counts < 0)),
        harm=False,
    ),
    Broken(
        "steps join paths of tables as they are",
        ("ITEMS: path '{out}/secret.wav'", "ALIGNMENT: path '../outside/secret.wav'"),
        together((voices, "below", _trusting_below), (encode_companion, "below", _trusting_below)),
        harm=False,
    ),
    Broken(
        "ffmpeg may use every demuxer",
        ("sound: ffconcat of other.wav named clip.mp3",),
        together((audio, "FFMPEG_FORMATS", ("concat", "wav", "mp3"))),
        harm=False,
    ),
    Broken(
        "names of tars are not looked at",
        ("INDEX: tar named '$(touch {hit}).tar'", "INDEX: tar named '../outside/secret.txt'"),
        together((read, "NAME", re.compile("(?s:.*)"))),
        harm=False,
    ),
    Broken("metadata of a table are believed", ("Parquet: metadata cut",), together((tables, "parse_json", lambda text: {})), harm=False),
)

UNESCAPED = (
    Broken(
        "text is not escaped in the page",
        ("report: a script in every name", "report: SVG in every name"),
        together((html, "escape", lambda text, quote=True: text)),
        harm=False,
    ),
    Broken(
        "cells of Markdown are not escaped",
        ("report: links of Markdown in every name",),
        together((summary, "markdown_cell", lambda text: text)),
        harm=False,
    ),
    Broken(
        "cells of a sheet are not marked",
        ("report: a formula in every name",),
        together((summary, "sheet_cell", lambda text: text)),
        harm=False,
    ),
)


def caught(broken: Broken, folder: Path) -> bool:
    """Whether every attack of a broken product is noticed by the same check."""
    with broken.how():
        outcomes = sprung(named(*broken.attacks), folder)
    return all(harmful(outcome) if broken.harm else bool(outcome) for outcome in outcomes.values())


# --- figures ----------------------------------------------------------------------------------------------------------


def figures(folder: Path, scale: float) -> Iterator[Figure]:
    attacks = corpus()[:: max(1, round(1 / scale))]
    outcomes = sprung(attacks, folder)
    harms = [broken for broken in BROKEN if broken.harm]
    yield figure("No malicious file runs code, starts a program, connects or touches a file outside", outcomes, harmful, harms, folder)
    others = [broken for broken in BROKEN if not broken.harm]
    yield figure("Each ends in one sentence, or in the harmless result that its entry in the corpus names", outcomes, bool, others, folder)
    pages = sprung(list(malicious_report.attacks()), folder)
    promise = "Names in a report stay text: same elements, attributes and addresses as with harmless names, no formula, no link"
    loaded, seen = browser(folder)
    yield figure(promise, pages | loaded, bool, list(UNESCAPED), folder, seen)
    steps = sprung(named(*STEPS), folder, processes=True)
    yield figure(
        "The same with each step as a process",
        steps,
        bool,
        [],
        folder,
        control=("an `extract` that believes names, in a process", process_control(folder)),
    )
    yield shell(folder, scale)
    files, wrong = code_rules.all_breaches(REPOSITORY)
    found = [bool(code_rules.breaches("planted.py", source)) for source in code_rules.PLANTED]
    found += [bool(code_rules.rule_breaches("planted.smk", text)) for text in code_rules.PLANTED_RULES]
    told = f"; {wrong[0]}" if wrong else ""
    kinds = len(code_rules.MODULES) + len(code_rules.CALLS) + len(code_rules.METHODS) + len(code_rules.OPTIONS) + len(code_rules.DEMANDED)
    broken = len({line.split(":")[0] for line in wrong})
    yield Figure(
        "Our code does nothing of what is forbidden",
        files,
        files - broken,
        "forbidden lines, planted",
        len(found),
        sum(found),
        f"{kinds} names{told}",
    )


def figure(
    promise: str,
    outcomes: dict[str, str],
    wrong: Callable[[str], bool],
    broken: Sequence[Broken],
    folder: Path,
    seen: str = "",
    control: tuple[str, bool] | None = None,
) -> Figure:
    """Outcomes counted, and the controls of this promise tried."""
    bad = [f"{name}: {outcome}" for name, outcome in outcomes.items() if wrong(outcome)]
    tried = {one.name: caught(one, folder) for one in broken} | (dict([control]) if control else {})
    missed = [f"not caught: {name}" for name, noticed in tried.items() if not noticed]
    told = "; ".join([*([seen] if seen else []), *bad[:3], *missed]).replace("\n", " ")
    return Figure(promise, len(outcomes), len(outcomes) - len(bad), ", ".join(tried), len(tried), sum(tried.values()), told)


def process_control(folder: Path) -> bool:
    """Whether harm in a process is noticed: a step that believes names, run by an attack as a process."""
    code = (
        "import sys; from pathlib import Path; from shards import show_shard; from tests.torture.malicious_shards import trusting_extract; "
        "show_shard.extract = trusting_extract; show_shard.main(sys.argv[1:])"
    )
    given = ["--key", malicious_shards.KEY, "--extract"]

    def run(trap: Any) -> None:
        (attack,) = named("sample: paths and items that lead out or obey a terminal")
        attack.run(trap)  # makes the store, and extracts it as it should be
        subprocess.run(
            [sys.executable, "-c", code, str(trap.inside / "index.parquet"), *given, str(trap.inside / "a")],
            cwd=REPOSITORY,
            check=False,
            capture_output=True,
        )

    return harmful(sprung([Attack("control", run)], folder)["control"])


def shell(folder: Path, scale: float = 1.0) -> Figure:
    """Real runs of the workflow with settings made of commands."""
    root, copy = malicious_runs.own_data(folder), malicious_runs.checkout(folder / "copy")
    runs = malicious_runs.runs(root)
    runs = runs if scale >= 1 else runs[:1]
    outcomes = {run.name: malicious_runs.snakemake(copy, folder / f"run{number}" / "work", run) for number, run in enumerate(runs)}
    tried = {}
    for name, edit in (("a rule without quotes", malicious_runs.UNQUOTED), ("a folder quoted as Python does", malicious_runs.AS_PYTHON)):
        where = folder / name.replace(" ", "_")
        tried[name] = harmful(malicious_runs.snakemake(malicious_runs.checkout(where / "copy", edit), where / "run" / "work", runs[0]))
    bad = [f"{name}: {outcome}" for name, outcome in outcomes.items() if outcome]
    promise = "Settings made of shell commands stay text in real runs: roots, weights, titles, the folder of the checkout"
    return Figure(promise, len(outcomes), len(outcomes) - len(bad), ", ".join(tried), len(tried), sum(tried.values()), "; ".join(bad)[:600])


HIT = "document.documentElement.dataset.hit=1"


def browser(folder: Path) -> tuple[dict[str, str], str]:
    """A page with hostile names, loaded by a browser where there is one that shows what a script does: none may run.

    Returns:
        Outcomes by name (none without such a browser), and what is said of it.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        return {}, "no browser here: pages were parsed, not loaded"
    word = f"<script>{HIT}</script><img src=x onerror={HIT}>"
    page = malicious_report.inputs(folder / "browser", word).parent / "r.html"
    malicious_report.printed(page.parent / "inputs.json", word)
    control = folder / "browser" / "control.html"
    control.write_text(f"<!doctype html><title>x</title>{word}")
    if "data-hit" not in loaded(program, control):
        return {}, f"{Path(program).name} does not show what a script does here: pages were parsed, not loaded"
    shown = loaded(program, page)
    outcome = "HARM: a script ran" if "data-hit" in shown else "" if "</html>" in shown else "the browser showed nothing"
    return {"a page in a browser": outcome}, f"also loaded by {Path(program).name}"


def loaded(program: str, page: Path) -> str:
    """A page after its scripts have run; '' where the browser gives none."""
    profile = f"--user-data-dir={page.with_suffix('.profile')}"
    quiet_ones = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    options = ["--headless", "--disable-gpu", "--no-sandbox", *quiet_ones, profile, "--dump-dom", page.as_uri()]
    try:
        return subprocess.run([program, *options], capture_output=True, text=True, timeout=120, check=False).stdout
    except subprocess.TimeoutExpired:
        return ""
