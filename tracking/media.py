"""Photos and videos, in and out. Videos are streamed: memory does not grow with their length."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from dnnlib.errors import UserError
from dnnlib.files import atomic_path
from dnnlib.reading.containers import (
    BROKEN_MEDIA,
    MAX_MEGAPIXELS,
    open_container,
    picture_stream,
    readable,
)
from dnnlib.reading.pictures import read_picture
from dnnlib.reading.shown import shown_picture
from tracking.encoders import ENCODINGS, encoding_of
from tracking.sound import Sound

MIN_PHOTO_PX = 64  # shorter side
WORKING_PX = 4096  # longer side; larger photos are reduced when read, the crop needs no more
DEFAULT_FPS = 25.0  # of files that do not say
_ROUNDED_S = 6e-4  # Matroska counts milliseconds
_TIME_SLACK_S = 1e-4  # time stamps are rounded to the stream's time base
_SEEK_FROM_S = 5.0  # before, decoding from the start is as quick


def load_photo(path: str | os.PathLike[str]) -> np.ndarray:
    """A photo as uint8 RGB [H, W, 3], as people see it (`read_picture`), longer side at most 4096.

    Raises:
        UserError: the file is missing, empty, broken, no picture, too small or too large.
    """
    return read_picture(path, max_side=WORKING_PX, min_side=MIN_PHOTO_PX)


@dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    image: np.ndarray  # uint8 [H, W, 3], as it is meant to be seen
    index: int
    time_s: float  # from the first frame
    duration_s: float = (
        0.0  # how long it is shown, as far as the file says; counts for the last one
    )


class VideoReader:
    """Frames of a video as they are meant to be seen, one at a time; each iteration decodes from the start.

    What counts are the times of the frames (`Frame.time_s`), which grow from frame to frame. fps is the rate that the
    file states: of variable frame rates a mean, and of some files a guess.

    Raises:
        UserError: the file is missing, unreadable, empty, broken or has no video stream.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int = 0,  # of the decoder; 0: as many as it likes
    ) -> None:
        self.path = Path(path)
        self._threads = threads
        self.start_s = 0.0  # of the first frame, in the file's own clock, which sound shares
        with open_container(self.path) as container, readable(self.path):
            stream = picture_stream(container, self.path)
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate and 0 < rate <= 1000 else DEFAULT_FPS
            self.has_audio = bool(container.streams.audio)
            self.stated_s = _stated_duration(stream)
            whole_s = float(container.duration or 0) / av.time_base  # the sound may be longer
            if not self.has_audio:
                self.stated_s = self.stated_s or whole_s
            self.duration_s = self.stated_s or whole_s
            self.n_stated = int(stream.frames)  # frames, 0: the file does not say
            self.n_frames = self.n_stated or round(self.duration_s * self.fps)
        first = next(iter(self), None)
        if first is None:
            raise UserError(
                f"{self.path} holds no readable frames; convert it to MP4 or give another video"
            )
        self.height, self.width = first.image.shape[:2]

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(
        self,
        start_s: float = 0.0,  # of the first frame given, from the video's first
        end_s: float | None = None,  # exclusive
        max_side: int | None = None,  # larger pictures are reduced to this longer side
        max_fps: float | None = None,  # of faster videos some frames are left out
    ) -> Iterator[Frame]:
        """Decode a part of the video. A defect in the middle ends the video there, as players do.

        Index and time count from the first frame given.
        """
        given, last_slot = 0, -1
        first_s = 0.0
        for image, time_s, duration_s in self._decode(start_s, max_side):
            if time_s < start_s - _TIME_SLACK_S:
                continue
            if end_s is not None and time_s >= end_s - _TIME_SLACK_S:
                return
            first_s = time_s if given == 0 else first_s
            if max_fps is not None:
                slot = int((time_s - first_s + _TIME_SLACK_S) * max_fps)
                if slot == last_slot:
                    continue
                last_slot = slot
            with readable(self.path):
                picture = image()
            yield Frame(picture, given, time_s - first_s, duration_s)
            given += 1

    def _decode(
        self, seek_s: float, max_side: int | None
    ) -> Iterator[tuple[Callable[[], np.ndarray], float, float]]:
        """Pictures (converted when called for), their times from the video's first frame, and how long they last."""
        with open_container(self.path) as container, readable(self.path):
            stream = picture_stream(container, self.path)
            stream.codec_context.options = {"max_pixels": str(int(MAX_MEGAPIXELS * 1e6))}
            stream.thread_type = "AUTO"
            if self._threads:
                stream.codec_context.thread_count = self._threads
            aspect = stream.sample_aspect_ratio
            has_sought = seek_s > _SEEK_FROM_S and stream.start_time is not None
            if has_sought and stream.time_base:
                # Back to a key frame well before: decoding on from there finds the exact frame.
                at = int((seek_s + self.start_s - 1.0) / stream.time_base)
                container.seek(at, stream=stream)
            index, step_s, before = 0, 1 / self.fps, -math.inf
            skipped = 0.0  # by which the file's clock was set back or forth
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames)
                except (StopIteration, av.error.EOFError):
                    return
                except BROKEN_MEDIA:
                    if index == 0:
                        raise
                    return
                stated = None if frame.time is None else float(frame.time)
                if index == 0 and not has_sought:
                    self.start_s = stated or 0.0
                time_s = index * step_s if stated is None else stated - self.start_s + skipped
                if time_s <= before:  # joined files set the clock back, and some count frames twice
                    skipped += before + step_s - time_s if before - time_s > 1 else 0.0
                    time_s = before + (step_s if before - time_s > 1 else _TIME_SLACK_S * 10)
                before = time_s
                length = float(frame.duration * frame.time_base) if frame.duration else step_s
                picture = partial(shown_picture, frame, self.path, aspect, max_side)
                yield picture, time_s, length
                index += 1

    def packet_times_s(self) -> list[float]:
        """When the file's frames are shown, without decoding them; of some old formats only about."""
        with open_container(self.path) as container, readable(self.path):
            stream = picture_stream(container, self.path)
            stamps = [
                (p.dts if p.pts is None else p.pts, p.time_base)
                for p in container.demux(stream)
                if p.size and not p.is_discard
            ]
            return sorted(float(at * base) for at, base in stamps if at is not None and base)

    def __len__(self) -> int:
        """Number of frames as the file states it; a hint, not a promise."""
        return self.n_frames

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between iterations."""


def _stated_duration(stream: Any) -> float:
    """Seconds from the first picture to the end of the last; 0: the file does not say it of its pictures."""
    base = stream.time_base
    if stream.duration is not None and base is not None:
        return float(stream.duration * base)
    stated = re.fullmatch(r"(\d+):(\d\d):([\d.]+)", stream.metadata.get("DURATION", ""))
    if stated is None:
        return 0.0
    end_s = (
        int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3])
    )  # Matroska's, of its clock
    return max(0.0, end_s - float((stream.start_time or 0) * (base or 0)))


class VideoWriter:
    """A moving picture frame by frame; the file takes its name when it is complete.

    H.264, VP9 (yuv420p, BT.709, tagged), WebP or GIF, as the suffix says (`encoders.py`).

    with VideoWriter("out.mp4", fps=25, audio_from="driving.mp4") as writer:
        writer.write(frame)

    The size is `size` or that of the first frame; odd sizes are padded by repeating the last row or column. Frames
    follow each other at `fps`, or are shown at the times they come with, each once, for as long as it is held. The
    sound of `audio_from` is encoded anew, each moment at its own time from that file's first picture on, and ends
    with the video (to within one sound packet, 1024 samples); `notes` says what of it is missing. When the block
    raises, an old file stays.

    Raises:
        UserError: the place cannot be written, or no frame was given.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float,
        size: tuple[int, int] | None = None,  # width, height
        audio_from: str | os.PathLike[str] | None = None,
    ) -> None:
        if not (0 < fps <= 1000 and math.isfinite(fps)):
            raise ValueError(f"fps {fps} must lie in (0, 1000]")
        self.path = Path(path)
        encoding = encoding_of(self.path)
        if encoding is None:
            raise UserError(
                f"{self.path} is not a name for a video; end it in {', '.join(ENCODINGS)}"
            )
        self._encoding = encoding
        self.n_frames = 0
        self.size = size
        self.end_s: float | None = None  # when the last frame ends; None: after 1 / fps
        self.notes: list[str] = []
        self._rate = Fraction(fps).limit_denominator(10_000)
        # Ticks as fine as MP4's usual 90 kHz, of which a frame of `fps` takes a whole number.
        self._ticks = self._rate.denominator * math.ceil(90_000 / self._rate.numerator)
        self._tick = Fraction(1, self._rate.numerator * self._ticks // self._rate.denominator)
        self._place = atomic_path(self.path)
        self._audio_from = audio_from
        self._container: Any = None
        self._sound: Sound | None = None
        self._waiting: tuple[np.ndarray, int] | None = None  # its duration is known with the next
        self._durations: dict[int, int] = {}  # ticks, by time stamp

    def __enter__(self) -> VideoWriter:
        self._container = open_container(self._place.__enter__(), "w", options=self._encoding.muxer)
        return self

    def write(self, image: np.ndarray, time_s: float | None = None) -> None:
        """Append a frame uint8 [H, W, 3], or 4 where the kind can be transparent; all have one size.

        time_s: from the first frame, growing.
        """
        if self.n_frames == 0:
            self._start(image)
        if (image.shape[1], image.shape[0]) != self.size:
            raise ValueError(f"frame is {image.shape[1]} x {image.shape[0]}; expected {self.size}")
        at = self.n_frames * self._ticks if time_s is None else self._stamp(time_s)
        if self._waiting is not None:
            at = max(at, self._waiting[1] + 1)
            self._encode(*self._waiting, at)
        self._waiting = image.copy(), at
        self.n_frames += 1

    def _stamp(self, time_s: float) -> int:
        """Ticks; times that are rounded to a container's milliseconds return to the constant rate's."""
        exact = time_s / float(self._tick)
        regular = round(exact / self._ticks) * self._ticks
        slack = min(_ROUNDED_S / float(self._tick), self._ticks / 4)
        return regular if abs(exact - regular) < slack else round(exact)

    def _encode(self, image: np.ndarray, at: int, until: int) -> None:
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        frame = self._encoding.frame(image)
        frame.pts, frame.time_base = at, self._tick
        self._durations[at] = until - at
        self._mux(self._video.encode(frame))
        if self._sound is not None:  # interleaved, so that neither stream piles up in memory
            self._sound.write_until(until * float(self._tick))

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._container.mux(packet)

    def _start(self, image: np.ndarray) -> None:
        self.size = self.size or (image.shape[1], image.shape[0])
        if image.shape[2] == 4 and self._encoding.transparent is None:
            raise UserError(
                f"{self.path} cannot be transparent; end the name in .webm, .webp or .png"
            )
        self._video = self._container.add_stream(self._encoding.codec, rate=self._rate)
        self._video.width, self._video.height = (v + v % 2 for v in self.size)
        self._encoding.start(self._video, image.shape[2])
        self._video.codec_context.time_base = self._tick
        if self._audio_from is not None and self._encoding.sound is not None:
            start_s = _first_picture_s(self._audio_from)
            codec = self._encoding.sound
            self._sound, notes = Sound.open(self._audio_from, self._container, start_s, codec)
            self.notes += notes

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as failure:
            self._close()
            self._place.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._close()
        self._place.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self._waiting is None:
            raise UserError(
                f"{self.path} was not written because there were no frames; check the input video"
            )
        image, at = self._waiting
        end = at + self._ticks if self.end_s is None else self._stamp(self.end_s)
        self._encode(image, at, max(end, at + 1))
        self._mux(self._video.encode(None))
        if self._sound is not None:
            self._sound.finish()
            if self._sound.is_damaged:
                self.notes.append(
                    f"parts of the sound of {self._audio_from} are damaged and silent"
                )

    def _close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        if self.n_frames == 0 and self._container is not None and not self._container.streams:
            # A container without streams cannot write its trailer; leave it to be removed.
            self._container = None
        if self._container is not None:
            self._container.close()


def _first_picture_s(path: str | os.PathLike[str]) -> float:
    try:
        return VideoReader(path, threads=1).start_s
    except UserError:
        return 0.0  # sound alone
