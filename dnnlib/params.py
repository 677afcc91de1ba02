"""Types of command-line parameters: paths that are read, places that are written, numbers that are numbers.

    @dnnlib.cli.command()
    @click.option("--network", required=True, type=InputFile("a checkpoint of train.py"))
    @click.option("--out", required=True, type=OutputFile(".json"))
    @click.option("--yaw", default=0.0, type=Number(-180, 180))

Declaring them is enough: before a `dnnlib.cli.command` runs, `dnnlib/checks.py` asks that every input is there, that
every output can be written, and that no output is an input. A test holds that no command takes a path in another way.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
from PIL import ImageColor

from dnnlib.errors import UserError, cut_short
from dnnlib.names import safe_name
from dnnlib.places import (
    ANYTHING,
    check_input,
    check_new_file,
    check_new_folder,
)

SEED_MAX = 2**32 - 1
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(?:https?|ftps?|rtmps?|rtsp|tcp|udp|file|data):")
_HEX_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3}){1,2}")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Path(click.ParamType):
    """A path of this machine."""

    def _path(self, text: Any, param: Any, ctx: Any) -> Path:
        text = str(text)
        if not text:
            self.fail("is empty; give a path", param, ctx)
        if CONTROL.search(text):
            self.fail(f"{text!r} holds a control character; give a path", param, ctx)
        if _ADDRESS.match(text):
            self.fail(f"{text} is an address; give a path of this machine", param, ctx)
        return Path(text)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return self._path(value, param, ctx)


# ---- what is read ------------------------------------------------------------------------------------------------


class InputPath(_Path):
    """A file or a folder that is read. `wanted` says what to give instead of a wrong one."""

    name = "path"
    kinds: tuple[str, ...] = ("file", "folder")

    def __init__(self, wanted: str = "a file or a folder") -> None:
        self.wanted = wanted

    def reads(self, value: Any) -> Iterator[Path]:
        """The paths in a converted value."""
        yield value

    def kinds_of(self, value: Any) -> tuple[str, ...]:
        """What those paths may be."""
        return self.kinds


class InputFile(InputPath):
    """A file that is read."""

    name = "file"
    kinds = ("file",)


class InputFolder(InputPath):
    """A folder that is read."""

    name = "folder"
    kinds = ("folder",)


class InputOr(InputPath):
    """One of `words`, or a path that is read; arrives as text. The word `at:PX` stands for at:1, at:2, ..."""

    def __init__(self, words: Sequence[str], wanted: str) -> None:
        super().__init__(f"{wanted} or one of {', '.join(words)}")
        self.words = tuple(words)

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return value if self._is_word(value) else str(self._path(value, param, ctx))

    def reads(self, value: Any) -> Iterator[Path]:
        if not self._is_word(value):
            yield Path(value)

    def _is_word(self, value: str) -> bool:
        name, colon, number = value.partition(":")
        return value in self.words or (number.isdecimal() and f"{name}{colon}PX" in self.words)


class InputOrColour(InputOr):
    """One of `words`, a colour (`colour_of`), or a path that is read; arrives as text."""

    def __init__(self, words: Sequence[str], wanted: str) -> None:
        super().__init__((*words, "a colour"), wanted)

    def _is_word(self, value: str) -> bool:
        return super()._is_word(value) or colour_of(value) is not None


def colour_of(text: str) -> tuple[int, int, int] | None:
    """(r, g, b), 0..255, of #rgb, #rrggbb or a name of CSS; None: the text is no colour."""
    if text.lower() not in ImageColor.colormap and not _HEX_COLOUR.fullmatch(text):
        return None
    red, green, blue = ImageColor.getrgb(text)[:3]
    return red, green, blue


class Preset(InputPath):
    """The name of a preset, or a YAML file: what has a suffix of YAML or a slash in it."""

    kinds = ("file",)

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return str(self._path(value, param, ctx))

    def reads(self, value: Any) -> Iterator[Path]:
        if "/" in value or value.endswith((".yaml", ".yml")):
            yield Path(value)


class NamedInput(InputOr):
    """NAME=PATH; arrives as (name, text).

    words: what may stand for PATH. plain: NAME becomes the name of a folder.
    """

    name = "named"

    def __init__(self, words: Sequence[str] = (), wanted: str = "", plain: bool = False) -> None:
        super().__init__(words, wanted)
        self.wanted = self.wanted if words else wanted or "a file or a folder"
        self.plain = plain

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, tuple):  # converted already
            return value
        name, equals, path = str(value).partition("=")
        if not (name and equals and path):
            self.fail(f"{value} must be NAME=PATH", param, ctx)
        if self.plain:
            try:
                safe_name(name, "the value")
            except UserError as error:
                self.fail(str(error), param, ctx)
        return name, super().convert(path, param, ctx)

    def reads(self, value: Any) -> Iterator[Path]:
        yield from super().reads(value[1])


# ---- what is written ---------------------------------------------------------------------------------------------


class Output(_Path):
    """A place that is written; subclasses say which."""

    def check_name(self, path: Path, option: str) -> None:
        """Raises UserError for a name of another kind of file."""

    def check_place(self, path: Path) -> None:
        """Raises UserError when it cannot be written."""
        raise NotImplementedError

    def patterns(self, path: Path) -> Sequence[str]:
        """Names that the command makes inside; () for a file."""
        return ()


