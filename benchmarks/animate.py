"""Time and peak memory of `gen_videos.py animate` on a long clip and on its beginning.

    python -m benchmarks.animate --driving CLIP --json benchmarks/results/animate.json

The whole command, as a user runs it: start, tracking of photo and clip, generation, coding. A process each. The
source is the demo's portrait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

import dnnlib.cli
from benchmarks.frame import machine
from benchmarks.options import json_option
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import InputFile, Whole
from inference.network import choose_device

ROOT = Path(__file__).resolve().parents[1]


def measure(source: Path, driving: Path, network: Path, n_frames: int) -> dict[str, Any]:
    """Seconds and peak memory of one run over the first `n_frames` frames.

    Raises:
        UserError: the command failed, or the clip is shorter.
    """
    from tracking.media import VideoReader

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        words = ["--source", source, "--driving", driving, "--network", network, "--out", out]
        command = [sys.executable, "gen_videos.py", "animate", *map(str, words)]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--max-frames", str(n_frames)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            raise UserError(f"gen_videos.py animate failed on {driving}: {said.strip()[-300:]}")
        with VideoReader(out) as reader:
            written = sum(1 for _ in reader)
    if written < n_frames:
        raise UserError(f"{driving} has {written} frames; give a clip of at least {n_frames}")
    return {
        "n_frames": n_frames,
        "seconds": round(seconds, 2),
        "peak_memory_mb": round(usage.ru_maxrss / 1024, 1),
    }


@dnnlib.cli.command("animate")
@click.option("--driving", required=True, type=InputFile("a long clip"), help="A long clip.")
@click.option(
    "--network",
    default=ROOT / "models" / "demo.safetensors",
    type=InputFile("the path of a .safetensors checkpoint"),
    help="Checkpoint; default: the demo's.",
)
@click.option("--short", default=100, type=Whole(1, 10_000_000), help="Frames of the beginning.")
@click.option(
    "--long", "n_long", default=1000, type=Whole(2, 10_000_000), help="Frames of the whole."
)
@json_option
def main(driving: Path, network: Path, short: int, n_long: int, json_path: Path | None) -> None:
    """Does the memory of `animate` stay flat, and how many frames does it make in a second?"""
    from PIL import Image

    from inference.demo import astronaut

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "portrait.png"
        Image.fromarray(astronaut()).save(source)
        runs = [measure(source, driving.resolve(), network.resolve(), n) for n in (short, n_long)]
    a, b = runs
    result = {
        "network": network.name,
        "runs": runs,
        "memory_ratio": round(b["peak_memory_mb"] / a["peak_memory_mb"], 4),
        "frames_per_second": round(
            (b["n_frames"] - a["n_frames"]) / (b["seconds"] - a["seconds"]), 2
        ),
        "machine": machine(choose_device("auto")),  # as gen_videos.py chooses
    }
    click.echo(json.dumps(result, indent=1))
    if json_path is not None:
        write_json(json_path, result)


if __name__ == "__main__":
    main()
