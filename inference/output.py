"""Writing what was rendered: one streaming video writer for every command, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from dnnlib.files import atomic_path
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
    """Stream frames into a video that appears under its name when it is complete.

    time_of(i) tells when frame i is shown, in seconds from the first, once it has been made; asked for one frame more
    than there are, it tells when the last one ends. None: all follow each other at `fps`.

    Raises:
        UserError: there are no frames, or the place cannot be written.
    """
    start = perf_counter()
    count = 0
    with VideoWriter(path, fps, audio_from=audio_from) as writer:
        for frame in progress_bar(frames, n_frames, what):
            writer.write(frame, None if time_of is None else time_of(count))
            count += 1
        if time_of is not None and count:
            writer.end_s = time_of(count)
    return Report(path, count, perf_counter() - start, writer.notes)


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
