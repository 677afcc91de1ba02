"""How train.py and pretrain.py start a run: their common options, and what happens between them and the loop."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from typing import Protocol as Interface

import click
import torch

import dnnlib
import dnnlib.cli
from dnnlib.errors import EXIT_SAVED, SavedError, UserError
from dnnlib.params import InputPath, Option, OutputFolder, Whole
from running.keys import KeyRules
from torch_utils import distributed

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")


class Run(Interface):
    """What is launched: built whole, nothing written yet."""

    profile: bool  # whether to profile a few steps

    @property
    def latest(self) -> str:
        """Name of the newest file that others use."""
        ...

    def facts(self) -> dict[str, Any]:
        """What this start is made of, JSON."""
        ...

    def run(self) -> None:
        """Train to the end."""
        ...


def run_options(data: InputPath, data_help: str, files: Sequence[str]) -> Callable[[F], F]:
    """`--preset --data --out --device --tune --dry-run --profile --set --allow-change`; arrive under these names.

    files: patterns of the names that the run writes into its directory.
    """

    def put(function: F) -> F:
        for option in (
            dnnlib.cli.set_option,
            click.option(
                "--allow-change",
                cls=Option,
                only_with={"tune": (None,)},
                multiple=True,
                metavar="KEY=VALUE",
                help="Like --set, for a run that exists: from its newest state on, for example lr=1e-4; repeatable. "
                "record.json notes it.",
            ),
            click.option(
                "--profile",
                cls=Option,
                only_with={"tune": (None,)},
                is_flag=True,
                help="Profile a few steps after the start; writes a trace and a table into the run's folder profile/.",
            ),
            click.option(
                "--dry-run",
                cls=Option,
                only_with={"tune": (None,)},
                is_flag=True,
                help="Check and build everything, print it, write nothing.",
            ),
            click.option(
                "--tune",
                is_flag=False,
                flag_value=1,
                type=Whole(1, 1_000_000),
                metavar="[PROCESSES]",
                help="Try steps of one of so many processes (1) and print the fastest way as a command; write nothing.",
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
    make: Callable[[C, Path, torch.device, Collection[str]], Run],
    config_type: type[C],
    section: str,  # of the configuration, that keys without a dot are in
    out: Path,
    *,
    rules: KeyRules,
    preset: str,
    device: str,
    dry_run: bool,
    profile: bool,
    given: Mapping[str, Path | None],  # key of the configuration -> what its own option says
    overrides: tuple[str, ...],
    allow_change: tuple[str, ...] = (),  # like overrides; may change a run that exists
    tune: int | None = None,  # processes of the run that is to be tuned
    tuner: Callable[[C, Path, torch.device, int], None] | None = None,  # what `tune` calls
    # what the preset and the overrides are laid over, where the configuration asks for it
    base_of: Callable[[C], Mapping[str, Any]] | None = None,
) -> None:
    """Read the configuration, join the other processes, build the run, and train or only tell what it is made of."""
    flags = [f"{key}={json.dumps(str(value))}" for key, value in given.items() if value is not None]
    changes = [c if "." in c.partition("=")[0] else f"{section}.{c}" for c in allow_change]
    allowed = [rules.check_changeable(c.partition("=")[0].strip()) for c in changes]
    config = dnnlib.load_config(config_type, preset, [*flags, *overrides, *changes])
    if base_of is not None and (base := base_of(config)):
        config = dnnlib.load_config(config_type, preset, [*flags, *overrides, *changes], base)
    if tune is not None and tuner is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "--tune tries one process; start it without torchrun, for a run of eight as --tune 8"
            )
        with distributed.session(device) as place:
            tuner(config, out, place, tune)
        return
    if threads := getattr(config, section).threads:
        torch.set_num_threads(threads)
    with distributed.session(device) as place:
        with failures_told():
            run = make(config, out, place, allowed)
            if dry_run:
                distributed.print0(json.dumps(run.facts(), indent=1))
                return
            run.profile = profile
            run.run()
        distributed.print0(f"done: {out / run.latest}")


@contextmanager
def failures_told() -> Iterator[None]:
    """Under torchrun the first process that fails says why, in one line with its rank and host; the others end quietly.

    Their own errors (a peer that is gone) only follow from the first. A defect keeps its traceback.
    """
    try:
        yield
    except SavedError as saved:  # in all processes alike, after the same step
        distributed.print0(str(saved), file=sys.stderr)
        _end(EXIT_SAVED)
    except Exception as error:
        if distributed.world_size() == 1:
            raise
        if not distributed.is_first_to_fail():
            _end(1)
        lost = distributed.is_lost_contact(error)
        sentence = (
            "another process of the run is gone; the same command goes on from the newest state"
            if lost
            else str(error)
            if isinstance(error, UserError)
            else f"{type(error).__name__}: {error}"
        )
        click.echo(f"[rank {distributed.rank()}, {distributed.host()}] {sentence}", err=True)
        if not (lost or isinstance(error, UserError)) or dnnlib.cli.debugging():
            raise
        _end(1)


def _end(code: int) -> NoReturn:
    """End the process; one of several at once: threads of a group whose peers are gone may abort its tear-down."""
    if distributed.world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        distributed.await_endings()
        os._exit(code)
    sys.exit(code)
