"""Command-line pieces that every script shares: errors in one sentence, `--set`, `--preset`.

    @dnnlib.cli.command()
    @dnnlib.cli.preset_option(default="demo")
    @dnnlib.cli.set_option
    def main(preset: str, overrides: tuple[str, ...]) -> None: ...

A `UserError` prints `Error: ...` and exits with 1, without a traceback (EXPORT3D_DEBUG=1 shows it). Ctrl-C exits
with 130, SIGTERM with 143, and both leave no temporary file. Paths and numbers are declared with the types of
`dnnlib.params`; they are checked before the command runs.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from dnnlib.checks import check_places
from dnnlib.config import preset_names
from dnnlib.effects import check_effects
from dnnlib.errors import UserError
from dnnlib.files import os_error_to_user_error
from dnnlib.params import Preset
from dnnlib.signals import Stopped, orderly_exit

F = TypeVar("F", bound=Callable[..., Any])

_NO_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory", re.IGNORECASE)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a user can mend into click's one-line error; leave defects alone."""
    try:
        with orderly_exit():
            _print_any_name()
            yield
    except UserError as error:
        if debugging():
            raise
        raise click.ClickException(str(error)) from error
    except OSError as error:
        # Only what can come from writing alone; "permission denied" may well concern an input.
        sentence = os_error_to_user_error(error) if error.errno in _DISK_ERRORS else None
        if sentence is None or debugging():
            raise
        raise click.ClickException(str(sentence)) from error
    except (MemoryError, RuntimeError) as error:
        # torch says it in a RuntimeError of its allocator
        if debugging() or not (isinstance(error, MemoryError) or _NO_MEMORY.search(str(error))):
            raise
        raise click.ClickException(
            "there is not enough memory for what was asked; use smaller sizes, fewer samples or a smaller batch"
        ) from error
    except KeyboardInterrupt:
        click.echo("Interrupted", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    except Stopped as stopped:
        if not stopped.told:
            click.echo(f"Stopped by {stopped.name}", err=True)
            stopped.told = True
        raise


def _print_any_name() -> None:
    """Names of files need not be text; what standard output cannot print is written as its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def debugging() -> bool:
    """True when EXPORT3D_DEBUG asks for tracebacks."""
    return os.environ.get("EXPORT3D_DEBUG", "") not in ("", "0")


class Command(click.Command):
    """A click command whose user errors are sentences, and whose inputs and outputs are checked first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:  # click repeats what was given, however long
            raise click.UsageError(str(UserError(error.format_message())), ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        with user_errors():
            check_effects(ctx)
            check_places(ctx)
            return super().invoke(ctx)


class Group(click.Group):
    """A click group whose commands (made with `@group.command()`) report user errors as sentences."""

    command_class = Command
    group_class = type

    def invoke(self, ctx: click.Context) -> Any:
        with user_errors():
            return super().invoke(ctx)


def command(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """`@click.command` with `Command`; `-h` works beside `--help`, defaults are shown."""
    return click.command(name, cls=Command, **_with_context_settings(attributes))


def group(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], Group]:
    """`@click.group` with `Group`; `-h` works beside `--help`, defaults are shown."""
    return click.group(name, cls=Group, **_with_context_settings(attributes))


def _with_context_settings(attributes: dict[str, Any]) -> dict[str, Any]:
    settings = {
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    }
    return {
        **attributes,
        "context_settings": {**settings, **attributes.get("context_settings", {})},
    }


def set_option(function: F) -> F:
    """`--set section.key=value`, repeatable; arrives as `overrides: tuple[str, ...]`."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one value of the configuration, for example --set train.lr=1e-4; repeatable.",
    )(function)


def preset_option(default: str | None = None, required: bool = False) -> Callable[[F], F]:
    """`--preset NAME|FILE` (`--config` is the same); arrives as `preset: str`."""
    return click.option(
        "--preset",
        "--config",
        "preset",
        default=default,
        required=required,
        type=Preset("a preset or a YAML file"),
        metavar="NAME|FILE",
        help=f"Preset ({', '.join(preset_names())}) or path of a YAML file.",
    )


def device_option(
    help: str = "Where to run; auto takes a GPU if there is one.",
) -> Callable[[F], F]:
    """`--device auto|cpu|cuda`; arrives as `device: str`."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help=help,
    )


__all__ = [
    "EXIT_INTERRUPTED",
    "Command",
    "Group",
    "command",
    "debugging",
    "device_option",
    "group",
    "preset_option",
    "set_option",
    "user_errors",
]
