"""One training, resolved: its settings with the stage's changes, its companion, and its teacher's run inside."""

import json
from typing import Any

import pytest

from pipeline.base import cli
from pipeline.base.build import build, merge, plain
from pipeline.base.config import MachineConfig, RunConfig
from pipeline.base.errors import ConfigError
from pipeline.base.files import read_json
from pipeline.resolve_config import Sections, main, resolve

SECTIONS: dict[str, Any] = {
    "method": {
        "stages": {
            "visual": {"network": "dubbernet_visual", "companion": "none"},
            "teacher": {
                "network": "dubbernet_teacher",
                "hears": True,
                "start": "visual",
                "companion": "audio",
                "evaluate": False,
            },
            "student": {
                "network": "dubbernet_student",
                "task": "distill",
                "teacher": "teacher",
                "epochs": 60,
                "changes": {"distill": {"mask": False}, "augment": {"erase": 0}},  # a bare `off` of YAML, as JSON
            },
            "pupil": {"network": "dubbernet_student", "task": "distill", "teacher": "student"},
        }
    },
    "dataset": {"source": "prid2011", "splits": ["0", "1"], "frames": {"height": 128, "width": 64}},
    "companions": {
        "audio": {"audio": {"bands": 64}},
        "shuffled": {"audio": {"bands": 64}, "alignment": {"policy": "shuffled"}},
        "strict": {"audio": {"bands": 64, "min_seconds": 2}},
        "quiet": {"audio": {"bands": 64}, "alignment": {"policy": "silence"}},
        "mel": {},
        "tokens": {"kind": "audio_tokens"},
        "more_tokens": {"kind": "audio_tokens", "tokens": {"tokens": 64}},
        "random_tokens": {"kind": "audio_tokens", "tokens": {"encoder": "random_frozen"}},
        "wide_tokens": {"kind": "audio_tokens", "tokens": {"encoder": "precomputed", "width": 1024}},
    },
}
NAMES: dict[str, Any] = {"method": "dubbernet", "dataset": "prid2011", "split": "1", "seed": 3}


def resolved(stage: str, changes: dict[str, Any] | None = None) -> RunConfig:
    """The run of a stage, `changes` laid over SECTIONS."""
    sections = cli.load(Sections, json.dumps(merge(SECTIONS, changes or {})))
    return resolve(sections, **NAMES, stage=stage)


def stages(**changes: Any) -> dict[str, Any]:
    return {"method": {"stages": changes}}


def step(out, sections=SECTIONS, **names):
    options = [f"--{name}={value}" for name, value in {**NAMES, "stage": "student", **names}.items()]
    main([str(out), *options, f"--config={json.dumps(sections)}"])
    return build(RunConfig, read_json(out))


def test_everything_a_stage_needs():
    run = resolved("student")
    assert (run.method, run.dataset, run.split, run.seed, run.stage) == ("dubbernet", "prid2011", "1", 3, "student")
    assert (run.companion, run.kind, run.bands, run.item_frames) == ("audio", "audio", 64, 500)
    assert (run.height, run.width) == (128, 64)
    assert run.this == run.settings.stages["student"] and run.this.teacher == "teacher"


def test_changes_are_in_the_settings_of_their_stage_and_not_in_its_teachers():
    run = resolved("student")
    assert run.teacher is not None
    assert (run.settings.distill.mask, run.settings.augment.erase) == ("off", 0.0)
    assert (run.teacher.settings.distill.mask, run.teacher.settings.augment.erase) == ("normalized", 0.5)
    run = resolved("student", stages(teacher={"changes": {"model": {"injection": "add"}}}))
    assert run.teacher is not None
    assert (run.settings.model.injection, run.teacher.settings.model.injection) == ("attention", "add")


def test_the_teachers_run_stands_inside_as_it_was_resolved_for_itself():
    run = resolved("pupil")
    assert run.teacher == resolved("student")
    assert run.teacher is not None and run.teacher.teacher == resolved("teacher")
    assert resolved("teacher").teacher is None  # a stage to start from is no teacher
    assert [r.companion for r in (run, run.teacher, resolved("teacher"), resolved("visual"))] == ["audio", "audio", "audio", "none"]


