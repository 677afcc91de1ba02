"""Commands of `dataset_tool.py` for datasets that exist: info, validate, merge, split, export-eg3d, join."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

import dnnlib.cli
from dataset.eg3d import export_eg3d
from dataset.joining import finalise, remove_leftovers
from dataset.reader import open_dataset
from dataset.upkeep.checks import contact_sheet, reprojection
from dataset.upkeep.rearrange import CLIPS_PER_SHARD, merge, resplit
from dataset.upkeep.validate import describe, validate
from dataset.writer import DATASET_FILES
from dnnlib.errors import UserError
from dnnlib.params import SEED, InputPath, Number, OutputFile, OutputFolder, Whole

_WANTED = "a dataset folder, or an EG3D folder or zip"
_DATASET = InputPath(_WANTED)
# A folder of this project's format that is changed in place.
_OWN = OutputFolder(*DATASET_FILES, exists=True, wanted="the folder of a dataset of this project")
_SHARE = Number(0, 1)


@dnnlib.cli.command("info")
@click.argument("dataset", type=_DATASET)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def info_command(dataset: Path, as_json: bool) -> None:
    """Say what DATASET (a folder, or an EG3D folder or zip) holds."""
    figures = describe(dataset)
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        if name == "splits":
            for split, counts in value.items():
                click.echo(
                    f"{split:>16}: " + ", ".join(f"{n} {what}" for what, n in counts.items())
                )
        else:
            click.echo(f"{name:>16}: {value}")


@dnnlib.cli.command("validate")
@click.argument("dataset", type=_DATASET)
@click.option(
    "--decode-every",
    default=1,
    type=Whole(0, 1_000_000),
    help="Decode each n-th frame; 0 decodes none.",
)
@click.option(
    "--sheet", type=OutputFile(".png"), help="Write a contact sheet with the cameras here, as PNG."
)
def validate_command(dataset: Path, decode_every: int, sheet: Path | None) -> None:
    """Check every index, label, checksum and picture of DATASET; exit with 1 when something is wrong."""
    problems = validate(dataset, decode_every)
    opened = open_dataset(dataset)
    if (figures := reprojection(opened)) is not None:
        click.echo(
            f"landmarks lie {figures['median_px']:.2f} px from where the labels put them (median; 95 %: "
            f"{figures['p95_px']:.2f} px), {100 * figures['median_share']:.2f} % of the face's height: the stored "
            "70, of eyes, lips and jaw"
        )
        if "fit_median" in figures:
            click.echo(
                f"over all landmarks of the tracker: {100 * figures['fit_median']:.2f} % (median of frames)"
            )
    if sheet is not None:
        contact_sheet(opened, sheet)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise UserError(
            f"{dataset} has the problems listed above; mend them or write the dataset again"
        )
    click.echo(f"{dataset} is in order")


@dnnlib.cli.command("export-eg3d")
@click.argument("dataset", type=_DATASET)
@click.option(
    "--out",
    required=True,
    type=OutputFolder(or_file=".zip"),
    help="A name ending in .zip, or a folder.",
)
@click.option(
    "--with-expression/--labels-only",
    default=True,
    help="Add expressions and clips under further keys of dataset.json, which EG3D passes over.",
)
def export_eg3d_command(dataset: Path, out: Path, with_expression: bool) -> None:
    """Write DATASET in the format of EG3D: PNG files and dataset.json with camera labels."""
    n_images = export_eg3d(open_dataset(dataset), out, with_expression)
    click.echo(f"wrote {n_images} images to {out}")


@dnnlib.cli.command("join")
@click.argument("dataset", type=_OWN)
@click.option(
    "--shards", type=Whole(1, 2**31 - 1), help="Refuse unless exactly so many shards are complete."
)
def join_command(dataset: Path, shards: int | None) -> None:
    """Join the shards of DATASET that several writers made into one index."""
    remove_leftovers(dataset)
    finalise(dataset, shards)
    click.echo(f"{dataset} is ready: {describe(dataset)['frames']} frames")


@dnnlib.cli.command("merge")
@click.argument("datasets", type=_DATASET, nargs=-1, required=True)
@click.option("--dest", required=True, type=OutputFolder(), help="Folder of the new dataset.")
@click.option(
    "--clips-per-shard",
    type=Whole(1, 1_000_000),
    default=CLIPS_PER_SHARD,
    help="Clips in one zip.",
)
def merge_command(datasets: tuple[Path, ...], dest: Path, clips_per_shard: int) -> None:
    """Copy DATASETS into one; a single one is packed into fewer shards. People of different ones stay different."""
    n_frames = merge(list(datasets), dest, clips_per_shard)
    click.echo(f"{dest} is ready: {n_frames} frames")


@dnnlib.cli.command("split")
@click.argument("dataset", type=_OWN)
@click.option(
    "--by",
    type=click.Choice(["identity", "face"]),
    default="identity",
    help="Who is one person: the stored numbers, or the stored face embeddings too.",
)
@click.option("--val", default=0.02, type=_SHARE, help="Share of people for validation.")
@click.option("--test", default=0.05, type=_SHARE, help="Share of people for tests.")
@click.option("--seed", default=0, type=SEED, help="Another seed, other people.")
def split_command(dataset: Path, by: str, val: float, test: float, seed: int) -> None:
    """Divide the people of DATASET anew among train, val and test, in place."""
    counts = resplit(dataset, by, val, test, seed)
    click.echo(", ".join(f"{name}: {count} people" for name, count in counts.items()))
    if by == "face":
        clips = np.unique(open_dataset(dataset).clips["identity"], return_counts=True)[1]
        click.echo(f"the most frequent person shows in {clips.max()} of {clips.sum()} clips")
