"""Fields of a dataclass as command-line options, each declared once.

@dataclass(frozen=True, kw_only=True)
class View:
    yaw_deg: float = option("--yaw", default=0.0, type=Number(-180, 180), help="Degrees.")

@dnnlib.cli.command()
@gathered("view", View)                 # the command gets one argument `view`
def show(view: View) -> None: ...

@dnnlib.cli.command()
@options_of(View)                       # or a value of each field, for `from_options` and --set
@dnnlib.cli.set_option
def make(overrides: tuple[str, ...], **given: Any) -> None: ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from dnnlib.config import from_command_line

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_OPTION = "option"  # key of a field's metadata


def option(
    flag: str,
    *,
    default: Any = dataclasses.MISSING,
    metadata: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> Any:
    """A field with an option on the command line ("--yaw", or "-y --yaw"); without `default` the option must be given.

    metadata: further ones of the field. attributes: of `click.option`. A default of "" is an option not given.
    """
    declared = {"flag": flag, **attributes}
    return dataclasses.field(default=default, metadata={**(metadata or {}), _OPTION: declared})


def same_option(decorator: Callable[[F], F]) -> Any:
    """A field that a shared option of click fills, which other commands put on themselves."""
    return dataclasses.field(metadata={_OPTION: decorator})


def options_of(made: type) -> Callable[[F], F]:
    """Puts the options of a dataclass on a command, which gets each under the name of its field."""

    def put(function: F) -> F:
        for field in reversed(_fields(made)):
            function = _decorator(field)(function)
        return function

    return put


def gathered(name: str, made: type) -> Callable[[Any], Any]:
    """Puts the options of a dataclass on a command, which gets them as one argument `name`."""

    def put(function: Any) -> Any:
        @wraps(function)
        def command(**values: Any) -> Any:
            chosen = made(**{f.name: values.pop(f.name) for f in _fields(made)})
            return function(**{name: chosen}, **values)

        return options_of(made)(command)

    return put


def from_options(cls: type[T], values: Mapping[str, Any], overrides: Sequence[str]) -> T:
    """A dataclass from what `options_of` gave, changed by `--set` strings. See `from_command_line`."""
    given = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v is not None}
    return from_command_line(cls, given, overrides)


def _fields(made: type) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(made) if _OPTION in f.metadata]


def _decorator(field: dataclasses.Field[Any]) -> Callable[[F], F]:
    declared = field.metadata[_OPTION]
    if callable(declared):
        return declared
    attributes = dict(declared)
    flag = attributes.pop("flag")
    if field.default is dataclasses.MISSING:
        attributes["required"] = True
    elif field.default != "":
        attributes["default"] = field.default
    return click.option(*flag.split(), field.name, **attributes)
