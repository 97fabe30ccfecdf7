"""Malicious settings: YAML that is code, bombs, names that would reach a shell; read as Snakemake and the Snakefile read them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config
from snakemake_interface_common.exceptions import WorkflowError

from pipeline.base import cli
from pipeline.base.build import build, inherit, merge, plain
from pipeline.base.config import AudioConfig, Settings
from pipeline.base.errors import ConfigError
from tests.conftest import REPOSITORY
from tests.torture.malicious import Attack, Trap

LAYERS = ("default.yaml", "companions.yaml", "datasets/*.yaml", "methods/*.yaml", "ablations.yaml")


def shipped() -> dict[str, Any]:
    """The layers below --configfile, as workflow/rules/common.smk reads them."""
    config: dict[str, Any] = {}
    for layer in LAYERS:
        for file in sorted((REPOSITORY / "workflow/config").glob(layer)):
            config.update(merge(yaml.safe_load(file.read_text()), config))
    return config


SHIPPED = shipped()


def settings(path: Path) -> Settings:
    """What the Snakefile makes of `--configfile path`.

    Raises:
        ConfigError: as Snakemake or the Snakefile refuse it.
    """
    try:
        given = load_configfile(path)
    except WorkflowError as error:
        raise ConfigError(str(error)) from None
    config = copy.deepcopy(SHIPPED)
    update_config(config, given)
    config["methods"] = inherit(config["methods"], "config.methods")
    made = build(Settings, config, "config")
    plain(made)
    return made


def written(text: str) -> Callable[[Trap], None]:
    def run(trap: Trap) -> None:
        path = trap.inside / "mine.yaml"
        path.write_text(text.replace("{touch}", trap.touch).replace("{out}", str(trap.outside)))
        settings(path)

    return run


def given(text: str) -> Callable[[Trap], None]:
    """A section as a step gets it on its command line."""
    return lambda trap: cli.load(AudioConfig, text.replace("{touch}", trap.touch))


BOMB = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)])
"""Nine lines that are a list of 3 * 10^8 words when written out."""


def bomb(last: str) -> str:
    """The bomb where a setting is expected: below `x`, an entry without meaning in a place where everything is taken."""
    lines = [f"      a0: &a0 [{', '.join('x' * 9)}]"]
    lines += [f"      a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "methods:\n  visual:\n    stages: {student: {changes: {augment: {pad: 2}}}}\n    weights:\n" + "\n".join(lines) + f"\n{last}\n"


CALLS = {
    "object/apply": "!!python/object/apply:os.system ['{touch}']",
    "object/new": "!!python/object/new:os.system ['{touch}']",
    "object": "!!python/object:subprocess.Popen {args: '{touch}'}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "apply through a tuple": "!!python/tuple [!!python/object/apply:os.system ['{touch}']]",
}
NAMES = ("$(touch x)", "`touch x`", "a;b", "a b", "../a", "a/b", "-o", "{wildcards.x}", "a\nb", "<script>", "a'b", 'a"b', "", "Ä")


def attacks() -> Iterator[Attack]:
    for tag, value in CALLS.items():
        yield Attack(f"YAML: python/{tag}", written(f"roots: {{mars: {value}}}\n"), "not valid JSON or YAML|expected string|constructor")
    yield Attack("YAML: bomb for a root", written(f"{BOMB}\nroots: {{mars: *a8}}\n"), "unknown setting")
    yield Attack("YAML: bomb for weights", written(bomb("roots: {mars: *a8}")), r"weights\.a0=|expected (number|string)")
    yield Attack("YAML: bomb for a change", written(bomb("prepare: [*a8]")), r"weights\.a0=|expected (number|string)")
    yield Attack("YAML: a list that holds itself", written("roots: {mars: &r [*r]}\n"), "expected string")
    yield Attack("YAML: circle of bases", written("methods: {a: {base: b}, b: {base: a}}\n"), "a circle")
    yield Attack("YAML: a list", written("- 1\n"), "keys at top level")
    for name in NAMES:
        quoted = json.dumps(name)
        yield Attack(
            f"YAML: data set named {name!r}",
            written(f'{{"datasets": {{{quoted}: {{"source": "manifest", "splits": ["a"]}}}}}}'),
            "must match",
        )
        yield Attack(f"YAML: split named {name!r}", written(f'{{"datasets": {{"own": {{"splits": [{quoted}]}}}}}}'), "must match")
        yield Attack(f"YAML: method named {name!r}", written(f'{{"methods": {{{quoted}: {{"base": "dubbernet"}}}}}}'), "must match")
        yield Attack(f"YAML: companion named {name!r}", written(f'{{"companions": {{{quoted}: {{}}}}}}'), "must match")
    for name in ("source", "protocols"):
        value = '"$(touch x)"' if name == "source" else '["$(touch x)"]'
        yield Attack(f"YAML: {name} that is a command", written(f'{{"datasets": {{"own": {{"{name}": {value}}}}}}}'), "expected one of")
    yield Attack("YAML: shards that are a command", written('{"datasets": {"own": {"shards": "$(touch x)"}}}'), "expected integer")
    yield Attack("YAML: seed that is a command", written('{"seed": "0; touch x"}'), "expected integer")
    for table in ("../outside/train.tsv", "{out}/train.tsv", "a/../../train.tsv", "", "a\\u0000b"):
        yield Attack(f"YAML: table {table!r}", written(f'{{"voices": {{"common_voice": {{"table": "{table}"}}}}}}'), "below the root")
    yield Attack(
        "YAML: roots, weights and titles with commands in them, which are text",
        written(
            json.dumps(
                {
                    "roots": {"mars": "/x/$(touch y)/`touch z`/'\"{a}"},
                    "report": {"title": "<script>{x}</script>"},
                    "methods": {"dubbernet": {"pretrained": "/w/$(touch y).safetensors"}},
                }
            )
        ),
    )
    yield Attack("--config: nested", given("[" * 100_000 + "]" * 100_000), "not JSON")
    yield Attack("--config: a call", given("__import__('os').system('{touch}')"), "not JSON")
    yield Attack(
        "--config: text that is a number, and is not", given("{\"rate\": \"__import__('os').system('{touch}')\"}"), "expected integer"
    )
