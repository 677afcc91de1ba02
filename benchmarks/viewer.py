"""How many pictures a second the viewer makes of one visitor's wishes, without the browser.

    python -m benchmarks.viewer --json benchmarks/results/viewer.json

From a wish to the bytes that are sent: planes and rendering, the page around the picture, its JPEG. The photo is the
demo's portrait, enlarged so that pictures have --size pixels.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

import dnnlib.cli
from benchmarks.measure import alternate, machine
from benchmarks.options import REPEATS, json_option, threads_option
from dnnlib.files import write_json
from dnnlib.params import InputFile, Whole

ROOT = Path(__file__).resolve().parents[1]
WINDOW = (1100, 800)  # width, height in pixels


def measure(network_path: Path, size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds, processor milliseconds and pictures a second of each kind of change."""
    from conventions.cameras import camera_label
    from inference.network import Expressive, Network
    from inference.tracked import NetworkTracker
    from viewer.canvas import on_canvas
    from viewer.examples import ASTRONAUT
    from viewer.session import Session, Studio

    network = Network.load(network_path)
    tracker = NetworkTracker(network, size=size)
    session = Session(Studio(network, tracker, {}, {}))
    session.take_photo(ASTRONAUT)
    photo = tracker.photo(ASTRONAUT)
    head = Expressive(network, network.encode(photo.crop, photo.camera, photo.beta))
    turns = itertools.count()

    def sent(moving: bool) -> bytes:
        shot = session.picture(moving)
        assert shot is not None and len(shot.image) == size
        stream = io.BytesIO()
        Image.fromarray(on_canvas(shot.image, *WINDOW, moving)).save(stream, "JPEG", quality=80)
        return stream.getvalue()

    def turn() -> None:
        session.set_view(20 * math.sin(next(turns) / 5), 5)

    def speak() -> None:
        session.set_unit("jawOpen", 0.5 + 0.5 * math.sin(next(turns) / 5))

    def both(moving: bool) -> Callable[[], Any]:
        return lambda: (turn(), speak(), sent(moving))

    def alone() -> np.ndarray:  # the network in full, as gen_videos.py runs it
        t = next(turns) / 5
        beta = photo.beta.copy()
        beta[network.space.names.index("jawOpen")] = 0.5 + 0.5 * math.sin(t)
        return head.frame(beta, camera_label(0.3 * math.sin(t), 0.1)).image

    runs: dict[str, Callable[[], Any]] = {
        "view": lambda: (turn(), sent(True)),
        "expression": lambda: (speak(), sent(True)),
        "expression and view": both(True),
        "expression and view, at rest": both(False),
        "network alone, in full": alone,
    }
    seconds = alternate(runs, repeats)
    busy = {name: _processor_seconds(run, max(3, repeats // 4)) for name, run in runs.items()}
    session.close()
    return {
        "network": network_path.name,
        "precision": network.precision,
        "size_px": size,
        **_figures(seconds, busy),
    }


def _figures(seconds: dict[str, float], busy: dict[str, float]) -> dict[str, Any]:
    """What is told of each kind of change. seconds: of a picture; busy: of processors, for one."""
    moving = seconds["expression and view"]
    return {
        "milliseconds": {name: round(1e3 * s, 1) for name, s in seconds.items()},
        "processor_milliseconds": {name: round(1e3 * s, 1) for name, s in busy.items()},
        "pictures_per_second_of_one_core": {name: round(1 / s, 1) for name, s in busy.items()},
        "pictures_per_second": {name: round(1 / s, 1) for name, s in seconds.items()},
        "times_of_network_alone": round(moving / seconds["network alone, in full"], 3),
        "times_of_rest": round(moving / seconds["expression and view, at rest"], 3),
    }


def _processor_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Of all threads together; what other programs take does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


@dnnlib.cli.command("viewer")
@click.option(
    "--network",
    default=ROOT / "models" / "demo.safetensors",
    type=InputFile("the path of a .safetensors checkpoint"),
    help="Checkpoint; default: the demo's.",
)
@click.option("--size", default=256, type=Whole(16, 2048), help="Side of the pictures, pixels.")
@click.option("--repeats", default=40, type=REPEATS, help="Pictures of each kind.")
@threads_option
@json_option
def main(network: Path, size: int, repeats: int, threads: int, json_path: Path | None) -> None:
    """How many pictures a second does the viewer make, without the browser?"""
    if threads:
        torch.set_num_threads(threads)
    result = {**measure(network, size, repeats), "machine": machine()}
    click.echo(json.dumps(result, indent=1))
    if json_path is not None:
        write_json(json_path, result)


if __name__ == "__main__":
    main()
