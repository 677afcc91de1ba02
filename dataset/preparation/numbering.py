"""Which frame of its file a frame is, when parts and frames are left out: results of other trackers count all."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dnnlib.errors import UserError
from dnnlib.reading.containers import open_container, readable
from tracking.media import Frame, VideoReader

_SLACK_S = 1e-3  # containers round times to milliseconds
_HIDDEN = ("vp8",)  # some of its packets are never shown, so that packets are no frames


def frame_times_s(path: Path) -> list[float]:
    """When each frame of a video is shown, from the first one on; read from its packets without decoding them.

    Empty where the file does not say it, or is damaged.
    """
    with suppress(UserError), open_container(path) as container, readable(path):
        stream = container.streams.video[0]
        if stream.codec_context.name not in _HIDDEN:
            packets = (p for p in container.demux(stream) if p.size and not p.is_discard)
            stamps = [(p.dts if p.pts is None else p.pts) for p in packets]
            if None in stamps or not stamps or stream.time_base is None:
                return []
            first = min(s for s in stamps if s is not None)
            base = float(stream.time_base)
            return sorted((s - first) * base for s in stamps if s is not None)
        return [frame.time_s for frame in VideoReader(path, threads=1)]
    return []


class Numbering:
    """The frames of a part of a video, counted as the whole video counts them."""

    def __init__(self, times_s: list[float], start_s: float, end_s: float | None) -> None:
        """times_s: of the whole video; the part is [start_s, end_s)."""
        self._times_s = times_s
        self.first = bisect.bisect_left(times_s, start_s - _SLACK_S)
        last = len(times_s) if end_s is None else bisect.bisect_left(times_s, end_s - _SLACK_S)
        self.count = max(0, last - self.first)  # 0: not known, or there is none

    def __call__(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Frames whose times count from the part's first one, with their numbers in the whole video as `index`."""
        before = -1
        for frame in frames:
            if self.count:
                before = max(before + 1, self._number(frame))  # some files give two frames one time
                frame = replace(frame, index=before)
            yield frame

    def _number(self, frame: Frame) -> int:
        time_s = self._times_s[self.first] + frame.time_s
        right = bisect.bisect_left(self._times_s, time_s, self.first, len(self._times_s) - 1)
        near = (max(self.first, right - 1), right)
        return min(near, key=lambda i: abs(self._times_s[i] - time_s))