class OutputFile(Output):
    """A file to write, whose name ends in one of `suffixes`."""

    name = "file"

    def __init__(self, *suffixes: str) -> None:
        self.suffixes = suffixes

    def check_name(self, path: Path, option: str) -> None:
        if path.suffix.lower() not in self.suffixes:
            known = ", ".join(self.suffixes)
            one = "one of " if len(self.suffixes) > 1 else ""
            raise UserError(f"{option} {path} must end in {one}{known}")

    def check_place(self, path: Path) -> None:
        check_new_file(path)


class OutputVideo(OutputFile):
    """A file to write, whose name ends in one of `suffixes`, or without a suffix a new folder of pictures."""

    def check_name(self, path: Path, option: str) -> None:
        if not path.suffix:
            return
        if path.suffix.lower() not in self.suffixes:
            known = ", ".join(self.suffixes)
            raise UserError(
                f"{option} {path} must end in one of {known}, or have no suffix, for a folder"
            )

    def check_place(self, path: Path) -> None:
        if path.suffix:
            check_new_file(path)
            return
        check_new_folder(path)
        if path.is_symlink() or (path.is_dir() and any(path.iterdir())):
            raise UserError(f"{path} exists already; choose another name")

    def patterns(self, path: Path) -> Sequence[str]:
        return () if path.suffix else ANYTHING


class OutputFolder(Output):
    """A folder to write into.

    makes: patterns of the names that the command makes or replaces there; inputs may lie beside them.
    exists: it is changed in place and must be there.
    or_file: with this suffix it is a file instead.
    """

    name = "folder"

    def __init__(
        self, *makes: str, exists: bool = False, or_file: str = "", wanted: str = "a folder"
    ) -> None:
        self.makes = makes or ANYTHING
        self.exists, self.or_file, self.wanted = exists, or_file, wanted

    def check_place(self, path: Path) -> None:
        if self.exists:
            check_input(path, self.wanted, ("folder",))
        if self._is_file(path):
            check_new_file(path)
        else:
            check_new_folder(path)
            for entry in os.scandir(path) if path.is_dir() and self.makes != ANYTHING else ():
                is_made = any(fnmatch(entry.name, name) for name in self.makes)
                if is_made and not entry.is_dir(follow_symlinks=False):
                    check_new_file(path / entry.name)

    def patterns(self, path: Path) -> Sequence[str]:
        return () if self._is_file(path) else self.makes

    def _is_file(self, path: Path) -> bool:
        return bool(self.or_file) and path.suffix.lower() == self.or_file


# ---- numbers -----------------------------------------------------------------------------------------------------


class Number(click.FloatRange):
    """A finite number from `low` to `high`."""

    name = "number"

    def __init__(self, low: float, high: float, above: bool = False) -> None:
        super().__init__(low, high, min_open=above)

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{cut_short(repr(value))} is not a number.", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{cut_short(str(value))} is not a finite number.", param, ctx)
        return float(super().convert(number, param, ctx))


class Whole(click.IntRange):
    """A whole number from `low` to `high`."""

    name = "whole number"

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high)

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            number = int(value)
        except ValueError:  # also of thousands of digits
            self.fail(f"{cut_short(repr(value))} is not a whole number.", param, ctx)
        return int(super().convert(number, param, ctx))


class Numbers(click.ParamType):
    """Finite numbers from `low` to `high`, separated by commas; arrives as a tuple."""

    name = "numbers"

    def __init__(self, low: float, high: float, at_most: int) -> None:
        self._each, self.at_most = Number(low, high), at_most

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) > self.at_most:
            self.fail(f"{value} holds more than {self.at_most} numbers.", param, ctx)
        return tuple(self._each.convert(part.strip(), param, ctx) for part in parts)


class NumbersOr(Numbers):
    """One of `words`, or exactly `count` finite numbers from `low` to `high`, separated by commas."""

    def __init__(self, words: Sequence[str], low: float, high: float, count: int) -> None:
        super().__init__(low, high, count)
        self.words = tuple(words)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value in self.words:
            return value
        if str(value).count(",") != self.at_most - 1:
            words = ", ".join(self.words)
            self.fail(
                f"{cut_short(repr(value))} is none of {words} and no {self.at_most} numbers.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class NamedNumber(click.ParamType):
    """NAME=NUMBER, the number finite and from `low` to `high`; arrives as (name, number)."""

    name = "named number"

    def __init__(self, low: float, high: float) -> None:
        self._each = Number(low, high)

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        if isinstance(value, tuple):  # converted already
            return value
        name, equals, number = str(value).rpartition("=")
        if not (name and equals):
            self.fail(f"{cut_short(str(value))} must be NAME=NUMBER", param, ctx)
        return name, self._each.convert(number, param, ctx)


class Words(click.ParamType):
    """Some of `words`, separated by commas, each once; arrives as a tuple in the order of `words`."""

    name = "words"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        given = {part.strip() for part in str(value).split(",")}
        if unknown := sorted(given - set(self.words)):
            self.fail(f"{unknown[0]!r} is none of {', '.join(self.words)}.", param, ctx)
        return tuple(w for w in self.words if w in given)


SEED = Whole(0, SEED_MAX)


# ---- what depends on another option ------------------------------------------------------------------------------


class Option(click.Option):
    """An option that only has an effect with certain values of another one; given without them it is refused.

    only_with: name of the other parameter -> its values. Parameters that a command lacks do not count.
    """

    def __init__(self, *args: Any, only_with: dict[str, Sequence[Any]] | None = None, **more: Any):
        super().__init__(*args, **more)
        self.only_with = only_with or {}
