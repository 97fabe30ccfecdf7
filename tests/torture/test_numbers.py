"""Fast form of tests/torture/torture_numbers.py: the same checks on less, each with what it must catch."""

from __future__ import annotations

import platform

import pytest

from pipeline.base import tables
from tests.torture import mel, offline, restart
from tests.workflow import in_one
from tests.workflow.circumstances import BROKEN, CLOCK, OFFLINE, SHUFFLED, aged, differing, marks, site

EXACT = platform.machine() in mel.EXACT


# --- log-mel ----------------------------------------------------------------------------------------------------------


def test_the_clips_are_those_of_the_golden_values():
    """Otherwise the next test would speak of other sound, not of another log-mel."""
    assert {clip.name: mel.source(clip) for clip in mel.clips()} == {name: want["source"] for name, want in mel.golden().items()}
    assert len(mel.golden()) == 28


@pytest.mark.parametrize("threads", [1, 2])
def test_log_mel_is_golden(tmp_path, threads):
    assert mel.refused(mel.encoded(tmp_path, mel.clips(), threads), mel.golden(), EXACT) == {}


@pytest.mark.parametrize("name", mel.BROKEN)
def test_golden_log_mel_sees_a_slip(tmp_path, name):
    if not EXACT and name.startswith("float32"):
        pytest.skip("within the tolerance of machines that are no x86-64")
    with mel.broken(name):
        assert mel.refused(mel.encoded(tmp_path, mel.clips(), 1), mel.golden(), EXACT)


@pytest.mark.skipif(not EXACT, reason="names processors of x86-64")
def test_log_mel_as_on_another_processor(tmp_path):
    """The plainest code of BLAS and NumPy instead of this processor's; sums in float32 would give other bytes."""
    other = {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "2"}
    assert mel.elsewhere(tmp_path, other, threads=2)["digests"] == {name: want["sha256"] for name, want in mel.golden().items()}
    with mel.broken("float32 sums"):
        here = {name: mel.digest(values) for name, values in mel.encoded(tmp_path, mel.clips(), 1).items()}
    assert mel.elsewhere(tmp_path, other, name="float32 sums")["digests"] != here


# --- shards, and no network -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The data path in one process: folder, sources, digests."""
    folder = tmp_path_factory.mktemp("numbers")
    sources = in_one.make_sources(folder / "sources")
    return folder, sources, in_one.elsewhere(sources, folder / "plain", {})


def test_shards_in_other_circumstances_and_without_network(path):
    folder, sources, plain = path
    aged(sources, folder / "aged", 1)
    named = {"TZ": "Asia/Kolkata", "PYTHONHASHSEED": "4242", "OPENBLAS_CORETYPE": "Prescott" if EXACT else ""}
    environment = {**site(folder / "site", SHUFFLED, CLOCK, OFFLINE), **named}
    again = in_one.elsewhere(folder / "aged", folder / "not plain", environment, threads=2, umask=0o077)
    assert len(plain) > 15 and differing(plain, again) == []
    assert all(marks(folder / "site", name) for name in ("shuffled", "clock", "offline")), "circumstances were not in force"
    assert marks(folder / "site", "asked") == []


@pytest.mark.parametrize("name", ["the time in a table", "the order of a listing in a table"])
def test_shards_of_a_step_that_lets_something_in_differ(path, name):
    folder, sources, plain = path
    place = folder / name.replace(" ", "_")
    made = in_one.elsewhere(sources, place, site(place.with_suffix(".site"), SHUFFLED, BROKEN[name]), threads=2)
    assert marks(place.with_suffix(".site"), "written")
    assert [found for found in differing(plain, made) if found.startswith("items/")]


def test_whoever_asks_for_the_network_is_noticed(tmp_path):
    for number, code in enumerate(offline.ASKING.values()):
        assert offline.noticed(tmp_path / str(number), code), code
    assert not offline.noticed(tmp_path / "none", "socket.socketpair()[0].close()")


def test_a_namespace_of_its_own_reaches_nobody():
    inside = offline.namespace()
    if not inside:
        pytest.skip("this system allows no network namespace (unshare)")
    assert offline.cut_off(inside) and not offline.cut_off(())


# --- order of samples -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return restart.rows()


def test_a_plan_of_the_size_of_mars(rows):
    assert (len(rows), len({row["label"] for row in rows.values()})) == (8_298, 625)


@pytest.mark.parametrize("kind", restart.KINDS)
def test_going_on_costs_what_beginning_costs(rows, kind):
    assert restart.same_work(kind, rows, (0, restart.AT, restart.STEPS - 1))
    assert not restart.same_work(kind, rows, (0, 5, 20), restart.replayed)  # negative control


@pytest.mark.parametrize("kind", restart.KINDS)
def test_going_on_gives_the_batch_that_walking_gives(rows, kind):
    steps = restart.made(kind, rows).steps
    walked = dict(restart.walked(kind, rows, range(steps - 4, steps + 4)))  # over the end of an epoch
    for step in (steps - 2, steps, steps + 3):
        assert restart.digest(restart.restored(restart.made(kind, rows), step)) == walked[step]
    assert len(set(walked.values())) == len(walked)  # so one step too few would show


@pytest.fixture(scope="module")
def packed(tmp_path_factory, rows):
    """INDEX and SPLIT."""
    return restart.write(tmp_path_factory.mktemp("packed"), rows)


def test_going_on_at_step_one_million_reads_little(packed, rows):
    index, split = packed
    told = restart.measured(index, split, "whole", restart.AT)
    assert told["digest"] == restart.digest(restart.restored(restart.made("whole", rows), restart.AT))
    assert told["order"]["bytes"] < restart.BYTES and restart.tables_are_small(told, index, split)
    told["tables"]["bytes"] += index.stat().st_size
    assert not restart.tables_are_small(told, index, split)  # INDEX read twice would show


def test_index_is_as_large_as_that_of_mars(packed):
    index, _ = packed
    table = tables.read(index, tables.INDEX)
    members = table.column("members").to_pylist()
    assert table.num_rows == 20_478 and 4e6 < index.stat().st_size < 6e6
    assert {len(some) for some in members} == {3, 6} and all(len(one["digest"]) == 64 for some in members for one in some)
