"""`calc_metrics.py views` and `probes`: what a network does over an orbit, and what its expression vectors know."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

import dnnlib.cli
from dnnlib.errors import UserError
from dnnlib.params import InputFile, Number, Whole
from metrics.commands import CHECKPOINT, DATASET, JSON, named_paths, network_options

# What is heavy is imported when it is called, so that --help is quick.


def _report(result: dict[str, Any], out: Path | None) -> None:
    from dnnlib.files import write_json

    for name, value in result.items():
        click.echo(f"{name:<28} {f'{value:.4f}' if isinstance(value, float) else value}")
    if out is not None:  # JSON has no NaN: what could not be measured is null
        lost = {k for k, v in result.items() if isinstance(v, float) and math.isnan(v)}
        write_json(out, {k: None if k in lost else v for k, v in result.items()})


@dnnlib.cli.command("views")
@click.option(
    "--network", "network_path", required=True, type=CHECKPOINT, help="Checkpoint of train.py."
)
@click.option("--source", required=True, type=InputFile("a portrait photo"), help="Portrait photo.")
@click.option("--views", default=9, type=Whole(2, 100), help="Cameras of the orbit.")
@click.option("--max-yaw", default=25.0, type=Number(0.1, 90), help="Degrees each side.")
@click.option("--out", type=JSON, help="Also write the numbers to this JSON file.")
@network_options
@dnnlib.cli.set_option
def views_command(
    network_path: Path,
    source: Path,
    views: int,
    max_yaw: float,
    out: Path | None,
    weights: tuple[tuple[str, str], ...],
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """3D consistency of one portrait over an orbit: depth, landmarks, identity."""
    from inference.network import Network
    from inference.tracked import NetworkTracker
    from metrics.consistency import score_views
    from metrics.networks import Networks

    network = Network.load(network_path, device, "fp32", overrides)
    given = named_paths(weights, "--weights")
    for name in given.keys() - {"arcface", "deep3d"}:
        raise UserError(f"--weights {name} has no effect on views; leave it out")
    networks = Networks(given, network.device)
    bfm = given.get("deep3d")
    photo = NetworkTracker(network, None if bfm is None else Path(bfm)).photo(source)
    found = score_views(network, photo, networks, views, max_yaw)
    records = {name: networks.record(name) for name in ("landmarks", "identity")}
    _report({"network": network.name, "max_yaw_deg": max_yaw, **found, **records}, out)


@dnnlib.cli.command("probes")
@click.option(
    "--network", required=True, type=CHECKPOINT, help="Checkpoint of train.py or pretrain.py."
)
@click.option(
    "--data", required=True, type=DATASET, help="Dataset with expressions and identities."
)
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", help="Which people."
)
@click.option("--out", type=JSON, help="Also write the numbers to this JSON file.")
def probes_command(network: Path, data: Path, split: str, out: Path | None) -> None:
    """What beta and beta' know of the person and of the expression (training/expression/probes.py)."""
    from dataset.reader import open_dataset
    from metrics.expression_figure import load_expression_encoder
    from training.expression.probes import probe_expression

    dataset = open_dataset(data)
    if dataset.space is None:
        raise UserError(f"{data} has no expression labels; track its frames first")
    found = probe_expression(load_expression_encoder(network, dataset), dataset, split)
    if not found:
        raise UserError(
            f"the split {split} of {data} has no two clips of four frames; take another"
        )
    _report({"network": network.name, "data": data.name, "split": split, **found}, out)
