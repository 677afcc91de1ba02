"""What the presets weigh and cost: parameters, the time split of a frame, one training step, peak memory.

    python -m benchmarks.presets --json benchmarks/results/presets.json

Each preset is measured in a process of its own, so that its peak memory is its own. The network is random; the
training step is the whole one (generator and discriminator with R1, reconstruction and adversarial losses) on one
pair, without the perceptual and identity networks. The generator's gradients are also made with and without
gradient checkpointing.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

import dnnlib.cli
from benchmarks.frame import PARTS, machine, random_network, time_frame
from benchmarks.measure import peak_bytes
from benchmarks.options import PRESET, REPEATS, json_option, threads_option
from dnnlib.errors import UserError
from dnnlib.files import write_json

PRESETS = ("paper256", "base512", "demo")


def count_parameters(preset: str) -> dict[str, int]:
    """Trained parameters of each part; `total` is the generator's, the discriminator is apart."""
    from training.discriminator.dual import DualDiscriminator

    model = random_network(preset).model
    parts = {
        "stem": model.source_encoder,
        "expression": model.expression,
        "vit": model.vit,
        "planes": model.plane_head,
        "render": model.decoder,
        "superresolution": model.superresolution,
    }
    if model.motion is not None:
        parts["motion"] = model.motion
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    total = sum(p.numel() for p in model.parameters())
    assert sum(counts.values()) == total, "a part of the model is not counted"
    discriminator = sum(p.numel() for p in DualDiscriminator(model.config).parameters())
    return {**counts, "total": total, "discriminator": discriminator}


def generator_backward(preset: str, checkpointing: bool) -> dict[str, float]:
    """What gradients of the generator for one pair take.

    `held_mb` is kept between the passes; `peak_mb` is what the process grew by, gradients and the C library's gaps
    included.
    """
    from dnnlib.config import load_config
    from training.config import Config
    from training.cost import random_batch
    from training.noise import draw_noise
    from training.objectives import generator_pass

    model = random_network(preset).model.train().requires_grad_(True)
    model.gradient_checkpointing = checkpointing
    batch = random_batch(model, 1, torch.device("cpu"))
    loss = load_config(Config, preset).loss
    noise = draw_noise(0, 0, range(1), model.config, loss, torch.device("cpu"))
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    def run() -> None:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            image = generator_pass(model, batch, noise).out.image
        for p in model.parameters():
            held.pop(p.untyped_storage().data_ptr(), None)
        image.abs().mean().backward()

    start = time.perf_counter()
    peak = peak_bytes(run)
    return {
        "held_mb": sum(held.values()) / 1e6,
        "peak_mb": peak / 1e6,
        "seconds": time.perf_counter() - start,
    }


def time_training_step(preset: str) -> dict[str, float]:
    """Seconds of one training step on one pair and its losses' sum, which must be finite."""
    from dataclasses import replace

    from dnnlib.config import load_config
    from training.config import Config
    from training.cost import random_batch
    from training.discriminator.dual import DualDiscriminator
    from training.noise import draw_noise
    from training.objectives import (
        LossNetworks,
        critic_losses,
        generator_losses,
        generator_pass,
        weighted_sum,
    )

    model = random_network(preset).model.train().requires_grad_(True)
    config = load_config(Config, preset)
    loss = replace(
        config.loss, perceptual=0.0, identity=0.0, adversarial=0.1, opacity=0.0, depth=0.0
    )
    critic = DualDiscriminator(config.model)
    batch = random_batch(model, 1, torch.device("cpu"))
    optimisers = [
        torch.optim.Adam(m.parameters(), 1e-4, betas=(0.0, 0.99)) for m in (model, critic)
    ]
    start = time.perf_counter()
    noise = draw_noise(0, 0, range(1), config.model, loss, torch.device("cpu"))
    done = generator_pass(model, batch, noise)
    critic.requires_grad_(False)
    losses = generator_losses(model, done, batch, noise, loss, LossNetworks(), critic)
    total = weighted_sum(losses, loss, 1.0)
    total.backward()
    optimisers[0].step()
    generator_done = time.perf_counter()
    critic.requires_grad_(True)
    out = done.out.each(torch.Tensor.detach)
    against = critic_losses(critic, out, batch, loss, with_r1=True)
    torch.stack(list(against.values())).sum().backward()
    optimisers[1].step()
    end = time.perf_counter()
    if not bool(torch.isfinite(total)):
        raise UserError(f"the loss of preset {preset} is not finite")
    return {
        "generator": generator_done - start,
        "discriminator": end - generator_done,
        "loss": float(total),
    }


