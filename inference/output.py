"""Writing what was rendered: one streaming video writer for every command, and pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from dnnlib.files import atomic_folder, atomic_path, write_json
from dnnlib.listing import WRITTEN_STILL_SUFFIXES
from dnnlib.signals import Stopped
from tracking.media import VideoWriter

T = TypeVar("T")


@dataclass
class Report:
    """What a command did; `lines` are printed."""

    path: Path
    n_frames: int
    seconds: float
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        rate = self.n_frames / max(self.seconds, 1e-9)
        done = f"wrote {self.path}: {self.n_frames} frames in {self.seconds:.1f} s"
        return [*self.notes, f"{done} ({rate:.1f} per second)"]


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],  # uint8 [H, W, 3], all of one size; H, W even
    fps: float,
    audio_from: Path | None = None,  # file whose sound is copied, cut to the video's length
    n_frames: int | None = None,  # expected, for the progress bar
    what: str = "frames",
    time_of: Callable[[int], float] | None = None,  # see below
) -> Report:
    """Stream frames into what the name says: a video, a GIF, a WebP, a still (the first frame), a folder of pictures.

    It appears under its name when it is complete, or when the user stops the program: then with the frames so far.

    time_of(i) tells when frame i is shown, in seconds from the first, once it has been made; asked for one frame more
    than there are, it tells when the last one ends. None: all follow each other at `fps`.

    Raises:
        UserError: there are no frames, or the place cannot be written.
    """
    start = perf_counter()
    count = 0
    stopped: BaseException | None = None
    if path.suffix.lower() in WRITTEN_STILL_SUFFIXES:
        frames, n_frames = islice(frames, 1), 1
    with writer_of(path, fps, audio_from) as writer:
        try:
            for frame in progress_bar(frames, n_frames, what):
                writer.write(frame, None if time_of is None else time_of(count))
                count += 1
        except (KeyboardInterrupt, Stopped) as asked:
            if not count:
                raise
            stopped = asked
            if isinstance(asked, Stopped):
                asked.taken = True
        if time_of is not None and count:
            writer.end_s = time_of(count)
    if stopped is not None:
        print(f"{path} ends with the {count} frames made so far", file=sys.stderr)
        raise stopped
    return Report(path, count, perf_counter() - start, writer.notes)


class Pictures:
    """Frames as a folder of 000000.png ... with times.json, or (a name with a suffix) a single picture."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.notes: list[str] = []
        self.end_s: float | None = None
        self._fps = fps
        self._times_s: list[float] = []
        self._one = bool(path.suffix)
        self._place = atomic_path(path) if self._one else atomic_folder(path, "times.json")
        self._at = path

    def __enter__(self) -> Pictures:
        self._at = self._place.__enter__()
        return self

    def write(self, image: np.ndarray, time_s: float | None = None) -> None:
        """Append a frame uint8 [H, W, 3 or 4]."""
        number = len(self._times_s)
        place = self._at if self._one else self._at / f"{number:06d}.png"
        Image.fromarray(image).save(place, compress_level=4, quality=95)
        self._times_s.append(number / self._fps if time_s is None else time_s)

    def __exit__(self, *failed: Any) -> None:
        if failed[0] is None and not self._one:
            ends = self.end_s or self._times_s[-1] + 1 / self._fps
            write_json(self._at / "times.json", {"times_s": [*self._times_s, ends]})
        self._place.__exit__(*failed)


def writer_of(path: Path, fps: float, audio_from: Path | None) -> VideoWriter | Pictures:
    """What writes frames under this name."""
    if not path.suffix or path.suffix.lower() in WRITTEN_STILL_SUFFIXES:
        return Pictures(path, fps)
    return VideoWriter(path, fps, audio_from=audio_from)


def progress_bar(items: Iterable[T], total: int | None, what: str) -> Iterable[T]:
    """A bar on standard error while it is a terminal; silent otherwise."""
    console = Console(stderr=True)
    return track(
        items, what, total, console=console, transient=True, disable=not console.is_terminal
    )


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a picture, whole or not at all; the suffix chooses the format."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary)
