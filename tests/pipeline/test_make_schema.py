"""The JSON schema of all settings: it says what the dataclasses say, and the copy in the repository is fresh."""

import json
from typing import Any

import jsonschema
import pytest

from pipeline.base.build import build, plain
from pipeline.base.config import Settings
from pipeline.make_schema import main

SMALL: dict[str, Any] = {
    "datasets": {"mars": {"source": "mars", "splits": ["official"]}},
    "methods": {"dubbernet": {"stages": {"teacher": {"network": "dubbernet_teacher", "hears": True}}}},
    "companions": {"audio": {"alignment": {"policy": "shuffled"}}},
    "voices": {"common_voice": {}},
}


@pytest.fixture(scope="module")
def schema(tmp_path_factory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("schema") / "config.schema.json"
    main([str(path)])
    return json.loads(path.read_text())


def test_is_itself_valid(schema):
    jsonschema.Draft202012Validator.check_schema(schema)


def test_repository_copy_is_fresh(repository, schema):
    committed = repository / "workflow" / "schemas" / "config.schema.json"
    assert json.loads(committed.read_text()) == schema, "stale: run `make schema` (python -m pipeline.make_schema)"


def test_schema_and_dataclasses_accept_the_same(schema):
    jsonschema.validate(SMALL, schema)
    jsonschema.validate(plain(build(Settings, SMALL)), schema)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("datasets", {"mars": {"splits": ["official"]}}),  # the source is missing
        ("datasets", {"mars": {"source": "msmt", "splits": ["official"]}}),  # no such source
        ("companions", {"audio": {"audio": {"bandz": 64}}}),  # unknown
        ("methods", {"dubbernet": {"stages": {"a": {"network": "n", "epochs": "many"}}}}),  # type
    ],
)
def test_schema_refuses_what_the_dataclasses_refuse(schema, section, change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**SMALL, section: change}, schema)
