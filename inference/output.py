"""Writing what was rendered: one streaming video writer for every command, and pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from dnnlib.errors import UserError
from dnnlib.files import atomic_path

T = TypeVar("T")

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")


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


def check_video_path(
    path: str | os.PathLike[str],
    *inputs: Path,  # files that the command reads
) -> Path:
    """The output path, refused before any work when it cannot become a video.

    Raises:
        UserError: an unknown suffix, a folder of that name, an input itself, or a place that cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(f"--out {target} must end in one of {', '.join(VIDEO_SUFFIXES)}")
    check_writable(target, *inputs)
    return target


def check_writable(target: Path, *inputs: Path) -> None:
    """Raises UserError when no file of that name could be made or it is an input. Makes missing folders."""
    for path in inputs:
        if path.exists() and target.exists() and path.samefile(target):
            raise UserError(f"{target} is also an input and would be replaced; choose another name")
    if target.is_dir():
        raise UserError(f"{target} is a folder; choose a file name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder {target.parent} cannot be made ({error.strerror}); choose another place"
        ) from error
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise UserError(f"the folder {target.parent} cannot be written to; choose another place")


def check_folder(path: Path) -> None:
    """Raises UserError when files could not be written into a folder of that name. Makes nothing."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        what = "is a file, not a folder" if place == path else f"cannot be made: {place} is a file"
        raise UserError(f"{path} {what}; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"the folder {place} cannot be written to; choose another place")


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],  # uint8 [H, W, 3], all of one size; H, W even
    fps: float,
    audio_from: Path
    | None = None,  # file whose first sound stream is copied, cut to the video's length
    n_frames: int | None = None,  # expected, for the progress bar
    what: str = "frames",
) -> Report:
    """Stream frames into a video that appears under its name when it is complete.

    Raises:
        UserError: there are no frames, or the place cannot be written.
    """
    from tracking.media import VideoWriter

    start = perf_counter()
    count = 0
    with VideoWriter(path, fps, audio_from=audio_from) as writer:
        for frame in progress_bar(frames, n_frames, what):
            writer.write(frame)
            count += 1
    return Report(path, count, perf_counter() - start)


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
