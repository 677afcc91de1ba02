"""Train the generator: python train.py --preset demo --data DIR --out RUNDIR (the same command resumes)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import torch

import dnnlib
import dnnlib.cli
from dnnlib.params import InputFile, InputPath, OutputFolder
from torch_utils import distributed
from training.config import TRAIN_FILES


@dnnlib.cli.command()
@dnnlib.cli.preset_option(default="paper256")
@click.option(
    "--data",
    type=InputPath("a dataset of dataset_tool.py, or an EG3D folder or zip"),
    help="Dataset folder of dataset_tool.py, or an EG3D folder or zip.",
)
@click.option(
    "--out",
    required=True,
    type=OutputFolder(*TRAIN_FILES),
    help="Run directory; when it holds a run of the same configuration, that run goes on.",
)
@click.option(
    "--clebs",
    type=InputFile("a checkpoint of pretrain.py"),
    help="Checkpoint of pretrain.py, for model.expression.mode=clebs.",
)
@click.option(
    "--init-from",
    type=InputFile("a checkpoint of train.py"),
    help="Start a new run from the weights of this network.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run; auto takes a GPU if there is one.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check and build everything, print it, write nothing."
)
@dnnlib.cli.set_option
def main(
    preset: str,
    data: Path | None,
    out: Path,
    clebs: Path | None,
    init_from: Path | None,
    device: str,
    dry_run: bool,
    overrides: tuple[str, ...],
) -> None:
    """Train the generator on pairs of frames of one clip.

    Runs alone, or on several GPUs or processes under torchrun. Ctrl-C saves and stops; the same command goes on.
    """
    from training.config import Config
    from training.loop import Trainer
    from training.preflight import open_training_data

    given = {"data.path": data, "train.clebs": clebs, "train.init_from": init_from}
    flags = [f"{key}={json.dumps(str(value))}" for key, value in given.items() if value is not None]
    config = dnnlib.load_config(Config, preset, [*flags, *overrides])
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with distributed.session(device) as place:
        try:
            dataset = open_training_data(config)
            trainer = Trainer(config, dataset, out, place)
            if dry_run:
                distributed.print0(json.dumps(trainer.facts(), indent=1))
                return
            trainer.run()
        except dnnlib.UserError:
            if not distributed.is_main():  # the main process says it, once
                sys.exit(1)
            raise
        distributed.print0(f"done: {out / 'network-latest.safetensors'}")


if __name__ == "__main__":
    main()
