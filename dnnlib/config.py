"""Typed configuration: nested dataclasses hold the defaults, YAML files and `--set` hold what differs.

    @dataclass(frozen=True)
    class Optimiser:
        lr: float = 2e-4

    @dataclass(frozen=True)
    class Config:
        optimiser: Optimiser = field(default_factory=Optimiser)

    load_config(Config, "demo", ["optimiser.lr=1e-4"])   # configs/demo.yaml, then one change

Values are checked by `dnnlib.typed`. A YAML file may start from another one with `base: NAME`.
"""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml

from dnnlib.checks import also_reads
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.reading.files import check_file
from dnnlib.reading.text import kind_of, parse_yaml, read_yaml
from dnnlib.typed import field_types, from_dict, nearest, plain, to_dict

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"

T = TypeVar("T")

# Metadata of a field whose text is a path that is read: field(default="", metadata=READS). Compared with the outputs of
# the command that loads the configuration.
READS = {"reads": True}


def load_config(
    cls: type[T],
    preset_or_path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
) -> T:
    """The configuration of a preset (`demo` means configs/demo.yaml) or YAML file, changed by `--set` strings.

    Args:
        cls: root dataclass, the source of defaults.
        preset_or_path: name of a preset, or path of a YAML file.
        overrides: strings `section.key=value`, applied in order; values are read as YAML.
        base: what the preset changes, in place of the defaults.

    Raises:
        UserError: the preset does not exist (names the nearest), the YAML is broken, or see `from_dict`.
    """
    mapping = _read_with_bases(_find_preset(preset_or_path), ())
    return from_command_line(cls, _merge(base or {}, mapping), overrides)


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
    mapping = plain(config) if isinstance(config, Mapping) else to_dict(config)
    with atomic_write(path, "w") as file:
        yaml.safe_dump(mapping, file, sort_keys=False, allow_unicode=True, width=100)


def _override_value(cls: type | None, names: list[str], raw: str, text: str) -> Any:
    value = parse_yaml(raw, f"the value of --set {text}", "put it in quotes")
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
        expected = field_types(expected).get(name)
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
        return check_file(path, f"presets are {', '.join(preset_names())}")
    if text in preset_names():
        return CONFIG_DIR / f"{text}.yaml"
    near = nearest(text, preset_names())
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
    mapping = read_yaml(path)
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise UserError(f"{path} must hold sections of keys and values, not {kind_of(mapping)}")
    return mapping


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
