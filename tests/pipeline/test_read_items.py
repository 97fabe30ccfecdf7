"""The step that lists companion items, for voices and for recorded sound."""

import json

import pytest

from pipeline import read_items
from pipeline.base import tables
from pipeline.base.errors import SourceError
from tests.pipeline.sources import trees


def voices(root):
    trees.touch(root, ["clips/a.mp3", "clips/b.mp3"])
    (root / "train.tsv").write_text("client_id\tpath\tsentence\nspeaker\tb.mp3\tx\nspeaker\ta.mp3\ty\n")
    return root


def test_voices(tmp_path):
    root = voices(tmp_path / "en")
    out = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    for path in out:
        read_items.main(
            [str(path), "--name", "demo_voices", "--root", str(root), "--source", "common_voice", "--config", '{"generated": true}']
        )
    assert out[0].read_bytes() == out[1].read_bytes()
    table = tables.read(out[0], tables.ITEMS)
    assert table["item"].to_pylist() == ["a", "b"] and table["order"].to_pylist() == [1, 0]
    meta = tables.read_meta(out[0])
    assert {
        "name": "demo_voices",
        "source": "common_voice",
        "generated": True,
        "table": "train.tsv",
        "quoting": "none",
    }.items() <= meta.items()
    assert meta["counts"]["speakers"] == 1 and meta["licence"].startswith("generated")
    assert str(tmp_path) not in json.dumps(meta)


def test_recorded_sound(tmp_path):
    trees.touch(tmp_path / "own", ["t/1.jpg", "t.wav"])
    (tmp_path / "own/tracklets.csv").write_text("split,role,identity,camera,tracklet,frame,audio\na,train,p,0,t,t/1.jpg,t.wav\n")
    config = json.dumps({"source": "manifest", "splits": ["a"]})
    arguments = ["--name", "own", "--root", str(tmp_path / "own"), "--source", "manifest", "--config", config]
    read_items.main([str(tmp_path / "i.parquet"), *arguments])
    table = tables.read(tmp_path / "i.parquet", tables.ITEMS)
    assert table.select(["item", "owner", "first", "last"]).to_pylist() == [{"item": "t_0000", "owner": "t", "first": 0, "last": 0}]
    assert tables.read_meta(tmp_path / "i.parquet")["licence"] == "your own data: your own terms"


@pytest.mark.parametrize("content", [[], ["clips/a.mp3"], ["train.tsv"]])
def test_a_wrong_root_is_a_user_error(tmp_path, content):
    root = tmp_path / "en"
    root.mkdir()
    trees.touch(root, content)
    with pytest.raises(SourceError, match=r"roots\.cv='.*'.*the folder of one language, with clips/"):
        read_items.main([str(tmp_path / "i"), "--name", "cv", "--root", str(root), "--source", "common_voice"])