def test_config_json_gives_the_run_back(tmp_path):
    """Every stage, through the file; with the teachers nested in it, each with settings of its own."""
    for stage in SECTIONS["method"]["stages"]:
        assert step(tmp_path / "config.json", stage=stage) == resolved(stage)
    found = read_json(tmp_path / "config.json")
    assert found == plain(resolved("pupil"))
    assert found["teacher"]["settings"]["distill"]["mask"] == "off"
    assert found["teacher"]["teacher"]["teacher"] is None


def test_same_sections_same_bytes(tmp_path):
    """Whatever the order of keys."""
    step(tmp_path / "a.json")
    turned = {**SECTIONS, "companions": dict(reversed(SECTIONS["companions"].items()))}
    step(tmp_path / "b.json", dict(reversed(turned.items())))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_companion_of_the_evaluation():
    assert resolved("teacher", stages(teacher={"test_companion": "quiet"})).test_companion == "quiet"
    assert resolved("student").test_companion == "audio"
    assert resolved("visual").test_companion == "none"


@pytest.mark.parametrize(
    ("companion", "kind", "bands", "item_frames"),
    [
        ("audio", "audio", 64, 500),
        ("mel", "audio", 80, 500),
        ("tokens", "audio_tokens", 768, 16),
        ("more_tokens", "audio_tokens", 768, 64),
        ("wide_tokens", "audio_tokens", 1024, 16),
        ("none", "", 0, 0),
    ],
)
def test_what_a_batch_holds_of_each_item(companion, kind, bands, item_frames):
    run = resolved("teacher", stages(teacher={"companion": companion, "hears": companion != "none"}))
    assert (run.companion, run.kind, run.bands, run.item_frames) == (companion, kind, bands, item_frames)


def test_log_mel_has_as_many_frames_as_this_stage_looks_at_and_tokens_are_all_taken():
    shorter = {"model": {"audio_frames": 200}}
    assert resolved("teacher", {"method": shorter}).item_frames == 200
    assert resolved("teacher", stages(teacher={"changes": shorter})).item_frames == 200
    assert resolved("teacher", stages(teacher={"changes": shorter, "companion": "tokens"})).item_frames == 16
    everything = {"companions": {"tokens": {"tokens": {"tokens": 0}}}}
    assert resolved("teacher", {**everything, **stages(teacher={"companion": "tokens"})}).item_frames == 501


def test_without_companion(tmp_path):
    sections = {**SECTIONS, "method": {"companion": "none", "stages": {"visual": {"network": "dubbernet_visual"}}}, "companions": {}}
    run = step(tmp_path / "config.json", sections, stage="visual")
    assert (run.companion, run.test_companion, run.kind, run.bands, run.item_frames, run.teacher) == ("none", "none", "", 0, 0, None)


@pytest.mark.parametrize(
    ("companion", "other", "message"),
    [
        (
            "none",
            "audio",
            r"stages\.student of dubbernet: its batches carry the companion 'none', .* 'audio' \(kind none instead of audio\); ",
        ),
        ("tokens", "audio", r"'tokens', but its teacher teacher was trained to hear 'audio' \(kind audio_tokens instead of audio\); leave"),
        ("mel", "audio", r"\(bands 80 instead of 64\)"),
        ("more_tokens", "tokens", r"\(item_frames 64 instead of 16, tokens 64 instead of 16\)"),
        ("wide_tokens", "tokens", r"\(encoder precomputed instead of logmel_stub, width 1024 instead of 768\)"),
        ("random_tokens", "tokens", r"\(encoder random_frozen instead of logmel_stub\)"),  # of the same size, and yet another language
        ("shuffled", "audio", ""),  # who is heard is another: a control
        ("strict", "audio", ""),  # other clips are quarantined
    ],
)
def test_a_teacher_that_hears_gets_the_medium_it_was_trained_on(companion, other, message):
    own = stages(student={"companion": companion}, teacher={"companion": other})
    deaf = stages(teacher={"hears": False})
    if message:
        with pytest.raises(ConfigError, match=message) as caught:
            resolved("student", own)
        assert "\n" not in str(caught.value)
        assert resolved("student", merge(own, deaf)).companion == companion  # nobody hears it
    else:
        assert resolved("student", own).companion == companion


