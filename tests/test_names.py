"""Names that settings accept are those that the code has: a misspelt one is found before anything is trained."""

from __future__ import annotations

from typing import get_args, get_type_hints

from evaluate.protocols import PROTOCOLS
from model.encoders import ENCODERS as TOKEN_ENCODERS
from model.registry import MODELS
from pipeline.base.config import (
    ALL_TOKENS,
    NEEDS_WEIGHTS,
    SOURCE_LISTS,
    CompanionConfig,
    DatasetConfig,
    Encoder,
    Network,
    Protocol,
    StageConfig,
    VoicesConfig,
)
from pipeline.features import ENCODERS
from pipeline.sources import SOURCES, VOICES, common_voice, ilidsvid, manifest, mars, prid2011
from shards.prepare import PREPARE
from train.tasks import TASKS


def accepted(cls, field):
    return set(get_args(get_type_hints(cls)[field]))


def test_names_are_those_of_the_code():
    assert set(get_args(Protocol)) == set(PROTOCOLS)
    assert set(get_args(Network)) == set(MODELS)
    assert accepted(StageConfig, "task") == set(TASKS)
    assert accepted(DatasetConfig, "source") == set(SOURCES)
    assert accepted(VoicesConfig, "source") == set(VOICES)
    assert accepted(CompanionConfig, "kind") == set(ENCODERS) == set(PREPARE)
    assert set(get_args(Encoder)) == {*TOKEN_ENCODERS, "precomputed"}
    assert set(ALL_TOKENS) == set(TOKEN_ENCODERS) >= set(NEEDS_WEIGHTS)


def test_lists_that_rules_depend_on_are_those_that_the_grammars_read():
    assert set(SOURCE_LISTS) == set(SOURCES) | set(VOICES)
    assert set(SOURCE_LISTS["mars"]) == {*(path for path, _ in mars.TABLES.values()), mars.QUERIES[0]}
    assert set(SOURCE_LISTS["ilidsvid"]) == {ilidsvid.OFFICIAL_SPLITS, ilidsvid.DERIVED_SPLITS}
    assert {path.rpartition("/")[2] for path in SOURCE_LISTS["prid2011"]} == {prid2011.SPLIT_FILE}
    assert SOURCE_LISTS["manifest"] == manifest.FILES
    assert SOURCE_LISTS["common_voice"] == common_voice.DURATION_FILES
