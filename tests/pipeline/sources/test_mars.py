"""MARS: names, tables, queries and official counts."""

import numpy as np
import pytest

from pipeline.base.errors import SourceError
from pipeline.sources import listing, mars
from tests.pipeline.sources import trees

GENERATED = trees.config("mars", splits=("official",), generated=True)
SUBSET = trees.config("mars", splits=("official",), subset=True)
REAL = trees.config("mars", splits=("official",))


@pytest.mark.parametrize("name", ["0001C2T0059F001.jpg", "00-1C1T0001F023.jpg", "0000C6T3248F999.jpg", "1500C6T0002F1000.jpg"])
def test_names_round_trip(name):
    assert mars.format_frame(mars.parse_frame(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "0001C7T0001F001.jpg",
        "001C1T0001F001.jpg",
        "0001C1T0001F01.jpg",
        "0001C1T0001F0001.jpg",
        "0001C1T0001F001.png",
        "0٣01C1T0001F001.jpg",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(SourceError, match=r"is not a frame name; expected e\.g\. 0001C2T0059F001\.jpg"):
        mars.parse_frame(name)


def test_tracklets_of_a_tiny_tree(tmp_path):
    tracklets, notes = mars.read_tracklets(trees.mars(tmp_path), GENERATED)
    assert [t.tracklet for t in tracklets] == [text.split(":")[0] for half in trees.MARS.values() for text in half]
    assert tracklets[0] == (
        "0001C1T0001",
        "0001",
        "person",
        0,
        ("bbox_train/0001/0001C1T0001F001.jpg", "bbox_train/0001/0001C1T0001F002.jpg", "bbox_train/0001/0001C1T0001F003.jpg"),
    )
    assert [t.kind for t in tracklets[3:]] == ["junk", "distractor", "person", "person", "person", "person"]
    assert notes["cameras"] == 6
    assert notes["counts"]["test tracklets by camera"] == [4, 2, 0, 0, 0, 0]
    assert notes["notes"] == [
        "bbox_train/ equals info/tracks_train_info.mat, 3 rows",
        "bbox_test/ equals info/tracks_test_info.mat, 6 rows",
    ]


def test_frames_are_in_the_order_of_their_numbers():
    names = ["0001C1T0001F1000.jpg", "0001C1T0001F999.jpg", "0001C1T0001F002.jpg"]
    assert mars.group(names, "h", "0001")[0].frames == tuple(f"h/0001/{name}" for name in reversed(names))


def test_a_frame_in_the_folder_of_another_person(tmp_path):
    trees.touch(trees.mars(tmp_path), ["bbox_train/0001/0003C1T0001F001.jpg"])
    with pytest.raises(SourceError, match=r"bbox_train/0001/0003C1T0001F001\.jpg is named after person 0003"):
        mars.read_tracklets(tmp_path, GENERATED)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            [[1, 3, 1, 1], [4, 5, 1, 3], [6, 7, 3, 1]],
            "row 2: expected images 4-5 of person 1, camera 3, found images 4-5 of person 1, camera 2",
        ),
        ([[1, 3, 1, 1], [4, 5, 1, 2]], "row 3: expected no such row, found images 6-7 of person 3, camera 1"),
        ([[1, 3, 1, 1], [4, 5, 1, 2], [6, 7, 3, 1], [8, 9, 3, 1]], "row 4: expected images 8-9 of person 3, camera 1, found no such row"),
    ],
)
def test_the_first_differing_row_is_named(tmp_path, table, expected):
    root = trees.mars(tmp_path, tables={**trees.MARS_TABLES, "track_train_info": table})
    with pytest.raises(SourceError) as error:
        mars.read_tracklets(root, GENERATED)
    assert expected in str(error.value) and "tracks_train_info.mat" in str(error.value)


def test_a_missing_image_is_noticed(tmp_path):
    (trees.mars(tmp_path) / "bbox_test/0002/0002C1T0002F003.jpg").unlink()
    with pytest.raises(SourceError, match="row 4: expected images 7-9 of person 2, camera 1, found images 7-8"):
        mars.read_tracklets(tmp_path, GENERATED)


def test_official_counts_hold_for_a_complete_real_set_only(tmp_path):
    with pytest.raises(SourceError, match="expected 8298 train tracklets, found 3"):
        mars.read_tracklets(trees.mars(tmp_path), REAL)


def test_roles_from_the_query_file(tmp_path):
    root = trees.mars(tmp_path)
    roles, notes = mars.read_split(root, GENERATED, "official", mars.read_tracklets(root, GENERATED)[0])
    assert list(roles.values()) == ["train"] * 3 + ["junk", "gallery", "gallery", "query", "query", "gallery"]
    assert notes["queries"].startswith("info/query_IDX.mat; the same rows as by rule")


def test_roles_by_rule_where_the_query_file_is_absent(tmp_path):
    root = trees.mars(tmp_path, queries=())
    roles, notes = mars.read_split(root, GENERATED, "official", mars.read_tracklets(root, GENERATED)[0])
    assert [t for t, role in roles.items() if role == "query"] == ["0002C1T0002", "0002C2T0003"]
    assert notes["queries"].startswith("by rule") and "query_IDX.mat is not there" in notes["queries"]


@pytest.mark.parametrize(
    ("queries", "message"), [([4, 7], "row 7, but bbox_test/ has tracklets 1-6"), ([4, 4], "twice"), ([2, 4], "row 2, which is a distr")]
)
def test_a_query_file_that_does_not_fit(tmp_path, queries, message):
    root = trees.mars(tmp_path, queries=queries)
    tracklets, _ = mars.read_tracklets(root, GENERATED)
    with pytest.raises(SourceError, match=message):
        mars.read_split(root, GENERATED, "official", tracklets)


