"""Commands of `dataset_tool.py` for datasets that exist: info, validate, export-eg3d, join."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dnnlib.errors import UserError
from training.data.dataset import open_dataset
from training.data.eg3d import export_eg3d
from training.data.format import finalise
from training.data.tools import describe, remove_leftovers, validate

_DATASET = click.Path(path_type=Path)


@click.command("info")
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


@click.command("validate")
@click.argument("dataset", type=_DATASET)
@click.option(
    "--decode-every", default=1, show_default=True, help="Decode each n-th frame; 0 decodes none."
)
def validate_command(dataset: Path, decode_every: int) -> None:
    """Check every index, label, checksum and picture of DATASET; exit with 1 when something is wrong."""
    problems = validate(dataset, decode_every)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise UserError(
            f"{dataset} has the problems listed above; mend them or write the dataset again"
        )
    click.echo(f"{dataset} is in order")


@click.command("export-eg3d")
@click.argument("dataset", type=_DATASET)
@click.option("--out", required=True, type=_DATASET, help="A name ending in .zip, or a folder.")
@click.option(
    "--with-expression/--labels-only",
    default=True,
    show_default=True,
    help="Add expressions and clips under further keys of dataset.json, which EG3D passes over.",
)
def export_eg3d_command(dataset: Path, out: Path, with_expression: bool) -> None:
    """Write DATASET in the format of EG3D: PNG files and dataset.json with camera labels."""
    n_images = export_eg3d(open_dataset(dataset), out, with_expression)
    click.echo(f"wrote {n_images} images to {out}")


@click.command("join")
@click.argument("dataset", type=_DATASET)
@click.option("--shards", type=int, help="Refuse unless exactly so many shards are complete.")
def join_command(dataset: Path, shards: int | None) -> None:
    """Join the shards of DATASET that several writers made into one index."""
    remove_leftovers(dataset)
    finalise(dataset, shards)
    click.echo(f"{dataset} is ready: {describe(dataset)['frames']} frames")


COMMANDS = (info_command, validate_command, export_eg3d_command, join_command)
