"""PRID-2011: names, the persons that only look alike, both places of root and split file; golden fact E4 (specs/dubbernet.md 11.4)."""

import pytest

from pipeline.base.errors import SourceError
from pipeline.sources import listing, prid2011
from tests.pipeline.sources import trees

GENERATED = trees.config("prid2011", generated=True)
SUBSET = trees.config("prid2011", subset=True)
REAL = trees.config("prid2011")
SPLITS = [(["person_0001", "person_0003"], ["person_0002", "person_0004"])] * 10


@pytest.mark.parametrize("path", ["cam_a/person_0001/0001.png", "cam_b/person_0749/0675.png"])
def test_names_round_trip(path):
    assert prid2011.format_frame(prid2011.parse_frame(path)) == path


@pytest.mark.parametrize(
    "path", ["cam_c/person_0001/0001.png", "cam_a/person_1/0001.png", "cam_a/person_0001/001.png", "cam_a/person_0001/0001.jpg"]
)
def test_other_names_are_refused(path):
    with pytest.raises(SourceError, match="is not a frame"):
        prid2011.parse_frame(path)


@pytest.mark.parametrize("top", prid2011.TOPS)
@pytest.mark.parametrize("beside", [False, True])
def test_root_and_split_file_in_both_places(tmp_path, top, beside):
    root = trees.prid2011(tmp_path / "root", top=top)
    home = (root / top).parent
    trees.write_splits((home.parent if beside else home) / "splits_prid2011.json", SPLITS)
    assert prid2011.holds(root, REAL)
    tracklets, notes = prid2011.read_tracklets(root, GENERATED)
    assert tracklets[0] == (
        *("person_0001_cam_a", "person_0001", "person", 0),
        tuple(f"{top}/cam_a/person_0001/{frame:04d}.png" for frame in (1, 2, 3)),
    )
    assert all((root / frame).is_file() for t in tracklets for frame in t.frames)
    assert notes["counts"] == {
        "persons in both cameras": 4,
        "tracklets of cam_a": 5,
        "tracklets of cam_b": 5,
        "tracklets": 10,
        "frames": 30,
    }
    roles, _ = prid2011.read_split(root, GENERATED, "0", tracklets)
    assert {t: role for t, role in roles.items() if t.endswith("a")} == {
        "person_0001_cam_a": "train",
        "person_0002_cam_a": "query",
        "person_0003_cam_a": "train",
        "person_0004_cam_a": "query",
        "person_0201_cam_a": "unused",
    }
    assert roles["person_0002_cam_b"] == "gallery" and roles["person_0201_cam_b"] == "unused"


def test_equal_numbers_above_200_are_two_persons(tmp_path):
    tracklets, _ = prid2011.read_tracklets(trees.prid2011(tmp_path, both=(200,), single=(201,)), REAL)
    assert [t.identity for t in tracklets] == ["person_0200", "person_0201_cam_a", "person_0200", "person_0201_cam_b"]


def test_a_stray_file_is_named(tmp_path):
    trees.touch(trees.prid2011(tmp_path), ["multi_shot/cam_a/person_0001/notes.txt"])
    with pytest.raises(SourceError, match=r"multi_shot/cam_a/person_0001/notes\.txt' is not a frame"):
        prid2011.read_tracklets(tmp_path, REAL)


def test_no_split_file(tmp_path):
    trees.prid2011(tmp_path / "root")
    with pytest.raises(SourceError, match=r"splits_prid2011\.json is neither in .* nor beside it"):
        prid2011.read_split(tmp_path / "root", REAL, "0", [])


EXCLUDED = [6, 19, 31, 52, 57, 62, 71, 94, 106, 120, 136, 138, 139, 142, 145, 158, 159, 166, 183, 190, 199, 200]
"""Persons of both cameras whom no split names: too few frames."""


@pytest.mark.real_data
def test_e4_ten_splits_of_the_same_178_persons_in_halves(real_data):
    splits = listing.read_split_list(real_data / "splits/prid2011/splits_prid2011.json")
    assert [(len(set(split["train"])), len(set(split["test"]))) for split in splits] == [(89, 89)] * 10
    unions = {frozenset(split["train"]) | frozenset(split["test"]) for split in splits}
    (union,) = unions
    assert len(union) == 178 == 89 + 89  # nobody both trains and is tested
    assert len({frozenset(split["test"]) for split in splits}) == 10
    assert sorted(set(range(1, 201)) - {int(name[-4:]) for name in union}) == EXCLUDED


@pytest.mark.real_data
def test_e4_roles_of_the_real_splits(real_data, tmp_path):
    splits = listing.read_split_list(real_data / "splits/prid2011/splits_prid2011.json")
    root = trees.prid2011(tmp_path, both=range(1, 201), single=(201, 202))
    trees.write_splits(root / "splits_prid2011.json", [(split["train"], split["test"]) for split in splits])
    tracklets, _ = prid2011.read_tracklets(root, REAL)
    for number in range(10):
        roles = list(prid2011.read_split(root, REAL, str(number), tracklets)[0].values())
        assert [roles.count(role) for role in ("train", "query", "gallery", "unused")] == [178, 89, 89, 2 * 22 + 4]
    # negative control: one camera's folder of a named person is gone
    for frame in (root / "multi_shot/cam_b/person_0001").iterdir():
        frame.unlink()
    (root / "multi_shot/cam_b/person_0001").rmdir()
    tracklets, _ = prid2011.read_tracklets(root, REAL)
    with pytest.raises(SourceError, match="names person_0001, which was found in 1 of 2 cameras"):
        prid2011.read_split(root, REAL, "0", tracklets)
    assert prid2011.read_split(root, SUBSET, "0", tracklets)[1]["named persons not in both cameras"] == 1
