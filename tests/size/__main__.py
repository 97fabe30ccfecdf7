"""Lay out MARS and Common Voice at a fraction of their size: FOLDER/mars and FOLDER/common_voice."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.base import cli
from tests.size import common_voice, mars


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--fraction", type=float, default=0.01)
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    info = mars.draw(mars.read(), args.fraction, args.seed)
    mars.lay_out(args.folder / "mars", info, args.seed)
    release = common_voice.draw(args.fraction, args.seed)
    common_voice.lay_out(args.folder / "common_voice", release, args.seed)
    print(f"{args.folder}: {len(info.train) + len(info.test)} tracklets, {info.frames} frames, {len(info.queries)} queries;", end=" ")
    print(f"{len(release.numbers)} clips of {len(release.clients)} speakers")


if __name__ == "__main__":
    cli.run(main)
