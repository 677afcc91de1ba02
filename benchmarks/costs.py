"""What training the presets takes, computed and not measured: FLOP counted, bytes counted, days at a share of a peak.

    python -m benchmarks.costs --json benchmarks/results/costs.json

FLOP of a pair are counted as in a run (training/cost.py), loss networks included. Bytes of a GPU: weights, their
average, gradients and two moments of Adam in float32, and what a pass keeps of a pair for the way back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import torch

import dnnlib
import dnnlib.cli
from benchmarks.measure import machine
from benchmarks.options import PRESET, json_option, threads_option
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import Number, Whole
from running.flops import TERA
from training import objectives
from training.config import Config
from training.cost import StepCost, count_step, random_batch
from training.discriminator.dual import DualDiscriminator
from training.generator.model import Export3D
from training.noise import draw_noise

PRESETS = ("paper256", "base512", "paper512")  # those that want GPUs
_DIM = 52  # of the expression space
_BYTES = 4
_COPIES, _COPIES_CRITIC = 5, 4  # weights, gradients, two moments; the generator's average too
_DAY_S = 86_400
_ROOT = Path(__file__).resolve().parents[1]


def count(preset: str) -> dict[str, Any]:
    """FLOP and bytes of a preset; to be called in a fresh process."""
    config = dnnlib.load_config(Config, preset)
    device, loss, train = torch.device("cpu"), config.loss, config.train
    model = Export3D(config.model, _DIM)
    critic = DualDiscriminator(config.model) if loss.adversarial > 0 else None
    networks = objectives.load_loss_networks(loss, device, torch.rand(64, _DIM))
    cost = count_step(model, critic, networks, config, device)
    parameters = [sum(p.numel() for p in m.parameters()) if m else 0 for m in (model, critic)]
    fixed = _BYTES * (_COPIES * parameters[0] + _COPIES_CRITIC * parameters[1])
    return {
        "preset": preset,
        "flop_a_pair": cost._asdict(),
        "flop_of_the_run": of_run(cost, config),
        "parameters": dict(zip(("generator", "discriminator"), parameters, strict=True)),
        "images": train.total_images,
        "batch_size": train.batch_size,
        "bytes_of_states": fixed,
        "bytes_held_a_pair": held(model, critic, networks, config),
    }


def of_run(cost: StepCost, config: Config) -> float:
    """FLOP from the first image to the last: the discriminator comes in after the warm-up."""
    train, interval = config.train, config.loss.r1_interval
    warm = min(train.warmup_images, train.total_images)
    later = train.total_images - warm
    return cost.of_step(warm, False, interval) + cost.of_step(later, True, interval)


def held(
    model: Export3D,
    critic: DualDiscriminator | None,
    networks: objectives.LossNetworks,
    config: Config,
) -> int:
    """Bytes that the generator's pass keeps of one pair, its losses included, in float32."""
    storages: dict[int, int] = {}
    batch = random_batch(model, 1, torch.device("cpu"))
    noise = draw_noise(0, 0, range(1), config.model, config.loss, torch.device("cpu"))
    parts = (model, critic, *networks.__dict__.values())
    weights = {
        p.untyped_storage().data_ptr() for m in parts if m is not None for p in m.parameters()
    }

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        done = objectives.generator_pass(model, batch, noise)
        losses = objectives.generator_losses(
            model, done, batch, noise, config.loss, networks, critic
        )
    assert losses
    return sum(n for place, n in storages.items() if place not in weights)


def derived(found: dict[str, Any], gpus: int, flops_per_s: float, mfu: float) -> dict[str, float]:
    """Days and bytes of a GPU for the whole run on so many of them."""
    pairs = found["batch_size"] / gpus
    return {
        "days": found["flop_of_the_run"] / (gpus * flops_per_s * mfu) / _DAY_S,
        "gigabytes": (found["bytes_of_states"] + pairs * found["bytes_held_a_pair"]) / 1e9,
    }


def table(figures: dict[str, Any]) -> str:
    """The table of docs/cluster.md."""
    lines = [
        f"| preset | GFLOP a pair | with the discriminator | images | EFLOP in all | days, {figures['gpus']} GPUs | "
        "GB of states | GB held a pair | GB a GPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["presets"]:
        cost = row["flop_a_pair"]
        late = sum(cost.values()) - cost["r1"] * (1 - 1 / row["r1_interval"])
        cells = (
            f"`{row['preset']}`", f"{cost['generator'] / 1e9:.0f}", f"{late / 1e9:.0f}", f"{row['images'] / 1e6:g} M",
            f"{row['flop_of_the_run'] / 1e18:.3g}", f"{row['days']:.2g}", f"{row['bytes_of_states'] / 1e9:.2g}",
            f"{row['bytes_held_a_pair'] / 1e9:.2g}", f"{row['gigabytes']:.2g}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@dnnlib.cli.command()
@click.option(
    "--preset",
    "presets",
    multiple=True,
    default=PRESETS,
    type=PRESET,
    help="Preset; repeat for several.",
)
@click.option("--gpus", default=8, type=Whole(1, 100_000), help="How many share the run.")
@click.option(
    "--tflops",
    default=156.0,
    type=Number(1e-3, 1e6),
    help="Peak of one of them in the run's precision (running/flops.py); 156: an A100 in TF32.",
)
@click.option(
    "--mfu", default=0.25, type=Number(0.001, 1.0), help="Share of the peak that is reached."
)
@threads_option
@json_option
@click.option("--one", is_flag=True, hidden=True, help="Count in this process and print JSON.")
def main(
    presets: tuple[str, ...],
    gpus: int,
    tflops: float,
    mfu: float,
    threads: int,
    json_path: Path | None,
    one: bool,
) -> None:
    """Compute what training the presets takes."""
    if threads:
        torch.set_num_threads(threads)
    if one:
        click.echo(json.dumps(count(presets[0])))
        return
    figures: dict[str, Any] = {
        "computed": "not measured", "gpus": gpus, "tflops": tflops, "mfu": mfu,
        "precision": "fp32", "presets": [],
    }  # fmt: skip
    for preset in presets:
        words = [sys.executable, "-m", "benchmarks.costs", "--one", "--preset", preset]
        done = subprocess.run(
            [*words, "--threads", str(threads)], capture_output=True, text=True, cwd=_ROOT
        )
        if done.returncode:
            raise UserError(
                f"preset {preset} cannot be counted: {done.stderr.strip().splitlines()[-1:]}"
            )
        found = json.loads(done.stdout.strip().splitlines()[-1])
        found["r1_interval"] = dnnlib.load_config(Config, preset).loss.r1_interval
        found |= derived(found, gpus, figures["tflops"] * TERA, mfu)
        figures["presets"].append(found)
        click.echo(
            f"{preset}: {found['days']:.2g} days on {gpus} GPUs, {found['gigabytes']:.1f} GB a GPU (computed)"
        )
    click.echo(table(figures))
    if json_path is not None:
        write_json(json_path, {"machine": machine(), **figures})


if __name__ == "__main__":
    main()
