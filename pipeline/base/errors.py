"""Errors that a user can act on. They end a step with one sentence and no traceback (see `cli.run`)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: say what, where, found, expected, what to do; one sentence is enough."""


class ConfigError(UserError):
    """A setting is unknown, of the wrong type or out of range."""


class SourceError(UserError):
    """A data set as shipped is missing, incomplete or not in its documented form."""


class MediaError(UserError):
    """One clip or picture cannot be used; `reason` is the short form that goes into a quarantine table."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class AllocationError(UserError):
    """Speakers cannot serve every identity that has to be dubbed."""


class DiskError(UserError):
    """A file cannot be written or read: no space, a quota, no right, a fault of the device (see `pipeline.base.disk`)."""


class TableError(UserError):
    """A Parquet table lacks a column, has another type, or breaks a rule of its schema."""


class ShardError(UserError):
    """A shard and its index disagree, or a sample is not in the documented form."""


class WeightsError(UserError):
    """A weight file does not fit the network it is loaded into."""


class TrainError(UserError):
    """Training cannot start or go on (terms without weights, NaN, no identity to draw)."""


class ScoreError(UserError):
    """Inputs would make a score meaningless (NaN, duplicate keys, no valid query)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean 'x'?' or a list of what is known; empty when nothing is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
