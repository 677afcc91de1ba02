"""A tiny dataset of painted heads and the tiny preset, for the tests of the training loops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conventions.cameras import camera_label
from conventions.spaces import ExpressionSpace
from dataset.joining import finalise
from dataset.reader import open_dataset
from dataset.spec import DatasetSpec
from dataset.writer import ShardWriter
from dnnlib import load_config
from train import protocol_watch
from training.checkpoints import load_train_state
from training.config import Config
from training.trainer import Trainer

TOY = ExpressionSpace("toy", 4, "painter", "1", ("mouthOpen", "browLeft", "browRight", "nothing"))
SPLITS = ("train", "train", "train", "train", "val", "test", "test")
SIZE = 32


def make_dataset(
    dest: Path, size: int = SIZE, space: ExpressionSpace = TOY, frames: int = 6
) -> Path:
    """Seven clips of an ellipse with a mouth that opens with beta_0; depth and mask included."""
    spec = DatasetSpec(
        resolution=size,
        expression=space,
        channels=("image", "depth", "mask"),
        extra_labels={"beta_true": space.dim},
        crop={"name": "painted", "version": 1},
        tracker={"name": "painter", "hash": "0"},
    )
    random = np.random.default_rng(0)
    with ShardWriter(dest, 0, spec) as shard:
        for number, split in enumerate(SPLITS):
            shard.add_clip(f"person{number}", number, split, 25.0)
            skin = random.uniform(90, 250, 3)
            for _ in range(frames):
                beta = random.uniform(0, 1, space.dim)
                image, mask = paint(size, skin, beta[0])
                shard.add_frame(
                    image=image,
                    mask=mask,
                    depth=np.where(mask > 0, 2.5, 3.0),
                    camera=camera_label(*random.uniform(-0.3, 0.3, 2)),
                    beta=beta,
                    beta_true=beta,
                )
    finalise(dest)
    return dest


def paint(size: int, skin: np.ndarray, mouth: float) -> tuple[np.ndarray, np.ndarray]:
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    face = (x / 0.3) ** 2 + (y / 0.4) ** 2 < 1
    lips = (x / 0.15) ** 2 + ((y - 0.2) / (0.03 + 0.12 * mouth)) ** 2 < 1
    image = np.where(face[..., None], skin, 40.0)
    image[lips] = 10.0
    return image.astype(np.uint8), (face * 255).astype(np.uint8)


def tiny(data: Path, *overrides: str) -> Config:
    """The tiny preset, end to end, with every phase of training in its first steps."""
    base = (f"data.path={data}", "model.expression.mode=lebs", "train.warmup_images=4")
    return load_config(Config, "tiny", [*base, *overrides])


def trainer(config: Config, out: Path) -> Trainer:
    dataset, watch = open_dataset(config.data.path), protocol_watch(config, out)
    return Trainer(config, dataset, out, torch.device("cpu"), watch)


def finished_run(data: Path, out: Path) -> Path:
    """A run of four steps with a checkpoint after each second one."""
    trainer(tiny(data, "train.total_images=16"), out).run()
    return out


def run_directory_numbers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested dicts, lists and tuples."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}.{number}")
    else:
        yield path, value


def assert_same_state(a: Path, b: Path) -> None:
    """Two training states agree in every bit."""
    first, second = (dict(leaves(load_train_state(p)[0])) for p in (a, b))
    assert first.keys() == second.keys()
    assert len(first) > 100  # weights, averages and moments, not an empty shell
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name
