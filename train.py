"""Train the generator: python train.py --preset demo --data DIR --out RUNDIR (the same command resumes)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import dnnlib.cli
from dnnlib import UserError
from dnnlib.params import InputFile, InputPath
from running.launch import launch, run_options
from training.config import TRAIN_FILES, Config
from training.keys import KEY_RULES

# What is heavy is imported when it is called, so that --help is quick.
if TYPE_CHECKING:
    import torch

    from metrics.watch import ProtocolWatch
    from training.trainer import Trainer


@dnnlib.cli.command()
@run_options(
    InputPath("a dataset of dataset_tool.py, or an EG3D folder or zip"),
    "Dataset folder of dataset_tool.py, or an EG3D folder or zip.",
    TRAIN_FILES,
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
def main(
    out: Path, data: Path | None, clebs: Path | None, init_from: Path | None, **options: Any
) -> None:
    """Train the generator on pairs of frames of one clip.

    Runs alone, or on several GPUs or processes under torchrun. Ctrl-C, SIGTERM and SIGUSR1 save and
    stop with exit status 75; the same command goes on.
    """
    given = {"data.path": data, "train.clebs": clebs, "train.init_from": init_from}
    launch(
        make, Config, "train", out, rules=KEY_RULES, given=given, base_of=base_of, tuner=tune, **options
    )  # fmt: skip


def base_of(config: Config) -> dict[str, Any] | None:
    """What the preset is laid over: the model of the network to start from, where `train.init_model` asks for it."""
    return {"model": model_of(config.train.init_from)} if config.train.init_model else None


def make(config: Config, out: Path, device: torch.device, allowed: Collection[str] = ()) -> Trainer:
    """The run that a configuration describes. Raises UserError when something in it does not fit."""
    from training.preflight import open_training_data
    from training.trainer import Trainer

    data, watch = open_training_data(config), protocol_watch(config, out)
    return Trainer(config, data, out, device, watch, allowed)


def tune(config: Config, out: Path, device: torch.device, processes: int) -> None:
    """`--tune`: print the fastest way to run `config` in so many processes; see tuning/tuner.py."""
    from tuning import tuner

    tuner.tune(make, config, "train", out, device, processes, ["python", *sys.argv])


def protocol_watch(config: Config, out: Path) -> ProtocolWatch | None:
    """What scores `train.protocol` while the network trains; None without one."""
    if not config.train.protocol:
        return None
    from metrics.protocols import load_protocol
    from metrics.watch import ProtocolWatch

    protocol = load_protocol(Path(config.train.protocol))
    return ProtocolWatch(protocol, Path(config.data.path), out / "protocol")


def model_of(network: str) -> Any:
    """Section `model` of the configuration that a network was trained with.

    Raises:
        UserError: there is no network, or it is damaged.
    """
    if not network:
        raise UserError(
            "train.init_model takes the model of a network; give --init-from with a checkpoint of train.py"
        )
    from torch_utils.checkpoints import read_metadata

    config = read_metadata(network, "model").get("config")
    if not isinstance(config, Mapping) or "model" not in config:
        raise UserError(f"{network} lacks its configuration; train it again")
    return config["model"]


if __name__ == "__main__":
    main()
