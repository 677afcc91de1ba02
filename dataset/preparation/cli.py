"""`dataset_tool.py video`."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import click

import dnnlib.cli
from dataset.preparation.options import VideoOptions
from dataset.writer import DATASET_FILES
from dnnlib.errors import UserError
from dnnlib.options import from_options, options_of
from dnnlib.params import InputPath, OutputFolder, Whole

# What is heavy is imported when it is called, so that --help is quick.


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UserError(f"--shard {text} is not of the form i/n; write for example --shard 0/16")
    return int(match.group(1)), int(match.group(2))


@dnnlib.cli.command("video")
@click.option(
    "--source",
    required=True,
    type=InputPath("a folder, a list, an archive or a video"),
    help="Folder, clip list (.csv, .json, .jsonl, .txt), archive (.zip, .tar) or one video.",
)
@click.option(
    "--dest",
    required=True,
    type=OutputFolder(*DATASET_FILES, "videos", "report.*"),
    help="Folder of the data set.",
)
@options_of(VideoOptions)
@click.option(
    "--workers", type=Whole(0, 4096), help="Processes; all cores by default, 0: this one."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Processes of this machine, or a Ray cluster (RAY_ADDRESS).",
)
@click.option(
    "--shard",
    "part",
    default="0/1",
    help="i/n: only every n-th video from the i-th on, for job arrays.",
)
@dnnlib.cli.set_option
def video_command(
    source: Path,
    dest: Path,
    workers: int | None,
    engine: str,
    part: str,
    overrides: tuple[str, ...],
    **given: Any,
) -> None:
    """Turn raw videos into a data set of aligned clips.

    The same command goes on after an interruption. DEST/report.html shows what was kept and why the rest was not.
    """
    from dataset.preparation.run import prepare
    from dataset.reader import open_dataset
    from dataset.spec import SPLITS

    options = from_options(VideoOptions, given, overrides)
    started = time.perf_counter()
    is_telling = False

    def progress(done: int, total: int, frames: int, name: str) -> None:
        nonlocal is_telling
        is_telling = True
        rate = frames / (time.perf_counter() - started)
        click.echo(f"\r{done}/{total} videos, {frames} frames, {rate:.1f} per second ", nl=False)

    try:
        summary = prepare(source, dest, options, workers, engine, _part(part), progress)
    finally:
        if is_telling:  # what follows, a mistake too, begins a line of its own
            click.echo()
    seconds = time.perf_counter() - started
    click.echo(
        f"{summary.n_sources} videos ({summary.n_done_before} were done before), "
        f"{summary.n_rejected} rejected, {summary.n_kept} frames kept; "
        f"{summary.n_frames} frames read in {seconds:.0f} s"
    )
    if summary.complete:
        click.echo(f"{dest} is ready; {dest / 'report.html'} tells what was kept and why")
        dataset = open_dataset(dest)
        if empty := [name for name in SPLITS if not len(dataset.clips_of(name))]:
            click.echo(
                f"{' and '.join(empty)} got nobody: people are drawn by their shares, and there are few; "
                "dataset_tool.py split divides them anew, for example with --val 0.2"
            )
    else:
        click.echo(f"{dest} waits for the other parts; the last one to end joins them")
