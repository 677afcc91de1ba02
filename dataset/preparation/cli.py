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
from dnnlib.config import apply_overrides, from_dict
from dnnlib.errors import UserError

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


@click.command("video")
@click.option(
    "--source",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder, clip list (.csv, .json, .jsonl, .txt), archive (.zip, .tar) or one video.",
)
@click.option(
    "--dest", required=True, type=click.Path(path_type=Path), help="Folder of the data set."
)
@_option("--resolution", "resolution", "Pixels a side of the crops.", int)
@_option("--codec", "codec", "Coding of the images: jpg, webp or png.")
@_option("--max-fps", "max_fps", "Leave out frames of faster videos; 0 keeps all.", float)
@_option("--every", "every", "Keep each n-th tracked frame.", int)
@_option("--min-frames", "min_frames", "Leave out clips with fewer frames.", int)
@_option("--min-face", "min_face_px", "Height of the face in the video, pixels.", float)
@_option("--tracker", "tracker", "mediapipe, deep3d, or module:factory of a plugin.")
@_option("--weights", "weights", "Deep3DFaceRecon's weights, for --tracker deep3d.")
@_option(
    "--bfm-model", "bfm_model", "Basel face model (BFM_model_front.mat), for --tracker deep3d."
)
@_option("--results", "results", "Folder of results to import (.mat, .npz) in place of a tracker.")
@_option("--layout", "layout", "How names tell who is seen: auto, file, folder, voxceleb, ...")
@click.option("--matte", is_flag=True, default=None, help="Store a soft mask of the person.")
@click.option(
    "--workers", type=click.IntRange(min=0), help="Processes; all cores by default, 0: this one."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or a Ray cluster (RAY_ADDRESS).",
)
@click.option(
    "--shard",
    "part",
    default="0/1",
    show_default=True,
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

    chosen = {name: value for name, value in given.items() if value is not None}
    options = from_dict(VideoOptions, apply_overrides(chosen, overrides, VideoOptions))
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
