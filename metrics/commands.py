"""Options that the commands of `calc_metrics.py` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from dnnlib.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def cache_option(function: F) -> F:
    """`--cache DIR`."""
    return click.option(
        "--cache", type=PATH, help="Folder that keeps what networks saw in the references."
    )(function)


def network_options(function: F) -> F:
    """`--weights` and `--device`."""
    for decorate in (
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            help="Where networks run.",
        ),
        click.option(
            "--weights",
            multiple=True,
            metavar="NAME=PATH",
            help="Weights that are not shipped: arcface, lpips_alex, lpips_vgg, inception, deep3d, dlib; repeatable.",
        ),
    ):
        function = decorate(function)
    return function


def named_paths(values: Sequence[str], option: str) -> dict[str, str]:
    """NAME=PATH, ... as a dict.

    Raises:
        UserError: no equals sign, an empty part, or a name twice.
    """
    out: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise UserError(f"{option} {value} must be NAME=PATH")
        if name in out:
            raise UserError(f"{option} names {name} twice; keep one of them")
        out[name] = path
    return out


def metric_list(names: str) -> list[str]:
    """Names of metrics, separated by commas, checked. Raises UserError when there are none or one is unknown."""
    from metrics.registry import get_metric

    chosen = list(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
    if not chosen:
        raise UserError("--metrics is empty; give for example psnr,ssim")
    for name in chosen:
        get_metric(name)
    return chosen
