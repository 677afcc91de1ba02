"""Where the time of a frame goes: seconds of stem, expression, ViT, planes, render and super-resolution.

    python -m benchmarks.frame --preset demo --json benchmarks/results/frame.json

Medians over repeated frames of a randomly initialised network; the source is encoded once, as in a video.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

import dnnlib.cli
from dnnlib.config import load_config
from dnnlib.files import atomic_write
from inference.network import Network
from training.config import Config
from training.rendering.cameras import camera_label

PARTS = ("stem", "expression", "vit", "planes", "render", "superresolution")


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        rows = [r for r in info.read_text().splitlines() if r.startswith("model name")]
        model = rows[0].partition(":")[2].strip() if rows else ""
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def random_network(
    preset: str, precision: str = "fp32", device: str = "cpu", seed: int = 0
) -> Network:
    """A network of a preset with random weights in the ARKit space."""
    from training.expression.spaces import ARKIT52
    from training.generator.model import Export3D

    torch.manual_seed(seed)
    config = load_config(Config, preset)
    return Network(Export3D(config.model, ARKIT52.dim), ARKIT52, {}, preset, device, precision)


@contextmanager
def part_times(model: nn.Module, device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds spent in the model's parts while the block runs; the clock waits for a GPU."""
    seconds: dict[str, float] = defaultdict(float)
    modules = {
        "stem": model.source_encoder,
        "expression": model.expression,
        "vit": model.vit,
        "planes": model.plane_head,
        "superresolution": model.superresolution,
    }
    starts: dict[str, float] = {}

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            starts[name] = now()

        return hook

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            seconds[name] += now() - starts[name]

        return hook

    handles = []
    for name, module in modules.items():
        assert isinstance(module, nn.Module)
        handles += [
            module.register_forward_pre_hook(start(name)),
            module.register_forward_hook(stop(name)),
        ]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def time_frame(network: Network, repeats: int) -> dict[str, float]:
    """Median seconds of each part, of a frame with new expression and view, and of one with a new view only."""
    n, d = network.resolution, network.space.dim
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (n, n, 3), dtype=np.uint8)
    rows: dict[str, list[float]] = defaultdict(list)
    for i in range(repeats + 1):  # the first one warms up
        with part_times(network.model, network.device) as parts:
            start = time.perf_counter()
            source = network.encode(image)
            encoded = time.perf_counter()
            planes = network.planes(source, rng.random(d, dtype=np.float32))
            planned = time.perf_counter()
            network.render(planes, camera_label(0.1 * i, 0.0))
            end = time.perf_counter()
        if i == 0:
            continue
        row = dict(parts)
        row["render"] = end - planned - row["superresolution"]
        row["source_once"] = encoded - start
        row["frame"] = end - encoded
        row["frame_camera_only"] = end - planned
        for name, value in row.items():
            rows[name].append(value)
    return {name: statistics.median(values) for name, values in rows.items()}


@dnnlib.cli.command()
@click.option(
    "--preset", "presets", multiple=True, default=("demo",), help="Preset; repeat for several."
)
@click.option("--repeats", default=5, type=click.IntRange(min=1), help="Frames measured.")
@click.option(
    "--precision", "precisions", multiple=True, default=("fp32",), help="fp32 or bf16; repeatable."
)
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]), help="Where to run.")
@click.option("--threads", default=0, help="CPU threads; 0: torch's choice.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here."
)
def main(
    presets: tuple[str, ...],
    repeats: int,
    precisions: tuple[str, ...],
    device: str,
    threads: int,
    json_path: Path | None,
) -> None:
    """Time one frame of a preset and its parts."""
    if threads:
        torch.set_num_threads(threads)
    figures: list[dict[str, Any]] = []
    for preset in presets:
        for precision in precisions:
            seconds = time_frame(random_network(preset, precision, device), repeats)
            figures.append({"preset": preset, "precision": precision, "seconds": seconds})
            click.echo(
                f"{preset} {precision}: "
                + ", ".join(f"{k} {v * 1000:.1f} ms" for k, v in seconds.items())
            )
    if json_path is not None:
        with atomic_write(json_path, "w") as file:
            json.dump({"machine": machine(), "repeats": repeats, "frames": figures}, file, indent=1)


if __name__ == "__main__":
    main()
