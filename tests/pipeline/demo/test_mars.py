"""The MARS-like set follows specs/datasets.md 1.1 and the query rule of 1.2."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from pipeline.base.config import DemoConfig
from pipeline.demo import mars

NAME = re.compile(r"(00-1|\d{4})C([1-6])T(\d{4})F(\d{3})\.jpg")


@pytest.mark.parametrize("half", ["train", "test"])
def test_tables_are_the_grouped_names_row_by_row(made, half):
    root = made[0] / "MARS"
    text = (root / f"info/{half}_name.txt").read_bytes()
    assert text.endswith(b"\r\n") and text.count(b"\n") == text.count(b"\r\n")
    listed = text.decode().split("\r\n")[:-1]
    found = [p.name for folder in sorted((root / f"bbox_{half}").iterdir()) for p in sorted(folder.iterdir())]
    assert listed == found
    groups: list[list[int]] = []  # first, last, person, camera as a reader of the names alone would have them
    seen = None
    for line, name in enumerate(found, start=1):
        match = NAME.fullmatch(name)
        assert match is not None, name
        person, camera, tracklet, _ = match.groups()
        if (person, camera, tracklet) != seen:
            groups.append([line, line, int(person.replace("00-1", "-1")), int(camera)])
            seen = (person, camera, tracklet)
        groups[-1][1] = line
    table = loadmat(root / f"info/tracks_{half}_info.mat")[f"track_{half}_info"]
    assert table.dtype == np.int32
    assert table.tolist() == groups


def test_halves_distractors_junk_and_cameras(made, tiny: DemoConfig):
    root = made[0] / "MARS"
    assert sorted(p.name for p in (root / "bbox_train").iterdir()) == ["0001", "0003", "0005", "0007"]
    assert sorted(p.name for p in (root / "bbox_test").iterdir()) == ["00-1", "0000", "0002", "0004", "0006", "0008"]
    test = loadmat(root / "info/tracks_test_info.mat")["track_test_info"]
    assert (test[:, 2] == 0).sum() == tiny.distractors and (test[:, 2] == -1).sum() == tiny.junk
    train = loadmat(root / "info/tracks_train_info.mat")["track_train_info"]
    for table in (train, test):
        for person in set(table[table[:, 2] > 0, 2].tolist()):
            assert len(set(table[table[:, 2] == person, 3].tolist())) >= 2


def test_queries_are_the_last_rows_of_each_person_and_camera(made):
    root = made[0] / "MARS/info"
    found = loadmat(root / "query_IDX.mat")["query_IDX"]
    table = loadmat(root / "tracks_test_info.mat")["track_test_info"]
    assert found.dtype == np.uint16 and found.shape[0] == 1
    assert found.tolist() == mars.queries(table).tolist()


def test_query_rule_by_hand():
    #                  first last pid cam
    table = np.array([(1, 2, -1, 1), (3, 4, 0, 1), (5, 6, 2, 1), (7, 8, 2, 1), (9, 9, 2, 3), (10, 11, 4, 2), (12, 13, 4, 2)], np.int32)
    assert mars.queries(table).tolist() == [[4, 5]]  # person 4 is seen by one camera only


@pytest.mark.real_data
def test_query_rule_gives_the_real_query_table(golden: Path):
    table = loadmat(golden / "mars_info/tracks_test_info.mat")["track_test_info"]
    assert np.array_equal(mars.queries(table), loadmat(golden / "mars_info/query_IDX.mat")["query_IDX"])


def test_pictures(made):
    for path in sorted((made[0] / "MARS").rglob("*.jpg"))[::20]:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 256))


def test_a_query_keeps_a_match_when_queries_leave_the_gallery(tiny: DemoConfig):
    part = mars.plan(replace(tiny, test_identities=16, cameras=4, tracklets=5))
    rows = [(p[0].split("/")[2], p[0].split("/")[3][5]) for p in (film.paths for film in part.films) if "bbox_test" in p[0]]
    table = np.array([(0, 0, -1 if pid == "00-1" else int(pid), int(camera)) for pid, camera in rows])
    query = mars.queries(table)[0].astype(int) - 1
    rest = np.delete(table, query, axis=0)
    answered = {int(q): bool(((rest[:, 2] == table[q, 2]) & (rest[:, 3] != table[q, 3])).any()) for q in query}
    lone = {16, 32}  # one person in eight: one tracklet in each camera, as some real persons have
    assert all(answered[q] == (table[q, 2] not in lone) for q in answered)


def test_tracklets_rise_in_a_folder_and_lengths_keep_their_range(tiny: DemoConfig):
    for film in mars.plan(tiny).films:
        assert tiny.frames[0] <= len(film.paths) <= tiny.frames[1]
        assert list(film.paths) == sorted(film.paths) and film.paths[0].endswith("F001.jpg")


def test_needs_by_hand(tiny: DemoConfig):
    part = mars.plan(tiny)
    first = [film for film in part.films if "/bbox_train/0001/" in film.paths[0]]
    assert part.needs[0] == sum((len(film.paths) + 5) // 6 for film in first)
    assert len(part.needs) == tiny.train_identities + tiny.test_identities
