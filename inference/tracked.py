"""Photos and videos as the network wants them: aligned crops, camera labels and beta, from the tracker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Photo:
    """A source portrait."""

    name: str
    crop: np.ndarray  # uint8 [H, W, 3], aligned
    beta: np.ndarray  # float32 [D]
    camera: np.ndarray  # float32 [25]


class Driving(Protocol):
    """A driving clip. Labels are held for the whole clip (a few hundred bytes a frame), pictures one at a time."""

    name: str
    fps: float
    betas: np.ndarray  # float32 [T, D], smoothed where asked for
    cameras: np.ndarray  # float32 [T, 25]
    n_missing: int  # frames without a face; their labels come from the neighbours
    sound: Path | None  # file with the clip's sound

    def crops(self) -> Iterator[np.ndarray]:
        """Aligned pictures uint8 [H, W, 3] of the T frames, decoded again from the start."""
        ...
