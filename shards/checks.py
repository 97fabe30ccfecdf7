"""What is checked before the first batch: INDEX, SPLIT and settings fit together.

In:      INDEX and its meta, SPLIT, RunConfig.   Out: the rows to load, or one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError, ShardError, TableError


class Packed(Protocol):
    """What is known of a store without its tars."""

    @property
    def table(self) -> pa.Table: ...

    @property
    def meta(self) -> dict[str, Any]: ...


def rows(store: Packed, split: pa.Table, roles: Sequence[str], run: RunConfig) -> dict[str, dict[str, Any]]:
    """INDEX row with role and label of each tracklet of `roles`, by name, sorted."""
    columns = ["key", "shard", "identity", "camera", "frames", "items"]
    index = {row["key"]: row for row in store.table.select(columns).to_pylist()}
    where = f"split '{run.split}' of {run.dataset}"
    used = {row["tracklet"]: row for row in split.to_pylist() if row["role"] != "unused"}
    missing = sorted(used.keys() - index.keys())
    if missing:
        raise ShardError(
            f"{where}: {len(missing)} of {len(used)} tracklets are not in the shards ({some(missing)}); "
            "make SPLIT and shards from the same TRACKLETS"
        )
    wanted = sorted(key for key, row in used.items() if row["role"] in roles)
    if not wanted:
        raise TableError(f"{where}: no tracklet has the role {' or '.join(roles)}")
    return {key: {**used[key], **index[key]} for key in wanted}


def check_frames(store: Packed, run: RunConfig) -> None:
    packed = store.meta["frames"]
    if (packed["height"], packed["width"]) != (run.height, run.width):
        raise ShardError(
            f"shards of {run.dataset} hold frames of {packed['height']}x{packed['width']} (height x width), "
            f"the run expects {run.height}x{run.width}; pack them again, with datasets.{run.dataset}.frames set to "
            f"{{height: {run.height}, width: {run.width}}}"
        )


def check_companion(store: Packed, run: RunConfig, name: str) -> None:
    """The packed companion is of the run's kind, width and (tokens) length; `name` is its entry in the settings."""
    packed = store.meta["companion"]
    if packed is None:
        raise ShardError(f"shards of {run.dataset} have no companion, but stage '{run.stage}' hears {run.kind}; pack them with one")
    if (packed["kind"], packed["bands"]) != (run.kind, run.bands):
        raise ShardError(
            f"shards of {run.dataset} hold {_sized(packed['kind'], packed['bands'])}, "
            f"the run expects {_sized(run.kind, run.bands)}; pack again or set companions.{name}"
        )
    if run.kind == "audio_tokens" and packed["tokens"]["length"] != run.item_frames:
        raise ShardError(
            f"shards of {run.dataset} hold {packed['tokens']['length']} tokens per item, "
            f"the run expects {run.item_frames}; pack again or set companions.{name}.tokens"
        )


def _sized(kind: str, bands: int) -> str:
    return f"{kind} of width {bands}" if kind == "audio_tokens" else f"{kind} of {bands} bands"


def check_may_hear(store: Packed, roles: Sequence[str], run: RunConfig) -> None:
    if not run.this.hears:
        raise ConfigError(f"stage '{run.stage}' does not hear: it is evaluated on frames alone")
    companion, others = store.meta["companion"], [role for role in roles if role != "train"]
    if others and not companion["test"]:
        name, leak = f"companions.{run.test_companion}", ", because at test time it would give the identity away"
        raise ConfigError(
            f"roles {', '.join(others)} may not hear: {name} (policy '{companion['policy']}') gives sound to training tracklets only"
            f"{leak if companion['label_derived'] else ''}; let stages.{run.stage}.test_companion name one of policy silence or recorded, "
            f"set {name}.alignment.oracle_test_audio to measure it as oracle, or evaluate a stage that does not hear"
        )


def classes(rows: Mapping[str, Mapping[str, Any]]) -> int:
    """The number of training identities, after checking that labels 0..K-1 and identities are one to one."""
    pairs = {(row["label"], row["identity"]) for row in rows.values()}
    labels, identities = {label for label, _ in pairs}, {identity for _, identity in pairs}
    if not len(pairs) == len(labels) == len(identities) or labels != set(range(len(labels))):
        raise TableError(
            f"training labels: {len(labels)} labels up to {max(labels)} for {len(identities)} identities; "
            "expected one label 0..K-1 for each identity"
        )
    return len(labels)


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
