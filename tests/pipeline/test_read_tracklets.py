"""The step that lists tracklets: the table, its metadata, the same bytes twice, one sentence on errors."""

import json

import pytest

from pipeline import read_tracklets
from pipeline.base import tables
from pipeline.base.errors import ConfigError, SourceError
from pipeline.sources.listing import Tracklet
from tests.pipeline.sources import trees

CONFIG = json.dumps({"source": "mars", "splits": ["official"], "generated": True})


def test_table_and_metadata(tmp_path):
    root = trees.mars(tmp_path / "MARS")
    out = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in out:
        read_tracklets.main([str(path), "--dataset", "demo_mars", "--root", str(root), "--config", CONFIG])
    assert out[0].read_bytes() == out[1].read_bytes()
    table = tables.read(out[0], tables.TRACKLETS)
    assert table["tracklet"].to_pylist()[:2] == ["00-1C1T0001", "0000C2T0001"]  # byte order
    assert set(table["dataset"].to_pylist()) == {"demo_mars"} and table.num_rows == 9
    meta = tables.read_meta(out[0])
    assert {"dataset": "demo_mars", "source": "mars", "cameras": 6, "subset": False, "generated": True}.items() <= meta.items()
    assert meta["licence"].startswith("generated") and meta["counts"]["train tracklets"] == 3
    assert str(tmp_path) not in json.dumps(meta)


@pytest.mark.parametrize("root", ["", "/nowhere/at/all"])
def test_a_missing_root_is_a_user_error(tmp_path, root):
    with pytest.raises(SourceError, match=f"roots.demo_mars='{root}'"):
        read_tracklets.main([str(tmp_path / "x.parquet"), "--dataset", "demo_mars", "--root", root, "--config", CONFIG])
    assert not list(tmp_path.iterdir())


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match=r"datasets\.x\.sauce: unknown setting"):
        read_tracklets.main([str(tmp_path / "x"), "--dataset", "x", "--root", "", "--config", '{"sauce": "mars"}'])


def test_names_must_be_fit_for_a_tar():
    with pytest.raises(SourceError, match=r"tracklet 'a\.b'"):
        read_tracklets.tracklet_table("x", [Tracklet("a.b", "i", "person", 0, ("f",))])
    with pytest.raises(SourceError, match="x: no tracklets found"):
        read_tracklets.tracklet_table("x", [])
