"""Real runs of the workflow whose settings are made of commands: roots, weights, titles, and the folder of the checkout itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import REPOSITORY
from tests.torture.code_rules import PACKAGES

EVIL = 'it\'s $(touch HIT) `touch HIT` "q" ; touch HIT & touch HIT | x > HIT'
"""A name for anything. What a shell makes of it leaves HIT in the folder where the workflow works."""
ROOT = "$(touch HIT) `touch HIT` 'q' \"q\" & touch HIT"
COPY = "it's $(touch HIT)"
"""Names of folders that a shell takes to the end when they are not quoted, or quoted as Python does: then they work."""
SECONDS = 300


@dataclass(frozen=True, slots=True)
class Run:
    """One run of Snakemake."""

    name: str
    target: str
    settings: dict[str, Any]
    ends: str
    """'well', or part of the sentence with which it must end."""


def checkout(folder: Path, edit: dict[str, tuple[str, str]] | None = None) -> Path:
    """A copy of the workflow and its packages in a folder of an evil name; `edit` replaces text in files of it."""
    copy = folder / COPY
    for name in ("workflow", *PACKAGES):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, copy / name)
    for name, (old, new) in (edit or {}).items():
        text = (copy / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (copy / name).write_text(text.replace(old, new))
    return copy


def own_data(folder: Path) -> Path:
    """Own tracklets of two persons and two cameras, below an evil name; returns their root."""
    root = folder / "data" / ROOT
    rows = ["split,role,identity,camera,tracklet,frame"]
    for person in range(4):
        for camera in ("door", "hall"):
            role = "train" if person < 2 else {"door": "query", "hall": "gallery"}[camera]
            picture = root / f"$(touch HIT) p{person} {camera}.png"
            root.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 16, 3), 50 * person, np.uint8)).save(picture)
            rows.append(f'main,{role},"$(touch HIT) {person}",{camera},p{person}_{camera},{picture.name}')
    (root / "tracklets.csv").write_text("\n".join(rows) + "\n")
    return root


def settings(root: Path, **more: Any) -> dict[str, Any]:
    small = {
        "width": 16,
        "depth": 2,
        "heads": 2,
        "patch": 8,
        "stride": 8,
        "fusion_after_blocks": [0],
        "audio_tokens": 2,
        "audio_frames": 50,
    }
    visual = {"model": small, "clip": {"frames": 2}, "sampler": {"identities": 2, "tracklets": 2}, "threads": 1, "machine": {"workers": 0}}
    visual |= {"stages": {"student": {"epochs": 1}}, **more.pop("visual", {})}
    base = {
        "roots": {"own": str(root)},
        "datasets": {"own": {"shards": 1, "frames": {"height": 32, "width": 16}}},
        "methods": {"visual": visual},
    }
    return {**base, "experiments": [], "prepare": [], **more}


def runs(root: Path) -> list[Run]:
    """All runs; the first is the shortest."""
    weights = f"/nowhere/{EVIL.replace('/', '_')}.safetensors"
    title = {"title": f"{EVIL} {{wildcards.x}} {{x}} {{{{y}}}} <script>alert(1)</script>"}
    return [
        Run("a root", "results/tracklets/own.parquet", settings(root), "well"),
        Run("a root, through to shards", "pack_own", settings(root), "well"),
        Run("a title, with braces", "results/report.html", settings(root, report=title), "well"),
        Run("weights", "train_visual_own", settings(root, visual={"pretrained": weights}), "cannot be read"),
        Run(
            "weights by name",
            "train_visual_own",
            settings(root, visual={"pretrained": "x $(touch HIT) `touch HIT`'"}),
            "timm has no weights",
        ),
        Run(
            "a stream's command, not allowed",
            "train_visual_own",
            settings(
                root,
                visual={
                    "machine": {"workers": 0, "data": "stream", "urls": "pipe:touch HIT #$(touch HIT){shard}"},
                    "sampler": {"identities": 2, "tracklets": 2, "window": 1},
                },
            ),
            "would start a command",
        ),
    ]


def snakemake(copy: Path, folder: Path, run: Run) -> str:
    """Run it; '' if nothing was executed and it ended as it must, else what went wrong."""
    folder.mkdir(parents=True)
    config = folder / "mine.json"
    config.write_text(json.dumps(run.settings))
    given = ["--directory", str(folder / "work"), "--configfile", str(config), "--cores", "2", "--show-failed-logs", "--", run.target]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(copy / "Snakefile"), *given],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if hits := [path for path in folder.parent.rglob("HIT*") if path.name == "HIT"]:
        return f"HARM EXECUTED: {hits[0].parent.name}/HIT"
    if run.ends == "well":
        return "" if done.returncode == 0 else f"ended with status {done.returncode}: {done.stdout[-800:]}"
    if done.returncode == 0 or not re.search(run.ends, done.stdout) or "Traceback" in done.stdout:
        return f"ended with status {done.returncode}, expected '{run.ends}': {done.stdout[-800:]}"
    return ""


UNQUOTED = {"workflow/rules/manifests.smk": ("{params.root:q}", "{params.root}")}
"""A rule broken on purpose."""
AS_PYTHON = {
    "workflow/rules/common.smk": ("shlex.quote(str(workflow.basedir))", "repr(str(workflow.basedir))"),
}
"""The folder of the checkout quoted as Python quotes it, which is not how a shell does."""
