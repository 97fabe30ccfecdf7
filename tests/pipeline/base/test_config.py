"""Range checks, references between sections, and what the stages of a method derive from each other."""

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from pipeline.base import config
from pipeline.base.build import build, merge, plain
from pipeline.base.config import ALL_TOKENS, CompanionConfig, DistillConfig, MethodConfig, Settings, TokensConfig
from pipeline.base.errors import ConfigError

SMALL: dict[str, Any] = {
    "datasets": {"mars": {"source": "mars", "splits": ["official"]}},
    "methods": {
        "dubbernet": {
            "stages": {
                "teacher": {"network": "dubbernet_teacher", "hears": True},
                "student": {"network": "dubbernet_student", "task": "distill", "teacher": "teacher"},
            }
        }
    },
    "companions": {"audio": {}},
    "voices": {"common_voice": {}},
}
ABLATION: dict[str, Any] = {
    "method": "dubbernet",
    "dataset": "mars",
    "question": "What does the teacher add?",
    "reference": "teacher",
    "rows": {"teacher": "alone", "student": "taught"},
}


def test_small_settings_are_sound():
    settings = build(Settings, SMALL)
    assert settings.methods["dubbernet"].model.width == 768
    assert settings.methods["dubbernet"].stages["teacher"].weights == {}
    assert build(Settings, merge(SMALL, {"ablations": {"a": ABLATION}})).ablations["a"].seeds == (0, 1, 2)


def method(**changes: Any) -> dict[str, Any]:
    return {"methods": {"dubbernet": changes}}


def stage(**changes: Any) -> dict[str, Any]:
    return method(stages={"student": changes})


def ablation(**changes: Any) -> dict[str, Any]:
    return {"ablations": {"a": {**ABLATION, **changes}}}


def with_targets(targets: list[str], frames: dict[str, int] | None = None, stages: list[str] | None = None) -> dict[str, Any]:
    other = {"source": "prid2011", "splits": ["0", "1"], "frames": frames or {}}
    experiment = {"method": "dubbernet", "dataset": "mars", "test_on": targets, "stages": stages or []}
    return {"datasets": {"other": other}, "experiments": [experiment]}


def test_what_may_be_with_targets():
    """Controls of the refusals below: other data of the same frame size, with folders of its own or none yet."""
    for roots in ({}, {"mars": "/a", "other": "/b"}, {"mars": "", "other": ""}):
        settings = build(Settings, merge(SMALL, with_targets(["other"]) | {"roots": roots}))
        assert settings.experiments[0].test_on == ("other",)
    assert build(Settings, merge(SMALL, with_targets([], stages=["teacher"]))).experiments[0].test_on == ()


