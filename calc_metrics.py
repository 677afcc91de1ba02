"""Scores of results against references, tables for papers, and figures: `python calc_metrics.py --help`."""

from __future__ import annotations

from pathlib import Path

import click

import dnnlib.cli
from dnnlib.params import SEED, OutputFile, Whole
from metrics.commands import (
    CHECKPOINT,
    CLIPS,
    DATASET,
    JSON,
    SOURCES,
    cache_option,
    check_needed,
    metric_list,
    named_paths,
    network_options,
)
from metrics.follow_commands import follow_command
from metrics.heads import heads_command
from metrics.model_commands import probes_command, views_command
from metrics.table_commands import gen_command, protocol_command, table_command


@dnnlib.cli.group()
def main() -> None:
    """Scores with their protocol, and figures."""


main.add_command(heads_command)
main.add_command(probes_command)
main.add_command(protocol_command)
main.add_command(views_command)
main.add_command(gen_command)
main.add_command(table_command)
main.add_command(follow_command)


@main.command()
@click.option(
    "--pred", required=True, type=CLIPS, help="Video, folder of frames, or folder of clips."
)
@click.option(
    "--ref", required=True, type=CLIPS, help="The same, of the truth; clips are matched by name."
)
@click.option(
    "--source", type=SOURCES, help="Folder with each clip's source picture (csim_source)."
)
@click.option(
    "--metrics", "names", default="psnr,ssim,l1", help="Names, separated by commas; see `list`."
)
@network_options
@cache_option
@click.option("--json", "json_path", type=JSON, help="Also write everything to this file.")
def calc(
    pred: Path,
    ref: Path,
    source: Path | None,
    names: str,
    weights: tuple[tuple[str, str], ...],
    device: str,
    cache: Path | None,
    json_path: Path | None,
) -> None:
    """Score predictions against references; under torchrun the clips are shared between processes."""
    from dnnlib.files import write_json
    from metrics.calc import Options, calculate
    from metrics.networks import Networks
    from torch_utils import distributed

    chosen = metric_list(names)
    given = named_paths(weights, "--weights")
    check_needed(chosen, given)
    with distributed.session(device) as place:
        result = calculate(pred, ref, chosen, Options(Networks(given, place), source, cache))
        if not distributed.is_main():
            return
        for line in result.lines():
            click.echo(line)
        if json_path is not None:
            write_json(json_path, result.to_dict())


@main.command("list")
def list_command() -> None:
    """Name every metric with its formula, range and direction."""
    from metrics.registry import get_metric, metric_names

    for name in metric_names():
        m = get_metric(name)
        click.echo(f"{name:<15} {m.direction} is better, {m.range}; over {m.over}")
        click.echo(f"{'':<15} {m.formula}")


@main.command()
@click.option(
    "--data", required=True, type=DATASET, help="Dataset with expressions and identities."
)
@click.option(
    "--network", required=True, type=CHECKPOINT, help="Checkpoint of train.py or pretrain.py."
)
@click.option(
    "--out", required=True, type=OutputFile(".png", ".jpg", ".webp"), help="Picture to write, .png."
)
@click.option("--identities", default=12, type=Whole(2, 100), help="People in the figure.")
@click.option("--frames", default=60, type=Whole(2, 100_000), help="Frames of each.")
@click.option("--seed", default=0, type=SEED, help="Of the choice of frames and of the embedding.")
def tsne(data: Path, network: Path, out: Path, identities: int, frames: int, seed: int) -> None:
    """Draw t-SNE of beta and of beta', coloured by person."""
    from metrics.expression_figure import tsne_figure

    for line in tsne_figure(data, network, out, identities, frames, seed):
        click.echo(line)


if __name__ == "__main__":
    main()
