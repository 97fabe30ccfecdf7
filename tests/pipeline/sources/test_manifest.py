"""Own tracklets: both forms of the table, recorded sound, contradictions, and TED by a table alone."""

import json

import pytest

from pipeline.base.errors import SourceError
from pipeline.sources import manifest
from pipeline.sources.manifest import Heard
from tests.pipeline.sources import trees

CONFIG = trees.config("manifest", splits=("a",))
HEADER = "split,role,identity,camera,tracklet,frame"
TABLE = f"""{HEADER}
a,train,p1,10,t2,t2/b.jpg
a,train,p1,10,t2,t2/a.jpg
a,query,p2,9,t1,t1/1.jpg
a,gallery,p2,10,t3,t3/1.jpg
a,distractor,?,9,d,d/1.jpg
a,junk,?,9,j,j/1.jpg
b,train,p2,9,t1,t1/1.jpg
"""
FRAMES = ["t1/1.jpg", "t2/a.jpg", "t2/b.jpg", "t3/1.jpg", "d/1.jpg", "j/1.jpg"]


def tree(root, table=TABLE, frames=FRAMES):
    trees.touch(root, frames)
    (root / "tracklets.csv").write_text(table)
    return root


def test_tracklets_and_roles(tmp_path):
    tracklets, notes = manifest.read_tracklets(tree(tmp_path), CONFIG)
    assert tracklets == [
        ("d", "?", "distractor", 0, ("d/1.jpg",)),
        ("j", "?", "junk", 0, ("j/1.jpg",)),
        ("t1", "p2", "person", 0, ("t1/1.jpg",)),
        ("t2", "p1", "person", 1, ("t2/b.jpg", "t2/a.jpg")),  # the order of the rows, not of the names
        ("t3", "p2", "person", 1, ("t3/1.jpg",)),
    ]
    assert (notes["cameras"], notes["camera names"]) == (2, ["9", "10"])  # numbers are sorted as numbers
    roles, _ = manifest.read_split(tmp_path, CONFIG, "a", tracklets)
    assert roles == {"d": "gallery", "j": "junk", "t1": "query", "t2": "train", "t3": "gallery"}
    roles, _ = manifest.read_split(tmp_path, CONFIG, "b", tracklets)
    assert roles == {"d": "unused", "j": "unused", "t1": "train", "t2": "unused", "t3": "unused"}
    with pytest.raises(SourceError, match="there is no split 'c'; found splits a, b"):
        manifest.read_split(tmp_path, CONFIG, "c", tracklets)


def test_a_json_table_says_the_same(tmp_path):
    expected = manifest.read_tracklets(tree(tmp_path), CONFIG)[0]
    names = HEADER.split(",")
    lines = [dict(zip(names, line.split(","), strict=True)) for line in TABLE.splitlines()[1:]]
    (tmp_path / "tracklets.csv").unlink()
    (tmp_path / "tracklets.jsonl").write_text("\n".join(json.dumps({**line, "camera": int(line["camera"])}) for line in lines))
    assert manifest.read_tracklets(tmp_path, CONFIG)[0] == expected
    tree(tmp_path)
    with pytest.raises(SourceError, match=r"found tracklets\.csv and tracklets\.jsonl; expected one"):
        manifest.read_tracklets(tmp_path, CONFIG)


def test_empty_lines_and_blanks_around_cells_say_nothing(tmp_path):
    expected = manifest.read_tracklets(tree(tmp_path), CONFIG)[0]
    padded = "\n".join(line.replace(",", " , ") for line in TABLE.splitlines()[1:])
    tree(tmp_path, table=HEADER + "\n" + padded + "\n\n")
    assert manifest.read_tracklets(tmp_path, CONFIG)[0] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,train,,9,t,x.jpg", "line 9: no value in 'identity'"),
        ("a,trian,p,9,t,x.jpg", "line 9: role 'trian'; expected one of train, query"),
        ("a,train,p,9,t.1,x.jpg", r"line 9: tracklet 't\.1'; expected letters"),
        ("a,train,p,9,t,/x.jpg", "line 9: '/x.jpg' is not a path below the root"),
        ("a,train,p,9,t", "line 9 has 5 fields, the header has 6"),
        ("a,query,p1,10,t2,t2/a.jpg", "tracklet 't2' has role 'query', but 'train' at tracklets.csv: line 2"),
        ("a,train,p1,9,t2,t2/a.jpg", "tracklet 't2' has camera '9', but '10' at"),
        ("b,train,p1,10,t2,t2/b.jpg", "tracklet 't2' has another list of frames than at tracklets.csv: line 2"),
        ("b,gallery,?,9,d,d/1.jpg", "tracklet 'd' has another kind than at"),
        ("a,train,p1,10,t2,t2/a.jpg", r"tracklet 't2' lists 't2/a\.jpg' more than once in split 'a'"),
        ("a,train,p,9,t,gone.jpg", r"names 'gone\.jpg', which is not in the root \(1 such frames\)"),
    ],
)
def test_contradictions_are_named(tmp_path, line, message):
    tree(tmp_path, TABLE + line + "\n")
    with pytest.raises(SourceError, match=message):
        manifest.read_tracklets(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER + ",adio", "unknown column 'adio'; did you mean 'audio'"),
        (HEADER + ",frame", "2 columns 'frame'"),
        ("split,role,identity,camera,tracklet", "no column frame; expected split, role"),
        ("", "no column split"),
        (HEADER, "no rows"),
    ],
)
def test_headers_are_checked(tmp_path, header, message):
    with pytest.raises(SourceError, match=message):
        manifest.read_tracklets(tree(tmp_path, header + "\n" if header else ""), CONFIG)


