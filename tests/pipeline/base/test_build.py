"""Strict building of settings: what is refused, and how it is said; settings laid over others."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from pipeline.base.build import build, inherit, lay_over, merge, plain, schema
from pipeline.base.config import ClipConfig
from pipeline.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """An inner one.

    More of it."""

    bands: int = 64
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.bands < 1:
            raise ConfigError(f"bands={self.bands}: at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str
    mode: Literal["a", "b", 3] = "a"
    inner: Inner = field(default_factory=Inner)
    many: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "x")
    table: dict[str, Inner] = field(default_factory=dict)
    maybe: Inner | None = None
    on: bool = False
    switch: Literal["off", "on", "auto"] = "auto"
    free: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pupil:
    name: str
    teacher: Pupil | None = None


FULL = {
    "name": "n",
    "mode": 3,
    "inner": {"bands": 2, "rate": 0.5},
    "many": [1, 2],
    "pair": [2, "y"],
    "table": {"t": {"bands": 3, "rate": 2.0}},
    "maybe": None,
    "on": True,
    "switch": "off",
    "free": {"a": {"b": [1, None, False]}, "c": "x"},
}


def test_every_kind_of_field():
    made = build(Outer, FULL)
    assert made.inner == Inner(bands=2, rate=0.5) and made.table == {"t": Inner(bands=3, rate=2.0)}
    assert (made.mode, made.many, made.pair, made.maybe, made.on) == (3, (1, 2), (2, "y"), None, True)


def test_plain_is_the_inverse():
    assert plain(build(Outer, FULL)) == FULL
    assert build(Outer, plain(build(Outer, {"name": "n"}))) == Outer(name="n")


def test_a_class_inside_itself():
    nested = {"name": "a", "teacher": {"name": "b", "teacher": {"name": "c", "teacher": None}}}
    made = build(Pupil, nested)
    assert made == Pupil(name="a", teacher=Pupil(name="b", teacher=Pupil(name="c")))
    assert plain(made) == nested
    with pytest.raises(ConfigError, match=r"Pupil\.teacher\.teacher\.nmae: unknown setting; did you mean 'name'"):
        build(Pupil, {"name": "a", "teacher": {"name": "b", "teacher": {"nmae": "c"}}})


def test_off_and_on_of_yaml_are_words_where_they_are_choices():
    """YAML 1.1 reads them as false and true; settings that are no such choice do not take them."""
    assert build(Outer, {"name": "n", "switch": False}).switch == "off"
    assert build(Outer, {"name": "n", "switch": True}).switch == "on"
    assert build(Outer, {"name": "n", "on": False}).on is False
    for setting in ("mode", "name"):
        with pytest.raises(ConfigError, match=f"{setting}=False: expected"):
            build(Outer, {"name": "n", setting: False})


def test_free_values_are_taken_as_they_are():
    assert build(Outer, {"name": "n", "free": {"off": False, "deep": {"x": "1e-4"}}}).free == {"off": False, "deep": {"x": "1e-4"}}
    with pytest.raises(ConfigError, match="free=3: expected a mapping"):
        build(Outer, {"name": "n", "free": 3})


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [("rate", 2, 2.0), ("rate", 0.5, 0.5), ("rate", "1e-4", 1e-4), ("bands", "12", 12), ("on", "True", True), ("on", "false", False)],
)
def test_numbers_and_text_that_says_a_number(name, given, made):
    """YAML 1.1 reads 1e-4 as text, and `snakemake --config` gives every nested value as text."""
    found = build(Outer, {"name": "n", "on": given}).on if name == "on" else getattr(build(Inner, {name: given}), name)
    assert found == made and type(found) is type(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": 1}, r"Outer\.nmae: unknown setting; did you mean 'name'\?"),
        ({"inner": {"bandz": 1}}, r"Outer\.inner\.bandz: unknown setting; did you mean 'bands'\?"),
        ({"table": {"t": {"bands": "x"}}}, r"Outer\.table\.t\.bands='x': expected integer, found str"),
        ({"inner": {"bands": 0}}, r"Outer\.inner: bands=0: at least 1"),
        ({"inner": {"bands": True}}, r"Outer\.inner\.bands=True: expected integer, found bool"),
        ({"inner": {"rate": "fast"}}, r"Outer\.inner\.rate='fast': expected number, found str"),
        ({"inner": 3}, r"Outer\.inner=3: expected a mapping of settings"),
        ({"mode": "c"}, r"Outer\.mode='c': expected one of a, b, 3"),
        ({"mode": []}, r"Outer\.mode=\[\]: expected one of a, b, 3"),
        ({"many": "12"}, r"Outer\.many='12': expected a list"),
        ({"many": [1, "2x"]}, r"Outer\.many\[1\]='2x': expected integer"),
        ({"pair": [1]}, r"Outer\.pair: expected 2 entries, found 1"),
        ({"table": []}, r"Outer\.table=\[\]: expected a mapping"),
        ({"on": 1}, r"Outer\.on=1: expected boolean, found int"),
        ({"on": "yes"}, r"Outer\.on='yes': expected boolean, found str"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        build(Outer, {"name": "n", **change})


def test_missing_and_where():
    with pytest.raises(ConfigError, match=r"methods\.x\.name: missing; this setting has no default"):
        build(Outer, {}, "methods.x")


def test_merge_is_deep_and_changes_nothing():
    low, over = {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": {"z": 1}}, {"a": {"y": 3}, "b": [9], "c": 5}
    assert merge(low, over) == {"a": {"x": 1, "y": 3}, "b": [9], "c": 5}
    assert low == {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": {"z": 1}} and over == {"a": {"y": 3}, "b": [9], "c": 5}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "other"},
        {"inner": {"rate": 2}},
        {"table": {"t": {"bands": 4}, "new": {}}},
        {"maybe": {"bands": 5}},
        {"free": {"a": {"d": 1}}},
    ],
)
def test_laid_over_is_the_whole_built_anew(changes):
    value = build(Outer, FULL)
    assert lay_over(value, changes, "here") == build(Outer, merge(plain(value), changes)) and value == build(Outer, FULL)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nam": "x"}, r"here\.nam: unknown setting; did you mean 'name'"),
        ({"inner": {"bands": 0}}, r"here\.inner: bands=0: at least 1"),
        ({"many": 3}, r"here\.many=3: expected a list"),
    ],
)
def test_what_is_laid_over_is_checked(changes, said):
    with pytest.raises(ConfigError, match=said):
        lay_over(build(Outer, FULL), changes, "here")


SECTIONS: dict[str, Any] = {
    "first": {"model": {"width": 8, "depth": 2}, "stages": {"teacher": {"epochs": 9}, "student": {"epochs": 5}}},
    "second": {"base": "first", "model": {"depth": 3}, "stages": {"student": {"epochs": 6}}},
    "third": {"base": "second", "model": {"width": 16}, "stages": {"student": None}},
}


def test_a_base_lies_beneath_whoever_names_it():
    made = inherit(SECTIONS, "methods")
    assert made == {
        "first": SECTIONS["first"],
        "second": {"model": {"width": 8, "depth": 3}, "stages": {"teacher": {"epochs": 9}, "student": {"epochs": 6}}},
        "third": {"model": {"width": 16, "depth": 3}, "stages": {"teacher": {"epochs": 9}}},  # a null removes what the base has
    }


def test_inherit_changes_nothing_and_does_not_depend_on_order():
    kept = copy.deepcopy(SECTIONS)
    assert inherit(dict(reversed(SECTIONS.items())), "methods") == inherit(SECTIONS, "methods")
    assert kept == SECTIONS


def test_names_with_an_underscore_are_bases_only():
    made = inherit({"_hidden": {"a": 1}, "shown": {"base": "_hidden", "b": 2}}, "methods")
    assert made == {"shown": {"a": 1, "b": 2}}


def test_what_names_no_base_stays_as_it_is():
    """Whatever is wrong with it is said by `build`."""
    assert inherit({"a": 3, "b": None, "c": {"d": None}}, "methods") == {"a": 3, "b": None, "c": {"d": None}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"first": {}, "x": {"base": "frist"}}, r"methods\.x\.base='frist': no such entry; did you mean 'first'\?"),
        ({"x": {"base": "x"}}, r"methods\.x\.base='x': x needs x, a circle"),
        ({"a": {"base": "b"}, "b": {"base": "c"}, "c": {"base": "a"}}, r"methods\.c\.base='a': a needs b needs c needs a, a circle"),
        ({"a": {"base": "b"}, "b": {"base": "c"}, "c": {"base": "b"}}, "a needs b needs c needs b, a circle"),
    ],
)
def test_bases_that_are_not_there_or_go_round(sections, message):
    with pytest.raises(ConfigError, match=message):
        inherit(sections, "methods")


def test_schema():
    made = schema(Outer)
    assert made["required"] == ["name"] and made["additionalProperties"] is False
    assert made["properties"]["inner"]["description"] == "An inner one."
    assert made["properties"]["mode"] == {"enum": ["a", "b", 3]}
    assert made["properties"]["many"] == {"type": "array", "items": {"type": "integer"}}
    assert made["properties"]["maybe"]["anyOf"][1] == {"type": "null"}
    assert made["properties"]["free"] == {"type": "object", "additionalProperties": {}}


def test_a_value_that_nobody_could_print_is_cut():
    """Ten lines of YAML with anchors are a list of 10^9 words."""
    bomb: object = "word"
    for _ in range(9):
        bomb = [bomb] * 10
    with pytest.raises(ConfigError, match=r"expected a mapping") as error:
        build(ClipConfig, bomb, "clip")
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", float("nan"), 10**400, -(10**400), 1 << 40_000], ids=range(8))
def test_a_number_is_finite(value):
    with pytest.raises(ConfigError, match=r"^Inner.rate=.*: expected a finite number$") as caught:
        build(Inner, {"rate": value})
    assert len(str(caught.value)) < 200


def test_a_number_too_long_to_be_written_out_is_an_error_that_can_be_read():
    with pytest.raises(ConfigError, match=r"^Outer.name=a whole number of 40001 bits: expected string, found int$"):
        build(Outer, {"name": 1 << 40_000})


def test_whole_numbers_and_text_are_numbers():
    assert [build(Inner, {"rate": value}).rate for value in (10**300, "1e-4", -3)] == [1e300, 1e-4, -3.0]
