"""What the rules pass to a step of its settings: all that decides its verdicts, and nothing that another step is made again for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base.build import build, plain
from pipeline.base.config import AudioConfig, CompanionConfig
from pipeline.features import audio
from tests.conftest import REPOSITORY

OWN = AudioConfig(table_tolerance=0.25, silence_dbfs=-10.0, min_seconds=0.05, n_fft=2048, window=2048, bands=20)
"""Every setting that a verdict depends on, in another way than the default; the clip must be longer than half an n_fft."""
CLIPS = [(seconds, level, 2.0, listed) for seconds in (0.04, 0.055, 0.07, 1.74, 1.8, 1.98) for level in (-15.0, -5.0) for listed in (0, 1)]
CLIPS += [(seconds, level, seconds, True) for seconds, level, _, _ in CLIPS]


def rule_function(name: str, companion: CompanionConfig) -> Callable[[str], str]:
    """A function of workflow/rules/common.smk, where there is one companion."""
    text = (REPOSITORY / "workflow/rules/common.smk").read_text()
    found = re.search(rf"^def {name}\(.*?(?=\n\n\n)", text, re.MULTILINE | re.DOTALL)
    assert found
    settings = SimpleNamespace(companions={"own": companion})
    names: dict[str, Any] = {"json": json, "plain": plain, "Path": Path, "FROZEN": [], "SETTINGS": settings}
    exec(found[0], names)
    return names[name]


def unlike(passed: str, own: AudioConfig) -> list[tuple[float, float, float, bool]]:
    """Clips on which `audio.judge` says another reason with what a rule passes than with the settings themselves."""
    step = build(CompanionConfig, json.loads(passed)).audio
    return [clip for clip in CLIPS if audio.judge(*clip[:3], step, bool(clip[3]))[0] != audio.judge(*clip[:3], own, bool(clip[3]))[0]]


def test_align_companion_is_told_every_setting_that_a_verdict_depends_on():
    passed = rule_function("probing", CompanionConfig(audio=OWN))("own")
    assert unlike(passed, OWN) == []
    whole = json.loads(passed)
    for name in ("table_tolerance", "silence_dbfs", "min_seconds"):  # the control: each of them left out is noticed
        less = {**whole, "audio": {key: value for key, value in whole["audio"].items() if key != name}}
        assert unlike(json.dumps(less), OWN), name


@pytest.mark.parametrize(("setting", "value", "probed", "encoded"), [("table_tolerance", 0.2, True, False), ("bands", 40, False, True)])
def test_a_setting_makes_the_step_anew_that_it_decides(setting, value, probed, encoded):
    one, other = (CompanionConfig(audio=audio) for audio in (AudioConfig(), replace(AudioConfig(), **{setting: value})))
    for name, changed in (("probing", probed), ("encoding", encoded)):
        assert (rule_function(name, one)("own") != rule_function(name, other)("own")) == changed
