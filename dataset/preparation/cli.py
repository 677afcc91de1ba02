"""`dataset_tool.py video`."""

from __future__ import annotations

import re
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

import dnnlib.cli
from dataset.preparation.options import VideoOptions
from dataset.writer import DATASET_FILES
from dnnlib.config import from_command_line
from dnnlib.errors import UserError
from dnnlib.params import InputFile, InputFolder, InputPath, Number, OutputFolder, Whole

_DEFAULTS = {f.name: f.default for f in fields(VideoOptions)}


def _option(flag: str, name: str, help_text: str, kind: Any = None) -> Any:
    """A command-line option of one field; its default is the field's own."""
    return click.option(
        flag, name, default=None, type=kind, help=f"{help_text}  [default: {_DEFAULTS[name]}]"
    )


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
@_option("--resolution", "resolution", "Pixels a side of the crops.", Whole(32, 2048))
@_option("--codec", "codec", "Coding of the images: jpg, webp or png.")
@_option("--max-fps", "max_fps", "Leave out frames of faster videos; 0 keeps all.", Number(0, 1000))
@_option("--every", "every", "Keep each n-th tracked frame.", Whole(1, 10_000))
@_option("--min-frames", "min_frames", "Leave out clips with fewer frames.", Whole(1, 100_000))
@_option("--min-face", "min_face_px", "Height of the face in the video, pixels.", Number(0, 4096))
@_option("--tracker", "tracker", "mediapipe, deep3d, or module:factory of a plugin.")
@_option(
    "--weights",
    "weights",
    "Deep3DFaceRecon's weights, for --tracker deep3d.",
    InputFile("Deep3DFaceRecon's weights"),
)
@_option(
    "--bfm-model",
    "bfm_model",
    "Basel face model (BFM_model_front.mat), for --tracker deep3d.",
    InputFile("the Basel face model"),
)
@_option(
    "--results",
    "results",
    "Folder of results to import (.mat, .npz) in place of a tracker.",
    InputFolder("the folder of the tracker's results"),
)
@_option("--layout", "layout", "How names tell who is seen: auto, file, folder, voxceleb, ...")
@click.option("--matte", is_flag=True, default=None, help="Store a soft mask of the person.")
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

    chosen = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }
    options = from_command_line(VideoOptions, chosen, overrides)
    started = time.perf_counter()

    def progress(done: int, total: int, frames: int, name: str) -> None:
        rate = frames / (time.perf_counter() - started)
        click.echo(f"\r{done}/{total} videos, {frames} frames, {rate:.1f} per second ", nl=False)

    summary = prepare(source, dest, options, workers, engine, _part(part), progress)
    click.echo()
    seconds = time.perf_counter() - started
    click.echo(
        f"{summary.n_sources} videos ({summary.n_done_before} were done before), "
        f"{summary.n_rejected} rejected, {summary.n_kept} frames kept; "
        f"{summary.n_frames} frames read in {seconds:.0f} s"
    )
    if summary.complete:
        click.echo(f"{dest} is ready; {dest / 'report.html'} tells what was kept and why")
    else:
        click.echo(f"{dest} waits for the other parts; the last one to end joins them")
