"""Where one shot ends and the next begins."""

from __future__ import annotations

from collections import deque

import numpy as np

GRID = 32  # cells a side of the thumbnail that is compared
CUT_CHANGE = 0.10  # mean change of a cell, of the full range
CUT_RATIO = 4.0  # times the usual change of this video, so that a shaking camera is no cut
_USUAL_FRAMES = 12
_USUAL_FLOOR = 0.01


class ShotDetector:
    """Tells of every frame whether it begins a new shot; remembers a dozen numbers."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._changes: deque[float] = deque(maxlen=_USUAL_FRAMES)

    def is_cut(self, image: np.ndarray) -> bool:
        """image: uint8 [H, W, 3], the next frame. The first frame is no cut."""
        now = thumbnail(image)
        before, self._before = self._before, now
        if before is None:
            return False
        change = float(np.abs(now - before).mean())
        usual = max(float(np.median(self._changes)) if self._changes else 0.0, _USUAL_FLOOR)
        cut = change > CUT_CHANGE and change > CUT_RATIO * usual
        if not cut:
            self._changes.append(change)
        return cut


def thumbnail(image: np.ndarray) -> np.ndarray:
    """float32 [GRID, GRID, 3] in 0..1: means over cells of a sparse sample of the picture."""
    height, width = image.shape[:2]
    per_cell = 4
    rows = (np.arange(GRID * per_cell) + 0.5) * height / (GRID * per_cell)
    columns = (np.arange(GRID * per_cell) + 0.5) * width / (GRID * per_cell)
    sample = image[rows.astype(int)[:, None], columns.astype(int)[None]].astype(np.float32)
    return sample.reshape(GRID, per_cell, GRID, per_cell, 3).mean(axis=(1, 3)) / 255
