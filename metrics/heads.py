"""`calc_metrics.py heads`: a network on the clips of a dataset that it has not seen. See training/evaluation.py."""

from __future__ import annotations

import json
from pathlib import Path

import click

import dnnlib.cli
from dnnlib.errors import UserError

_PATH = click.Path(path_type=Path)
_UNITS = {"depth_r": "", "gain_over_copy_db": "dB"}


@dnnlib.cli.command("heads")
@click.option("--network", required=True, type=_PATH, help="Checkpoint of train.py.")
@click.option("--data", required=True, type=_PATH, help="Dataset of dataset_tool.py.")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", help="Which people."
)
@click.option("--pairs", default=256, type=click.IntRange(1), help="Source and driving frames.")
@click.option("--seed", default=0, help="Of the choice of pairs.")
@click.option("--out", type=_PATH, help="Also write the numbers to this JSON file.")
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
    from dnnlib.files import atomic_write
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
        with atomic_write(out, "w") as file:
            json.dump(result, file, indent=1)
