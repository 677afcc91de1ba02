"""Sequences beside each other in time: what does one show while another is at a given moment?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracking.media import Frame

SLACK_S = 2e-3  # containers round times to milliseconds; no frame is as short


class Playhead:
    """Goes through the frames of a video and holds the one that is seen."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self._next = next(frames, None)
        self.frame: Frame | None = None

    @property
    def end_s(self) -> float:
        """When the frame that is held ends."""
        if self.frame is None:
            return 0.0
        if self._next is not None:
            return self._next.time_s
        return self.frame.time_s + self.frame.duration_s

    def step(self) -> bool:
        """Go on by one frame; False: there is none."""
        if self._next is None:
            return False
        self.frame, self._next = self._next, next(self._frames, None)
        return True

    def seek(self, time_s: float) -> bool:
        """Go on to the frame that is shown at `time_s`; False: the video has ended by then."""
        while self._next is not None and self._next.time_s <= time_s + SLACK_S:
            self.step()
        return self.frame is not None and time_s < self.end_s - SLACK_S


def shown_at(
    times_s: np.ndarray,  # [T + 1]: when each frame is shown, and the end
    moments_s: np.ndarray,  # [N], none after the end
) -> np.ndarray:
    """Number of the frame that is shown at each moment, int64 [N]."""
    found = np.searchsorted(times_s[:-1], moments_s + SLACK_S, side="right") - 1
    return np.asarray(np.maximum(found, 0))