def test_stages_that_only_see():
    """The names in HEARING are those whose networks say so themselves."""
    assert all(network in get_args(config.Network) for network in config.HEARING)
    stages = build(Settings, SMALL).methods["dubbernet"].stages
    assert {name: of.is_evaluated_seeing for name, of in stages.items()} == {"teacher": False, "student": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": {"mars": {"voices": "comon_voice"}}}, "voices='comon_voice': no such entry in voices; did you mean 'common_voice'"),
        ({"datasets": {"Mars": {"source": "mars", "splits": ["x"]}}}, "the name 'Mars' must match"),
        ({"datasets": {"mars": {"splits": ["a-b"]}}}, "'a-b' must match"),
        ({"datasets": {"mars": {"protocols": ["market", "market"]}}}, "protocols: names one twice; name each once"),
        ({"datasets": {"mars": {"shards": 0}}}, "shards=0: at least 1"),
        ({"companions": {"audio": {"voices": "x"}}}, "companions.audio.voices='x': no such entry"),
        ({"companions": {"none": {}}}, "not be 'none'"),
        ({"companions": {"audio": {"audio": {"window": 600}}}}, "n_fft=512: must be at least window=600"),
        ({"companions": {"audio": {"audio": {"high_hz": 9000}}}}, "need 0 <= low < high <= rate/2"),
        (method(companion="video"), "companion='video': no such companion"),
        (method(companion="none"), "stages.teacher.hears: its companion is 'none'"),
        (stage(companion="adio"), r"stages\.student\.companion='adio': no such companion; did you mean 'audio'\?"),
        (stage(test_companion="video"), r"methods\.dubbernet\.stages\.student\.test_companion='video': no such companion"),
        (method(stages={"teacher": {"companion": "none"}}), "stages.teacher.hears: its companion is 'none'"),
        (stage(teacher="techer"), r"stages\.student\.teacher='techer': no such stage; did you mean 'teacher'\?"),
        (stage(start="visual"), r"stages\.student\.start='visual': no such stage"),
        (stage(teacher=""), "'distill' needs a teacher stage"),
        (method(stages={"teacher": {"teacher": "student"}}), "'distill' needs a teacher stage, other tasks have none"),
        (stage(epochs=-1), "epochs=-1: 0 or more"),
        (method(main=["teacher", "pupil"]), "main: 'pupil' is no stage"),
        (method(model={"heads": 7}), "heads=7: must divide width=768"),
        (method(model={"audio_tokens": 1}), "audio_tokens=1: at least 2, because attention over one key gives the same vector"),
        (method(model={"audio_frames": 8}), "audio_frames=8: at least audio_tokens=16"),
        (method(model={"fusion_after_blocks": [11]}), "11 is outside 0..10"),
        (method(model={"fusion_after_blocks": [8, 4]}), "fusion_after_blocks: rising, no repeats"),
        (method(model={"audio_dropout": 1}), "audio_dropout=1.0: a chance in 0..1, below 1"),
        (method(sampler={"identities": 1}), "identities=1: at least 2"),
        (method(optim={"lr": 0}), "lr=0.0: must be positive"),
        (method(distill={"temperature": 0}), "temperature=0.0: must be positive"),
        (method(augment={"erase_level": 128}), r"augment\.erase_level=128: expected a list"),
        (method(augment={"erase_level": [128, 128]}), r"erase_level=\(128, 128\): red, green and blue"),
        (method(augment={"erase_level": [0, 0, 256]}), r"erase_level=\(0, 0, 256\): red, green and blue, 0..255 each"),
        (method(augment={"erase_aspect_draw": "unifrom"}), r"expected one of log, uniform; did you mean 'uniform'\?"),
        ({"experiments": [{"method": "duber", "dataset": "mars"}]}, r"experiments\[0\].method='duber': no such method"),
        ({"experiments": [{"method": "dubbernet", "dataset": "mars", "stages": ["studnt"]}]}, "did you mean 'student'"),
        ({"experiments": [{"method": "dubbernet", "dataset": "mars", "splits": ["0"]}]}, "'0' is not in datasets.mars.splits"),
        ({"experiments": [{"method": "dubbernet", "dataset": "mars", "seeds": []}]}, "seeds: name at least one"),
        (with_targets(["prid"]), r"experiments\[0\]\.test_on: 'prid' is no data set"),
        (
            with_targets(["mars"]),
            "'mars' is the data set that is trained on, and persons who train in one of its splits are tested in another",
        ),
        (with_targets(["other", "other"]), "names a data set twice"),
        (
            with_targets(["other"], frames={"height": 128}),
            r"other are stored as 128x128 .* set datasets\.other\.frames to \{height: 256, width: 128\}",
        ),
        (
            with_targets(["other"], stages=["teacher"]),
            r"test_on: none of the stages of dubbernet that are run is evaluated on frames alone",
        ),
        (with_targets(["other"], stages=["student"]) | stage(evaluate=False), "none of the stages of dubbernet"),
        (with_targets(["other"]) | {"roots": {"mars": "/d", "other": "/d"}}, r"roots\.other and roots\.mars are one folder \(/d\)"),
        ({"prepare": ["ilids"]}, "prepare: 'ilids' is no data set"),
        (ablation(method="duber"), r"ablations\.a\.method='duber': no such method"),
        (ablation(dataset="mrs"), r"ablations\.a\.dataset='mrs': no such data set; did you mean 'mars'\?"),
        (ablation(rows={"teacher": "", "studnt": ""}), r"ablations\.a: 'studnt' is no stage of dubbernet; did you mean 'student'\?"),
        (ablation(reference="studnt"), r"ablations\.a: reference='studnt': not in rows; did you mean 'student'\?"),
        (ablation(rows={"student": "taught"}), "reference='teacher': not in rows"),
        (ablation(rows={}), "reference='teacher': not in rows"),
        (ablation(splits=["0"]), r"ablations\.a\.splits: '0' is not in datasets\.mars\.splits"),
        (ablation(seeds=[]), r"ablations\.a: seeds: name at least one"),
        ({"ablations": {"a-b": ABLATION}}, "ablations: the name 'a-b' must match"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(Settings, merge(SMALL, change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["{}/data/", "{}/./data", "{}/other/../data", "{}/link", "~/data", "~/link"])
def test_one_folder_of_two_names_is_one_folder(tmp_path, monkeypatch, other):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("data")
    for mine, theirs in ((f"{tmp_path}/data", other.format(tmp_path)), (other.format(tmp_path), f"{tmp_path}/data")):
        with pytest.raises(ConfigError, match=r"roots\.other and roots\.mars are one folder"):
            build(Settings, merge(SMALL, with_targets(["other"]) | {"roots": {"mars": mine, "other": theirs}}))
    for apart in ("~/other", "/a\0b", "~nobody-of-this-name/data"):  # negative control
        build(Settings, merge(SMALL, with_targets(["other"]) | {"roots": {"mars": apart, "other": other.format(tmp_path)}}))


@pytest.mark.parametrize("cls", [c for c in vars(config).values() if is_dataclass(c)], ids=lambda c: c.__name__)
def test_settings_are_frozen_keyword_only_and_explained(cls):
    assert cls.__dataclass_params__.frozen and all(f.kw_only for f in fields(cls)) and get_type_hints(cls)
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")


# --- stages that build on each other ----------------------------------------------------------------------------------


def stages(**links: dict[str, Any]) -> MethodConfig:
    """Stages named by the keywords; one with a teacher distils."""
    return build(
        MethodConfig,
        {
            "stages": {
                name: {"network": "dubbernet_student", "task": "distill" if "teacher" in s else "identify", **s}
                for name, s in links.items()
            }
        },
    )


def test_a_stage_needs_its_teachers_and_starts_each_once():
    made = stages(
        other={},
        visual={},
        teacher={"start": "visual"},
        student={"teacher": "teacher", "start": "visual"},
        pupil={"teacher": "student"},
    )
    assert made.needed("visual") == ["visual"]
    assert made.needed("teacher") == ["teacher", "visual"]
    assert made.needed("student") == ["student", "teacher", "visual"]
    assert made.needed("pupil") == ["pupil", "student", "teacher", "visual"]  # whoever needs stands before what it needs


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ({"a": {"start": "a"}}, "a needs a, a circle"),
        ({"a": {"teacher": "a"}}, "a needs a, a circle"),
        ({"a": {"teacher": "b"}, "b": {"start": "c"}, "c": {"start": "a"}}, "a needs b needs c needs a, a circle"),
        ({"a": {"start": "b"}, "b": {"start": "c"}, "c": {"start": "b"}}, "a needs b needs c needs b, a circle"),
    ],
)
def test_stages_in_a_circle_are_refused(links, message):
    with pytest.raises(ConfigError, match=f"stages: {message}"):
        stages(**links)


def test_a_companion_is_the_stages_own_or_its_teachers_or_that_of_its_start_or_the_methods():
    made = stages(
        plain={},
        own={"companion": "silence"},
        taught={"teacher": "own"},
        started={"start": "own"},
        both={"teacher": "plain", "start": "own"},
        further={"teacher": "taught"},
        again={"teacher": "taught", "companion": "noise", "test_companion": "oracle"},
        deaf={"start": "own", "companion": "none"},
    )
    expected = {
        "plain": "audio",
        "own": "silence",
        "taught": "silence",
        "started": "silence",
        "both": "audio",  # the teacher comes first
        "further": "silence",
        "again": "noise",
        "deaf": "none",
    }
    assert {name: made.companion_of(name) for name in made.stages} == expected
    assert {name: made.test_companion_of(name) for name in made.stages} == {**expected, "again": "oracle"}


# --- changes of one stage ---------------------------------------------------------------------------------------------


def test_changes_are_laid_over_the_method_for_one_stage_alone():
    changes = {"distill": {"mask": "raw"}, "model": {"fusion_after_blocks": [2]}, "smoothing": "0.2"}
    made = stages(teacher={}, student={"teacher": "teacher", "changes": changes})
    changed = made.settings_of("student")
    assert (changed.distill.mask, changed.model.fusion_after_blocks, changed.smoothing) == ("raw", (2,), 0.2)
    assert (changed.distill.temperature, changed.model.width, changed.stages) == (4.0, 768, made.stages)
    assert made.settings_of("teacher") == made
    assert made.distill.mask == "normalized"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"maks": "off"}}, r"stages\.student\.changes\.distill\.maks: unknown setting; did you mean 'mask'\?"),
        ({"distil": {}}, r"stages\.student\.changes\.distil: unknown setting; did you mean 'distill'\?"),
        ({"distill": {"mask": "of"}}, r"stages\.student\.changes\.distill\.mask='of': expected one of .*; did you mean 'off'\?"),
        ({"distill": "off"}, r"stages\.student\.changes\.distill='off': expected a mapping"),
        ({"model": {"heads": 7}}, r"stages\.student\.changes\.model: heads=7: must divide width=768"),
        ({"smoothing": "much"}, r"stages\.student\.changes\.smoothing='much': expected number"),
        ({"stages": {}}, "changes: may hold any section of a method but 'stages' and 'companion'"),
        ({"companion": "audio"}, "changes: may hold any section of a method but 'stages' and 'companion'"),
        ({"validation": {"identities": 2}}, "changes.validation.identities: the same identities are held out in every stage"),
    ],
)
def test_changes_are_refused_with_their_path(changes, message):
    """Also those of a stage that no experiment names: before anything is trained."""
    with pytest.raises(ConfigError, match=message):
        build(Settings, merge(SMALL, stage(changes=changes)))


