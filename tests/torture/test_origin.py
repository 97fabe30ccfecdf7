"""The fast form: a few attacks on each file behind the numbers of a small run, and checks broken on purpose that miss them."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluate import trace
from evaluate.chain import Chain
from tests.torture import torture_origin as attack
from tests.torture.small_run import RUN


@pytest.fixture
def metrics(small_run) -> Path:
    return small_run / "student/metrics.json"


def test_an_untouched_run_passes(metrics):
    for path in (metrics, metrics.parents[1] / "plain/metrics.json"):
        assert trace.check(Chain(path, {})) == []


def test_the_chain_reaches_every_kind_of_file(metrics):
    names = {str(path.relative_to(metrics.parents[5])) for path in attack.targets(Chain(metrics, {}))}
    run = {f"{RUN}/{stage}/{name}" for stage in ("student", "teacher") for name in ("config.json", "model.safetensors", "origin.json")}
    tables = {"tracklets/set", "splits/set/official", "items/voices", "alignment/set-audio", "shards/set-audio/index"}
    lists = {"demo/MARS/info/query_IDX.mat", "demo/MARS/info/tracks_test_info.mat", "demo/common_voice/en/train.tsv"}
    assert names >= run | {f"{name}.parquet" for name in tables} | lists | {"shards/set-audio/00000.tar", "shards/set-audio/00001.tar"}


def test_damage_to_every_file_is_seen_and_named(metrics):
    tried = attack.attacks(Chain(metrics, {}), 3)
    assert len(tried) > 60 and {one.hurt for one in tried} == set(attack.HURTS)
    assert attack.missed(metrics, tried, 3) == []
    assert trace.check(Chain(metrics, {})) == []


def test_broken_checks_are_caught(metrics):
    assert [name for name, caught in attack.controls(metrics).items() if not caught] == []


def test_metrics_of_another_stage_are_refused(metrics):
    assert attack.swapped(metrics, metrics.parents[1] / "plain/metrics.json")


def test_changed_code_is_seen(metrics, tmp_path):
    assert attack.code_seen(metrics, tmp_path / "checkout", 4) == 4
    assert attack.code_seen(metrics, tmp_path / "checkout", 4, attack.without_code) == 0


def test_made_anew_is_told_from_damaged(metrics):
    before, after = attack.stale(metrics.parents[6])
    assert attack.told_apart(before, after), (before, after)
    assert not attack.told_apart(before, before)
