"""Pictures in order, from a folder of frames or from a video, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.errors import UserError
from dnnlib.listing import IMAGE_SUFFIXES, is_image, listed
from dnnlib.reading.files import check_file
from dnnlib.reading.pictures import read_picture
from tracking.media import DEFAULT_FPS, WORKING_PX, Frame, VideoReader


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
        for frame in self.timed():
            yield frame.image

    def timed(self) -> Iterator[Frame]:
        """The same with times; pictures of a folder follow each other at 25 a second, longer side at most 4096.

        Raises:
            UserError: a picture cannot be read.
        """
        if self.fps:
            with VideoReader(self.path) as reader:
                yield from reader
            return
        for i, file in enumerate(self.files):
            image = read_picture(file, max_side=WORKING_PX)
            yield Frame(image, i, i / DEFAULT_FPS, 1 / DEFAULT_FPS)


@dataclass(frozen=True)
class PictureFrames:
    """Pictures that are gone through like a `VideoReader`'s, 25 a second."""

    pictures: Pictures
    fps: float = DEFAULT_FPS

    @property
    def path(self) -> Path:
        """The folder, or the one picture."""
        return self.pictures.path

    def __iter__(self) -> Iterator[Frame]:
        return self.pictures.timed()

    def __len__(self) -> int:
        return len(self.pictures.files)


def open_frames(path: Path) -> VideoReader | PictureFrames:
    """The frames of a video, of a folder of pictures, or of one picture.

    Raises:
        UserError: there is nothing of the kind at `path`.
    """
    if path.is_dir() or is_image(path):
        return PictureFrames(open_pictures(path))
    return VideoReader(path)


def open_pictures(path: Path) -> Pictures:
    """A folder of pictures, one picture, or a video.

    Raises:
        UserError: there is nothing of the kind at `path`.
    """
    if path.is_dir():
        files = listed(path, IMAGE_SUFFIXES)
        if not files:
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise UserError(
                f"{path} holds no pictures ({kinds}); give a folder of frames or a video"
            )
        return Pictures(path, tuple(files))
    check_file(path, "give a folder of frames or a video")
    if is_image(path):
        return Pictures(path, (path,))
    with VideoReader(path) as reader:
        return Pictures(path, (), float(reader.fps))
