"""Speed and memory of the metrics: pairs of 256 px per second and metric, peak memory over the length of a clip.

    python -m benchmarks.metrics --json benchmarks/results/metrics.json

Times are CPU seconds of the process (several processes may share the machine), networks loaded before. Each metric is
timed by itself, so the landmarks are counted in every metric that needs them; `together` is what sharing them saves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image

from metrics.calc import Options, calculate
from metrics.networks import Networks
from metrics.registry import get_metric

SIZE = 256
NAMES = (
    *("psnr", "ssim", "ms_ssim", "l1", "stlpips", "akd", "csim", "aed", "apd", "gaze"),
    *("psnr_face", "ssim_face", "jitter", "flicker", "fd_stalex", "fd_identity"),
)
TOGETHER = ("psnr", "ssim", "stlpips", "csim")


def write_clip(folder: Path, n_frames: int, seed: int) -> Path:
    """A portrait that shifts and flickers; eight pictures, repeated by links."""
    rng = np.random.default_rng(seed)
    portrait = Image.fromarray(skimage.data.astronaut()).crop((96, 0, 352, 256))
    folder.mkdir(parents=True)
    for i in range(min(8, n_frames)):
        pixels = np.roll(np.asarray(portrait, np.int16), i, axis=1) + rng.integers(
            -4, 5, (SIZE, SIZE, 3)
        )
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i:06d}.png")
    for i in range(8, n_frames):
        os.link(folder / f"{i % 8:06d}.png", folder / f"{i:06d}.png")
    return folder


def seconds(place: Path, names: Sequence[str], networks: Networks) -> float:
    """CPU seconds to score the clip."""
    start = time.process_time()
    calculate(place / "pred", place / "ref", names, Options(networks))
    return time.process_time() - start


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=32, help="pairs per metric")
    parser.add_argument("--long", type=int, default=1000, help="pairs of the long clip; 0: skip it")
    parser.add_argument("--long-metrics", default="psnr,ssim", help="metrics of the long clip")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    networks = Networks()
    networks.load([e for name in NAMES for e in get_metric(name).extractors])
    result: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "cpu": platform.processor() or platform.machine()},
        "torch": torch.__version__,
        "threads": 1,
        "size_px": SIZE,
        "pairs": arguments.pairs,
        "pairs_per_cpu_s": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for i, side in enumerate(("pred", "ref")):
            write_clip(place / side, arguments.pairs, i)
        seconds(place, NAMES, networks)  # warm
        for name in NAMES:
            result["pairs_per_cpu_s"][name] = arguments.pairs / seconds(place, [name], networks)
        together = arguments.pairs / seconds(place, TOGETHER, networks)
        result["together"] = {"metrics": TOGETHER, "pairs_per_cpu_s": together}
        if arguments.long:
            result["memory"] = long_clip(place / "long", arguments, networks)
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def long_clip(place: Path, arguments: argparse.Namespace, networks: Networks) -> dict[str, Any]:
    """Peak memory before and after a long clip."""
    names = arguments.long_metrics.split(",")
    for i, side in enumerate(("pred", "ref")):
        write_clip(place / side, arguments.long, i)
    before = peak_mib()
    used = seconds(place, names, networks)
    return {
        "metrics": names,
        "pairs": arguments.long,
        "cpu_s": used,
        "peak_mib_before": before,
        "peak_mib_after": peak_mib(),
    }


if __name__ == "__main__":
    main()
