"""What Snakemake itself costs at the size of MARS: jobs, dry run, a run with nothing to do, and the time between jobs.

The graph is that of full MARS (96 shards); 1 % of its tracklets and of Common Voice (tests/size) are laid out below it, so that all
jobs run, one at a time on one core, within minutes. Wall time, because Snakemake waits as well as works; medians of three where nothing is run.
What lies between the jobs does not grow with the data: it is held against 2 % of the work of full MARS, of which only listening to
its clips is counted.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.base.config import CompanionConfig
from pipeline.base.errors import SourceError
from pipeline.features import audio
from tests.bench.bench_audio import make_clips
from tests.bench.timing import row
from tests.conftest import REPOSITORY
from tests.size import common_voice, mars

SHARDS, CLIPS = 96, 170_726
"""Of full MARS: shards (workflow/config/datasets/mars.yaml), and clips if all 1,261 identities are dubbed."""
FRACTION = 0.01
JOBS, DRY, IDLE, SHARE = 500, 5.0, 3.0, 0.02
"""What is asked for: most jobs, seconds of a dry run, seconds of a run with nothing to do, most time beside the work."""


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Figures of one run; a smaller scale takes fewer shards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            info = mars.draw(mars.read(), FRACTION, 0)
        except SourceError as error:
            print(f"workflow: not measured, {error}")
            return []
        mars.lay_out(folder / "mars", info, 0)
        common_voice.lay_out(folder / "common_voice", common_voice.draw(FRACTION, 0), 0)
        shards = max(2, round(SHARDS * min(scale, 1.0)))
        workflow = [
            *("--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder / "work"), "--cores", "1", "--config"),
            f"roots={json.dumps({'mars': f'{folder}/mars', 'common_voice': f'{folder}/common_voice'})}",
            f"datasets={json.dumps({'mars': {'subset': True, 'shards': shards}})}",
        ]
        (folder / "Snakefile").write_text("rule all:\n    input:\n        'Snakefile'\n")
        empty = ["--snakefile", str(folder / "Snakefile"), "--directory", str(folder), "--cores", "1", "--dry-run"]
        nothing = _median(empty)
        dry = _median(["evaluate_student_mars", "--dry-run", *workflow])
        planned = _jobs(_snakemake(["evaluate_student_mars", "--dry-run", *workflow]))
        start = time.perf_counter()
        ran = _jobs(_snakemake(["pack_mars", *workflow]))
        run = time.perf_counter() - start
        between = run - sum(_seconds(file) for file in (folder / "work" / "benchmarks").rglob("*.tsv"))
        idle = _median(["pack_mars", *workflow], "Nothing to be done")
        work = CLIPS * _clip_seconds(folder)

    of_work = f"one core: 2 % of the {work:.0f} s that {CLIPS} clips take on one core"
    start_is = f"what is asked for (Snakemake's own start, with an empty Snakefile: {nothing:.2f} s)"
    return [
        row(f"MARS, {shards} shards, from lists to scores", planned, JOBS, "jobs", "what is asked for"),
        row("dry run of these", dry, DRY, "s", start_is),
        row(f"run of {ran} jobs with nothing to do", idle, IDLE, "s", start_is),
        row(f"between these {ran} jobs, one at a time", between, SHARE * work, "s", of_work),
    ]


def _snakemake(arguments: list[str]) -> str:
    """What Snakemake says.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"snakemake {arguments[0]} ended with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def _median(arguments: list[str], expected: str = "") -> float:
    """Wall seconds, after one unmeasured run; Snakemake must say what is `expected`."""
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        said = _snakemake(arguments)
        taken.append(time.perf_counter() - start)
        assert expected in said, f"'{expected}' expected of snakemake {arguments[0]}, found: {said[-2000:]}"
    return statistics.median(taken[1:])


def _jobs(said: str) -> int:
    found = re.search(r"^total +(\d+)$", said, re.MULTILINE)
    assert found is not None
    return int(found[1])


def _seconds(benchmark: Path) -> float:
    with open(benchmark, newline="") as file:
        return sum(float(row["s"]) for row in csv.DictReader(file, delimiter="\t"))


def _clip_seconds(folder: Path) -> float:
    """Processor seconds for one clip, MP3 to log-mel."""
    (folder / "clips").mkdir()
    import soundfile

    clips = [(path, soundfile.info(path).duration) for path in make_clips(folder / "clips", 24)]

    def encode(path: Path, seconds: float) -> None:
        audio.encode(path.stem, path, None, seconds, CompanionConfig(), 0)

    encode(*clips[0])
    start = time.process_time()
    for clip in clips:
        encode(*clip)
    return (time.process_time() - start) / len(clips)