@pytest.mark.parametrize("setting", ["mask", "token", "logits"])
def test_a_bare_off_of_yaml_is_the_word(setting):
    """YAML 1.1 reads `off` as false."""
    text = yaml.safe_load(f"{setting}: off")
    assert text == {setting: False}
    assert getattr(build(DistillConfig, text), setting) == "off"
    made = build(Settings, merge(SMALL, stage(changes={"distill": text})))
    changed = made.methods["dubbernet"].settings_of("student")
    assert getattr(changed.distill, setting) == "off"
    assert build(MethodConfig, plain(changed)) == changed
    with pytest.raises(ConfigError, match=f"{setting}=True: expected one of"):
        build(DistillConfig, yaml.safe_load(f"{setting}: on"))


def test_off_is_no_word_of_other_settings():
    with pytest.raises(ConfigError, match="precision=False: expected one of auto, fp32, bf16"):
        build(Settings, merge(SMALL, method(precision=False)))


# --- tokens of a frozen encoder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"tokens": 1}, "tokens=1: at least 2 .*, because attention over one key gives the same vector for every patch"),
        ({"tokens": -1}, "tokens=-1: at least 2"),
        ({"tokens": 502}, "tokens=502: 'logmel_stub' gives 501 for a clip of 5 s"),
        ({"encoder": "wav2vec2_base", "tokens": 250}, "'wav2vec2_base' gives 249"),
        ({"encoder": "ast", "tokens": 1215}, "'ast' gives 1214"),
        ({"width": 512}, "width=512: 'logmel_stub' gives tokens of width 768"),
        ({"encoder": "precomputed", "width": 0}, "width=0: at least 1"),
        ({"encoder": "precomputed", "tokens": 0}, "tokens=0: say how many tokens the precomputed clips are averaged to"),
        ({"encoder": "precomputed", "tokens": 1}, "tokens=1: at least 2"),
        ({"encoder": "hubert"}, "did you mean 'hubert_base'"),
    ],
)
def test_tokens_that_no_encoder_gives_are_refused(tokens, message):
    with pytest.raises(ConfigError, match=message):
        build(CompanionConfig, {"kind": "audio_tokens", "tokens": tokens})


