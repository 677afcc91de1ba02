"""Options that the commands of `calc_metrics.py` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

import dnnlib.cli
from dnnlib.effects import refuse_unused
from dnnlib.errors import UserError
from dnnlib.params import (
    InputFile,
    InputFolder,
    InputPath,
    NamedInput,
    OutputFile,
    OutputFolder,
)

# What is heavy is imported when it is called, so that --help is quick.

F = TypeVar("F", bound=Callable[..., Any])
CHECKPOINT = InputFile("the path of a .safetensors checkpoint")
DATASET = InputPath("a dataset of dataset_tool.py")
PROTOCOL = InputFile("a protocol; make it with calc_metrics.py protocol")
CLIPS = InputPath("a video, a folder of frames or of clips")
SOURCES = InputFolder("a folder with a picture or clip per clip")
JSON = OutputFile(".json")
DATA = InputPath("a dataset, or a folder of clips")
METHODS = ("truth", "copy", "blur", "floor", "floor:PX")  # beside checkpoints and folders


# What the cache keeps, and the networks that given weights are for (metrics/networks.py).
_CACHED = {"landmarks", "expression", "identity", "inception"}
_USED_BY = {
    "arcface": {"identity"},
    "deep3d": {"expression"},
    **{name: {name} for name in ("lpips_alex", "lpips_vgg", "inception", "dlib")},
}


protocol_option = click.option(
    "--protocol", "protocol_path", required=True, type=PROTOCOL, help="Protocol file."
)
protocol_data_option = click.option(
    "--data", type=DATA, help="The protocol's data; makes references and what is missing."
)
bfm_option = click.option(
    "--bfm-weights",
    type=InputFile("Deep3DFaceRecon's weights"),
    help="Deep3DFaceRecon's, for networks of bfm64.",
)


def methods_option(more: str = "", *, required: bool) -> Callable[[F], F]:
    """`--method NAME=...`, as often as wanted. `more`: what the help says besides."""
    return click.option(
        "--method",
        "methods",
        required=required,
        multiple=True,
        type=NamedInput(METHODS, "a folder of clips, a checkpoint", plain=True),
        metavar="NAME=DIR|CHECKPOINT|copy|blur|floor",
        help=f"A folder of clips named as the protocol's pairs, a network, or a baseline{more}; repeatable. "
        "floor: the truth through the first network's resolution, or floor:PX.",
    )


def cache_option(function: F) -> F:
    """`--cache DIR`."""
    return click.option(
        "--cache",
        type=OutputFolder("*.npz"),
        help="Folder that keeps what networks saw in the references.",
    )(function)


def network_options(function: F) -> F:
    """`--weights` and `--device`."""
    for decorate in (
        dnnlib.cli.device_option("Where networks run."),
        click.option(
            "--weights",
            multiple=True,
            type=NamedInput(wanted="a file of weights"),
            metavar="NAME=PATH",
            help="Weights that are not shipped: arcface, lpips_alex, lpips_vgg, inception, deep3d, dlib; repeatable.",
        ),
    ):
        function = decorate(function)
    return function


def is_baseline(method: str) -> bool:
    """`truth`, `copy`, `blur`, `floor` or `floor:PX`."""
    return method.partition(":")[0] in METHODS


def say(line: str) -> None:
    """What goes on, beside the result."""
    click.echo(line, err=True)


def named_paths(values: Sequence[tuple[str, str]], option: str) -> dict[str, str]:
    """NAME=PATH, ... as a dict. Raises UserError for a name that comes twice."""
    out: dict[str, str] = {}
    for name, path in values:
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


def check_needed(metrics: Sequence[str], weights: Iterable[str]) -> None:
    """Raises UserError for --source, --cache and --weights that none of the metrics looks at."""
    from metrics.registry import get_metric

    chosen, when = [get_metric(name) for name in metrics], f"with the metrics {', '.join(metrics)}"
    networks = {e for m in chosen for e in m.extractors}
    refuse_unused("source", any("source" in m.needs for m in chosen), when)
    refuse_unused("cache", bool(networks & _CACHED), when)
    for name in weights:
        if name in _USED_BY and not networks & _USED_BY[name]:
            raise UserError(f"--weights {name} has no effect {when}; leave it out")
