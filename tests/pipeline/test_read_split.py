"""The step that gives roles and labels."""

import json

import pytest

from pipeline import read_split, read_tracklets
from pipeline.base import tables
from pipeline.base.errors import SourceError, TableError
from pipeline.sources.listing import Tracklet
from tests.pipeline.sources import trees


def run(tmp_path, source, split, root):
    config = json.dumps({"source": source, "splits": [split], "generated": True})
    common = ["--dataset", "x", "--root", str(root), "--config", config]
    read_tracklets.main([str(tmp_path / "t.parquet"), *common])
    read_split.main([str(tmp_path / "s.parquet"), *common, "--split", split, "--tracklets", str(tmp_path / "t.parquet")])
    rows = tables.read(tmp_path / "s.parquet", tables.SPLIT).to_pylist()
    return {row["tracklet"]: (row["role"], row["label"]) for row in rows}, tables.read_meta(tmp_path / "s.parquet")


def test_labels_are_ranks_of_sorted_training_identities():
    identities = {"t1": "b", "t2": "a", "t3": "b", "t4": "c", "t5": "0"}
    roles = {"t1": "train", "t2": "train", "t3": "train", "t4": "train", "t5": "gallery"}
    expected = {"t1": 1, "t2": 0, "t3": 1, "t4": 2, "t5": -1}
    assert read_split.labels(identities, roles) == expected
    assert read_split.labels(identities, dict(reversed(roles.items()))) == expected


def test_nobody_trains_and_is_tested():
    rows = [Tracklet(f"t{i}", identity, "person", 0, ("f",)) for i, identity in enumerate("aabb")]
    roles = {"t0": "train", "t1": "train", "t2": "query", "t3": "gallery"}
    read_split.check_halves("x", "0", rows, roles)
    with pytest.raises(SourceError, match=r"split '0': 1 identities both train and are tested \(a\)"):
        read_split.check_halves("x", "0", rows, {**roles, "t1": "gallery"})
    read_split.check_halves("x", "0", rows, {**roles, "t1": "unused"})


def test_mars(tmp_path):
    rows, meta = run(tmp_path, "mars", "official", trees.mars(tmp_path / "root"))
    assert rows["0001C2T0002"] == ("train", 0) and rows["0003C1T0001"] == ("train", 1)
    assert rows["0002C1T0002"] == ("query", -1) and rows["00-1C1T0001"] == ("junk", -1)
    assert meta["counts"] == {"gallery": 3, "junk": 1, "query": 2, "train": 3} and meta["classes"] == 2
    assert meta["split"] == "official" and str(tmp_path) not in json.dumps(meta)


def test_prid_with_a_table_from_the_step_before(tmp_path):
    root = trees.prid2011(tmp_path / "root")
    trees.write_splits(root / "splits_prid2011.json", [(["person_0004", "person_0002"], ["person_0001", "person_0003"])])
    rows, meta = run(tmp_path, "prid2011", "0", root)
    assert rows["person_0002_cam_b"] == ("train", 0) and rows["person_0004_cam_a"] == ("train", 1)
    assert rows["person_0001_cam_b"] == ("gallery", -1) and rows["person_0201_cam_a"] == ("unused", -1)
    assert meta["split file"] == "splits_prid2011.json"


def test_tracklets_of_another_source_are_refused(tmp_path):
    run(tmp_path, "mars", "official", trees.mars(tmp_path / "root"))
    config = json.dumps({"source": "prid2011", "splits": ["0"]})
    arguments = ["--dataset", "x", "--root", str(trees.prid2011(tmp_path / "prid")), "--config", config, "--split", "0"]
    with pytest.raises(TableError, match="holds tracklets of source 'mars', expected 'prid2011'"):
        read_split.main([str(tmp_path / "o"), *arguments, "--tracklets", str(tmp_path / "t.parquet")])


@pytest.mark.real_data
def test_real_frames_all_train(tmp_path, real_data):
    config = json.dumps({"source": "mars", "splits": ["official"], "subset": True})
    common = ["--dataset", "mini", "--root", str(real_data / "real_mini/mars"), "--config", config]
    read_tracklets.main([str(tmp_path / "t.parquet"), *common])
    read_split.main([str(tmp_path / "s.parquet"), *common, "--split", "official", "--tracklets", str(tmp_path / "t.parquet")])
    table = tables.read(tmp_path / "s.parquet", tables.SPLIT)
    labels = [table["label"].to_pylist().count(label) for label in range(3)]
    assert labels == [12, 3, 2] and set(table["role"].to_pylist()) == {"train"}
