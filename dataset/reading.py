"""Frames for a batch: one that cannot be read gives its place to a neighbour in its clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataset.frames import FrameDataset
from dataset.samplers import Indices
from dnnlib.errors import UserError

_NEIGHBOURS = 4  # on each side that are tried; where all of them fail, more than a frame is broken


class Reader:
    """Reads the frames of one batch, each once."""

    def __init__(self, dataset: FrameDataset) -> None:
        self._dataset = dataset
        self._read: dict[tuple[str, int], Any] = {}
        self._instead_of: dict[int, int] = {}  # frame in the batch -> the one it stands for

    def readable(self, frames: Indices, *channels: str) -> Indices:
        """`frames`, those replaced of which one of `channels` cannot be read.

        Raises:
            UserError: none of a frame's neighbours can be read either; names the frame.
        """
        return np.array([self._or_neighbour(int(i), channels) for i in frames], dtype=np.int64)

    def picture(self, channel: str, frame: int) -> Any:
        key = (channel, frame)
        if key not in self._read:
            self._read[key] = getattr(self._dataset, channel)(frame)
        return self._read[key]

    def replaced(self, *columns: Indices) -> npt.NDArray[np.int64]:
        """int64 [B, columns, 2]: the frame that could not be read and the one in its place; -1, -1 elsewhere."""
        rows = [
            [(self._instead_of[i], i) if i in self._instead_of else (-1, -1) for i in row]
            for row in zip(*(c.tolist() for c in columns), strict=True)
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, len(columns), 2)

    def _or_neighbour(self, frame: int, channels: tuple[str, ...]) -> int:
        try:
            self._load(frame, channels)
            return frame
        except UserError as error:
            first = error
        clip = self._dataset.clips[int(self._dataset.row(frame)["clip"])]
        start, end = int(clip["first_frame"]), int(clip["first_frame"]) + int(clip["n_frames"])
        for distance in range(1, _NEIGHBOURS + 1):
            for other in (frame + distance, frame - distance):
                if start <= other < end:
                    try:
                        self._load(other, channels)
                    except UserError:
                        continue
                    self._instead_of[other] = frame
                    return other
        raise first

    def _load(self, frame: int, channels: tuple[str, ...]) -> None:
        for channel in channels:
            self.picture(channel, frame)
