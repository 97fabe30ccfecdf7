"""The iLIDS-VID-like and PRID-2011-like sets follow specs/datasets.md 2 and 3."""

from __future__ import annotations

import json
import re

import numpy as np
from PIL import Image
from scipy.io import loadmat


def test_ilidsvid_names_and_splits(made, tiny):
    root = made[0] / "iLIDS-VID"
    persons = {}
    for camera in ("cam1", "cam2"):
        folder = root / "i-LIDS-VID/sequences" / camera
        persons[camera] = sorted(p.name for p in folder.iterdir())
        for path in folder.rglob("*.png"):
            match = re.fullmatch(r"(cam[12])_(person\d{3})_(\d{5})\.png", path.name)
            assert match is not None and (match[1], match[2]) == (camera, path.parent.name)
    assert persons["cam1"] == persons["cam2"] and len(persons["cam1"]) == tiny.pairs
    splits = loadmat(root / "train-test people splits/train_test_splits_ilidsvid.mat")["ls_set"]
    assert splits.shape == (10, tiny.pairs)
    half = tiny.pairs // 2
    for row in splits.tolist():
        assert sorted(row) == list(range(1, tiny.pairs + 1))
        assert row[:half] == sorted(row[:half]) and row[half:] == sorted(row[half:])
    assert len(np.unique(splits, axis=0)) > 1


def test_prid2011_names_and_splits(made, tiny):
    root = made[0] / "PRID-2011"
    a, b = (sorted(p.name for p in (root / "multi_shot" / f"cam_{side}").iterdir()) for side in "ab")
    assert len(a) == tiny.pairs + 1 and len(b) == tiny.pairs + 3 and set(a) < set(b)
    for folder in (root / "multi_shot").glob("cam_*/person_*"):
        names = sorted(p.name for p in folder.iterdir())
        assert re.fullmatch(r"person_\d{4}", folder.name)
        assert names == [f"{i:04d}.png" for i in range(1, len(names) + 1)]
    splits = json.loads((root / "splits_prid2011.json").read_text())
    assert len(splits) == 10
    shared = {f"person_{n:04d}" for n in range(1, tiny.pairs + 1)}
    for split in splits:
        assert set(split) == {"train", "test"} and len(split["train"]) == len(split["test"]) == tiny.pairs // 2
        assert set(split["train"]) | set(split["test"]) == shared


def test_pictures_are_128_by_64(made):
    for name in ("iLIDS-VID", "PRID-2011"):
        with Image.open(min((made[0] / name).rglob("*.png"))) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 128))
