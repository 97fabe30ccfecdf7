"""Range checks and references between sections of the settings."""

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from pipeline.base import config
from pipeline.base.build import build, merge
from pipeline.base.config import Settings
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


def test_small_settings_are_sound():
    settings = build(Settings, SMALL)
    assert settings.methods["dubbernet"].model.width == 768
    assert settings.methods["dubbernet"].stages["teacher"].weights == {"identity": 1.0, "triplet": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": {"mars": {"voices": "comon_voice"}}}, "voices='comon_voice': no such entry in voices; did you mean 'common_voice'"),
        ({"datasets": {"Mars": {"source": "mars", "splits": ["x"]}}}, "the name 'Mars' must match"),
        ({"datasets": {"mars": {"splits": ["a-b"]}}}, "'a-b' must match"),
        ({"datasets": {"mars": {"shards": 0}}}, "shards=0: at least 1"),
        ({"companions": {"audio": {"voices": "x"}}}, "companions.audio.voices='x': no such entry"),
        ({"companions": {"none": {}}}, "not be 'none'"),
        ({"companions": {"audio": {"audio": {"window": 600}}}}, "n_fft=512: must be at least window=600"),
        ({"companions": {"audio": {"audio": {"high_hz": 9000}}}}, "need 0 <= low < high <= rate/2"),
        ({"methods": {"dubbernet": {"companion": "video"}}}, "companion='video': no such companion"),
        ({"methods": {"dubbernet": {"companion": "none"}}}, "stages.teacher.hears: the method's companion is 'none'"),
        ({"methods": {"dubbernet": {"stages": {"student": {"teacher": "student"}}}}}, "teacher='student': no such stage"),
        ({"methods": {"dubbernet": {"stages": {"student": {"teacher": ""}}}}}, "'distill' needs a teacher stage"),
        ({"methods": {"dubbernet": {"model": {"heads": 7}}}}, "heads=7: must divide width=768"),
        ({"methods": {"dubbernet": {"model": {"audio_tokens": 1}}}}, "audio_tokens=1: at least 2"),
        ({"methods": {"dubbernet": {"model": {"fusion_after_blocks": [11]}}}}, "11 is outside 0..10"),
        ({"methods": {"dubbernet": {"sampler": {"identities": 1}}}}, "identities=1: at least 2"),
        ({"methods": {"dubbernet": {"optim": {"lr": 0}}}}, "lr=0.0: must be positive"),
        ({"methods": {"dubbernet": {"distill": {"temperature": 0}}}}, "temperature=0.0: must be positive"),
        ({"experiments": [{"method": "duber", "dataset": "mars"}]}, r"experiments\[0\].method='duber': no such method"),
        ({"experiments": [{"method": "dubbernet", "dataset": "mars", "stages": ["studnt"]}]}, "did you mean 'student'"),
        ({"experiments": [{"method": "dubbernet", "dataset": "mars", "splits": ["0"]}]}, "'0' is not in datasets.mars.splits"),
        ({"experiments": [{"method": "dubbernet", "dataset": "mars", "seeds": []}]}, "seeds: name at least one"),
        ({"prepare": ["ilids"]}, "prepare: 'ilids' is no data set"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        build(Settings, merge(SMALL, change))


@pytest.mark.parametrize("cls", [c for c in vars(config).values() if is_dataclass(c)], ids=lambda c: c.__name__)
def test_settings_are_frozen_keyword_only_and_explained(cls):
    assert cls.__dataclass_params__.frozen and all(f.kw_only for f in fields(cls)) and get_type_hints(cls)
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
