"""Options that change nothing beside others are refused, so that nobody believes they did."""

from __future__ import annotations

from typing import NoReturn

import click
from click.core import ParameterSource

from dnnlib.errors import UserError
from dnnlib.params import Option


def check_effects(ctx: click.Context) -> None:
    """Raises UserError for an option that was given beside others with which it has no effect."""
    for param in ctx.command.params:
        if not isinstance(param, Option) or not was_given(ctx, param.name):
            continue
        for name, values in param.only_with.items():
            if name in ctx.params and ctx.params[name] not in values:
                other = next(p for p in ctx.command.params if p.name == name)
                beside = max(other.opts, key=len)
                value = ctx.params[name]
                has = "without" if value is None else "with"
                what = beside if value is None or isinstance(value, bool) else f"{beside} {value}"
                _refuse(param, f"{has} {what}")


def refuse_unused(name: str, unless: bool, when: str) -> None:
    """An option of the running command that has no effect, as only its inputs tell; `when` ends the sentence.

    Raises:
        UserError: it was given all the same, and not `unless`.
    """
    context = click.get_current_context()
    if not unless and was_given(context, name):
        _refuse(next(p for p in context.command.params if p.name == name), when)


def was_given(ctx: click.Context, name: str | None) -> bool:
    """Whether a parameter stands on the command line, or in the environment."""
    source = ctx.get_parameter_source(name or "")
    return source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def _refuse(param: click.Parameter, when: str) -> NoReturn:
    raise UserError(f"{max(param.opts, key=len)} has no effect {when}; leave it out")
