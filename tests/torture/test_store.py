"""The fast form of promise R5: a few of each kind of damage, each with what was broken on purpose."""

from __future__ import annotations

import pytest

from tests.torture import torture_store as store_torture
from tests.torture.small_store import Made, beside, bits, cuts, make, mixed_up
from tests.torture.torture_store import (
    EVERYBODY,
    LOADERS,
    STREAMS,
    Count,
    all_but_the_last_sample,
    attack,
    changed_tables,
    checked,
    cut_json,
    of_sizes_only,
    one_share_only,
    passing,
    plainly,
    shared,
    sound,
    training,
    verifying,
    without_digests,
)

FEW = {"indexed": LOADERS["indexed"], "verify": verifying}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Made:
    return make(tmp_path_factory.mktemp("store") / "one", 1, 2)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Made:
    return make(tmp_path_factory.mktemp("store") / "two", 2, 2)


def held(count: Count) -> bool:
    assert count.tried > 0
    return count.held == count.tried


def test_a_whole_store_is_opened_by_everybody(store):
    sound(store, EVERYBODY)


def test_tars_that_end_early_are_refused_by_name(store):
    count = attack(store, cuts(store, 17), FEW)
    assert held(count), count.first


def test_one_bit_anywhere_is_refused_by_shard_sample_and_member(store):
    count = attack(store, bits(store, 1, 11), EVERYBODY)
    assert held(count), count.first


def test_what_is_mixed_up_is_refused_by_name(store, other):
    count = attack(store, list(mixed_up(store, other))[::3], EVERYBODY)
    assert held(count), count.first


def test_verify_names_what_lies_beside_a_store(store, other):
    count = attack(store, beside(store, other), {"verify": verifying})
    assert held(count), count.first


@pytest.mark.skipif(not STREAMS, reason="webdataset is not installed: there are no streams")
def test_a_stream_from_elsewhere_refuses_each_sample_when_it_comes(store):
    inside = [damage for damage in bits(store, 3, 13) if store_torture._in_member(store, damage)]
    count = attack(store, inside, {"pipe": passing})
    assert held(count), count.first
    assert not held(attack(store, inside[:3], {"pipe": store_torture._unchecked}))  # negative control


@pytest.mark.parametrize("entry", FEW.values(), ids=FEW)
@pytest.mark.parametrize("broken", [without_digests, of_sizes_only])
def test_control_a_check_that_does_not_hash_lets_bits_through(store, broken, entry):
    with broken():
        assert not held(attack(store, bits(store, 2, 25), {"": entry}))


def test_control_a_check_of_less_than_everything_lets_bits_through(store):
    assert not held(attack(store, bits(store, 2, 25), {"": training("indexed", "sizes")}))
    with all_but_the_last_sample():
        assert not held(attack(store, bits(store, 2, 5), {"": LOADERS["indexed"]}))
    with one_share_only():
        assert not held(attack(store, bits(store, 2, 5), {"": shared}))
    with of_sizes_only():
        assert not held(attack(store, list(cuts(store))[-30:], {"": LOADERS["indexed"]}))


def test_a_changed_bit_in_a_table_is_never_another_value(tmp_path):
    count = changed_tables(tmp_path, checked, 23)
    assert held(count), count.first
    count = cut_json(tmp_path, 29)
    assert held(count), count.first


@pytest.mark.parametrize("pages", [False, True], ids=["nothing", "Parquet's page checksums"])
def test_control_tables_without_the_seal_are_read_as_other_values(tmp_path, pages):
    assert not held(changed_tables(tmp_path, plainly, 19, pages))
