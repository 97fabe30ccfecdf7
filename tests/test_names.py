"""Names that settings accept are those that the code has: a misspelt one is found before anything is trained."""

from __future__ import annotations

from typing import get_args, get_type_hints

from evaluate.protocols import PROTOCOLS
from model.registry import MODELS
from pipeline.base.config import CompanionConfig, DatasetConfig, Network, Protocol, StageConfig, VoicesConfig
from pipeline.features import ENCODERS
from pipeline.sources import SOURCES, VOICES
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
