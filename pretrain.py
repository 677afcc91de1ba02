"""Pre-train the expression encoder: python pretrain.py --preset demo --data DIR --out RUNDIR (resumes likewise)."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dnnlib.cli
from dnnlib.params import InputPath
from running.launch import launch, run_options
from training.config import PRETRAIN_FILES, Config
from training.keys import KEY_RULES

# What is heavy is imported when it is called, so that --help is quick.
if TYPE_CHECKING:
    import torch

    from training.pretrainer import Pretrainer


@dnnlib.cli.command()
@run_options(
    InputPath("a dataset of dataset_tool.py"),
    "Dataset folder of dataset_tool.py, with expression parameters.",
    PRETRAIN_FILES,
)
def main(out: Path, data: Path | None, **options: Any) -> None:
    """Contrastive pre-training of CLeBS on frames of one video at a time; writes clebs-latest.safetensors.

    Runs alone, or on several GPUs or processes under torchrun. Ctrl-C, SIGTERM and SIGUSR1 save and
    stop with exit status 75; the same command goes on.
    """
    given = {"data.path": data}
    launch(make, Config, "pretrain", out, rules=KEY_RULES, given=given, tuner=tune, **options)


def make(
    config: Config, out: Path, device: torch.device, allowed: Collection[str] = ()
) -> Pretrainer:
    """The run that a configuration describes. Raises UserError when something in it does not fit."""
    from training.preflight import open_tracked_data
    from training.pretrainer import Pretrainer

    return Pretrainer(config, open_tracked_data(config), out, device, allowed)


def tune(config: Config, out: Path, device: torch.device, processes: int) -> None:
    """`--tune`: print the fastest way to run `config` in so many processes; see tuning/tuner.py."""
    from tuning import tuner

    tuner.tune(make, config, "pretrain", out, device, processes, ["python", *sys.argv])


if __name__ == "__main__":
    main()
