"""`dataset_tool.py synth`."""

from __future__ import annotations

import time
from pathlib import Path

import click

import dnnlib.cli
from dataset.synthesis.generate import SynthOptions, generate_dataset
from dataset.writer import DATASET_FILES
from dnnlib.options import from_options, options_of
from dnnlib.params import OutputFolder, Whole
from dnnlib.typed import to_dict


@dnnlib.cli.command("synth")
@click.argument("dest", type=OutputFolder(*DATASET_FILES))
@options_of(SynthOptions)
@click.option("--workers", type=Whole(1, 4096), default=2, help="Processes.")
@dnnlib.cli.set_option
def synth_command(dest: Path, overrides: tuple[str, ...], **given: object) -> None:
    """Render a dataset of synthetic talking heads, with ground truth, into the folder DEST.

    The same options give the same bytes; the same command continues after an interruption.
    """  # fmt: skip
    workers = given.pop("workers")
    options = to_dict(from_options(SynthOptions, given, overrides))
    started = time.perf_counter()
    first: list[int] = []

    def progress(done: int, total: int) -> None:
        first.append(done)
        seconds = time.perf_counter() - started
        rate = (done - first[0]) / seconds if len(first) > 1 else done / seconds
        left = (total - done) / rate if rate > 0 else float("nan")
        click.echo(
            f"\r{done}/{total} frames, {rate:.1f} per second, {left / 60:.1f} min left ", nl=False
        )

    generate_dataset(dest, progress=progress, workers=workers, **options)  # type: ignore[arg-type]
    click.echo(f"\n{dest} is ready")
