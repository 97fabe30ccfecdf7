"""The generator: the real counts, names that the real grammars accept, equal bytes for equal seeds."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline import read_items, read_split, read_tracklets
from pipeline.allocation import match
from pipeline.base.config import AudioConfig
from pipeline.base.errors import SourceError
from pipeline.base.tables import ITEMS, SPLIT, TRACKLETS, read, read_meta
from pipeline.features.audio import probe
from pipeline.features.frames import is_stored_form
from pipeline.sources.mars import query_rows_by_rule
from tests.size import common_voice, mars
from tests.size.files import Names

PART = 0.004


@pytest.fixture(scope="module")
def info(golden: Path) -> mars.Info:
    return mars.read(golden / "mars_info")


@pytest.mark.real_data
def test_the_whole_is_what_was_released(info):
    whole = mars.draw(info, 1, seed=0)
    for ours, released in zip((whole.train, whole.test, whole.queries), (info.train, info.test, info.queries), strict=True):
        np.testing.assert_array_equal(ours, released)
    rows = list(mars.rows(whole))
    assert (len(rows), sum(row.frames for row in rows), whole.frames, len(whole.queries)) == (20_478, 1_191_003, 1_191_003, 1980)
    assert len({row.folder for row in rows}) == 1261
    for half in ("bbox_train", "bbox_test"):
        names = [f"{row.folder}/{row.name}" for row in rows if row.folder.startswith(half)]
        assert all(a < b for a, b in pairwise(names))  # the order of the tables is that of the names


@pytest.mark.real_data
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_a_part_has_whole_persons_of_real_lengths_and_the_share_asked_for(info, fraction):
    part = mars.draw(info, fraction, seed=0)
    for name in ("train", "test"):
        table, released = getattr(part, name), getattr(info, name)
        lengths = [t[:, 1] - t[:, 0] for t in (table, released)]
        for person in set(table[:, 2].tolist()) - {-1, 0}:
            mine, theirs = table[:, 2] == person, released[:, 2] == person
            np.testing.assert_array_equal(lengths[0][mine], lengths[1][theirs])
            np.testing.assert_array_equal(table[mine, 3], released[theirs, 3])
        assert table[0, 0] == 1
        np.testing.assert_array_equal(table[1:, 0], table[:-1, 1] + 1)
    np.testing.assert_array_equal(part.queries, query_rows_by_rule(part.test[:, 2], part.test[:, 3]))
    assert part.frames == pytest.approx(info.frames * fraction, rel=0.3)


@pytest.mark.real_data
def test_the_seed_decides_who_is_drawn(info):
    one, again, other = (mars.draw(info, PART, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.test, again.test)
    assert not np.array_equal(one.test, other.test)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 1])
def test_clips_and_speakers_are_as_many_as_asked_for_and_a_few_speakers_have_most(fraction):
    release = common_voice.draw(fraction, seed=0)
    clips, speakers = round(common_voice.CLIPS * fraction), round(common_voice.SPEAKERS * fraction)
    assert (len(release.clients), int(release.clips.sum()), len(set(release.numbers.tolist()))) == (speakers, clips, clips)
    assert release.clips.min() >= 1
    falling = np.sort(release.clips)[::-1]
    assert falling[: speakers // 10].sum() > 0.4 * clips
    assert np.median(falling) < 0.6 * clips / speakers


@pytest.mark.real_data
def test_the_speakers_can_serve_all_of_mars_but_not_the_largest_first(info):
    speakers, needs = common_voice.speakers(common_voice.draw(1, seed=0)), mars.needs(info)
    assert len(needs) == 625 + 634
    assert (max(needs.values()), sum(needs.values())) == (3956, 176_567)
    assert not match(needs, speakers).unserved
    assert len(match(needs, speakers, "identity", "largest_first").unserved) > 100


@pytest.mark.real_data
def test_the_real_steps_accept_a_small_part(info, tmp_path):
    part, release = mars.draw(info, PART, seed=0), common_voice.draw(PART, seed=0)
    mars.lay_out(tmp_path / "mars", part, seed=0, distinct=5)
    common_voice.lay_out(tmp_path / "voices", release, seed=0, distinct=5)
    config = json.dumps({"source": "mars", "splits": ["official"], "generated": True})
    shared = ["--dataset", "mars", "--root", str(tmp_path / "mars"), "--config", config]
    t, s, i = (str(tmp_path / f"{name}.parquet") for name in "tsi")
    read_tracklets.main([t, *shared])
    read_split.main([s, *shared, "--split", "official", "--tracklets", t])
    read_items.main([i, "--name", "voices", "--root", str(tmp_path / "voices"), "--source", "common_voice"])

    tracklets, meta = read(t, TRACKLETS), read_meta(t)
    assert tracklets.num_rows == len(part.train) + len(part.test)
    assert meta["counts"]["train frames"] + meta["counts"]["test frames"] == part.frames
    assert any("bbox_test/ equals info/tracks_test_info.mat" in note for note in meta["notes"])
    assert read_meta(s)["counts"]["query"] == len(part.queries) == read(s, SPLIT).column("role").to_pylist().count("query")
    frames = [path for paths in tracklets.column("frames").to_pylist() for path in paths]
    assert len({(tmp_path / "mars" / path).read_bytes() for path in frames}) == 5
    assert all(is_stored_form((tmp_path / "mars" / path).read_bytes(), mars.HEIGHT, mars.WIDTH) for path in frames[:5])

    counts = {"clips": len(release.numbers), "speakers": len(release.clients), "clips without a file": 0, "clips without a duration": 0}
    assert read_meta(i)["counts"] == counts
    for clip in read(i, ITEMS).slice(0, 5).to_pylist():
        assert not probe(tmp_path / "voices" / clip["path"], None, clip["seconds"], AudioConfig()).reason


@pytest.mark.real_data
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(info, tmp_path):
    trees = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        mars.lay_out(tmp_path / name / "mars", mars.draw(info, 0.001, seed), seed, distinct=3)
        common_voice.lay_out(tmp_path / name / "voices", common_voice.draw(0.0005, seed), seed, distinct=3)
        trees.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()})
    assert trees[0] == trees[1] != trees[2]


def link_that(answers: Mapping[int, int]):
    """os.link that fails at its n-th call with an errno."""
    real, calls = os.link, []

    def link(*args, **kwargs):
        calls.append(args)
        if code := answers.get(len(calls)):
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return link


@pytest.mark.parametrize(("answers", "copies"), [({}, 0), ({2: errno.EMLINK}, 0), ({2: errno.EPERM}, 2)])
def test_names_without_links_are_copies_and_that_is_said(tmp_path, monkeypatch, capsys, answers, copies):
    monkeypatch.setattr(os, "link", link_that(answers))
    names = Names(tmp_path / "pool", [b"x", b"yy"])
    names.put(tmp_path / "a", ["one", "two", "three"])
    assert [(tmp_path / "a" / name).read_bytes() for name in ("one", "two", "three")] == [b"x", b"yy", b"x"]
    assert sum((tmp_path / "a" / name).stat().st_nlink == 1 for name in ("one", "two", "three")) == copies
    assert ("hard links are refused here" in capsys.readouterr().out) == (copies > 0) == (not names.links)


def test_an_error_that_has_nothing_to_do_with_links_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", link_that({1: errno.ENOSPC}))
    with pytest.raises(OSError, match="No space left"):
        Names(tmp_path / "pool", [b"x"]).put(tmp_path / "a", ["one"])


def test_where_the_tables_are_not_one_sentence_says_so(tmp_path):
    with pytest.raises(
        SourceError, match=r"gone: no such folder; expected the released MARS tables there \(DUBTRACK_SHARED names another place\)$"
    ):
        mars.read(tmp_path / "gone")
