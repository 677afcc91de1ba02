"""Where the time of a frame goes: seconds of stem, expression, ViT, planes, render and super-resolution.

    python -m benchmarks.frame --preset demo --json benchmarks/results/frame.json

Medians over repeated frames of a randomly initialised network; the source is encoded once, as in a video. With
`--compare`, the same frames are also made by the plain torch renderer without any cache, in turns.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dnnlib.cli
from benchmarks.measure import alternate, machine, matmul_flops
from benchmarks.options import PRESET, REPEATS, device_option, json_option, threads_option
from conventions.cameras import camera_label
from dnnlib.config import load_config
from dnnlib.files import write_json
from inference.network import Expressive, Network
from running.precision import multiplies_bf16
from training.config import Config

PARTS = ("stem", "expression", "vit", "planes", "render", "superresolution")


def random_network(
    preset: str,
    precision: str = "fp32",
    device: str = "cpu",
    seed: int = 0,
    compiled: bool = False,
) -> Network:
    """A network of a preset with random weights in the ARKit space."""
    from conventions.spaces import ARKIT52
    from training.generator.model import Export3D

    torch.manual_seed(seed)
    config = load_config(Config, preset)
    model = Export3D(config.model, ARKIT52.dim)
    return Network(model, ARKIT52, {}, preset, device, precision, compiled)


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

    def start(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            starts[name] = _now(device)

        return hook

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            seconds[name] += _now(device) - starts[name]

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


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def time_frame(network: Network, repeats: int, with_parts: bool = True) -> dict[str, float]:
    """Median seconds of each part, of a frame with new expression and view, and of one with a new view only.

    with_parts=False is for compiled networks: hooks that come and go are compiled in, anew for every frame.
    """
    n, d = network.resolution, network.space.dim
    device = network.device
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (n, n, 3), dtype=np.uint8)
    rows: dict[str, list[float]] = defaultdict(list)
    warm_up = 1 if with_parts else 3  # CUDA graphs: compiled, recorded, replayed
    for i in range(warm_up + repeats):
        with part_times(network.model, device) if with_parts else nullcontext({}) as parts:
            start = _now(device)
            source = network.encode(image, None, None)
            encoded = _now(device)
            planes = network.planes(source, rng.random(d, dtype=np.float32))
            planned = _now(device)
            network.render(planes, camera_label(0.1 * i, 0.0))
            end = _now(device)
        if i < warm_up:
            continue
        row = dict(parts)
        if with_parts:
            row["render"] = end - planned - row["superresolution"]
        row["source_once"] = encoded - start
        row["frame"] = end - encoded
        row["frame_camera_only"] = end - planned
        for name, value in row.items():
            rows[name].append(value)
    return {name: statistics.median(values) for name, values in rows.items()}


def gigaflop(network: Network) -> dict[str, float]:
    """10^9 floating point operations of the parts that multiply matrices; a product and a sum count as two."""
    n, d = network.resolution, network.space.dim
    model, device = network.model, network.device
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def product(query: Any, key: Any, *_: Any, **__: Any) -> int:
        return int(4 * np.prod(query) * key[-2])

    counter = FlopCounterMode(display=False, depth=1, custom_mapping={attention: product})
    with torch.no_grad(), counter:
        image = torch.zeros(1, 3, n, n, device=device)
        planes = model.planes(model.encode_source(image), torch.zeros(1, d, device=device))
        model.render(planes, torch.from_numpy(camera_label(0.0, 0.0))[None].to(device))
    by_class = {name: sum(ops.values()) / 1e9 for name, ops in counter.get_flop_counts().items()}
    names = {
        "stem": model.source_encoder,
        "vit": model.vit,
        "planes": model.plane_head,
        "superresolution": model.superresolution,
    }
    return {name: by_class[type(module).__name__] for name, module in names.items()}


def roofline(
    network: Network, seconds: dict[str, float], flop: dict[str, float]
) -> dict[str, float]:
    """How near each part comes to the matrix product of its precision: its operations a second / the product's."""
    dtype = torch.bfloat16 if network.precision == "bf16" else torch.float32
    ceiling = matmul_flops(dtype=dtype, device=network.device)
    return {name: count * 1e9 / seconds[name] / ceiling for name, count in flop.items()}


