"""Pictures in order, from a folder of frames or from a video, one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.errors import UserError
from dnnlib.reading.pictures import read_picture

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")


@dataclass(frozen=True)
class Pictures:
    """A sequence of pictures."""

    path: Path
    files: tuple[Path, ...] = ()  # of a folder, in natural order
    fps: float = 0.0  # of a video; 0 for a folder

    @property
    def sound(self) -> Path | None:
        """The video file, which may hold sound."""
        return self.path if self.fps else None

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3], one after the other.

        Raises:
            UserError: a picture cannot be read.
        """
        if not self.fps:
            for file in self.files:
                yield read_picture(file)
            return
        from tracking.media import VideoReader

        with VideoReader(self.path) as reader:
            for frame in reader:
                yield frame.image


def open_pictures(path: Path) -> Pictures:
    """A folder of pictures, one picture, or a video.

    Raises:
        UserError: there is nothing of the kind at `path`.
    """
    if path.is_dir():
        files = sorted(
            (f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=natural_key
        )
        if not files:
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise UserError(
                f"{path} holds no pictures ({kinds}); give a folder of frames or a video"
            )
        return Pictures(path, tuple(files))
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a folder of frames or a video")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Pictures(path, (path,))
    from tracking.media import VideoReader

    with VideoReader(path) as reader:
        return Pictures(path, (), float(reader.fps))


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """frame2 before frame10."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", path.name)
        if part
    ]
