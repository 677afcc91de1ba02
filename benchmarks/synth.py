"""Speed of the synthetic head generator: people built and frames rendered per second.

    python -m benchmarks.synth --json out/synth.json

Renders the clips of a dataset (expressions, poses and people as `dataset_tool.py synth` draws them) in several
processes, without encoding and writing, then with both.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

import dnnlib.cli
from benchmarks.options import PEOPLE, RESOLUTION, json_option
from dataset.synthesis.generate import IDENTITIES_PER_SHARD, generate_dataset
from dataset.synthesis.heads import SyntheticHeads
from dataset.synthesis.motion import sample_clip
from dnnlib.files import write_json
from dnnlib.params import Whole


def time_one_process(n_people: int, frames_per_clip: int, resolution: int) -> dict[str, float]:
    """Seconds of one process's own CPU time per person and per frame."""
    heads = SyntheticHeads(seed=1)
    heads.render(10_000, *_first_frame(), resolution)  # loads the head model and the noise volumes
    build = render = 0.0
    for person in range(n_people):
        start = time.process_time()
        heads.person(person)
        middle = time.process_time()
        clip = sample_clip(np.random.default_rng(person), frames_per_clip, 0.28)
        for beta, camera in zip(clip.beta_true, clip.cameras, strict=True):
            heads.render(person, beta, camera, resolution)
        build, render = build + middle - start, render + time.process_time() - middle
    n_frames = n_people * frames_per_clip
    return {
        "cpu_s_per_person": build / n_people,
        "cpu_s_per_frame": render / n_frames,
        "frames_per_cpu_s": n_frames / (build + render),
    }


def _first_frame() -> tuple[np.ndarray, np.ndarray]:
    clip = sample_clip(np.random.default_rng(0), 1, 1.0)
    return clip.beta_true[0], clip.cameras[0]


def time_dataset(workers: int, frames_per_clip: int, resolution: int) -> dict[str, float]:
    """Frames per second of wall time when a dataset is written, process start included."""
    n_people = workers * IDENTITIES_PER_SHARD
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        generate_dataset(
            Path(folder) / "d", n_people, frames_per_clip, resolution, seed=1, workers=workers
        )
        seconds = time.perf_counter() - start
    n_frames = n_people * frames_per_clip
    return {"frames": n_frames, "wall_s": seconds, "frames_per_s": n_frames / seconds}


@dnnlib.cli.command()
@click.option("--resolution", default=128, type=RESOLUTION, help="Pixels a side.")
@click.option("--frames-per-clip", default=8, type=Whole(1, 10_000), help="Frames of a clip.")
@click.option("--workers", default=2, type=Whole(1, 1024), help="Processes of the dataset run.")
@click.option("--people", default=6, type=PEOPLE, help="People of the one-process run.")
@json_option
def main(
    resolution: int, frames_per_clip: int, workers: int, people: int, json_path: Path | None
) -> None:
    """Time the synthetic head generator."""
    result: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "cpu": platform.processor() or platform.machine()},
        "load_before": os.getloadavg()[0],
        "resolution": resolution,
        "frames_per_clip": frames_per_clip,
        "workers": workers,
        "one_process": time_one_process(people, frames_per_clip, resolution),
        "dataset": time_dataset(workers, frames_per_clip, resolution),
    }
    click.echo(json.dumps(result, indent=1))
    if json_path is not None:
        write_json(json_path, result)


if __name__ == "__main__":
    multiprocessing.freeze_support()
    main()
