"""Photos and videos, in and out. Videos are streamed: memory does not grow with their length."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
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
    readable,
)
from dnnlib.reading.pictures import read_picture

MIN_PHOTO_PX = 64  # shorter side
WORKING_PX = 4096  # longer side; larger photos are reduced when read, the crop needs no more
DEFAULT_FPS = 25.0  # of files that do not say
ENCODER_CRF = "17"
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

    image: np.ndarray  # uint8 [H, W, 3], upright
    index: int
    time_s: float  # from the first frame


class VideoReader:
    """Frames of a video, upright, one at a time; each iteration decodes from the start.

    fps is the stream's average rate. A file of variable frame rate keeps its frames and their times (`Frame.time_s`);
    written at the average rate it has the same length, and single frames move by less than their own duration.

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
        with open_container(self.path) as container, readable(self.path):
            if not container.streams.video:
                raise UserError(f"{self.path} has no video stream; give a video with pictures")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate and 0 < rate <= 1000 else DEFAULT_FPS
            self.has_audio = bool(container.streams.audio)
            self.duration_s = _duration(container, stream)
            self.n_frames = int(stream.frames) or round(self.duration_s * self.fps)
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
        for image, time_s in self._decode(start_s, max_side):
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
            yield Frame(picture, given, time_s - first_s)
            given += 1

    def _decode(
        self, seek_s: float, max_side: int | None
    ) -> Iterator[tuple[Callable[[], np.ndarray], float]]:
        """Pictures (converted when called for) and their times from the video's first frame."""
        with open_container(self.path) as container, readable(self.path):
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(int(MAX_MEGAPIXELS * 1e6))}
            stream.thread_type = "AUTO"
            if self._threads:
                stream.codec_context.thread_count = self._threads
            start: float | None = None
            if seek_s > _SEEK_FROM_S and stream.start_time is not None and stream.time_base:
                # Back to a key frame well before: decoding on from there finds the exact frame.
                start = float(stream.start_time * stream.time_base)
                container.seek(int((seek_s + start - 1.0) / stream.time_base), stream=stream)
            index = 0
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
                time_s = float(frame.time) if frame.time is not None else index / self.fps
                start = time_s if start is None else start
                yield partial(_picture, frame, max_side), time_s - start
                index += 1

    def __len__(self) -> int:
        """Number of frames as the file states it; a hint, not a promise."""
        return self.n_frames

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between iterations."""


def open_video(path: str | os.PathLike[str]) -> VideoReader:
    """Same as `VideoReader(path)`."""
    return VideoReader(path)


def _picture(frame: Any, max_side: int | None) -> np.ndarray:
    longer = max(frame.width, frame.height)
    if max_side is not None and longer > max_side:
        width, height = (max(1, round(v * max_side / longer)) for v in (frame.width, frame.height))
        image = frame.to_ndarray(format="rgb24", width=width, height=height)
    else:
        image = frame.to_ndarray(format="rgb24")
    return _turned(image, int(frame.rotation))


def _turned(image: np.ndarray, rotation_deg: int) -> np.ndarray:
    """Apply a display rotation: FFmpeg's angle is counter-clockwise, as numpy's."""
    quarter = round(rotation_deg / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter)) if quarter else image


def _duration(container: Any, stream: Any) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / av.time_base


class VideoWriter:
    """H.264 (yuv420p) frame by frame; the file takes its name when it is complete.

    with VideoWriter("out.mp4", fps=25, audio_from="driving.mp4") as writer:
        writer.write(frame)

    The size is `size` or that of the first frame; odd sizes are padded by repeating the last row or column. The
    first sound stream of `audio_from` is re-encoded as AAC and ends with the video (to within one
    sound packet, 1024 samples). When the block raises, an
    old file stays.

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
        if self.path.suffix.lower() not in (".mp4", ".mkv", ".mov", ".m4v"):
            raise UserError(f"{self.path} is not a name for a video; end it in .mp4, .mkv or .mov")
        self.n_frames = 0
        self.size = size
        self._rate = Fraction(fps).limit_denominator(10_000)
        self._place = atomic_path(self.path)
        self._audio_from = audio_from
        self._container: Any = None
        self._sound: _Sound | None = None

    def __enter__(self) -> VideoWriter:
        self._container = open_container(self._place.__enter__(), "w")
        return self

    def write(self, image: np.ndarray) -> None:
        """Append a frame uint8 [H, W, 3]; all frames have one size."""
        if self.n_frames == 0:
            self._start(image)
        if (image.shape[1], image.shape[0]) != self.size:
            raise ValueError(f"frame is {image.shape[1]} x {image.shape[0]}; expected {self.size}")
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = self.n_frames
        frame.time_base = 1 / self._rate
        for packet in self._video.encode(frame):
            self._container.mux(packet)
        self.n_frames += 1
        if self._sound is not None:  # interleaved, so that neither stream piles up in memory
            self._sound.write_until(self.n_frames / float(self._rate))

    def _start(self, image: np.ndarray) -> None:
        self.size = self.size or (image.shape[1], image.shape[0])
        self._video = self._container.add_stream("libx264", rate=self._rate)
        self._video.width, self._video.height = (v + v % 2 for v in self.size)
        self._video.pix_fmt = "yuv420p"
        self._video.options = {"crf": ENCODER_CRF, "preset": "medium"}
        self._video.codec_context.time_base = 1 / self._rate
        if self._audio_from is not None:
            self._sound = _Sound.open(self._audio_from, self._container)

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
        if self.n_frames == 0:
            raise UserError(
                f"{self.path} was not written because there were no frames; check the input video"
            )
        for packet in self._video.encode(None):
            self._container.mux(packet)
        if self._sound is not None:
            self._sound.finish()

    def _close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        if self.n_frames == 0 and self._container is not None and not self._container.streams:
            # A container without streams cannot write its trailer; leave it to be removed.
            self._container = None
        if self._container is not None:
            self._container.close()


