"""Checks that all grammars share: roots, MATLAB files, splits, paths, and listings that no file system can change."""

import os
import random

import numpy as np
import pytest
import scipy.io

from pipeline.base.config import VoicesConfig
from pipeline.base.errors import SourceError
from pipeline.sources import SOURCES, common_voice, ilidsvid, listing, mars, prid2011
from pipeline.sources.listing import Tracklet
from tests.pipeline.sources import trees


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda tmp: "", "it is not set"),
        (lambda tmp: str(tmp / "nowhere"), "no such folder"),
        (lambda tmp: str(trees.touch(tmp, ["file"]) or tmp / "file"), "found a file"),
        (lambda tmp: str(tmp), "an empty folder"),
        (lambda tmp: str(trees.touch(tmp, ["a/x", "b/x"]) or tmp), "a folder that holds a, b;"),
        (lambda tmp: str(trees.touch(tmp, [f"{i}/x" for i in range(6)]) or tmp), "a folder that holds 0, 1, 2, 3 and 2 more;"),
    ],
)
@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_wrong_root_is_one_sentence_with_the_config_key(tmp_path, source, make, found):
    root = make(tmp_path)
    with pytest.raises(SourceError) as error:
        listing.open_root("my_set", root, SOURCES[source], trees.config(source))
    text = str(error.value)
    assert f"roots.my_set='{root}'" in text and found in text
    assert SOURCES[source].EXPECTED in text and "section 'Your own data'" in text and "\n" not in text


def test_a_table_that_is_not_there_is_named(tmp_path):
    trees.touch(tmp_path, ["clips/a.mp3", "train.tsv"])
    with pytest.raises(SourceError, match=r"found no other\.tsv in the folder, which holds clips, train\.tsv; expected"):
        listing.open_root("voices", str(tmp_path), common_voice, VoicesConfig(table="other.tsv"))
    assert listing.open_root("voices", str(tmp_path), common_voice, VoicesConfig()) == tmp_path


def test_a_right_root_is_a_path(tmp_path):
    assert listing.open_root("mars", str(trees.mars(tmp_path)), mars, trees.config("mars")) == tmp_path


def listings(root):
    """What every grammar lists in the trees below `root`."""
    return [
        mars.read_tracklets(root / "m", trees.config("mars", generated=True)),
        ilidsvid.read_tracklets(root / "i", trees.config("ilidsvid")),
        prid2011.read_tracklets(root / "p", trees.config("prid2011")),
    ]


def test_listings_do_not_depend_on_the_file_system(tmp_path, monkeypatch):
    trees.mars(tmp_path / "m"), trees.ilidsvid(tmp_path / "i", frames=5), trees.prid2011(tmp_path / "p")
    expected = listings(tmp_path)
    real = os.scandir

    class Shuffled:
        def __init__(self, path="."):
            self.entries = list(real(path))
            random.Random(len(self.entries)).shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert listings(tmp_path) == expected
    # negative control: without sorting, the same trees are listed otherwise, so the shuffle is felt
    monkeypatch.setattr(listing, "sorted_names", lambda folder: [entry.name for entry in Shuffled(folder).entries])
    with pytest.raises(SourceError, match="row 1: expected images 1-3 of person 1"):
        mars.read_tracklets(tmp_path / "m", trees.config("mars", generated=True))
    assert prid2011.read_tracklets(tmp_path / "p", trees.config("prid2011")) != expected[2]


def test_hidden_files_and_droppings_of_file_managers_are_no_frames(tmp_path):
    trees.touch(tmp_path, ["b", "a", ".DS_Store", "Thumbs.db"])
    assert listing.file_names(tmp_path, "x") == ["a", "b"]


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(SourceError, match="bbox_train/0001: an empty folder"):
        listing.file_names(tmp_path, "bbox_train/0001")
    with pytest.raises(SourceError, match="bbox_train/0001: cannot be listed"):
        listing.file_names(tmp_path / "gone", "bbox_train/0001")


