"""Notes on origin: no path in them; a seal that sees every changed byte; the commit of a checkout, or none."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from pipeline.base import origin
from pipeline.base.code import EMBEDDING, SCORING, TRAINING
from pipeline.base.files import digest_bytes, read_json


def test_a_note_holds_digests_by_role(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    assert origin.made_from(index=tmp_path / "a", teacher="", alignment=None) == {"index": digest_bytes(b"1")}


@pytest.mark.parametrize("paths", [TRAINING, EMBEDDING, SCORING])
def test_code_is_noted_with_what_it_is_over(paths, tmp_path, monkeypatch):
    note = origin.code_of(*paths)
    assert note["of"] == list(paths) and len(note["digest"]) == 16
    for path in paths:
        (shutil.copytree if "." not in path else shutil.copy)(origin.CHECKOUT / path, _made(tmp_path / path))
    monkeypatch.setattr(origin, "CHECKOUT", tmp_path)
    assert origin.code_of(*paths) == note  # wherever the checkout lies
    (tmp_path / paths[-1]).write_text("")
    assert origin.code_of(*paths)["digest"] != note["digest"]


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_seal_sees_every_byte(tmp_path):
    path = tmp_path / "x.json"
    origin.write_sealed(path, {"mAP": 0.1, "name": "ä", "list": [1, None, True]})
    assert origin.broken_seal(path) == ""
    data = path.read_bytes()
    for at in range(len(data)):
        for new in (data[:at] + data[at + 1 :], data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], data[:at] + b" " + data[at:]):
            if new != data:
                path.write_bytes(new)
                assert origin.broken_seal(path), (at, new)


def test_a_seal_covers_what_stands_beside_it(tmp_path):
    path = tmp_path / "x.json"
    origin.write_sealed(path, {"mAP": 0.1})
    value = read_json(path)
    path.write_text(json.dumps({**value, "mAP": 0.9}))
    assert origin.broken_seal(path) == "its content is not what it was sealed with"
    path.write_text(json.dumps({"mAP": 0.1}))
    assert origin.broken_seal(path) == "it has no seal: damaged, or of an older form"
    path.write_text(json.dumps({**value, "mAP": float("nan")}))
    assert origin.broken_seal(path) == "it holds a value that JSON does not have"


def test_commit_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "CHECKOUT", tmp_path)
    assert origin.commit() == ""  # no checkout of its own: another one around it is not meant
    if shutil.which("git") is None:
        pytest.skip("no git here")
    (tmp_path / "a.py").write_text("1")
    for arguments in (["init", "-q"], ["add", "a.py"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    clean = origin.commit()
    assert len(clean) == 40
    (tmp_path / "a.py").write_text("2")
    assert origin.commit() == f"{clean} with changes"
    monkeypatch.setenv("PATH", "")
    assert origin.commit() == ""