class _Sound:
    """The sound of a file, re-encoded beside the video as it grows."""

    def __init__(self, source: Any, stream: Any, target: Any) -> None:
        self._source = source
        self._target = target
        rate = stream.rate if stream.rate in (44100, 48000, 32000, 24000, 22050, 16000) else 48000
        layout = "mono" if stream.channels == 1 else "stereo"
        self._out = target.add_stream("aac", rate=rate, layout=layout)
        self._layout, self._rate = layout, rate
        self._samples = 0
        self._frames = self._decode(stream)
        self._ended = False

    @classmethod
    def open(cls, path: str | os.PathLike[str], target: Any) -> _Sound | None:
        """None when the file has no sound that can be decoded."""
        source = open_container(path, what="sound")
        # A stream without a decoder here (a phone's spatial sound) has no rate; the next one may do.
        stream = next((s for s in source.streams.audio if getattr(s, "rate", None)), None)
        if stream is None:
            source.close()
            return None
        return cls(source, stream, target)

    def _decode(self, stream: Any) -> Iterator[Any]:
        kind, resampler = None, None
        try:
            for frame in self._source.decode(stream):
                # A resampler takes one kind of sound; joined and broadcast files change theirs.
                if kind != (now := (frame.format.name, frame.layout.name, frame.sample_rate)):
                    if resampler is not None:
                        yield from resampler.resample(None)
                    kind = now
                    resampler = av.AudioResampler("fltp", self._layout, self._rate)
                assert resampler is not None
                yield from resampler.resample(frame)
        except BROKEN_MEDIA:
            return  # damaged sound ends where it is damaged

    def write_until(self, time_s: float) -> None:
        while not self._ended and self._samples < time_s * self._rate:
            frame = next(self._frames, None)
            if frame is None:
                self._ended = True
                return
            frame.pts = self._samples
            frame.time_base = Fraction(1, self._rate)
            self._samples += frame.samples
            for packet in self._out.encode(frame):
                self._target.mux(packet)

    def finish(self) -> None:
        for packet in self._out.encode(None):
            self._target.mux(packet)

    def close(self) -> None:
        self._source.close()
