"""Fast form of the promise that nothing in a file runs code: a part of the corpus in this process, and every control."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain

import pytest

from tests.conftest import REPOSITORY
from tests.torture import code_rules, malicious_report, torture_code
from tests.torture.malicious import Attack, spring

STEP = 5
"""Every so many attacks of the corpus are run here; `make torture` runs all."""


def test_a_part_of_the_corpus_does_no_harm_and_ends_as_it_must(tmp_path):
    attacks = torture_code.corpus()
    assert len(attacks) > 250 and len({attack.name for attack in attacks}) == len(attacks)
    outcomes = torture_code.sprung(attacks[::STEP], tmp_path)
    assert {name: outcome for name, outcome in outcomes.items() if outcome} == {}


def test_names_in_a_report_stay_text(tmp_path):
    attacks = [attack for attack in malicious_report.attacks() if "a script" in attack.name or "voice" in attack.name]
    assert {name: outcome for name, outcome in torture_code.sprung(attacks, tmp_path).items() if outcome} == {}


@pytest.mark.parametrize("broken", [*torture_code.BROKEN, *torture_code.UNESCAPED], ids=lambda broken: broken.name)
def test_a_product_that_is_broken_on_purpose_is_noticed(broken, tmp_path):
    assert torture_code.caught(broken, tmp_path)


def test_what_does_harm_is_noticed(tmp_path):
    def writes(trap):
        (trap.outside / "new").write_text("x")

    def reads(trap):
        (trap.outside / "secret.txt").read_text()

    def starts(trap):
        subprocess.run(["true"], check=True)

    def fails(trap):
        raise KeyError("x")

    def strays(trap):
        (trap.root / "stray").write_text("x")

    for number, harm in enumerate((writes, reads, starts, strays)):
        assert spring(Attack("x", harm), tmp_path / str(number)).startswith("HARM")
    assert spring(Attack("x", fails), tmp_path / "fails") == "not typed: KeyError: 'x'"
    assert "expected: no" in spring(Attack("x", lambda trap: None, "no"), tmp_path / "ends")
    assert spring(Attack("x", lambda trap: None), tmp_path / "good") == ""


def test_our_code_does_nothing_of_what_is_forbidden(repository):
    files, wrong = code_rules.all_breaches(repository)
    assert files > 100 and wrong == []


@pytest.mark.parametrize("source", code_rules.PLANTED)
def test_what_is_forbidden_is_found(source):
    assert code_rules.breaches("planted.py", source)


@pytest.mark.parametrize("text", code_rules.PLANTED_RULES)
def test_what_is_forbidden_in_a_rule_is_found(text):
    assert code_rules.rule_breaches("planted.smk", text)


def test_every_exception_is_still_needed(repository, monkeypatch):
    found = {name: code_rules.EXCEPTIONS for name, _ in code_rules.EXCEPTIONS}
    monkeypatch.setattr(code_rules, "EXCEPTIONS", {})
    wrong = list(chain.from_iterable(code_rules.breaches(name, (repository / name).read_text()) for name in found))
    for name, what in found[next(iter(found))]:
        assert any(line.startswith(f"{name}:") and f" {what}: " in line for line in wrong), (name, what)


def test_settings_that_snakemake_would_run_are_refused(tmp_path):
    """Snakemake has run them by then: it reads --configfile before our first line (docs/reliability.md says so)."""
    config = tmp_path / "mine.yaml"
    config.write_text("__use_yte__: true\nseed: 1\n")
    given = ["--directory", str(tmp_path), "--configfile", str(config), "--cores", "1", "--dry-run", "--", "pack_demo"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "mine.yaml: has '__use_yte__'" in done.stderr + done.stdout


@pytest.mark.slow
def test_settings_made_of_commands_stay_text_in_a_real_run(tmp_path):
    figure = torture_code.shell(tmp_path, 0.1)
    assert figure.good(), figure
