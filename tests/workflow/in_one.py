"""The data path in one process, without Snakemake: the steps' own `main`, one after another, on the smallest generated data.

python -m tests.workflow.in_one SOURCES FOLDER [--threads N]   # SOURCES is what `make_sources` made; FOLDER/results is filled
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.workflow.circumstances import digests

MINI = REPOSITORY / "tests" / "workflow" / "mini.yaml"
STAGES = ("tracklets", "splits", "items", "alignment", "plans", "features", "shards")
SHARDS = 2


def make_sources(folder: Path, seed: int | None = None) -> Path:
    """Generated data by the settings of MINI, in this process; returns where they lie."""
    import yaml

    from pipeline.base.build import build
    from pipeline.base.config import DemoConfig
    from pipeline.demo.make_demo import make

    settings = yaml.safe_load(MINI.read_text())["demo"]
    make(folder, build(DemoConfig, settings if seed is None else {**settings, "seed": seed}, "demo"))
    return folder


def run(sources: Path, folder: Path, threads: int) -> None:
    """All steps from the sources to a verified index of shards.

    Raises:
        UserError: as the steps do.
    """
    from pipeline import align_companion, encode_companion, encode_frames, plan_shards, read_items, read_split, read_tracklets
    from shards import index_shards, pack_shard, verify

    results = folder / "results"
    for stage in (
        "tracklets",
        "splits/demo",
        "items",
        "alignment",
        "plans",
        "features/demo/frames",
        "features/demo/audio",
        "shards/demo-audio",
    ):
        (results / stage).mkdir(parents=True)
    tracklets, plan, split, items = (
        str(results / f"{name}.parquet") for name in ("tracklets/demo", "plans/demo", "splits/demo/official", "items/demo_voices")
    )
    alignment, probes = (str(results / f"alignment/demo-audio{name}.parquet") for name in ("", "-probes"))
    source = json.dumps({"source": "mars", "generated": True})
    frames = json.dumps({"height": 64, "width": 32})
    root, voices = f"--root={sources / 'MARS'}", f"--root={sources / 'common_voice' / 'en'}"
    several = ["--threads", str(threads)]

    read_tracklets.main([tracklets, "--dataset", "demo", root, "--config", source])
    read_split.main([split, "--dataset", "demo", "--split", "official", root, "--tracklets", tracklets, "--config", source])
    collection = json.dumps({"source": "common_voice", "table": "train.tsv", "generated": True})
    read_items.main([items, "--name", "demo_voices", voices, "--source", "common_voice", "--config", collection])
    align_companion.main(
        [alignment, "--probes", probes, "--tracklets", tracklets, "--splits", split, "--items", items, voices, "--seed", "0", *several]
    )
    plan_shards.main([plan, "--tracklets", tracklets, "--shards", str(SHARDS)])
    twins = []
    for shard in range(SHARDS):
        made, heard = (str(results / f"features/demo/{name}/{shard:05d}.parquet") for name in ("frames", "audio"))
        stream, quarantine = made.replace(".parquet", ".mjpeg"), made.replace(".parquet", ".quarantine.parquet")
        of = ["--plan", plan, "--shard", str(shard)]
        given = ["--tracklets", tracklets, *of, root, "--config", frames, *several]
        encode_frames.main([made, "--stream", stream, "--quarantine", quarantine, *given])
        encode_companion.main([heard, "--alignment", alignment, *of, voices, "--seed", "0", *several])
        twins.append(str(results / f"shards/demo-audio/{shard:05d}.parquet"))
        parts = ["--frames", made, "--stream", stream, "--alignment", alignment, "--features", heard, "--kind", "audio"]
        pack_shard.main([twins[-1].replace(".parquet", ".tar"), "--twin", twins[-1], *parts])
    index = str(results / "shards/demo-audio/index.parquet")
    index_shards.main([index, "--tracklets", tracklets, "--alignment", alignment, *twins])
    verify.main([index])


def elsewhere(sources: Path, folder: Path, environment: Mapping[str, str], threads: int = 1, umask: int = 0o022) -> dict[str, str]:
    """Run it as a process of its own, in a folder of its own; returns the digests of what it made.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    folder.mkdir(parents=True)
    path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH", ""), str(REPOSITORY)]))
    command = [sys.executable, "-m", "tests.workflow.in_one", str(sources), str(folder), "--threads", str(threads)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=120, umask=umask
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return digests(folder, STAGES)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("sources", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--threads", type=int, default=1)
    args = arguments.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        run(args.sources, args.folder, args.threads)


if __name__ == "__main__":
    main()
