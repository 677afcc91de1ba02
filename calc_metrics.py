"""Scores of results against references, and the t-SNE figure: `python calc_metrics.py --help`."""

from __future__ import annotations

import json
from pathlib import Path

import click

import dnnlib.cli
from dnnlib.errors import UserError
from metrics.heads import heads_command

_PATH = click.Path(path_type=Path)


@dnnlib.cli.group()
def main() -> None:
    """Scores with their protocol, and figures."""


main.add_command(heads_command)


@main.command()
@click.option(
    "--pred", required=True, type=_PATH, help="Video, folder of frames, or folder of clips."
)
@click.option(
    "--ref", required=True, type=_PATH, help="The same, of the truth; clips are matched by name."
)
@click.option(
    "--metrics", "names", default="psnr,ssim,l1", help="Names, separated by commas; see `list`."
)
@click.option(
    "--json", "json_path", type=_PATH, help="Also write scores and protocol to this file."
)
def calc(pred: Path, ref: Path, names: str, json_path: Path | None) -> None:
    """Score predictions against references, frame by frame."""
    from dnnlib.files import atomic_write
    from inference.output import check_writable
    from metrics.calc import calculate

    if json_path is not None:
        check_writable(json_path, pred, ref)
    chosen = list(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
    if not chosen:
        raise UserError("--metrics is empty; give for example psnr,ssim")
    result = calculate(pred, ref, chosen)
    for line in result.lines():
        click.echo(line)
    if json_path is not None:
        with atomic_write(json_path, "w") as file:
            json.dump(result.to_dict(), file, indent=1)


@main.command("list")
def list_command() -> None:
    """Name every metric with its formula, range and direction."""
    from metrics.registry import get_metric, metric_names

    for name in metric_names():
        m = get_metric(name)
        click.echo(f"{name:<10} {m.direction} is better, {m.range}\n{'':<10} {m.formula}")


@main.command()
@click.option("--data", required=True, type=_PATH, help="Dataset with expressions and identities.")
@click.option("--network", required=True, type=_PATH, help="Checkpoint of train.py or pretrain.py.")
@click.option("--out", required=True, type=_PATH, help="Picture to write, .png.")
@click.option("--identities", default=12, type=click.IntRange(2, 100), help="People in the figure.")
@click.option("--frames", default=60, type=click.IntRange(2), help="Frames of each.")
@click.option("--seed", default=0, help="Of the choice of frames and of the embedding.")
def tsne(data: Path, network: Path, out: Path, identities: int, frames: int, seed: int) -> None:
    """Draw t-SNE of beta and of beta', coloured by person."""
    from inference.output import check_writable
    from metrics.expression_figure import tsne_figure

    check_writable(out, network)
    for line in tsne_figure(data, network, out, identities, frames, seed):
        click.echo(line)


if __name__ == "__main__":
    main()
