"""`calc_metrics.py heads`: a network on the clips of a dataset that it has not seen. See training/evaluation.py."""

from __future__ import annotations

from pathlib import Path

import click

import dnnlib.cli
from dnnlib.errors import UserError
from dnnlib.params import SEED, Whole
from metrics.commands import CHECKPOINT, DATASET, JSON

# What is heavy is imported when it is called, so that --help is quick.

_UNITS = {"depth_r": "", "gain_over_copy_db": "dB"}


@dnnlib.cli.command("heads")
@click.option("--network", required=True, type=CHECKPOINT, help="Checkpoint of train.py.")
@click.option("--data", required=True, type=DATASET, help="Dataset of dataset_tool.py.")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", help="Which people."
)
@click.option("--pairs", default=256, type=Whole(1, 1_000_000), help="Source and driving frames.")
@click.option("--seed", default=0, type=SEED, help="Of the choice of pairs.")
@click.option("--out", type=JSON, help="Also write the numbers to this JSON file.")
@dnnlib.cli.set_option
def heads_command(
    network: Path,
    data: Path,
    split: str,
    pairs: int,
    seed: int,
    out: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Self-reenactment against copying the source, effect of exchanged expressions, depth."""
    from dataset.reader import open_dataset
    from dnnlib.files import write_json
    from training.checkpoints import load_model, read_metadata
    from training.evaluation import evaluate
    from training.preflight import check_provenance

    metadata = read_metadata(network, "model")
    dataset = open_dataset(data)
    if dataset.space is None:
        raise UserError(f"{data} has no expression parameters; use data of dataset_tool.py synth")
    check_provenance(metadata, dataset, str(network))
    found = evaluate(load_model(network, "cpu", overrides), dataset, split, pairs, seed)
    result = {
        "network": network.name,
        "network_sha256": metadata["sha256"],
        "n_images_trained": metadata.get("n_images"),
        "data": data.name,
        **found,
    }
    for name, value in result.items():
        number = f"{value:.3f} {_UNITS.get(name, 'dB')}" if isinstance(value, float) else value
        click.echo(f"{name:<24} {number}")
    if out is not None:
        write_json(out, result)