def test_another_split_is_refused(tmp_path):
    with pytest.raises(SourceError, match="there is no split '0'; found splits official"):
        mars.read_split(tmp_path, GENERATED, "0", [])


def test_a_subset_may_lack_a_half_and_then_all_of_it_trains(tmp_path):
    root = trees.mars(tmp_path, tree={"bbox_train": trees.MARS["bbox_train"][:2]})
    assert mars.holds(root, SUBSET) and not mars.holds(root, REAL)
    tracklets, notes = mars.read_tracklets(root, SUBSET)
    assert notes["notes"] == [
        "bbox_test/ is not there (subset)",
        "bbox_train/ is a part of what info/tracks_train_info.mat lists: 2 of 3 tracklets, not compared",
    ]
    assert set(mars.read_split(root, SUBSET, "official", tracklets)[0].values()) == {"train"}


def test_query_rows_of_the_complete_set_are_not_used_for_a_part(tmp_path):
    root = trees.mars(tmp_path, tree={**trees.MARS, "bbox_test": trees.MARS["bbox_test"][2:]})
    roles, notes = mars.read_split(root, SUBSET, "official", mars.read_tracklets(root, SUBSET)[0])
    assert [t for t, role in roles.items() if role == "query"] == ["0002C1T0002", "0002C2T0003"]
    assert "numbers the rows of the complete set (subset)" in notes["queries"]


# --- the real tables and the real names ---------------------------------------------------------------------------------


@pytest.mark.real_data
def test_official_tables_give_the_official_roles(golden):
    table = listing.read_mat(golden / "mars_info/tracks_test_info.mat", "track_test_info").astype(np.int64)
    stored = listing.read_mat(golden / "mars_info/query_IDX.mat", "query_IDX")
    assert stored.dtype == np.uint16
    rows = stored.astype(np.int64).ravel()
    np.testing.assert_array_equal(mars.query_rows_by_rule(table[:, 2], table[:, 3]), rows)
    mars.check_query_rows(rows, table[:, 2], "x")
    roles = np.array(mars.roles_of_test(table[:, 2], rows))
    assert {role: int((roles == role).sum()) for role in ("query", "gallery", "junk")} == {"query": 1980, "gallery": 9330, "junk": 870}
    assert int(((roles == "gallery") & (table[:, 2] == 0)).sum()) == 3248
    assert len(set(table[roles == "gallery", 2])) == 621


@pytest.mark.real_data
@pytest.mark.parametrize("half", ["train", "test"])
def test_official_counts_are_those_of_the_tables(golden, half):
    """Tracklets rebuilt from a table give the table back, and the counts that a complete set must have."""
    table = listing.read_mat(golden / f"mars_info/tracks_{half}_info.mat", f"track_{half}_info").astype(np.int64)
    tracklets = [
        listing.Tracklet(str(row), identity, mars.kind(identity), int(camera) - 1, (f"bbox_{half}/",) * int(last - first + 1))
        for row, (first, last, pid, camera) in enumerate(table)
        for identity in [mars.JUNK if pid == -1 else f"{pid:04d}"]
    ]
    assert mars.first_difference(mars.table_rows(tracklets), table) == ""
    found = mars.count(tracklets)
    checked = [what for what in mars.OFFICIAL if what.startswith(half) or (half == "test" and "tracklets" in what and "train" not in what)]
    assert {what: found[what] for what in checked} == {what: mars.OFFICIAL[what] for what in checked}
    assert len(checked) == (4 if half == "train" else 6)


@pytest.mark.real_data
def test_real_frames_have_the_lengths_of_the_official_table(real_data, golden):
    tracklets, notes = mars.read_tracklets(real_data / "real_mini/mars", SUBSET)
    assert len(tracklets) == 17 and sum(len(t.frames) for t in tracklets) == 339
    assert notes["counts"]["train persons"] == 3
    table = listing.read_mat(golden / "mars_info/tracks_train_info.mat", "track_train_info").astype(np.int64)
    for person in (1, 3, 7):
        rows = iter([(camera, last - first + 1) for first, last, pid, camera in table.tolist() if pid == person])
        found = [(t.camera + 1, len(t.frames)) for t in tracklets if mars.person(t.identity) == person]
        # only some of the person's tracklets are here, and numbers have gaps: in the order of the table, each has its row
        assert all(tracklet in rows for tracklet in found)


@pytest.mark.real_data
def test_frame_names_of_the_official_test_set(real_data, golden):
    """First frames of all queries and gallery tracklets, in the order of the table."""
    table = listing.read_mat(golden / "mars_info/tracks_test_info.mat", "track_test_info").astype(np.int64)
    rows = listing.read_mat(golden / "mars_info/query_IDX.mat", "query_IDX").astype(np.int64).ravel()
    roles = np.array(mars.roles_of_test(table[:, 2], rows))
    for role in ("query", "gallery"):
        names = (real_data / f"splits/mars/{role}_first_frames.txt").read_text().split()
        parsed = [mars.parse_frame(name.rsplit("/", 1)[1]) for name in names]
        assert [(mars.person(p.identity), p.camera) for p in parsed] == [tuple(row) for row in table[roles == role, 2:].tolist()]
        keys = [mars.format_tracklet(p) for p in parsed]
        assert keys == sorted(keys)
