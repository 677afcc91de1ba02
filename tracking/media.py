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
from PIL import Image, ImageOps, UnidentifiedImageError

from dnnlib.errors import UserError
from dnnlib.files import atomic_path

MIN_PHOTO_PX = 64  # shorter side
MAX_PHOTO_MEGAPIXELS = 300.0  # beyond, decoding alone takes more than a gigabyte
WORKING_PX = 4096  # longer side; larger photos are reduced when read, the crop needs no more
DEFAULT_FPS = 25.0  # of files that do not say
ENCODER_CRF = "17"
_TIME_SLACK_S = 1e-4  # time stamps are rounded to the stream's time base
_SEEK_FROM_S = 5.0  # before, decoding from the start is as quick


def load_photo(path: str | os.PathLike[str]) -> np.ndarray:
    """A photo as uint8 RGB [H, W, 3], upright, transparent parts white, longer side at most 4096.

    Grey, palette, CMYK, 16-bit and floating-point pictures are converted; the first frame of a moving one counts.

    Raises:
        UserError: the file is missing, empty, broken, no picture, too small or too large.
    """
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"{name} does not exist; give the path of a photo")
    if os.path.getsize(path) == 0:
        raise UserError(f"{name} is empty; give another photo")
    limit = Image.MAX_IMAGE_PIXELS
    try:
        # The size is judged below, in words; PIL's own limit would only warn.
        Image.MAX_IMAGE_PIXELS = None
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PHOTO_MEGAPIXELS * 1e6:
                raise UserError(
                    f"{name} has {width} x {height} pixels; reduce it below {MAX_PHOTO_MEGAPIXELS:.0f} megapixels"
                )
            if min(width, height) < MIN_PHOTO_PX:
                raise UserError(
                    f"{name} has {width} x {height} pixels; use a photo of at least {MIN_PHOTO_PX} x {MIN_PHOTO_PX}"
                )
            image.draft("RGB", (WORKING_PX, WORKING_PX))  # JPEG: decode at reduced size
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_reduced(_to_rgb(upright)))
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not a photo; give a JPEG, PNG or WebP file") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{name} is damaged and cannot be read; save it anew or give another photo"
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        # Integer modes are 16-bit files; floating-point ones hold 0..1 or 0..255.
        top = 65535.0 if image.mode != "F" else (1.0 if np.nanmax(values) <= 1 else 255.0)
        grey = np.clip(np.nan_to_num(values) / top * 255 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _reduced(image: Image.Image) -> Image.Image:
    if max(image.size) > WORKING_PX:
        image.thumbnail((WORKING_PX, WORKING_PX), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image


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
        if not self.path.is_file():
            raise UserError(f"{self.path} does not exist; give the path of a video")
        if self.path.stat().st_size == 0:
            raise UserError(f"{self.path} is empty; give another video")
        try:
            with av.open(_file_url(self.path)) as container:
                if not container.streams.video:
                    raise UserError(f"{self.path} has no video stream; give a video with pictures")
                stream = container.streams.video[0]
                rate = stream.average_rate or stream.guessed_rate
                self.fps = float(rate) if rate and 0 < rate <= 1000 else DEFAULT_FPS
                self.has_audio = bool(container.streams.audio)
                self.duration_s = _duration(container, stream)
                self.n_frames = int(stream.frames) or round(self.duration_s * self.fps)
            first = next(iter(self), None)
        except PermissionError as error:
            raise UserError(
                f"{self.path} may not be read (permission denied); allow reading it"
            ) from error
        except (av.FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"{self.path} cannot be read as a video; convert it to MP4 or give another"
            ) from error
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
            yield Frame(image(), given, time_s - first_s)
            given += 1

    def _decode(
        self, seek_s: float, max_side: int | None
    ) -> Iterator[tuple[Callable[[], np.ndarray], float]]:
        """Pictures (converted when called for) and their times from the video's first frame."""
        with av.open(_file_url(self.path)) as container:
            stream = container.streams.video[0]
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
                except av.FFmpegError:
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


def _file_url(path: Path) -> str:
    # FFmpeg takes a name such as "a:b.mp4" for an address; "file:" keeps it a file.
    return f"file:{path}"


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
        self._container = av.open(str(self._place.__enter__()), "w")
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

    def __init__(self, source: Any, target: Any) -> None:
        self._source = source
        self._target = target
        stream = source.streams.audio[0]
        rate = stream.rate if stream.rate in (44100, 48000, 32000, 24000, 22050, 16000) else 48000
        layout = "mono" if stream.channels == 1 else "stereo"
        self._out = target.add_stream("aac", rate=rate, layout=layout)
        self._resample = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        self._rate = rate
        self._samples = 0
        self._frames = self._decode(stream)
        self._ended = False

    @classmethod
    def open(cls, path: str | os.PathLike[str], target: Any) -> _Sound | None:
        """None when the file has no sound."""
        try:
            source = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"{os.fspath(path)} cannot be read for its sound; give another file"
            ) from error
        if not source.streams.audio or not source.streams.audio[0].rate:
            source.close()
            return None
        return cls(source, target)

    def _decode(self, stream: Any) -> Iterator[Any]:
        try:
            for frame in self._source.decode(stream):
                yield from self._resample.resample(frame)
        except av.FFmpegError:
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
