"""Speed and memory of the metrics, and whether two processes give the numbers of one.

    python -m benchmarks.metrics speed --json benchmarks/results/metrics.json
    python -m benchmarks.metrics many --json benchmarks/results/metrics.json
    python -m benchmarks.metrics pose --json benchmarks/results/metrics.json

`speed` counts CPU seconds of the process (several processes may share the machine), networks loaded before. Each metric
is timed by itself, so the landmarks are counted in every metric that needs them; `together` is what sharing them saves.
`many` scores 10,000 distinct pairs in one process and in two, and goes on where it was stopped. `pose` holds APD
against the true angles of synthetic heads. Each writes its part of the JSON file and keeps the others'.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import dnnlib.cli
from benchmarks import metrics_many
from benchmarks.measure import machine, peak_bytes
from benchmarks.options import PEOPLE, json_option
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import OutputFolder, Whole
from dnnlib.reading.text import read_json
from metrics.calc import Options, calculate
from metrics.networks import Networks
from metrics.registry import get_metric

NAMES = (
    *("psnr", "ssim", "ms_ssim", "l1", "stlpips", "akd", "csim", "aed", "apd", "gaze"),
    *("psnr_face", "ssim_face", "jitter", "flicker", "flow_jitter", "fd_stalex", "fd_identity"),
)
CACHED = ("csim", "aed", "apd")  # what `--cache` keeps of the references serves these
LARGEST_DIFFERENCE = 1e-6  # of a score between one process and two


def write_clip(folder: Path, n_frames: int, seed: int) -> Path:
    """A portrait that shifts and flickers; eight pictures, repeated by links."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    portrait = metrics_many.portrait().crop((96, 0, 352, 256))
    folder.mkdir(parents=True)
    for i in range(min(8, n_frames)):
        moved = np.roll(np.asarray(portrait, np.int16), i, axis=1)
        pixels = np.clip(moved + rng.integers(-4, 5, moved.shape), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:06d}.png")
    for i in range(8, n_frames):
        os.link(folder / f"{i % 8:06d}.png", folder / f"{i:06d}.png")
    return folder


def seconds(
    place: Path, names: Sequence[str], networks: Networks, cache: Path | None = None
) -> float:
    """CPU seconds to score the clip."""
    start = time.process_time()
    calculate(place / "pred", place / "ref", names, Options(networks, cache=cache))
    return time.process_time() - start


def long_clip(
    place: Path, names: Sequence[str], n_pairs: int, networks: Networks
) -> dict[str, Any]:
    """What a clip and clips three and ten times as long take of memory while they are scored."""
    taken = {}
    for n in (n_pairs // 10, n_pairs * 3 // 10, n_pairs):
        for i, side in enumerate(("pred", "ref")):
            write_clip(place / str(n) / side, n, i)
        run = partial(seconds, place / str(n), names, networks)
        if not taken:
            run()  # what is loaded once
        taken[str(n)] = round(peak_bytes(run) / 2**20, 1)
    return {"metrics": list(names), "extra_mib_by_pairs": taken}


def with_cache(place: Path, n_pairs: int, networks: Networks) -> dict[str, Any]:
    """CPU seconds per pair without, with an empty and with a full cache of the references."""
    cache = place / "cache"
    used = {
        "without": seconds(place, CACHED, networks),
        "first_run": seconds(place, CACHED, networks, cache),
        "second_run": seconds(place, CACHED, networks, cache),
    }
    return {"metrics": CACHED, "pairs_per_cpu_s": {k: n_pairs / v for k, v in used.items()}}


def record(out: Path | None, found: dict[str, Any]) -> None:
    """Print the numbers; put them beside what the file holds already."""
    click.echo(json.dumps(found, indent=1))
    if out is None:
        return
    kept = read_json(out, "give another --json") if out.is_file() else {}
    write_json(out, {**kept, **found})


@dnnlib.cli.group()
def main() -> None:
    """Speed and memory of the metrics."""


@main.command("speed")
@click.option("--pairs", default=32, type=Whole(2, 1_000_000), help="Pairs per metric.")
@click.option(
    "--long",
    "n_long",
    default=3000,
    type=Whole(0, 100_000_000),
    help="Pairs of the long clip; 0: none.",
)
@click.option("--long-metrics", default="psnr,ssim", help="Metrics of the long clip.")
@json_option
def speed_command(pairs: int, n_long: int, long_metrics: str, json_path: Path | None) -> None:
    """Pairs of 256 px per CPU second, of every metric by itself and of four together."""
    torch.set_num_threads(1)
    networks = Networks()
    networks.load([e for name in NAMES for e in get_metric(name).extractors])
    found: dict[str, Any] = {"machine": machine(), "size_px": metrics_many.SIZE, "pairs": pairs}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for i, side in enumerate(("pred", "ref")):
            write_clip(place / side, pairs, i)
        seconds(place, NAMES, networks)  # warm
        found["pairs_per_cpu_s"] = {n: pairs / seconds(place, [n], networks) for n in NAMES}
        together = pairs / seconds(place, metrics_many.NAMES, networks)
        found["together"] = {"metrics": metrics_many.NAMES, "pairs_per_cpu_s": together}
        found["cache"] = with_cache(place, pairs, networks)
        if n_long:
            found["memory"] = long_clip(place / "long", long_metrics.split(","), n_long, networks)
    record(json_path, found)


@main.command("many")
@click.option("--clips", default=100, type=Whole(2, 1_000_000), help="Clips of 100 pairs each.")
@click.option(
    "--processes",
    multiple=True,
    default=(1, 2),
    type=Whole(1, 1024),
    help="Score with so many processes; repeatable.",
)
@click.option(
    "--work",
    default=Path("out/metrics_many"),
    type=OutputFolder(),
    help="Folder of pairs and scores; kept.",
)
@json_option
def many_command(
    clips: int, processes: tuple[int, ...], work: Path, json_path: Path | None
) -> None:
    """Score PSNR, SSIM, ST-LPIPS and CSIM of many distinct pairs, in one process and in two.

    The clips that are scored already are not scored again: the same command goes on. Another folder begins anew.
    """
    metrics_many.write_pairs(work, clips)
    for n in processes:
        metrics_many.run(work, clips, n)
        found = metrics_many.summary(work, clips)
        record(json_path, {"many": {"machine": machine(), **found}})
    worst = max(found["largest_difference"].values(), default=0.0)
    if worst > LARGEST_DIFFERENCE:
        raise UserError(
            f"one process and two differ by {worst:.2g}; more than {LARGEST_DIFFERENCE} is a defect"
        )


@main.command("pose")
@click.option("--people", default=24, type=PEOPLE, help="Synthetic people.")
@json_option
def pose_command(people: int, json_path: Path | None) -> None:
    """APD against the true angle between two views of synthetic heads, in degrees."""
    from benchmarks.metrics_pose import measure

    record(json_path, {"apd": measure(people)})


@main.command("score", hidden=True)
@click.argument("work", type=OutputFolder(exists=True, wanted="the folder of many"))
@click.argument("clips", type=Whole(2, 1_000_000))
@click.argument("session", type=Whole(1, 1_000_000))
def score_command(work: Path, clips: int, session: int) -> None:
    """What `many` starts, alone or under torchrun."""
    metrics_many.score(work, clips, session)


if __name__ == "__main__":
    sys.exit(main())