def test_broken_json_is_named(tmp_path):
    for line, message in [("{", "line 1 is not JSON"), ("[]", "line 1 is not an object"), ('{"split": {}}', "line 1: ")]:
        (tmp_path / "tracklets.jsonl").write_text(line)
        with pytest.raises(SourceError, match=message):
            manifest.read_tracklets(tmp_path, CONFIG)


def test_runs_of_equal_sound():
    x, y = Heard("x.wav", None, None), Heard("x.wav", 1.0, 2.0)
    assert manifest.runs([None, x, x, y, None, y]) == [(1, 2, x), (3, 3, y), (5, 5, y)]
    assert manifest.runs([None, None]) == []


def test_recorded_sound(tmp_path):
    rows = ["x.wav,,,", "x.wav,,,", "y.wav,1.5,4,", "z.wav,,,2", ",,,"]
    table = HEADER + ",audio,start_s,end_s,seconds\n" + "".join(f"a,train,p1,9,t1,t1/{i}.jpg,{cells}\n" for i, cells in enumerate(rows))
    trees.touch(tree(tmp_path, table + "a,train,p1,9,t3,t3/1.jpg,,,,\n"), ["x.wav", "y.wav"])
    (tmp_path / "y.wav").write_bytes(b"123")
    items, notes = manifest.read_items(tmp_path, CONFIG)
    assert items.drop_columns(["kind", "order", "owner_order"]).to_pylist() == [
        {"item": "t1_0000", "owner": "t1", "path": "x.wav", "start": None, "seconds": None, "bytes": 0, "first": 0, "last": 1},
        {"item": "t1_0001", "owner": "t1", "path": "y.wav", "start": 1.5, "seconds": 2.5, "bytes": 3, "first": 2, "last": 2},
        {"item": "t1_0002", "owner": "t1", "path": "z.wav", "start": 0.0, "seconds": 2.0, "bytes": -1, "first": 3, "last": 3},
    ]
    counts = {"clips": 3, "tracklets with sound": 1, "tracklets without sound": 1, "clips without a file": 1, "clips without a duration": 1}
    assert notes["counts"] == counts


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("x.wav,,1,1", "both 'end_s' and 'seconds'"),
        ("x.wav,2,1,", "the sound is -1 s long"),
        ("x.wav,-1,,", "'start_s' is '-1'"),
        ("x.wav,soon,,", "'start_s' is 'soon'"),
        ("x.wav,nan,,", "'start_s' is 'nan'"),
        (",1,,", "'start_s' without 'audio'"),
        ("../x.wav,,,", "not a path below the root"),
        (",,,", "no row has a value in 'audio'"),
    ],
)
def test_sound_that_cannot_be_meant(tmp_path, cells, message):
    tree(tmp_path, f"{HEADER},audio,start_s,end_s,seconds\na,train,p1,9,t1,t1/1.jpg,{cells}\n")
    with pytest.raises(SourceError, match=message):
        manifest.read_items(tmp_path, CONFIG)


@pytest.mark.real_data
def test_ted_comes_in_by_a_table(real_data, tmp_path):
    """Six frames and one wav per id: no code, one row per frame."""
    for folder in sorted((real_data / "real_mini/ted_samples").iterdir()):
        (tmp_path / folder.name).symlink_to(folder)
    roles = {"002": "train", "008": "train", "013": "query", "032": "gallery"}
    lines = [f"ted,{role},{pid},0,{pid},{pid}/{frame}.jpg,{pid}/{pid}.wav" for pid, role in roles.items() for frame in range(1, 7)]
    (tmp_path / "tracklets.csv").write_text("\n".join([f"{HEADER},audio", *lines]))
    tracklets, notes = manifest.read_tracklets(tmp_path, CONFIG)
    assert [(t.identity, len(t.frames)) for t in tracklets] == [(pid, 6) for pid in roles]
    assert notes["cameras"] == 1 and notes["counts"]["tracklets with sound"] == 4
    assert manifest.read_split(tmp_path, CONFIG, "ted", tracklets)[0] == roles
    items, _ = manifest.read_items(tmp_path, CONFIG)
    assert [(i["owner"], i["path"], i["first"], i["last"]) for i in items.to_pylist()] == [(pid, f"{pid}/{pid}.wav", 0, 5) for pid in roles]
    assert min(items["bytes"].to_pylist()) > 160_000  # 5 s of 16-bit sound at 16 kHz
