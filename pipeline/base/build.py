"""Strict building of frozen settings classes from plain mappings, and the JSON schema of the same classes.

In:   mappings as YAML or JSON gives them.   Out: dataclass instances, or a ConfigError that names the key.
The dataclasses in `config.py` are the only home of defaults, units and range checks.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pipeline.base.errors import ConfigError, did_you_mean

T = TypeVar("T")


class _Shown(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return (
            super().repr_int(x, level) if x.bit_length() < 4096 else f"a whole number of {x.bit_length()} bits"
        )  # Python writes out no longer ones


_SHOWN = _Shown()
"""Values in errors: cut, because a few lines of YAML with anchors are a value that no memory holds when it is written out."""
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother = 3, 200, 200

_TEXT: dict[Any, Any] = {float: float, int: int, bool: {"true": True, "True": True, "false": False, "False": False}.__getitem__}
_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string"}


def build(cls: type[T], value: Any, where: str = "") -> T:
    """Make `cls` from a mapping; nested dataclasses, tuples and dicts are made likewise.

    Raises:
        ConfigError: a key is unknown (with the nearest known one), missing, of another type,
            or the class's own ``__post_init__`` refuses the value.
    """
    return _convert(cls, value, where or cls.__name__)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_class(kind, value, where)
    if kind is Any:
        return value
    if origin is typing.Literal:
        if isinstance(value, bool) and ("off", "on")[value] in arguments:
            value = ("off", "on")[value]  # YAML 1.1 reads a bare off as false
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[arguments.index(value)], bool):
            hint = did_you_mean(str(value), [str(a) for a in arguments])
            raise ConfigError(
                f"{where}={_SHOWN.repr(value)}: expected one of {', '.join(map(str, arguments))}{hint if 'mean' in hint else ''}"
            )
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ConfigError(f"{where}={_SHOWN.repr(value)}: expected a list")
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(arguments):
            raise ConfigError(f"{where}: expected {len(arguments)} entries, found {len(value)}")
        return tuple(_convert(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}={_SHOWN.repr(value)}: expected a mapping")
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    given = value
    # YAML 1.1 reads 1e-4 as text, and `snakemake --config` gives every nested value as text
    if (isinstance(value, str) and kind in _TEXT) or (kind is float and type(value) is int):
        try:
            value = _TEXT[kind](value)
        except OverflowError:  # a whole number beyond the largest float
            value = math.inf
        except (ValueError, KeyError):
            pass
    if kind is float and type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{where}={_SHOWN.repr(given)}: expected a finite number")
    if type(value) is not kind:
        raise ConfigError(f"{where}={_SHOWN.repr(value)}: expected {_PLAIN.get(kind, kind)}, found {type(value).__name__}")
    return value


def _build_class(cls: Any, value: Any, where: str) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}={_SHOWN.repr(value)}: expected a mapping of settings")
    kinds = _kinds(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            raise ConfigError(f"{where}.{key}: unknown setting{did_you_mean(str(key), fields)}")
    made = {key: _convert(kinds[key], item, f"{where}.{key}") for key, item in value.items()}
    for name, field in fields.items():
        if name not in made and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name}: missing; this setting has no default")
    try:
        return cls(**made)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    """Types of the fields of a class; working them out takes longer than all the rest."""
    return typing.get_type_hints(cls)


def plain(value: Any) -> Any:
    """The inverse of :func:`build`: dataclasses, tuples and dicts as JSON-ready values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mappings deeply, everything else replaced; neither is changed."""
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            out[key] = merge(out[key], value)
        else:
            out[key] = value
    return out


def lay_over(value: T, changes: Mapping[str, Any], where: str) -> T:
    """A settings object with `changes` laid over it, deeply; only the fields that they name are built anew.

    Raises:
        ConfigError: as :func:`build`.
    """
    cls: Any = type(value)
    fields = {name: getattr(value, name) for name in _kinds(cls)}
    made: T = build(cls, merge({name: plain(held) if name in changes else held for name, held in fields.items()}, changes), where)
    return made


def inherit(sections: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Mappings in which one may name another as its `base`: each laid over its base, and without that key.

    A null removes what the base has. Names that start with '_' are bases only: they are not among what is returned.

    Raises:
        ConfigError: a base that is not there, or bases that go round in a circle.
    """

    def depth(name: str) -> int:
        return 1 + depth(sections[name]["base"]) if isinstance(sections[name], Mapping) and "base" in sections[name] else 0

    def whole(name: str, path: tuple[str, ...]) -> Any:
        own = sections[name]
        if not isinstance(own, Mapping) or "base" not in own:
            return own
        base = own["base"]
        if not isinstance(base, str) or base not in sections:
            raise ConfigError(f"{where}.{name}.base={_SHOWN.repr(base)}: no such entry{did_you_mean(str(base), sections)}")
        if base in path:
            raise ConfigError(f"{where}.{name}.base={_SHOWN.repr(base)}: {' needs '.join((*path, base))}, a circle")
        beneath = whole(base, (*path, base))
        if not isinstance(beneath, Mapping):
            raise ConfigError(f"{where}.{base}={_SHOWN.repr(beneath)}: expected a mapping of settings, the base of {name}")
        return _without_nulls(merge(beneath, {key: value for key, value in own.items() if key != "base"}))

    out = {name: whole(name, (name,)) for name in sections if not str(name).startswith("_")}
    return dict(sorted(out.items(), key=lambda item: depth(item[0])))  # a fault of a base is found there, not in what it is under


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(item) for key, item in value.items() if item is not None}


def schema(cls: type) -> dict[str, Any]:
    """The JSON schema of a settings class, with docstrings as descriptions."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__, **_schema(cls)}


def _schema(kind: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        kinds = _kinds(kind)
        required = [
            f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        out: dict[str, Any] = {
            "type": "object",
            "description": (kind.__doc__ or "").strip().split("\n")[0],
            "additionalProperties": False,
            "properties": {f.name: _schema(kinds[f.name]) for f in dataclasses.fields(kind)},
        }
        return {**out, "required": required} if required else out
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if a is type(None) else _schema(a) for a in arguments]}
    if kind is Any:
        return {}
    return {"type": _PLAIN[kind]}