def test_read_mat_keeps_the_dtype_and_names_what_is_wrong(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"rows": np.array([[1, 2]], np.uint16), "text": "x"})
    assert listing.read_mat(path, "rows").dtype == np.uint16
    with pytest.raises(SourceError, match="found variables rows, text; expected the numeric array 'text'"):
        listing.read_mat(path, "text")
    with pytest.raises(SourceError, match="no such file"):
        listing.read_mat(tmp_path / "b.mat", "rows")
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(SourceError, match="not a readable MATLAB file"):
        listing.read_mat(path, "rows")


@pytest.mark.real_data
def test_foreign_mat_files_end_in_one_sentence(real_data):
    for path in sorted((real_data / "hostile_media/mat").iterdir()):
        with pytest.raises(SourceError, match=r"expected the numeric array|version 5 to 7"):
            listing.read_mat(path, "ls_set")


@pytest.mark.parametrize(
    "text", ["", "not json", "{}", '[{"train": ["a"]}]', '[{"train": "a", "test": ["b"]}]', '[{"train": [1], "test": []}]']
)
def test_a_split_file_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"splits\.json"):
        listing.read_split_list(path)


TEN = [{"train": ["a", "b"], "test": ["c", "d"]}] * 10
BOTH = dict.fromkeys("abcd", 2)


@pytest.mark.parametrize(
    ("splits", "present", "message"),
    [
        (TEN[:9], BOTH, "found 9 splits, expected 10"),
        ([*TEN[:9], {"train": ["a", "b"], "test": ["b", "d"]}], BOTH, "split 9 has b in both halves"),
        ([*TEN[:9], {"train": ["a", "a"], "test": ["c", "d"]}], BOTH, "split 9 names a person twice in 'train'"),
        ([*TEN[:9], {"train": ["a", "b"], "test": ["c"]}], BOTH, "split 9 has 1 persons in 'test', expected 2"),
        (TEN, BOTH | {"d": 1}, "names d, which was found in 1 of 2 cameras"),
    ],
)
def test_check_splits_finds_every_fault(splits, present, message):
    assert listing.check_splits(TEN, "x", 2, BOTH, 2, partial=False) == []
    with pytest.raises(SourceError, match=message):
        listing.check_splits(splits, "x", 2, present, 2, partial=False)


def test_a_part_of_a_data_set_may_lack_persons():
    assert listing.check_splits(TEN, "x", 2, {"a": 2, "b": 1, "c": 2}, 2, partial=True) == ["b", "d"]


def test_two_camera_roles():
    tracklets = [Tracklet(f"{p}{c}", p, "person", c, ("f",)) for p in "abx" for c in (0, 1)]
    roles = listing.two_camera_roles(tracklets, {"train": ["a"], "test": ["b"]})
    assert roles == {"a0": "train", "a1": "train", "b0": "query", "b1": "gallery", "x0": "unused", "x1": "unused"}


@pytest.mark.parametrize("bad", ["", "/etc/passwd", "../x", "a/../../x", "a\\b", "C:/x"])
def test_paths_of_tables_stay_below_the_root(bad):
    assert listing.plain_path("a//b/./c.jpg", "x") == "a/b/c.jpg"
    with pytest.raises(SourceError, match="not a path below the root"):
        listing.plain_path(bad, "x")


def test_file_sizes_finds_files_only(tmp_path):
    trees.touch(tmp_path, ["a/one", "top", "folder/x"])
    (tmp_path / "a/one").write_bytes(b"123")
    assert listing.file_sizes(tmp_path, ["a/one", "a/two", "top", "folder", "gone/x"]) == {"a/one": 3, "top": 0}


def test_every_grammar_says_where_it_comes_from():
    for place in (*SOURCES.values(), common_voice):
        for text in (place.LICENCE, place.EXPECTED, place.DESCRIBED):
            assert text and "\n" not in text and "http" not in text
        assert listing.OWN_DATA in place.DESCRIBED
        assert listing.licence(place, True) == listing.GENERATED != listing.licence(place, False)
