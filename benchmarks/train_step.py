"""A training step with our operators and with plain torch: seconds, and whether the losses agree.

    python -m benchmarks.train_step --preset demo --steps 200 --threads 2 --json benchmarks/results/train_step.json

Three trainings start from the same weights and see the same batches and random numbers; they take turns step by step
in one process: `auto` is what a user gets, `ref` has the plain renderer (render.impl=ref), `plain` has the references
of all operators and ends after twenty steps, which are enough to time it. The data are synthetic heads, made on the
spot unless --data names a dataset. The first step of each counts for the losses only. Where the time of `auto` goes is
measured apart, with torch's profiler.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import dnnlib.cli
from benchmarks.measure import machine
from benchmarks.options import PRESET, device_option, json_option, threads_option
from dataset.reader import open_dataset
from dnnlib.config import load_config
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import InputPath, Option, Whole
from torch_utils.ops import library
from training.config import Config
from training.trainer import Trainer

IMPLS = ("auto", "ref", "plain")
PLAIN_STEPS = 20


def make_heads(folder: Path, identities: int) -> Path:
    """A small dataset of synthetic heads."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, str(root / "dataset_tool.py"), "synth", str(folder / "heads")]
    command += ["--identities", str(identities), "--frames-per-clip", "6"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise UserError(f"the synthetic heads could not be made: {done.stderr.strip()[-300:]}")
    return folder / "heads"


def trainers(
    preset: str,
    data: Path,
    out: Path,
    steps: int,
    changes: tuple[str, ...] = (),
    device: str = "cpu",
) -> dict[str, Trainer]:
    """One training for each kind of operators, alike in everything else."""
    made = {}
    for impl in IMPLS:
        overrides = [
            f"data.path={data}",
            f"model.render.impl={'auto' if impl == 'auto' else 'ref'}",
            "model.expression.mode=lebs",  # f_e learns along: no pre-training is needed
            "train.standardise_clebs=false",
            *changes,
        ]
        config = load_config(Config, preset, overrides)
        images = max(config.train.total_images, steps * config.train.batch_size)
        config = load_config(Config, preset, [*overrides, f"train.total_images={images}"])
        dataset = open_dataset(config.data.path)
        made[impl] = Trainer(config, dataset, out / impl, torch.device(device))
    return made


def lock_step(runs: dict[str, Trainer], steps: int, device: str = "cpu") -> dict[str, Any]:
    """Seconds and total loss of every step of every training."""
    seconds: dict[str, list[float]] = {impl: [] for impl in runs}
    losses: dict[str, list[float]] = {impl: [] for impl in runs}
    shares: dict[str, float] = {}
    for step, batch in enumerate(runs["auto"].batches()):
        if step == steps:
            shares = time_shares(lambda batch=batch: runs["auto"].train_step(batch), device)
            break
        running = IMPLS if step < PLAIN_STEPS else IMPLS[:2]
        for impl in running if step % 2 == 0 else running[::-1]:
            with library.references_only() if impl == "plain" else nullcontext():
                start = time.perf_counter()
                values = runs[impl].train_step(batch)  # reads the losses: a GPU has then finished
                seconds[impl].append(time.perf_counter() - start)
            losses[impl].append(values["total"])
    median = {impl: statistics.median(s[1:] or s) for impl, s in seconds.items()}
    fused, plain = (np.array(losses[impl]) for impl in ("auto", "ref"))
    smooth = np.ones(min(20, steps)) / min(20, steps)
    gap = np.abs(np.convolve(fused - plain, smooth, "valid") / np.convolve(plain, smooth, "valid"))
    return {
        "seconds": median,
        "speedup": median["ref"] / median["auto"],
        "speedup_over_plain_torch": median["plain"] / median["auto"],
        "shares": shares,
        "losses": losses,
        "largest_relative_gap": float(np.abs(fused / plain - 1).max()),
        "largest_relative_gap_of_means_over_20_steps": float(gap.max()),
        "relative_gap_of_the_last_quarter": float(
            abs(fused[-max(1, steps // 4) :].mean() / plain[-max(1, steps // 4) :].mean() - 1)
        ),
    }


# Parts of a step by the names of torch's operators, first match.
_PARTS = {
    "rendering": ("triplane_render",),
    "our other operators": ("export3d",),
    "convolutions": ("conv",),
    "matrix products": ("mm", "attention"),
}


def time_shares(step: Callable[[], Any], device: str = "cpu") -> dict[str, float]:
    """Shares of a step's time on its device: rendering, convolutions, matrix products, other operators, the rest."""
    on_gpu = device == "cuda"  # kernels count then, not who launched them
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(
        activities=[kind.CPU, kind.CUDA] if on_gpu else [kind.CPU]
    ) as profile:
        step()
    spent = dict.fromkeys([*_PARTS, "rest"], 0.0)
    for event in profile.key_averages():
        fits = (part for part, names in _PARTS.items() if any(n in event.key for n in names))
        spent[next(fits, "rest")] += (
            event.self_device_time_total if on_gpu else event.self_cpu_time_total
        )
    total = sum(spent.values()) or 1.0
    return {part: time_us / total for part, time_us in spent.items()}


@dnnlib.cli.command()
@click.option("--preset", default="demo", type=PRESET, help="Preset to train.")
@click.option(
    "--data",
    type=InputPath("a dataset of dataset_tool.py"),
    help="Dataset; default: synthetic heads, made now.",
)
@click.option(
    "--identities",
    cls=Option,
    only_with={"data": (None,)},
    default=24,
    type=Whole(4, 1_000_000),
    help="Heads to make.",
)
@click.option("--steps", default=20, type=Whole(2, 1_000_000), help="Steps of each training.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Changes the preset.")
@threads_option
@device_option
@json_option
def main(
    preset: str,
    data: Path | None,
    identities: int,
    steps: int,
    changes: tuple[str, ...],
    threads: int,
    device: str,
    json_path: Path | None,
) -> None:
    """Time training steps with both renderers and compare their losses."""
    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        data = data or make_heads(Path(folder), identities)
        record = lock_step(
            trainers(preset, data, Path(folder), steps, changes, device), steps, device
        )
    record = {
        "preset": preset,
        "changes": changes,
        "steps": steps,
        "machine": machine(device),
        **record,
    }
    seconds = record["seconds"]
    click.echo(
        f"{preset}: a step takes {seconds['auto']:.3f} s, {seconds['ref']:.3f} s with the plain "
        f"renderer: {record['speedup']:.2f} times faster, {record['speedup_over_plain_torch']:.2f} than with all "
        f"operators in plain torch; over the last quarter of {steps} steps the "
        f"losses differ by {record['relative_gap_of_the_last_quarter']:.2%}"
    )
    if json_path is not None:
        write_json(json_path, record)
        click.echo(f"wrote {json_path}")


if __name__ == "__main__":
    main()
