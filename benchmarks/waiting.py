"""What it costs on an idle machine that waiting threads sleep (OMP_WAIT_POLICY=passive) instead of spinning.

    python -m benchmarks.waiting --json benchmarks/results/waiting.json

Two processes make frames of the same network in turns, never at once: one with threads that sleep at a barrier, as
`dnnlib/cores.py` asks for, one with threads that spin as long as libgomp lets them by itself. The fastest turn of each
counts, which other programs disturbed least; the medians say what was lost beside them (`machine.load`).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import click
import numpy as np
import torch

import dnnlib.cli
from benchmarks.frame import random_network
from benchmarks.measure import machine
from benchmarks.options import PRESET, REPEATS, json_option, threads_option
from conventions.cameras import camera_label
from dnnlib.cores import available_cores
from dnnlib.files import write_json
from dnnlib.params import Whole

ROOT = Path(__file__).resolve().parents[1]
# libgomp's own number of turns before a thread sleeps, where no policy is set.
POLICIES = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "passive"}}


def serve(preset: str, n_frames: int, threads: int) -> None:
    """Make `n_frames` frames for every line that comes in; answer with the seconds of a frame."""
    torch.set_num_threads(threads)
    network = random_network(preset)
    n, d = network.resolution, network.space.dim
    rng = np.random.default_rng(0)
    source = network.encode(rng.integers(0, 256, (n, n, 3), dtype=np.uint8), None, None)
    for _ in sys.stdin:
        start = time.perf_counter()
        for i in range(n_frames):
            planes = network.planes(source, rng.random(d, dtype=np.float32))
            network.render(planes, camera_label(0.1 * i, 0.0))
        print((time.perf_counter() - start) / n_frames, flush=True)


def _started(policy: dict[str, str], words: list[str]) -> subprocess.Popen[str]:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    code = f"from benchmarks.waiting import serve; serve({', '.join(words)})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | policy,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _turn(process: subprocess.Popen[str]) -> float:
    given: IO[str] | None = process.stdin
    answers: IO[str] | None = process.stdout
    assert given is not None and answers is not None
    given.write("\n")
    given.flush()
    return float(answers.readline())


def measure(preset: str, turns: int, n_frames: int, threads: int) -> dict[str, Any]:
    """Seconds of a frame under each policy: of the fastest turn and of the median."""
    words = [repr(preset), str(n_frames), str(threads)]
    processes = {name: _started(policy, words) for name, policy in POLICIES.items()}
    try:
        for process in processes.values():
            _turn(process)  # the first frames take longer
        rows = []
        for turn in range(turns):
            order = list(processes) if turn % 2 == 0 else list(reversed(processes))
            rows.append({name: _turn(processes[name]) for name in order})
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    seconds = {name: sorted(row[name] for row in rows) for name in POLICIES}
    return {
        "preset": preset,
        "threads": threads,
        "turns": turns,
        "frames_a_turn": n_frames,
        "fastest_seconds": {name: round(found[0], 5) for name, found in seconds.items()},
        "median_seconds": {n: round(statistics.median(v), 5) for n, v in seconds.items()},
        "passive_per_spinning": round(seconds["passive"][0] / seconds["spinning"][0], 3),
    }


@dnnlib.cli.command("waiting")
@click.option("--preset", default="demo", type=PRESET, help="Preset of the network.")
@click.option("--turns", default=40, type=REPEATS, help="Of each policy.")
@click.option("--frames", "n_frames", default=1, type=Whole(1, 10_000), help="Of a turn.")
@threads_option
@json_option
def main(preset: str, turns: int, n_frames: int, threads: int, json_path: Path | None) -> None:
    """Compare threads that sleep while they wait with threads that spin."""
    found = measure(preset, turns, n_frames, threads or available_cores())
    fastest = found["fastest_seconds"]
    click.echo(
        f"the fastest frame: {fastest['spinning']:.4f} s spinning, {fastest['passive']:.4f} s passive, "
        f"quotient {found['passive_per_spinning']}"
    )
    if json_path is not None:
        write_json(json_path, {"machine": machine(), **found})


if __name__ == "__main__":
    main()
