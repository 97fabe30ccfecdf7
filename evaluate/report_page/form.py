"""What a metrics.json of `evaluate.score` looks like, so that whoever reads one needs no other check.

In:      the value read.   Out: what is wrong with it, in words, or nothing.
Source:  ours: evaluate/score.py. Types are those that it writes, exactly: a number as text is no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from evaluate.protocols import CMC_RANKS
from evaluate.queries import RANKS
from evaluate.retrieval import AveragePrecision
from pipeline.base.build import build, plain
from pipeline.base.config import ScoringConfig
from pipeline.base.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping of names to values of one form, with at least one."""

    form: Any


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value of this form, or null."""

    form: Any


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within bounds."""

    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, slots=True)
class Several:
    """A list of values of one form; of this length, if one is given."""

    form: Any
    length: int | None = None


FRACTION = Number(0.0, 1.0 + 1e-9)  # sums of fractions are rounded
PROTOCOL = {
    "description": str,
    "gallery": int,
    "gallery_definition": str,
    "queries": int,
    "valid": int,
    "ap": get_args(AveragePrecision),
    "averaged_over": ("valid", "all"),
    **{f"R{k}": FRACTION for k in RANKS},
    "mAP": Maybe(FRACTION),
    "mINP": Maybe(FRACTION),
    "cmc": Several(FRACTION, CMC_RANKS),
}
PLACE = {"identity": str, "camera": int}
ENTRY = {**PLACE, "tracklet": str, "distance": Number(), "match": bool}
RANKED = {
    **PLACE,
    "chosen": ("first", "worst"),
    "query": str,
    "ap": FRACTION,
    "first_hit": int,
    "right_answers": int,
    "gallery": Several(ENTRY),
}
METRICS = {
    "modality": str,
    "oracle": bool,
    "headline": str,
    "made": {"queries": str},
    "feature": {"dim": int, "normalised": bool, "distance": str, "camera_embedding?": Maybe(str)},
    "heard?": Maybe({"tracklets": int, "with_sound": int}),
    "scoring": {"seed": int},
    "protocols": Named(PROTOCOL),
    "reranked": Maybe(Named(PROTOCOL)),
    "ranked": Several(RANKED),
}
"""Only what is read of it. A key with '?' may be missing."""
WORDS = {str: "text", bool: "true or false", int: "a whole number from 0"}


def wrong(metrics: Any) -> str:
    """What is not as `evaluate.score` writes it: where, found and expected; '' where all is."""
    if told := _wrong(metrics, METRICS, "it"):
        return told
    scoring = {name: value for name, value in metrics["scoring"].items() if name != "seed"}
    try:
        if plain(build(ScoringConfig, scoring, "scoring")) != scoring:
            return "scoring: is not written out in full, each setting with its own type"
    except ConfigError as error:
        return str(error)
    known = metrics["protocols"]
    if metrics["headline"] not in known:
        return f"headline: found {metrics['headline']!r}, expected one of protocols"
    for where, some in (("protocols", known), ("reranked", metrics["reranked"] or {})):
        for name, numbers in some.items():
            if numbers["valid"] > numbers["queries"]:
                return f"{where}.{name}: {numbers['valid']} queries valid of {numbers['queries']}"
    return ""


def _wrong(value: Any, form: Any, where: str) -> str:
    if isinstance(form, Maybe):
        return "" if value is None else _wrong(value, form.form, where)
    if isinstance(form, dict):
        return _mapping(value, form, where)
    if isinstance(form, Named):
        if not isinstance(value, Mapping) or not value:
            return _told(where, value, "a mapping of names")
        return next((told for name, one in value.items() if (told := _wrong(one, form.form, f"{where}.{name}"))), "")
    if isinstance(form, Several):
        if not isinstance(value, list) or form.length not in (None, len(value)):
            return _told(where, value, "a list" if form.length is None else f"a list of {form.length}")
        return next((told for i, one in enumerate(value) if (told := _wrong(one, form.form, f"{where}[{i}]"))), "")
    if isinstance(form, Number):
        good = type(value) in (int, float) and math.isfinite(value) and form.least <= value <= form.most
        bounds = f" from {form.least:g} to {form.most:g}" if math.isfinite(form.most) else ""
        return "" if good else _told(where, value, f"a number{bounds}")
    if isinstance(form, tuple):
        return "" if isinstance(value, str) and value in form else _told(where, value, " or ".join(form))
    return "" if type(value) is form and not (form is int and value < 0) else _told(where, value, WORDS[form])


def _mapping(value: Any, form: Mapping[str, Any], where: str) -> str:
    if not isinstance(value, Mapping):
        return _told(where, value, "a mapping")
    for key, inner in form.items():
        name = key.removesuffix("?")
        if name in value:
            if told := _wrong(value[name], inner, name if where == "it" else f"{where}.{name}"):
                return told
        elif name == key:
            return f"{where}: has no {name}"
    return ""


def _told(where: str, value: Any, expected: str) -> str:
    found = repr(value)
    return f"{where}: found {found if len(found) < 40 else found[:36] + ' ...'}, expected {expected}"
