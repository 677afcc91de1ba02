"""How train.py and pretrain.py start a run: their common options, and what happens between them and the loop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import torch

import dnnlib
import dnnlib.cli
from dnnlib.params import InputPath, OutputFolder
from torch_utils import distributed

if TYPE_CHECKING:
    from training.config import Config
    from training.loop import Loop

F = TypeVar("F", bound=Callable[..., Any])


def run_options(data: InputPath, data_help: str, files: Sequence[str]) -> Callable[[F], F]:
    """`--preset --data --out --device --dry-run --set`; arrive as `preset, data, out, device, dry_run, overrides`.

    files: patterns of the names that the run writes into its directory.
    """

    def put(function: F) -> F:
        for option in (
            dnnlib.cli.set_option,
            click.option(
                "--dry-run",
                is_flag=True,
                help="Check and build everything, print it, write nothing.",
            ),
            dnnlib.cli.device_option(),
            click.option(
                "--out",
                required=True,
                type=OutputFolder(*files),
                help="Run directory; when it holds a run of the same configuration, that run goes on.",
            ),
            click.option("--data", type=data, help=data_help),
            dnnlib.cli.preset_option(default="paper256"),
        ):
            function = option(function)
        return function

    return put


def launch(
    make: Callable[[Config, Path, torch.device], Loop],
    section: Literal["train", "pretrain"],
    out: Path,
    *,
    preset: str,
    device: str,
    dry_run: bool,
    given: Mapping[str, Path | None],  # key of the configuration -> what its own option says
    overrides: tuple[str, ...],
) -> None:
    """Read the configuration, join the other processes, build the run, and train or only tell what it is made of."""
    from training.config import Config  # here: --help stays quick

    flags = [f"{key}={json.dumps(str(value))}" for key, value in given.items() if value is not None]
    config = dnnlib.load_config(Config, preset, [*flags, *overrides])
    if threads := getattr(config, section).threads:
        torch.set_num_threads(threads)
    with distributed.session(device) as place:
        with failures_told():
            run = make(config, out, place)
            if dry_run:
                distributed.print0(json.dumps(run.facts(), indent=1))
                return
            run.run()
        distributed.print0(f"done: {out / run.latest}")


@contextmanager
def failures_told() -> Iterator[None]:
    """Under torchrun the first process that fails says why, in one line with its rank and host; the others end quietly.

    Their own errors (a peer that is gone) only follow from the first. A defect keeps its traceback.
    """
    try:
        yield
    except Exception as error:
        if distributed.world_size() == 1:
            raise
        if not distributed.is_first_to_fail():
            sys.exit(1)
        lost = distributed.is_lost_contact(error)
        sentence = (
            "another process of the run is gone; the same command goes on from the newest state"
            if lost
            else str(error)
            if isinstance(error, dnnlib.UserError)
            else f"{type(error).__name__}: {error}"
        )
        click.echo(f"[rank {distributed.rank()}, {distributed.host()}] {sentence}", err=True)
        if not (lost or isinstance(error, dnnlib.UserError)) or dnnlib.cli.debugging():
            raise
        sys.exit(1)
