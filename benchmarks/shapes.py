"""What narrower layers cost in quality: two shapes of network, the same synthetic heads, the same number of pairs.

    python -m benchmarks.shapes --work out/shapes --json benchmarks/results/shapes.json

`wide` is half of what base512 was (fuse_channels 256, 128, eight blocks that see beta', width 512), `lean` half of what
it is (96, 64, four blocks of eight, width 384). Both are trained at 64 px with the demo preset's means, from beta
itself, so that hours become minutes; runs that are finished are not run again. The scores are those of
`calc_metrics.py heads` on unseen people. A small experiment: it can show a large loss, not the absence of a small one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

import dnnlib.cli
from benchmarks.measure import machine
from benchmarks.options import json_option
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import OutputFolder, Whole
from dnnlib.reading.text import read_json

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {
    "wide": {
        "model.generator.fuse_channels": "[128,64]",
        "model.generator.depth": "8",
        "model.generator.width": "256",
        "model.superresolution.channels": "[64,32,16]",
    },
    "lean": {
        "model.generator.fuse_channels": "[48,32]",
        "model.generator.depth": "4",
        "model.generator.source_depth": "4",
        "model.generator.width": "192",
        "model.generator.heads": "6",
        "model.superresolution.channels": "[32,24,12]",
    },
}
COMMON = {
    "model.resolution": "64",
    "model.expression.mode": "identity",
    "model.generator.ffn_ratio": "4.0",
    "model.superresolution.blocks": "2",
    "loss.perceptual_crop": "0",
    "train.standardise_clebs": "false",
    "train.ema_images": "500",
    "train.threads": "1",
    "train.image_every": "10000",
    "train.save_every": "10000",
    "train.eval_pairs": "512",
}
SCORES = ("psnr", "gain_over_copy_db", "psnr_face", "exchange_psnr_face_db", "depth_r")


def call(arguments: list[str]) -> None:
    """Run a script of the project; UserError with its last line if it fails."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{arguments[0]} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def make_heads(heads: Path, identities: int) -> None:
    """The people of the experiment, a fifth of them unseen in training."""
    command = ["dataset_tool.py", "synth", str(heads), "--identities", str(identities)]
    command += ["--frames-per-clip", "7", "--resolution", "64", "--workers", "1"]
    call([*command, "--val", "0", "--test", "0.2"])


def train(shape: str, heads: Path, out: Path, pairs: int, seed: int) -> dict[str, Any]:
    """Scores of one run on unseen people."""
    if not (out / "evaluation.json").is_file():
        settings = {
            **COMMON,
            **SHAPES[shape],
            "train.total_images": pairs,
            "train.warmup_images": pairs,
            "train.lr_decay_images": pairs // 2,
            "train.seed": seed,
        }
        command = ["train.py", "--preset", "demo", "--data", str(heads), "--out", str(out)]
        call(
            [*command, *(x for key, value in settings.items() for x in ("--set", f"{key}={value}"))]
        )
    found = read_json(out / "evaluation.json")
    return {key: found[key] for key in ("n_images", "n_pairs", *SCORES)}


@dnnlib.cli.command()
@click.option("--work", type=OutputFolder(), default=Path("out/shapes"), help="Data and runs.")
@click.option("--identities", default=360, type=Whole(10, 1_000_000), help="People.")
@click.option("--pairs", default=4000, type=Whole(8, 100_000_000), help="Pairs each run sees.")
@click.option("--seeds", default=1, type=Whole(1, 1000), help="Runs of each shape.")
@json_option
def main(work: Path, identities: int, pairs: int, seeds: int, json_path: Path | None) -> None:
    """Train a wide and a lean network on the same heads and score both."""
    work = work.absolute()
    make_heads(work / "heads", identities)  # nothing to do where they are complete
    runs = {
        shape: [
            train(shape, work / "heads", work / f"{shape}-{seed}", pairs, seed)
            for seed in range(seeds)
        ]
        for shape in SHAPES
    }
    means = {
        shape: {key: statistics.mean(run[key] for run in found) for key in SCORES}
        for shape, found in runs.items()
    }
    for shape, scores in means.items():
        click.echo(f"{shape}: " + ", ".join(f"{key} {value:.2f}" for key, value in scores.items()))
    if json_path is not None:
        record = {"machine": machine(), "pairs": pairs, "means": means, "runs": runs}
        write_json(json_path, record)


if __name__ == "__main__":
    main()
