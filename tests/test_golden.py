"""Every golden fact of specs/dubbernet.md section 11 has a test whose name starts with its id: `test_<id>_...` (P for 11.1).

Names are read from the source, so this also holds where a test is skipped for want of real data or of a GPU.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

FACTS = ("p", *(f"{part}{n}" for part, last in (("s", 10), ("l", 5), ("d", 4), ("e", 4), ("a", 2)) for n in range(1, last + 1)))
ID = re.compile(r"test_(p|[sldea]\d+)_.")


def functions(source: str) -> Iterator[str]:
    """Names of the test functions that pytest finds in a file: of the module and of its classes."""
    for node in ast.parse(source).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef) and inner.name.startswith("test_"):
                yield inner.name


def covered(names: Iterable[str]) -> set[str]:
    """Ids that these names start with."""
    return {match[1] for name in names if (match := ID.match(name))}


def names_of(tests: Path) -> list[str]:
    return [name for path in sorted(tests.rglob("test_*.py")) for name in functions(path.read_text())]


def test_every_golden_fact_has_a_test(repository):
    names = names_of(repository / "tests")
    assert len(names) > 300
    missing = sorted(set(FACTS) - covered(names), key=FACTS.index)
    assert not missing, f"no test is named after {', '.join(f'{fact.upper()} (test_{fact}_...)' for fact in missing)}"


def test_no_test_is_named_after_a_fact_that_is_not_there(repository):
    assert covered(names_of(repository / "tests")) <= set(FACTS)


@pytest.mark.real_data
def test_the_list_of_facts_is_that_of_the_specification(golden):
    """First column of the tables of sections 11.2 to 11.4; 11.1 is one table of counts, P."""
    spec = golden.parent / "specs" / "dubbernet.md"
    if not spec.is_file():
        pytest.skip(f"{spec} is not here (the specification is not part of the repository)")
    section = spec.read_text().split("\n## 11.")[1].split("\n### 11.2")[1].split("\n### 11.5")[0]
    assert tuple(found.lower() for found in re.findall(r"^\| ([A-Z]\d+) \|", section, re.MULTILINE)) == FACTS[1:]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def test_s1_grid(): ...", {"s1"}),
        ("def test_s10_one_frame(): ...", {"s10"}),  # and not S1
        ("class TestLosses:\n    def test_l4_kl(self): ...", {"l4"}),
        ("def test_p_full_teacher(): ...\ndef test_a2_needs(): ...", {"p", "a2"}),
        ("def test_parameters(): ...", set()),
        ("def check_s2_shapes(): ...", set()),
        ("def helper():\n    def test_s2_shapes(): ...", set()),  # pytest does not find it
        ("# def test_s2_shapes(): ...\nTEXT = 'test_s2_shapes'", set()),
        ("def test_of_s2_shapes(): ...", set()),
        ("def test_s2(): ...", set()),  # says nothing but the id
    ],
)
def test_what_counts_as_a_test_of_a_fact(source, expected):
    assert covered(functions(source)) == expected


def test_a_missing_fact_is_found(repository):
    """Negative control: without the tests of one fact, that fact is missing."""
    names = names_of(repository / "tests")
    for fact in covered(names):
        assert fact not in covered(name for name in names if not name.startswith(f"test_{fact}_"))
