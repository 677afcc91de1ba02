"""A small random network, and photos and clips that need no tracker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from conventions.cameras import camera_label
from conventions.spaces import ARKIT52
from dnnlib.config import load_config
from dnnlib.typed import to_dict
from inference.network import Network
from inference.photo import Photo
from training.checkpoints import save_checkpoint
from training.config import Config
from training.generator.model import Export3D


def tiny_model(seed: int = 0, overrides: Sequence[str] = ()) -> Export3D:
    """A `tiny` model in which expression and view show: layers that start at zero are made random."""
    torch.manual_seed(seed)
    model = Export3D(load_config(Config, "tiny", overrides).model, ARKIT52.dim).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not bool(parameter.any()):
                parameter.normal_(0, 0.2)
        # An empty box shows no view: let the density be high somewhere.
        model.plane_mean.normal_(0, 1)
    return model


def tiny_network() -> Network:
    return Network(tiny_model(), ARKIT52, name="tiny")


def save_tiny(
    path: Path, kind: str = "model", overrides: Sequence[str] = (), **changes: object
) -> Path:
    """A checkpoint of the tiny model, configuration and metadata changed as asked."""
    metadata: dict[str, object] = {
        "kind": kind,
        "config": to_dict(load_config(Config, "tiny", overrides)),
        "expression": ARKIT52.to_dict(),
        **changes,
    }
    save_checkpoint(path, tiny_model(overrides=overrides).state_dict(), metadata)
    return path


def picture(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def photo(name: str = "photo", seed: int = 1) -> Photo:
    beta = np.zeros(ARKIT52.dim, np.float32)
    beta[ARKIT52.names.index("mouthSmileLeft")] = 0.5
    return Photo(name, picture(seed), beta, camera_label(0.0, 0.0))


@dataclass
class FakeClip:
    """A driving clip made of numbers."""

    n_frames: int
    name: str = "clip"
    fps: float = 25.0
    n_missing: int = 0
    n_others: int = 0
    sound: Path | None = None
    own_share: np.ndarray | None = None
    seed: int = 2
    betas: np.ndarray = field(init=False)
    cameras: np.ndarray = field(init=False)
    times_s: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.betas = rng.random((self.n_frames, ARKIT52.dim), dtype=np.float32)
        self.times_s = np.arange(self.n_frames + 1) / self.fps
        angles = np.linspace(-0.4, 0.4, self.n_frames)
        self.cameras = np.stack([camera_label(a, 0.0) for a in angles])

    def crops(self) -> Iterator[np.ndarray]:
        for i in range(self.n_frames):
            yield picture(100 + i)