def test_a_teacher_that_hears_gets_items_of_the_length_it_was_trained_on():
    with pytest.raises(ConfigError, match=r"\(item_frames 200 instead of 500\); .* changes of model\.audio_frames"):
        resolved("student", stages(student={"changes": {"model": {"audio_frames": 200}}}))


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ({"split": "7"}, {}, r"--split=7: not in datasets\.prid2011\.splits; known: 0, 1"),
        ({"stage": "studnet"}, {}, r"--stage=studnet: no stage of method dubbernet; did you mean 'student'\?"),
        ({}, {"companions": {}}, "stage student of dubbernet needs the companion 'audio', which was not given$"),
        ({}, {"companions": {"audo": {}}}, r"needs the companion 'audio', which was not given; did you mean 'audo'\?"),
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
        (
            {},
            {"method": merge(SECTIONS["method"], {"stages": {"student": {"changes": {"distill": {"mask": "of"}}}}})},
            r"stages\.student\.changes\.distill\.mask='of': expected one of .*; did you mean 'off'",
        ),
        (
            {},
            {"method": merge(SECTIONS["method"], {"stages": {"teacher": {"changes": {"modl": {}}}}})},
            r"stages\.teacher\.changes\.modl: unknown setting; did you mean 'model'",
        ),
    ],
)
def test_refused(tmp_path, names, changes, message):
    with pytest.raises(ConfigError, match=message):
        step(tmp_path / "config.json", {**SECTIONS, **changes}, **names)
    assert not (tmp_path / "config.json").exists()


def test_a_stage_is_evaluated_on_the_medium_that_it_was_trained_on():
    """Another policy may be heard at test; another encoder may not: the network could not read it."""
    run = resolved("teacher", stages(teacher={"test_companion": "quiet"}))
    assert (run.companion, run.test_companion) == ("audio", "quiet")
    for other, sentence in (("mel", "bands 80 instead of 64"), ("tokens", "kind audio_tokens instead of audio")):
        with pytest.raises(ConfigError, match=rf"test_companion '{other}' is another medium \({sentence}\)"):
            resolved("teacher", stages(teacher={"test_companion": other}))
    with pytest.raises(ConfigError, match="needs the companion 'elsewhere', which was not given"):
        resolved("teacher", stages(teacher={"test_companion": "elsewhere"}))


def test_who_hears_and_is_evaluated_must_have_something_to_hear_there():
    """Found before anything is trained."""
    with pytest.raises(ConfigError, match="under the companion 'audio' test tracklets have no sound; set evaluate: false"):
        resolved("teacher", stages(teacher={"evaluate": True}))
    assert resolved("teacher", stages(teacher={"evaluate": True, "test_companion": "quiet"})).this.evaluate


def test_what_no_loss_reads_does_not_train_a_stage_again():
    other = {"method": {"distill": {"mask_target": 0.5}}}
    assert resolved("teacher", other) == resolved("teacher") and resolved("visual", other) == resolved("visual")
    assert resolved("student", other) != resolved("student")


def test_machines_are_not_in_the_file(tmp_path):
    """Neither the method's, nor a stage's, nor its teacher's: equal trainings have equal files, wherever they run."""
    machine = {"workers": 7, "ranks": 4, "tensorboard": "off"}
    elsewhere = merge(SECTIONS, {"method": {"machine": machine, "stages": {"teacher": {"changes": {"machine": {"nodes": 3}}}}}})
    plainly, moved = (step(tmp_path / f"{name}.json", sections) for name, sections in (("a", SECTIONS), ("b", elsewhere)))
    assert plainly == moved and moved.teacher is not None and moved.settings.machine == MachineConfig()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    step(tmp_path / "c.json", merge(SECTIONS, {"method": {"optim": {"lr": 0.5}}}))  # what decides is there
    assert (tmp_path / "c.json").read_bytes() != (tmp_path / "a.json").read_bytes()
