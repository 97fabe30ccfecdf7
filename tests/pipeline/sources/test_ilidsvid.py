"""iLIDS-VID: names, the official matrix of splits, the derived list of names."""

import numpy as np
import pytest
import scipy.io

from pipeline.base.errors import SourceError
from pipeline.base.files import digest_file
from pipeline.sources import ilidsvid, listing
from tests.pipeline.sources import trees

GENERATED = trees.config("ilidsvid", generated=True)
SUBSET = trees.config("ilidsvid", subset=True)
REAL = trees.config("ilidsvid")


def write_matrix(root, rows):
    (root / ilidsvid.OFFICIAL_SPLITS).parent.mkdir(exist_ok=True)
    scipy.io.savemat(root / ilidsvid.OFFICIAL_SPLITS, {"ls_set": np.array(rows, np.uint16)})


@pytest.mark.parametrize("name", ["cam1_person001_00317.png", "cam2_person319_00001.png"])
def test_names_round_trip(name):
    assert ilidsvid.format_frame(ilidsvid.parse_frame(name)) == name


@pytest.mark.parametrize(
    "name", ["cam3_person001_00317.png", "cam1_person1_00317.png", "cam1_person001_317.png", "person001_cam1_00317.png"]
)
def test_other_names_are_refused(name):
    with pytest.raises(SourceError, match="is not a frame name"):
        ilidsvid.parse_frame(name)


def test_tracklets_of_a_tiny_tree(tmp_path):
    tracklets, notes = ilidsvid.read_tracklets(trees.ilidsvid(tmp_path), REAL)
    assert tracklets[0] == (
        "person001_cam1",
        "person001",
        "person",
        0,
        tuple(f"i-LIDS-VID/sequences/cam1/person001/cam1_person001_{frame:05d}.png" for frame in (95, 96)),
    )
    assert notes == {"cameras": 2, "counts": {"persons": 4, "persons in both cameras": 4, "tracklets": 8, "frames": 16}, "notes": []}


@pytest.mark.parametrize(
    "stray", ["cam1/person001/cam2_person001_00001.png", "cam1/person001/cam1_person002_00001.png", "cam1/readme.txt/x"]
)
def test_a_file_in_the_wrong_place_is_named(tmp_path, stray):
    trees.touch(trees.ilidsvid(tmp_path), [f"{ilidsvid.SEQUENCES}/{stray}"])
    with pytest.raises(SourceError, match=r"i-LIDS-VID/sequences/cam1/(person001/cam|readme)"):
        ilidsvid.read_tracklets(tmp_path, REAL)


def test_the_first_half_of_a_row_is_tested(tmp_path):
    """Numbers count the sorted persons 001, 002, 005, 009 from 1."""
    write_matrix(trees.ilidsvid(tmp_path), [[4, 1, 2, 3], [1, 2, 3, 4]])
    tracklets, _ = ilidsvid.read_tracklets(tmp_path, GENERATED)
    roles, notes = ilidsvid.read_split(tmp_path, GENERATED, "0", tracklets)
    assert roles == {
        **{"person001_cam1": "query", "person001_cam2": "gallery", "person009_cam1": "query", "person009_cam2": "gallery"},
        **dict.fromkeys(("person002_cam1", "person002_cam2", "person005_cam1", "person005_cam2"), "train"),
    }
    read = {ilidsvid.OFFICIAL_SPLITS: digest_file(tmp_path / ilidsvid.OFFICIAL_SPLITS)}
    assert notes == {"split file": ilidsvid.OFFICIAL_SPLITS, "named persons not in both cameras": 0, "read": read}
    with pytest.raises(SourceError, match="there is no split '2'; found splits 0, 1"):
        ilidsvid.read_split(tmp_path, GENERATED, "2", tracklets)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([[1, 2, 3]], "numbers 3 sorted persons, found 4"), ([[1, 2, 3, 3]], "not an order of 1..4"), ([[0, 1, 2, 3]], "not an order")],
)
def test_a_matrix_that_does_not_fit(tmp_path, rows, message):
    write_matrix(trees.ilidsvid(tmp_path), rows)
    with pytest.raises(SourceError, match=message):
        ilidsvid.read_split(tmp_path, GENERATED, "0", ilidsvid.read_tracklets(tmp_path, GENERATED)[0])


def test_no_split_file(tmp_path):
    trees.ilidsvid(tmp_path)
    with pytest.raises(SourceError, match="no split file; expected 'train-test people splits"):
        ilidsvid.read_split(tmp_path, GENERATED, "0", ilidsvid.read_tracklets(tmp_path, GENERATED)[0])


def test_sizes_are_official_unless_generated(tmp_path):
    trees.write_splits(trees.ilidsvid(tmp_path) / "splits.json", [(["person001", "person002"], ["person005", "person009"])] * 10)
    tracklets, _ = ilidsvid.read_tracklets(tmp_path, REAL)
    assert ilidsvid.read_split(tmp_path, GENERATED, "9", tracklets)[1]["split file"] == "splits.json"
    with pytest.raises(SourceError, match="split 0 has 2 persons in 'train', expected 150"):
        ilidsvid.read_split(tmp_path, REAL, "9", tracklets)


@pytest.mark.real_data
def test_the_real_list_of_splits(real_data, tmp_path):
    splits = listing.read_split_list(real_data / "splits/ilids_vid/splits.json")
    persons = sorted({name for half in splits[0].values() for name in half})
    assert len(persons) == 300 and persons[0] == "person001" and persons[-1] == "person319"
    assert listing.check_splits(splits, "x", 150, dict.fromkeys(persons, 2), 2, partial=False) == []
    # the matrix that it was derived from gives the same splits
    rank = {name: number for number, name in enumerate(persons, start=1)}
    matrix = np.array([[rank[name] for half in ("test", "train") for name in split[half]] for split in splits])
    rebuilt = ilidsvid.splits_by_number(matrix, persons, "x")
    assert rebuilt == [{half: sorted(split[half]) for half in split} for split in splits]
    # a part of the persons is enough for a subset, and not otherwise
    trees.write_splits(trees.ilidsvid(tmp_path) / "splits.json", [(split["train"], split["test"]) for split in splits])
    tracklets, _ = ilidsvid.read_tracklets(tmp_path, SUBSET)
    roles, notes = ilidsvid.read_split(tmp_path, SUBSET, "0", tracklets)
    assert roles["person001_cam1"] == "train" and notes["named persons not in both cameras"] == 296
    with pytest.raises(SourceError, match=r"found in 0 of 2 cameras \(296 such persons\)"):
        ilidsvid.read_split(tmp_path, REAL, "0", tracklets)
