"""A rule runs again when code behind its step changes: its digest covers every module of ours that the step imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pipeline.base import code
from tests.test_imports import PACKAGES, imports

ALWAYS = {f"pipeline/base/{name}.py" for name in ("files", "origin", "seal", "seeds", "tables")}
"""What `source_digest` adds to every rule."""

WORDS_ONLY = {f"pipeline/base/{name}.py" for name in ("batch", "build", "cli", "code", "config", "disk", "errors", "locks", "running")}
"""Lists of code reach a rule as the digest itself, settings reach a step as values in its params; the rest decides messages and who may write, not bytes."""

REFUSING_ONLY = {"shards/whole.py"}
"""Looks at the bytes of tars before a loader does, and lets them through or ends the step: what a step writes, it writes alike without it."""


def file_of(repository: Path, name: str) -> str | None:
    """Repository path of the module that an import names (`package.module` or `package.module.name`)."""
    for candidate in (name, name.rpartition(".")[0]):
        path = candidate.replace(".", "/")
        if candidate and (repository / f"{path}.py").is_file():
            return f"{path}.py"
    return None


def closure(repository: Path, module: str) -> set[str]:
    """Files of ours that running a module imports, itself included, and what a package's `__init__` brings where a name is taken from it."""
    found: set[str] = set()
    todo = [module.replace(".", "/") + ".py"]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        names = [name for name in imports(ast.walk(ast.parse((repository / path).read_text()))) if name.split(".")[0] in PACKAGES]
        packages = {name.rpartition(".")[0] for name in names if file_of(repository, name) is None}
        inits = [repository / package.replace(".", "/") / "__init__.py" for package in sorted(packages)]
        names += [
            name
            for init in inits
            if init.is_file()
            for name in imports(ast.walk(ast.parse(init.read_text())))
            if name.split(".")[0] in PACKAGES
        ]
        todo += [file for name in names if (file := file_of(repository, name))]
    return found


def rules(repository: Path) -> dict[str, tuple[str, list[str]]]:
    """Rule -> (module that it runs, what its digest covers)."""
    found = {}
    for file in sorted((repository / "workflow/rules").glob("*.smk")):
        for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", file.read_text(), re.MULTILINE | re.DOTALL):
            modules, digest = re.findall(r"python -m ([\w.]+)", text), re.search(r"source_digest\((.*?)\)", text, re.DOTALL)
            if modules and digest:  # the last: `fit` puts down its machine's settings first, which change no result
                listed = [path for group in re.findall(r"\*([A-Z]+)", digest[1]) for path in getattr(code, group)]
                found[name] = (modules[-1], re.findall(r'"([\w/.]+)"', digest[1]) + listed)
    return found


def uncovered(repository: Path, module: str, digest: list[str]) -> set[str]:
    needed = closure(repository, module) - ALWAYS - WORDS_ONLY - REFUSING_ONLY
    return {path for path in needed if not any(path == part or path.startswith(part + "/") for part in digest)}


def test_every_rule_is_looked_at(repository):
    assert len(rules(repository)) >= 15


@pytest.mark.parametrize("rule", sorted(rules(Path(__file__).resolve().parents[2])))
def test_a_rules_digest_covers_its_step(repository, rule):
    assert uncovered(repository, *rules(repository)[rule]) == set()


def test_what_a_training_notes_of_code_runs_it_again(repository):
    """Else `evaluate.trace --check` would ask for a run that changes nothing."""
    found = rules(repository)
    for rule, noted in (("fit", code.TRAINING), ("embed", code.EMBEDDING), ("score", code.SCORING)):
        assert set(noted) <= {*found[rule][1], *ALWAYS}
        assert all((repository / path).exists() for path in noted)


def test_a_missing_module_is_found(repository):
    module, digest = rules(repository)["pack_shard"]
    assert uncovered(repository, module, [part for part in digest if part != "shards/codec.py"]) == {"shards/codec.py"}


def test_what_only_refuses_gives_a_loader_nothing(repository):
    """Else it would belong into digests: only these names of it are used, and they return how much was read, where a tar lies, or cores."""
    tree = ast.parse((repository / "shards/loader.py").read_text())
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "shards.whole"]
    assert {alias.name for node in taken for alias in node.names} == {"Place", "check_tars", "own_share"}
    users = {
        str(path.relative_to(repository))
        for folder in PACKAGES
        for path in (repository / folder).rglob("*.py")
        if any(name.startswith("shards.whole") for name in imports(ast.walk(ast.parse(path.read_text()))))
    }
    assert users == {"shards/loader.py", "shards/verify.py"}
