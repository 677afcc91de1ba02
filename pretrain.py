"""Pre-train the expression encoder: python pretrain.py --preset demo --data DIR --out RUNDIR (resumes likewise)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import torch

import dnnlib
import dnnlib.cli
from dnnlib.params import InputPath, OutputFolder
from torch_utils import distributed
from training.config import PRETRAIN_FILES


@dnnlib.cli.command()
@dnnlib.cli.preset_option(default="paper256")
@click.option(
    "--data",
    type=InputPath("a dataset of dataset_tool.py"),
    help="Dataset folder of dataset_tool.py, with expression parameters.",
)
@click.option(
    "--out",
    required=True,
    type=OutputFolder(*PRETRAIN_FILES),
    help="Run directory; when it holds a run of the same configuration, that run goes on.",
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
    device: str,
    dry_run: bool,
    overrides: tuple[str, ...],
) -> None:
    """Contrastive pre-training of CLeBS on frames of one video at a time; writes clebs-latest.safetensors.

    Runs alone, or on several GPUs or processes under torchrun. Ctrl-C saves and stops; the same command goes on.
    """
    from training.config import Config
    from training.preflight import open_tracked_data
    from training.pretrain_loop import Pretrainer

    flags = [f"data.path={json.dumps(str(data))}"] if data is not None else []
    config = dnnlib.load_config(Config, preset, [*flags, *overrides])
    if config.pretrain.threads:
        torch.set_num_threads(config.pretrain.threads)
    with distributed.session(device) as place:
        try:
            pretrainer = Pretrainer(config, open_tracked_data(config), out, place)
            if dry_run:
                distributed.print0(json.dumps(pretrainer.facts(), indent=1))
                return
            pretrainer.run()
        except dnnlib.UserError:
            if not distributed.is_main():  # the main process says it, once
                sys.exit(1)
            raise
        distributed.print0(f"done: {out / 'clebs-latest.safetensors'}")


if __name__ == "__main__":
    main()
