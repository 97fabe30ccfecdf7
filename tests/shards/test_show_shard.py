"""What a person sees of a shard."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pipeline.base.errors import ShardError
from shards import show_shard
from tests.shards import making


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return making.make_store(tmp_path_factory.mktemp("store"))


def test_list_of_samples(index, capsys):
    show_shard.main([str(index)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["key", "identity", "kind", "camera", "frames", "items", "bytes"]
    assert lines[3].split() == ["0000C1T0001", "0000", "distractor", "0", "3", "0", "3072"]
    assert lines[-1].split() == ["5", "samples", "27", "4", "24576"] and len(lines) == 7


def test_a_tar_is_listed_by_its_twin(index, capsys):
    show_shard.main([str(index.parent / "00001.tar")])
    assert "0001C1T0001" not in capsys.readouterr().out
    with pytest.raises(ShardError, match="a tar is read with its twin"):
        show_shard.main([str(index.parent / "00009.tar")])


def test_details_and_extract(index, tmp_path, capsys):
    show_shard.main([str(index), "--key", "0002C2T0002", "--extract", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "4 x 2 float16  clip_c  heard by frames 0-2" in text and "audio: frames 3-5 hear nothing" in text
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "audio.align.npy",
        "audio.lengths.npy",
        "audio.values.npy",
        *(f"frame_00{n}.jpg" for n in range(6)),
        "frames.lengths.npy",
        "meta.json",
    ]
    assert (tmp_path / "out" / "frame_004.jpg").read_bytes() == making.frame("0002C2T0002", 4)
    values = np.load(io.BytesIO((tmp_path / "out" / "audio.values.npy").read_bytes()), allow_pickle=False)
    assert np.array_equal(values, making.FEATURES["clip_c"])


def test_sentences(index, tmp_path):
    with pytest.raises(ShardError, match="name it with --key"):
        show_shard.main([str(index), "--extract", str(tmp_path)])
    with pytest.raises(ShardError, match=r"no sample '../x'"):
        show_shard.main([str(index), "--key", "../x", "--extract", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