@pytest.mark.parametrize("encoder", sorted(ALL_TOKENS))
def test_tokens_from_two_to_all(encoder):
    everything = ALL_TOKENS[encoder]
    lengths = {L: build(TokensConfig, {"encoder": encoder, "tokens": L}).length for L in (2, 16, everything, 0)}
    assert lengths == {2: 2, 16: 16, everything: everything, 0: everything}


def test_bands_are_the_width_of_a_companion_frame():
    assert build(CompanionConfig, {}).bands == 80
    assert build(CompanionConfig, {"audio": {"bands": 64}}).bands == 64
    tokens = {"encoder": "precomputed", "width": 1024}
    assert build(CompanionConfig, {"kind": "audio_tokens", "audio": {"bands": 64}, "tokens": tokens}).bands == 1024


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"sampler": {"lanes": 2}}, "lanes=2: only with a window of shards"),
        ({"sampler": {"identities": 6, "lanes": 4, "window": 2}}, "lanes=4: must divide identities=6"),
        ({"optim": {"accumulate": 0}}, "accumulate=0: at least 1 batch"),
        ({"ema": 1.0}, "ema=1.0: a decay in 0..1, below 1"),
        ({"validation": {"identities": 1}}, "identities=1: 0, or at least 2"),
        ({"validation": {"keep": "best"}}, "keep=best: needs identities that are held out"),
        ({"machine": {"data": "stream"}}, "a stream cannot be read in any order; set sampler.window"),
        ({"machine": {"urls": "https://host/mars.tar"}}, r"must hold \{shard\}"),
        ({"machine": {"ranks": 0}}, "ranks=0: at least 1"),
        ({"machine": {"workers": -1}}, "workers=-1: 0 or more"),
        ({"machine": {"resident_share": 1.5}}, "resident_share=1.5: a part, above 0 and at most 1"),
        ({"workers": 2}, "workers"),
    ],
)
def test_settings_of_the_trainer_that_cannot_be(method, message):
    with pytest.raises(ConfigError, match=message):
        build(MethodConfig, {"stages": {}, **method})
