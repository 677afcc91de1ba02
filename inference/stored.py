"""A clip of a data set as a driver: its labels are there, nothing is tracked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conventions.spaces import ExpressionSpace
from dataset.frames import FrameDataset
from dataset.reader import open_dataset
from dnnlib.errors import UserError
from dnnlib.typed import nearest


@dataclass(frozen=True)
class StoredClip:
    """A `Driving` (tracked.py) of a data set."""

    dataset: FrameDataset
    space: ExpressionSpace
    name: str
    first: int  # frame of the data set
    fps: float
    times_s: np.ndarray  # [T + 1]
    betas: np.ndarray  # [T, D]
    cameras: np.ndarray  # [T, 25]
    size: int  # of the crops, pixels
    n_missing: int = 0
    n_others: int = 0
    sound: Path | None = None
    own_share: np.ndarray | None = None

    @property
    def crop_record(self) -> Mapping[str, Any]:
        return self.dataset.spec.crop

    @property
    def tracker_record(self) -> Mapping[str, Any]:
        return self.dataset.spec.tracker

    def crops(self) -> Iterator[np.ndarray]:
        for i in range(len(self.betas)):
            picture = Image.fromarray(self.dataset.image(self.first + i).transpose(1, 2, 0))
            size = (self.size, self.size)
            yield np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def open_clip(
    folder: Path,
    name: str,
    size: int,  # of the crops, pixels
    max_frames: int | None = None,
) -> StoredClip:
    """A clip of a data set by its name.

    Raises:
        UserError: there is no such data set or clip, or it has no expression parameters.
    """
    dataset = open_dataset(folder)
    if dataset.space is None:
        raise UserError(
            f"{folder} has no expression parameters to drive with; give a data set of dataset_tool.py video or synth"
        )
    names = [bytes(n).rstrip(b"\0").decode("utf-8", "replace") for n in dataset.clips["name"]]
    if name not in names:
        near = nearest(name, names) or (names[0] if names else "")
        raise UserError(f"{folder} has no clip {name!r}; did you mean {near!r}?")
    clip = dataset.clips[names.index(name)]
    first, fps = int(clip["first_frame"]), float(clip["fps"])
    frames = range(first, first + min(int(clip["n_frames"]), max_frames or int(clip["n_frames"])))
    times_s = np.array([float(dataset.row(i)["time_s"]) for i in frames])
    times_s = times_s - times_s[0]
    if not (np.diff(times_s) > 0).all():  # a clip whose frames are no moments of a video
        times_s = np.arange(len(frames)) / fps
    return StoredClip(
        dataset,
        dataset.space,
        name,
        first,
        fps,
        np.append(times_s, times_s[-1] + 1 / fps),
        np.stack([dataset.beta(i) for i in frames]),
        np.stack([dataset.camera(i) for i in frames]),
        size,
    )
