"""The parts of README.md and docs/ that are made from code. `make docs` rewrites them, a test finds them stale."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from pipeline.base.tables import SCHEMAS

ROOT = Path(__file__).resolve().parent.parent

PLACES = {
    "tracklets": "`results/tracklets/<dataset>.parquet`",
    "split": "`results/splits/<dataset>/<split>.parquet`",
    "items": "`results/items/<collection>.parquet`",
    "probes": "`results/alignment/<dataset>-<companion>-probes.parquet`",
    "alignment": "`results/alignment/<dataset>-<companion>.parquet`",
    "plan": "`results/plans/<dataset>.parquet`",
    "frames": "`results/features/<dataset>/frames/<shard>.parquet` (and beside it the stream, `<shard>.mjpeg`)",
    "features": "`results/features/<dataset>/<companion>/<shard>.parquet`",
    "quarantine": "`results/features/<dataset>/frames/<shard>.quarantine.parquet`",
    "index": "`results/shards/<dataset>-<companion>/index.parquet` (and one twin per tar)",
    "embeddings": "`results/runs/<method>/<dataset>-<split>/seed<n>/<stage>/embeddings.parquet` (below `on/` of another test set)",
    "queries": "`queries.parquet` beside `metrics.json`",
    "trials": "yours, for `python -m evaluate.score_trials`",
}


def tables() -> str:
    """Every table that a run writes: where it lies, what a row is, its columns."""
    parts = []
    for name, place in PLACES.items():
        schema = SCHEMAS[name]
        rows = [f"| `{c.name}` | {short(str(c.type))}{' or null' if c.nullable else ''} | {c.meaning} |" for c in schema.columns]
        parts.append(
            f"**{name}** (version {schema.version}): {place}; one row is {schema.row}.\n\n| column | type | meaning |\n|---|---|---|\n"
            + "\n".join(rows)
        )
    return "\n\n".join(parts)


def short(kind: str) -> str:
    """A Parquet type as a reader says it."""
    if kind == "float":
        return "float32"
    kind = kind.replace("element: ", "").replace(" not null", "").replace("large_binary", "bytes").replace("double", "float64")
    return (
        kind.replace("list<struct<suffix: string, offset: int64, size: int64, digest: string>>", "list of (suffix, offset, size, digest)")
        .replace("<float>", "<float32>")
        .replace("halffloat", "float16")
    )


def targets() -> str:
    """Every named target with its docstring, as the Snakefile has them."""
    found = re.findall(r'^rule (\w+):\n    """(.*?)"""', (ROOT / "Snakefile").read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(["| target | what it makes |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in found)])


def switches() -> str:
    """Every method of one switch: what it sets, under the comment of its group in the YAML."""
    lines = ["| method | what it sets, over `dubbernet` |", "|---|---|"]
    text = (ROOT / "workflow/config/methods/dubbernet_switches.yaml").read_text()
    methods = yaml.safe_load(text)["methods"]
    for comment, name in re.findall(r"^  # (.*)$|^  (\w+):", text, re.MULTILINE):
        if name:
            changes = {key: value for key, value in methods[name].items() if key != "base"}
            said = yaml.safe_dump(changes, default_flow_style=True, sort_keys=False, width=1000).strip()[1:-1]
            lines.append(f"| `{name}` | `{said}` |")
        else:
            lines.append(f"| *{comment.rstrip('.')}* | |")
    return "\n".join(lines)


def promises() -> str:
    """What docs/reliability.md measured, summed over the rows of each of its parts."""
    lines = ["| promise | attacks withstood | broken on purpose, and noticed |", "|---|---|---|"]
    for heading, part in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE | re.DOTALL):
        counts = [
            [int(number.replace(",", "")) for number in found]
            for found in re.findall(r"^\| .*? \| ([\d,]+)/([\d,]+) \| .*? \| ([\d,]+)/([\d,]+) \|", part, re.MULTILINE)
        ]
        held, tried, caught, controls = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0, 0)
        lines.append(f"| {heading} | {held:,} of {tried:,} | {caught:,} of {controls:,} |")
    return "\n".join(lines)


PAGES = {"README.md": {"tables": tables, "targets": targets, "promises": promises}, "docs/dubbernet.md": {"switches": switches}}
"""Page -> its made parts."""


def rewritten(page: str, text: str) -> str:
    """A page with its made parts made again."""
    for name, make in PAGES[page].items():
        part = make()
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m, part=part: f"{m[1]}{part}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(rewritten(page, (ROOT / page).read_text()))
