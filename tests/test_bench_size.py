"""The bench of sizes measures what it says: slopes of known costs, the memory of the child and not of its parent, every stage."""

from __future__ import annotations

import math

import pytest

from tests.bench import bench_size
from tests.bench.process import cost


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_slope_of_known_costs(exponent):
    sizes = [1e4, 1e5, 1e6]
    assert bench_size.slope(sizes, [0.5 + 1e-2 * n**exponent for n in sizes], 0.5) == pytest.approx(exponent, abs=1e-6)


def test_what_does_not_stand_out_of_the_start_has_no_slope():
    assert bench_size.slope([1e4, 1e5, 1e6], [0.505, 1.5, 10.5], 0.5) == pytest.approx(1.0)  # the smallest is noise, and left out
    assert math.isnan(bench_size.slope([1e4, 1e5], [0.51, 1.5], 0.5))
    assert math.isnan(bench_size.slope([1e4, 1e5, 1e6], [0.61, 0.7, 0.9], 0.5))  # hardly more than starting, whatever the size


def test_memory_and_time_are_those_of_the_child():
    held = bytearray(400_000_000)  # of the parent, touched
    small, large = cost("-c", "pass"), cost("-c", "x = b'1' * 300_000_000; sum(range(10_000_000))")
    assert len(held) == 400_000_000
    assert small.memory < 100e6 < 300e6 < large.memory < 400e6
    assert large.cpu > small.cpu > 0


def test_a_command_that_fails_ends_the_bench_with_what_it_said():
    with pytest.raises(RuntimeError, match=r"-c raise SystemExit\('no data'\) ended with 1: no data"):
        cost("-c", "raise SystemExit('no data')")


def test_without_the_released_tables_nothing_is_measured_and_that_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tests.size.mars.INFO", tmp_path / "gone")
    assert bench_size.rows(0.01) == []
    assert "size: nothing measured: " in (said := capsys.readouterr().out) and "gone: no such folder" in said


@pytest.mark.slow
@pytest.mark.real_data
def test_every_stage_runs_at_a_hundredth(golden):
    found = bench_size.rows(0.01)
    for stage in bench_size.STAGES:
        (measured,) = [row for row in found if row["what"].startswith(f"{stage.name}, ") and row["unit"] == "s"]
        (memory,) = [row for row in found if row["what"] == f"{stage.name}, peak memory"]
        assert measured["ours"] > 0 < measured["baseline"]
        assert 0.05 < memory["ours"] < 2
