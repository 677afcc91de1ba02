"""Typed configuration: nested dataclasses hold the defaults, YAML files and `--set` hold what differs.

    @dataclass(frozen=True)
    class Optimiser:
        lr: float = 2e-4

    @dataclass(frozen=True)
    class Config:
        optimiser: Optimiser = field(default_factory=Optimiser)

    load_config(Config, "demo", ["optimiser.lr=1e-4"])   # configs/demo.yaml, then one change

An unknown key is refused with the nearest name, an ill-typed value with the expected type; both name the dotted path.
A YAML file may start from another one with `base: NAME`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.params import also_reads

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"

T = TypeVar("T")

# Metadata of a field whose text is a path that is read: field(default="", metadata=READS). Compared with the outputs of
# the command that loads the configuration.
READS = {"reads": True}

# YAML 1.1 reads "1e-4" (no dot) as a string; people write it all the time.
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")


# ---- mapping -> dataclass ----------------------------------------------------------------------------------------


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
            f"{path or 'the configuration'} must be a section of keys and values, not {mapping!r}"
        )
    hints = _field_types(cls)  # type: ignore[arg-type]  # mypy: a type is not seen as hashable
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
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return os.fspath(value) if isinstance(value, Path) else value


@functools.cache
def _field_types(cls: type) -> dict[str, Any]:
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
    if expected is dict or origin is dict:
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
    near = _nearest(str(value), [str(o) for o in options])
    hint = f"; did you mean {near!r}?" if near else ""
    raise UserError(
        f"{path} must be one of {', '.join(repr(o) for o in options)}, not {value!r}{hint}"
    )


def _convert_sequence(expected: Any, value: Any, path: str) -> Any:
    container = get_origin(expected) or expected
    items = get_args(expected)
    if not isinstance(value, (list, tuple)):
        raise _ill_typed(path, expected, value)
    if container is tuple and items and items[-1] is not Ellipsis:
        if len(value) != len(items):
            raise UserError(
                f"{path} must have {len(items)} values ({_type_name(expected)}), not {value!r}"
            )
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


# ---- files and --set ---------------------------------------------------------------------------------------------


def load_config(
    cls: type[T], preset_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> T:
    """The configuration of a preset (`demo` means configs/demo.yaml) or YAML file, changed by `--set` strings.

    Args:
        cls: root dataclass, the source of defaults.
        preset_or_path: name of a preset, or path of a YAML file.
        overrides: strings `section.key=value`, applied in order; values are read as YAML.

    Raises:
        UserError: the preset does not exist (names the nearest), the YAML is broken, or see `from_dict`.
    """
    mapping = _read_with_bases(_find_preset(preset_or_path), ())
    return from_command_line(cls, mapping, overrides)


def read_config(cls: type[T], path: str | os.PathLike[str]) -> T:
    """What `save_yaml` wrote: the configuration of an earlier command, whose paths this one does not read.

    Raises:
        UserError: the file is missing or damaged, or see `from_dict`.
    """
    return from_dict(cls, _read_with_bases(Path(path), ()))


def from_command_line(cls: type[T], given: Mapping[str, Any], overrides: Sequence[str]) -> T:
    """`given` changed by `--set` strings; paths that it names are inputs of the running command.

    Raises:
        UserError: see `apply_overrides` and `from_dict`; or an output of the command is one of these inputs.
    """
    config = from_dict(cls, apply_overrides(given, overrides, cls))
    also_reads(*_paths_read(config))
    return config


def _paths_read(config: Any) -> Iterator[Path]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _paths_read(value)
        elif field.metadata.get("reads") and value:
            yield Path(value)


def preset_names() -> list[str]:
    """Names of the presets in `configs/`, sorted."""
    return sorted(p.stem for p in CONFIG_DIR.glob("*.yaml"))


def apply_overrides(
    mapping: Mapping[str, Any], overrides: Iterable[str], cls: type | None = None
) -> dict[str, Any]:
    """A copy of `mapping` with `a.b=value` strings written into it; values are read as YAML.

    With `cls` given, a value for a text field stays text (`data.path=2024` is a folder, not a number).

    Raises:
        UserError: a string has no `=` or no key, its value is broken YAML, or its key leads through a plain value.
    """
    result = _merge({}, mapping)
    for text in overrides:
        key, equals, raw = text.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not equals or not all(names):
            raise UserError(
                f"--set {text} is not of the form section.key=value; write for example --set train.lr=1e-4"
            )
        value = _override_value(cls, names, raw.strip(), text)
        change: dict[str, Any] = {names[-1]: value}
        for name in reversed(names[:-1]):
            change = {name: change}
        _check_sections(result, names, text)
        result = _merge(result, change)
    return result


def save_yaml(config: Any, path: str | os.PathLike[str]) -> None:
    """Write a configuration dataclass or mapping as YAML, whole or not at all; `load_config` reads it back equal."""
    mapping = _plain(config) if isinstance(config, Mapping) else to_dict(config)
    with atomic_write(path, "w") as file:
        yaml.safe_dump(mapping, file, sort_keys=False, allow_unicode=True, width=100)


def _override_value(cls: type | None, names: list[str], raw: str, text: str) -> Any:
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not valid YAML; put it in quotes") from error
    expected = _type_at(cls, names) if cls is not None else None
    options = (
        get_args(expected) if get_origin(expected) in (Union, types.UnionType) else (expected,)
    )
    if str in options and not isinstance(value, str):
        if value is None and type(None) in options:
            return None
        if not any(type(value) is option for option in options):
            return raw
    return value


def _type_at(cls: type, names: list[str]) -> Any:
    expected: Any = cls
    for name in names:
        if not (isinstance(expected, type) and dataclasses.is_dataclass(expected)):
            return None
        expected = _field_types(expected).get(name)
    return expected


def _check_sections(mapping: Mapping[str, Any], names: list[str], text: str) -> None:
    place: Any = mapping
    for i, name in enumerate(names[:-1]):
        place = place.get(name, {})
        if not isinstance(place, Mapping):
            raise UserError(
                f"--set {text}: {'.'.join(names[: i + 1])} is a value ({place!r}), not a section"
            )


def _find_preset(preset_or_path: str | os.PathLike[str], relative_to: Path | None = None) -> Path:
    text = os.fspath(preset_or_path)
    if "/" in text or text.endswith((".yaml", ".yml")):
        path = (relative_to or Path()) / text
        if path.is_file():
            return path
        raise UserError(
            f"the configuration file {text} does not exist; presets are {', '.join(preset_names())}"
        )
    if text in preset_names():
        return CONFIG_DIR / f"{text}.yaml"
    near = _nearest(text, preset_names())
    hint = f"did you mean {near!r}? " if near else ""
    raise UserError(
        f"there is no preset {text!r}; {hint}presets are {', '.join(preset_names())}, or give a .yaml file"
    )


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise UserError(
            f"{path.name} is its own base through {' -> '.join(p.name for p in (*seen, path))}; remove one"
        )
    mapping = _read_yaml(path)
    base = mapping.pop("base", None)
    if base is None:
        return mapping
    if not isinstance(base, str):
        raise UserError(f"{path}: base must be the name of a preset or a YAML file, not {base!r}")
    return _merge(_read_with_bases(_find_preset(base, path.parent), (*seen, path)), mapping)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        mapping = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(
            f"{path}, line {line}: not valid YAML ({error.problem}); mend that line"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not a YAML text file; write keys and values in UTF-8"
        ) from error
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise UserError(
            f"{path} must hold sections of keys and values, not a {type(mapping).__name__}"
        )
    return mapping


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice in one section, where YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it, section by section; neither is modified."""
    result = {k: _merge({}, v) if isinstance(v, Mapping) else v for k, v in base.items()}
    for key, value in change.items():
        old = result.get(key)
        if isinstance(value, Mapping):
            result[key] = _merge(old if isinstance(old, Mapping) else {}, value)
        else:
            result[key] = value
    return result


# ---- messages ----------------------------------------------------------------------------------------------------


def _unknown_key(dotted: str, key: str, hints: Mapping[str, Any], path: str) -> UserError:
    near = _nearest(key, list(hints))
    if near:
        return UserError(f"{dotted} is not a known key; did you mean {_join(path, near)}?")
    known = ", ".join(sorted(hints))
    return UserError(f"{dotted} is not a known key; {path or 'the configuration'} has {known}")


def _ill_typed(path: str, expected: Any, value: Any) -> UserError:
    return UserError(
        f"{path} must be {_type_name(expected)}, not {value!r} ({type(value).__name__})"
    )


def _nearest(name: str, names: list[str]) -> str | None:
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
    if origin is None and isinstance(expected, type):
        return expected.__name__
    if origin in (tuple, list):
        items = ", ".join("..." if o is Ellipsis else _type_name(o) for o in get_args(expected))
        return f"{origin.__name__}[{items}]"
    return str(expected)
