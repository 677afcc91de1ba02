"""Nested mappings, as YAML and JSON give them, into typed dataclasses, and back.

An unknown key is refused with the nearest name, an ill-typed value with the expected type; both name the dotted path.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dnnlib.errors import UserError

T = TypeVar("T")

# YAML 1.1 reads "1e-4" (no dot) as a string; people write it all the time.
_MAX_SHOWN = 80  # characters of a wrong value
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")


def from_dict(cls: type[T], mapping: Mapping[str, Any], path: str = "") -> T:
    """Build the dataclass `cls` from a nested mapping; what is missing takes the default.

    Args:
        cls: a dataclass type; fields may be int, float, bool, str, Path, None, Literal, Optional and unions,
            tuple, list, dict[str, ...] and further dataclasses.
        mapping: what YAML or JSON gives.
        path: dotted name of `cls` within the whole configuration, for messages.

    Raises:
        UserError: a key is unknown (names the nearest), a value is ill-typed, a required key is missing, or a
            `__post_init__` refuses the section with a ValueError.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(
            f"{path or 'the configuration'} must be a section of keys and values, not {_shown(mapping)}"
        )
    hints = field_types(cls)  # type: ignore[arg-type]  # mypy: a type is not seen as hashable
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in hints:
            raise _unknown_key(_join(path, str(key)), str(key), hints, path)
        values[key] = _convert(hints[key], value, _join(path, key))
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if not field.init or field.name in values:
            continue
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(
                f"{_join(path, field.name)} is missing and has no default; give it a value"
            )
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{path or 'configuration'}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dataclass as plain dict, list and scalar values that YAML and JSON can hold; `from_dict` undoes it."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"to_dict wants an instance of a dataclass, not {config!r}")
    return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def flat(config: Any) -> dict[str, Any]:
    """A configuration (or nested mapping) by dotted keys: {"train.lr": 2e-4, ...}."""
    return _flat(config if isinstance(config, Mapping) else to_dict(config), "")


def _flat(mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return os.fspath(value) if isinstance(value, Path) else value


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _convert(expected: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type `expected`, or a UserError that names `path`."""
    origin = get_origin(expected)
    if expected is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(expected, value, path)
    if origin is Literal:
        return _convert_literal(expected, value, path)
    if expected in (tuple, list) or origin in (tuple, list):
        return _convert_sequence(expected, value, path)
    if expected is dict or origin in (dict, Mapping):
        return _convert_dict(expected, value, path)
    if isinstance(expected, type) and dataclasses.is_dataclass(expected):
        return value if isinstance(value, expected) else from_dict(expected, value, path)
    return _convert_scalar(expected, value, path)


def _convert_scalar(expected: Any, value: Any, path: str) -> Any:
    if expected in (None, type(None)):
        if value is None:
            return None
    elif expected is bool:
        if isinstance(value, bool):
            return value
    elif expected is int:
        number = _as_number(value)
        if number is not None and _finite(number, path) and number == int(number):
            return int(number)
    elif expected is float:
        number = _as_number(value)
        if number is not None and _finite(number, path):
            return float(number)
    elif expected is str:
        if isinstance(value, str):
            return value
    elif expected is Path:
        if isinstance(value, (str, Path)):
            return Path(value)
    else:
        raise TypeError(f"{path}: configuration fields of type {expected!r} are not supported")
    raise _ill_typed(path, expected, value)


def _finite(number: int | float, path: str) -> bool:
    """True; raises UserError for NaN, infinity and whole numbers beyond 64 bits."""
    if not (math.isfinite(number) if isinstance(number, float) else abs(number) < 2**63):
        raise UserError(f"{path} must be a finite number of at most 64 bits, not {number}")
    return True


def _as_number(value: Any) -> int | float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    # Only the exponent form: a quoted "12" is a string that someone meant to be a string.
    if isinstance(value, str) and "e" in value.lower() and _NUMBER.fullmatch(value):
        return float(value)
    return None


def _convert_union(expected: Any, value: Any, path: str) -> Any:
    options = get_args(expected)
    if value is None and type(None) in options:
        return None
    # The exact type first, so that `int | float` keeps an int and `str | float` keeps "1e-4".
    exact = [o for o in options if isinstance(o, type) and type(value) is o]
    sections = [o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)]
    if isinstance(value, Mapping) and len(sections) == 1:
        return from_dict(sections[0], value, path)
    for option in [*exact, *options]:
        try:
            return _convert(option, value, path)
        except UserError:
            continue
    raise _ill_typed(path, expected, value)


def _convert_literal(expected: Any, value: Any, path: str) -> Any:
    options = get_args(expected)
    for option in options:
        if type(option) is type(value) and option == value:
            return option
    near = nearest(str(value), [str(o) for o in options])
    hint = f"; did you mean {near!r}?" if near else ""
    raise UserError(
        f"{path} must be one of {', '.join(repr(o) for o in options)}, not {_shown(value)}{hint}"
    )


def _convert_sequence(expected: Any, value: Any, path: str) -> Any:
    container = get_origin(expected) or expected
    items = get_args(expected)
    if not isinstance(value, (list, tuple)):
        raise _ill_typed(path, expected, value)
    if container is tuple and items and items[-1] is not Ellipsis:
        if len(value) != len(items):
            raise UserError(f"{path} must be {_type_name(expected)}, not {_shown(value)}")
        return tuple(
            _convert(t, v, f"{path}[{i}]")
            for i, (t, v) in enumerate(zip(items, value, strict=True))
        )
    item = items[0] if items else Any
    return container(_convert(item, v, f"{path}[{i}]") for i, v in enumerate(value))


def _convert_dict(expected: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _ill_typed(path, expected, value)
    item = (get_args(expected) or (str, Any))[1]
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"{path} has the key {key!r}; keys must be text, put it in quotes")
    return {k: _convert(item, v, _join(path, k)) for k, v in value.items()}


def _unknown_key(dotted: str, key: str, hints: Mapping[str, Any], path: str) -> UserError:
    near = nearest(key, list(hints))
    if near:
        return UserError(f"{dotted} is not a known key; did you mean {_join(path, near)}?")
    known = ", ".join(sorted(hints))
    return UserError(f"{dotted} is not a known key; {path or 'the configuration'} has {known}")


def _ill_typed(path: str, expected: Any, value: Any) -> UserError:
    return UserError(f"{path} must be {_type_name(expected)}, not {_shown(value)}")


_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
}


def _shown(value: Any) -> str:
    """A value as its author wrote it, or what it is where that would be long."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def nearest(name: str, names: list[str]) -> str | None:
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return found[0] if found else None


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _type_name(expected: Any) -> str:
    if expected in (None, type(None)):
        return "null"
    origin = get_origin(expected)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(o) for o in get_args(expected))
    if origin is Literal:
        return " or ".join(repr(option) for option in get_args(expected))
    if origin in (tuple, list):
        items = [_type_name(o) for o in get_args(expected) if o is not Ellipsis]
        each = dict.fromkeys(items)
        if origin is tuple and Ellipsis not in get_args(expected) and items:
            return f"a list of {len(items)} values ({', '.join(items)})"
        return f"a list, each {' or '.join(each)}" if each else "a list"
    if expected in (dict, list, tuple) or origin is dict:
        return "a section of keys and values" if expected not in (list, tuple) else "a list"
    return _NAMES.get(expected, "a section of keys and values")