def set_renderer(network: Network, impl: str) -> None:
    """Render with `impl` from here on."""
    config = network.model.config
    render = replace(config.render, impl=impl)  # type: ignore[arg-type]
    network.model.config = replace(config, render=render)


def compare_with_reference(network: Network, repeats: int) -> dict[str, Any]:
    """Seconds a frame, in turns: caches and fused renderer; everything anew in fp32 with the plain torch renderer."""
    n, d = network.resolution, network.space.dim
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (n, n, 3), dtype=np.uint8)
    beta = rng.random(d, dtype=np.float32)
    head = Expressive(network, network.encode(image, None, None))
    turn, precision = iter(range(10**9)), network.precision

    def view() -> np.ndarray:
        return camera_label(0.01 * (next(turn) % 50), 0.0)

    def cached(expression: np.ndarray) -> None:
        set_renderer(network, "auto")
        network.precision = precision
        head.frame(expression, view())

    def uncached() -> None:
        set_renderer(network, "ref")
        network.precision = "fp32"
        network.render(network.planes(network.encode(image, None, None), beta), view())

    seconds = alternate(
        {
            "expression_camera": lambda: cached(rng.random(d, dtype=np.float32)),
            "camera_only": lambda: cached(beta),
            "camera_only_again": lambda: cached(beta),
            "reference": uncached,
        },
        repeats,
    )
    network.precision = precision
    # the first frame with an expression makes its planes; the second is what an orbit costs
    seconds["camera_only"] = seconds.pop("camera_only_again")
    return {
        "seconds": seconds,
        "speedup_expression_camera": seconds["reference"] / seconds["expression_camera"],
        "speedup_camera_only": seconds["reference"] / seconds["camera_only"],
    }


@dnnlib.cli.command()
@click.option(
    "--preset",
    "presets",
    multiple=True,
    default=("demo",),
    type=PRESET,
    help="Preset; repeat for several.",
)
@click.option("--repeats", default=9, type=REPEATS, help="Frames measured.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp32", "bf16"]),
    help="fp32 or bf16; repeatable. Default: fp32, and bf16 where the processor multiplies it.",
)
@device_option
@threads_option
@click.option("--compile", "compiled", is_flag=True, help="Also time a compiled network.")
@click.option("--compare", is_flag=True, help="Also without caches and with the plain renderer.")
@json_option
def main(
    presets: tuple[str, ...],
    repeats: int,
    precisions: tuple[str, ...],
    device: str,
    threads: int,
    compiled: bool,
    compare: bool,
    json_path: Path | None,
) -> None:
    """Time one frame of a preset and its parts."""
    if threads:
        torch.set_num_threads(threads)
    if not precisions:
        fast = device == "cuda" or multiplies_bf16()
        precisions = ("fp32", "bf16") if fast else ("fp32",)
    figures: list[dict[str, Any]] = []
    for preset in presets:
        for precision in precisions:
            network = random_network(preset, precision, device)
            flop = gigaflop(network)
            seconds = time_frame(network, repeats)
            figures.append({"preset": preset, "precision": precision, "seconds": seconds})
            figures[-1] |= {"gigaflop": flop, "roofline": roofline(network, seconds, flop)}
            if compiled:
                again = random_network(preset, precision, device, compiled=True)
                figures[-1]["seconds_compiled"] = time_frame(again, repeats, with_parts=False)
            click.echo(
                f"{preset} {precision}: "
                + ", ".join(f"{k} {v * 1000:.1f} ms" for k, v in seconds.items())
            )
            if compare:
                figures[-1]["compare"] = result = compare_with_reference(network, repeats)
                click.echo(
                    f"  {result['speedup_expression_camera']:.1f} times faster than uncached with "
                    f"the plain renderer, {result['speedup_camera_only']:.1f} if only the camera moves"
                )
    if json_path is not None:
        record = {"machine": machine(device), "repeats": repeats, "frames": figures}
        write_json(json_path, record)


if __name__ == "__main__":
    main()
