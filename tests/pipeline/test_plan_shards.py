"""Which tracklet goes into which shard."""

from __future__ import annotations

import random
import time

import pytest

from pipeline import plan_shards
from pipeline.base import tables
from pipeline.base.errors import ConfigError, TableError


def tracklets(*rows: tuple[str, str, str, int]):
    """TRACKLETS from (tracklet, identity, kind, number of frames)."""
    made = [
        {"tracklet": name, "dataset": "d", "identity": identity, "kind": kind, "camera": 0, "frames": [f"{i}.jpg" for i in range(frames)]}
        for name, identity, kind, frames in rows
    ]
    return tables.table(made, tables.TRACKLETS)


def shards_of(plan) -> list[list[str]]:
    out: dict[int, list[str]] = {}
    for row in plan.to_pylist():
        out.setdefault(row["shard"], []).append(row["tracklet"])
    return [out[shard] for shard in range(len(out))]


def test_identities_stay_together_by_hand():
    rows = [(f"{i}{t}", i, "person", frames) for i, frames in (("a", 3), ("b", 3), ("c", 2), ("d", 2)) for t in "12"]
    plan = plan_shards.plan(tracklets(*rows), 2, "d")  # 20 frames, half a shard is 5: a and b (6 each) are split, c and d (4) are not
    assert shards_of(plan) == [["a1", "b1", "c1", "c2"], ["a2", "b2", "d1", "d2"]]
    assert [row["order"] for row in plan.to_pylist()] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_long_identities_distractors_and_junk_are_spread():
    rows = [(f"a{t}", "a", "person", 10) for t in range(4)]
    rows += [(f"x{t}", "0000", "distractor", 1) for t in range(4)] + [(f"j{t}", "00-1", "junk", 1) for t in range(4)]
    for shard in shards_of(plan_shards.plan(tracklets(*rows), 4, "d")):
        assert sorted(name[0] for name in shard) == ["a", "j", "x"] or len(shard) == 3


def test_balance_of_many():
    draw = random.Random(1)
    rows = [(f"t{i:04}", f"{draw.randrange(150):04}", "person", draw.randrange(2, 120)) for i in range(2000)]
    rows += [(f"x{i:04}", "0000", "distractor", draw.randrange(2, 60)) for i in range(500)]
    plan = plan_shards.plan(tracklets(*rows), 12, "d")
    loads = plan.group_by("shard").aggregate([("frames", "sum")]).column("frames_sum").to_pylist()
    assert len(loads) == 12 and max(loads) - min(loads) <= 60
    of = {row["tracklet"]: row["shard"] for row in plan.to_pylist()}
    assert all(
        len({of[name] for name, who, kind, _ in rows if kind == "person" and who == identity}) == 1 for identity in {r[1] for r in rows}
    )


def test_rows_in_any_order_give_the_same_plan():
    rows = [(f"t{i}", f"{i % 7}", "person", 1 + i % 3) for i in range(40)]
    table = tracklets(*rows)
    expected = plan_shards.plan(table, 5, "d")
    for seed in range(3):
        order = list(range(40))
        random.Random(seed).shuffle(order)
        assert plan_shards.plan(table.take(order), 5, "d").equals(expected)
    rows[0] = ("t0", "0", "person", 30)  # the control: another length, another plan
    assert not plan_shards.plan(tracklets(*rows), 5, "d").equals(expected)


@pytest.mark.parametrize("count", [5, 6, 9])
def test_no_shard_is_empty(count):
    rows = [("long", "a", "person", 1000)] + [(f"b{i}", "b", "person", 1) for i in range(count - 1)]
    plan = plan_shards.plan(tracklets(*rows), 5, "d")
    assert len(shards_of(plan)) == 5 and plan.num_rows == count


def test_too_few_tracklets_is_one_sentence():
    with pytest.raises(
        ConfigError, match=r"datasets\.prid\.shards=4: the data set has 3 tracklets .* lower datasets\.prid\.shards to 1\.\.3"
    ):
        plan_shards.plan(tracklets(*((f"t{i}", "a", "person", 2) for i in range(3))), 4, "prid")
    with pytest.raises(TableError, match="tracklet 't' has no frame"):
        plan_shards.plan(tracklets(("t", "a", "person", 0)), 1, "prid")


def test_size_of_mars_takes_less_than_a_second():
    rows = [(f"t{i:05}", f"{i % 1261:04}", "person", 2 + i % 60) for i in range(20478)]
    table = tracklets(*rows)
    start = time.process_time()
    plan_shards.plan(table, 96, "mars")
    assert time.process_time() - start < 1


def test_step(tmp_path):
    rows = tracklets(("a", "a", "person", 2), ("b", "b", "person", 1)).to_pylist()
    tables.write_rows(tmp_path / "t.parquet", rows, tables.TRACKLETS, {"dataset": "d"})
    plan_shards.main([str(tmp_path / "p.parquet"), "--tracklets", str(tmp_path / "t.parquet"), "--shards", "2"])
    assert shards_of(tables.read(tmp_path / "p.parquet", tables.PLAN)) == [["a"], ["b"]]
    assert tables.read_meta(tmp_path / "p.parquet")["frames"] == {"tracklets": 2, "frames": 3, "smallest": 1, "largest": 2}
