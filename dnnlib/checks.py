"""Before a command runs: its inputs are there, its outputs can be written, and no output is an input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dnnlib.params import InputPath, Output
from dnnlib.places import check_apart, check_input


def check_places(ctx: click.Context) -> None:
    """Inputs are there, outputs can be written, and no output is an input.

    Raises:
        UserError: names option, path and cure.
    """
    outputs: list[tuple[Path, Output]] = []
    inputs: list[Path] = []
    for param in ctx.command.params:
        for value in _values(ctx, param):
            kind = param.type
            if isinstance(kind, InputPath):
                for path in kind.reads(value):
                    check_input(path, kind.wanted, kind.kinds_of(value))
                    inputs.append(path)
            elif isinstance(kind, Output):
                kind.check_name(value, max(param.opts, key=len))
                outputs.append((value, kind))
    for output, kind in outputs:
        for path in inputs:
            check_apart(output, path, kind.patterns(output))
        kind.check_place(output)
    ctx.meta[_OUTPUTS] = [(output, kind.patterns(output)) for output, kind in outputs]


_OUTPUTS = "dnnlib.checks.outputs"


def also_reads(*paths: Path) -> None:
    """Compare what only the configuration names with the outputs of the running command, if one runs.

    Raises:
        UserError: an output is such an input, or a path is a device or a pipe.
    """
    context = click.get_current_context(silent=True)
    for path in paths if context is not None else ():
        if path.exists():
            check_input(path, "a file or a folder")
        for output, patterns in context.meta.get(_OUTPUTS, ()) if context is not None else ():
            check_apart(output, path, patterns)


def _values(ctx: click.Context, param: click.Parameter) -> list[Any]:
    value = ctx.params.get(param.name or "")
    if value is None:
        return []
    return list(value) if param.multiple or param.nargs != 1 else [value]