def measure(preset: str, repeats: int) -> dict[str, Any]:
    """All figures of a preset; to be called in a fresh process."""
    start = peak_mb()
    counts = count_parameters(preset)
    frame = time_frame(random_network(preset), repeats)
    after_frame = peak_mb()
    step = time_training_step(preset)
    after_step = peak_mb()
    modes = {"plain": False, "checkpointing": True}
    generator_backward(preset, False)  # warms up
    return {
        "preset": preset,
        "parameters": counts,
        "frame_seconds": frame,
        "train_step_seconds": step,
        "peak_mb": {"start": start, "frame": after_frame, "train_step": after_step},
        "generator_backward": {mode: generator_backward(preset, on) for mode, on in modes.items()},
    }


def peak_mb() -> float:
    """The largest resident size that this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


@dnnlib.cli.command()
@click.option(
    "--preset",
    "presets",
    multiple=True,
    default=PRESETS,
    type=PRESET,
    help="Preset; repeat for several.",
)
@click.option("--repeats", default=3, type=REPEATS, help="Frames measured.")
@threads_option
@json_option
@click.option("--one", is_flag=True, hidden=True, help="Measure in this process and print JSON.")
def main(
    presets: tuple[str, ...], repeats: int, threads: int, json_path: Path | None, one: bool
) -> None:
    """Count and time the presets on the CPU."""
    if threads:
        torch.set_num_threads(threads)
    if one:
        click.echo(json.dumps(measure(presets[0], repeats)))
        return
    figures = []
    for preset in presets:
        command = [sys.executable, "-m", "benchmarks.presets", "--one", "--preset", preset]
        command += ["--repeats", str(repeats), "--threads", str(threads)]
        root = Path(__file__).resolve().parents[1]
        run = subprocess.run(command, capture_output=True, text=True, cwd=root)
        if run.returncode:
            raise UserError(
                f"preset {preset} could not be measured: {run.stderr.strip().splitlines()[-1:]}"
            )
        figures.append(json.loads(run.stdout.strip().splitlines()[-1]))
        click.echo(table_row(figures[-1]))
    if json_path is not None:
        write_json(json_path, {"machine": machine(), "repeats": repeats, "presets": figures})


def table_row(figure: dict[str, Any]) -> str:
    """A preset's figures in a few lines."""
    seconds, counts, peak = figure["frame_seconds"], figure["parameters"], figure["peak_mb"]
    parts = ", ".join(f"{p} {seconds[p] * 1000:.0f}" for p in PARTS)
    step = figure["train_step_seconds"]
    return (
        f"{figure['preset']}: {counts['total'] / 1e6:.1f} M parameters\n"
        f"  frame {seconds['frame'] * 1000:.0f} ms, camera only {seconds['frame_camera_only'] * 1000:.0f} ms; "
        f"ms of {parts}\n"
        f"  training step {step['generator'] + step['discriminator']:.2f} s a pair; "
        f"peak {peak['frame']:.0f} MB for a frame, {peak['train_step']:.0f} MB in training\n"
        + "  generator's gradients: "
        + ", ".join(
            f"{mode} {row['held_mb']:.0f} MB held, peak {row['peak_mb']:.0f} MB, {row['seconds']:.2f} s"
            for mode, row in figure["generator_backward"].items()
        )
    )


if __name__ == "__main__":
    main()
