"""One training, resolved."""

import json
from typing import Any

import pytest

from pipeline.base.build import build
from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError
from pipeline.base.files import read_json
from pipeline.resolve_config import main

SECTIONS: dict[str, Any] = {
    "method": {
        "stages": {
            "teacher": {"network": "dubbernet_teacher", "hears": True},
            "student": {"network": "dubbernet_student", "task": "distill", "teacher": "teacher", "epochs": 60},
        }
    },
    "dataset": {"source": "prid2011", "splits": ["0", "1"], "frames": {"height": 128, "width": 64}},
    "companion": {"audio": {"bands": 64}},
}
NAMES = {"method": "dubbernet", "dataset": "prid2011", "split": "1", "seed": "3", "stage": "student"}


def resolve(out, sections=SECTIONS, **names):
    options = [f"--{name}={value}" for name, value in {**NAMES, **names}.items()]
    main([str(out), *options, f"--config={json.dumps(sections)}"])
    return build(RunConfig, read_json(out))


def test_everything_a_stage_needs(tmp_path):
    run = resolve(tmp_path / "config.json")
    assert (run.method, run.dataset, run.split, run.seed, run.stage) == ("dubbernet", "prid2011", "1", 3, "student")
    assert (run.companion, run.kind, run.bands) == ("audio", "audio", 64)
    assert (run.height, run.width) == (128, 64)
    assert run.this == run.settings.stages["student"] and run.this.teacher == "teacher"


def test_same_sections_same_bytes(tmp_path):
    """Whatever the order of keys."""
    resolve(tmp_path / "a.json")
    resolve(tmp_path / "b.json", dict(reversed(SECTIONS.items())))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_without_companion(tmp_path):
    sections = {**SECTIONS, "method": {"companion": "none", "stages": {"visual": {"network": "dubbernet_visual"}}}, "companion": None}
    run = resolve(tmp_path / "config.json", sections, stage="visual")
    assert (run.companion, run.kind, run.bands) == ("none", "", 0)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ({"split": "7"}, {}, r"--split=7: not in datasets\.prid2011\.splits; known: 0, 1"),
        ({"stage": "studnet"}, {}, r"--stage=studnet: no stage of method dubbernet; did you mean 'student'\?"),
        ({}, {"companion": None}, "companion='audio', but no companion section was given"),
        (
            {},
            {"dataset": {"source": "prid2011", "splits": ["1"], "frame": {}}},
            r"config\.dataset\.frame: unknown setting; did you mean 'frames'",
        ),
        (
            {},
            {"method": {"stages": {"student": {"network": "dubbernet_student", "task": "distill", "teacher": "master"}}}},
            "teacher='master': no such stage",
        ),
    ],
)
def test_refused(tmp_path, names, changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve(tmp_path / "config.json", {**SECTIONS, **changes}, **names)
    assert not (tmp_path / "config.json").exists()
