"""Pictures of a source one at a time: a video file, a folder of images, or an archive's member."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from dataset.preparation.numbering import Numbering, frame_times_s
from dataset.preparation.sources import Source
from dnnlib.errors import UserError
from dnnlib.listing import IMAGE_SUFFIXES, is_image, is_video, listed, natural_key
from dnnlib.reading.archives import archive_names, copy_member, read_member
from dnnlib.reading.pictures import read_picture
from tracking.media import DEFAULT_FPS, Frame, VideoReader

MIN_SIDE_PX = 32  # below, a face cannot be told from a stain


@dataclass
class Pictures:
    """What a source holds; `frames` may be called once."""

    frames: Iterator[Frame]
    width: int
    height: int
    fps: float
    expected_s: float = 0.0  # length that the file promises; 0: it does not say
    expected: int = 0  # frames that it promises; 0: it does not say
    first: int = 0  # number of the part's first frame in the whole source, of which `Frame.index` is the number
    count: int = 0  # frames of the part, those that `max_fps` leaves out included; 0: not known

    def note_of_missing(self, n_read: int, end_s: float) -> str:
        """A sentence when the file ended long before what it promised, in time and in frames; it may lie in one."""
        is_short = end_s < 0.9 * self.expected_s and end_s < self.expected_s - 0.2
        if is_short and not 0 < 0.9 * self.expected <= n_read:
            return f"the video breaks off after {end_s:.1f} of {self.expected_s:.1f} s"
        return ""


@contextmanager
def open_source(source: Source, max_side: int, max_fps: float) -> Iterator[Pictures]:
    """The pictures of a source.

    Raises:
        UserError: nothing can be read from it.
    """
    if source.problem:
        raise UserError(source.problem)
    if source.kind == "images":
        yield _image_folder(Path(source.path), source, max_side)
    elif source.kind == "member" and source.member.endswith("/"):
        yield _image_members(Path(source.path), source, max_side)
    elif source.kind == "member":
        with _extracted(Path(source.path), source.member) as path:
            yield _video(path, source, max_side, max_fps)
    else:
        yield _video(Path(source.path), source, max_side, max_fps)


def _video(path: Path, source: Source, max_side: int, max_fps: float) -> Pictures:
    try:
        reader = VideoReader(path, threads=1)
    except UserError as error:
        if is_video(path):
            raise
        raise UserError(f"{path} is not a video; give videos, image folders or archives") from error
    _check_size(reader.width, reader.height, source.name)
    whole = source.start_s == 0 and source.end_s is None and max_fps == 0
    numbering = Numbering(frame_times_s(path), source.start_s, source.end_s)
    frames = numbering(reader.frames(source.start_s, source.end_s, max_side, max_fps or None))
    fps = min(reader.fps, max_fps) if max_fps else reader.fps
    promised = (reader.stated_s, reader.n_stated) if whole else (0.0, 0)
    pictures = Pictures(frames, reader.width, reader.height, fps, *promised)
    pictures.first, pictures.count = numbering.first, numbering.count
    return pictures


@contextmanager
def _extracted(path: Path, member: str) -> Iterator[Path]:
    """An archive's video as a file of its own, gone afterwards. Its own name is never used as a path."""
    suffix = PurePosixPath(member).suffix
    with tempfile.TemporaryDirectory(prefix="export3d-") as folder:
        file = Path(folder) / f"member{suffix}"
        copy_member(path, member, file)
        try:
            yield file
        except UserError as error:
            raise UserError(str(error).replace(str(file), f"{member} in {path}")) from error


def _image_folder(folder: Path, source: Source, max_side: int) -> Pictures:
    files = listed(folder, IMAGE_SUFFIXES)
    return _images([(str(p), partial(read_picture, p, max_side=max_side)) for p in files], source)


def _image_members(path: Path, source: Source, max_side: int) -> Pictures:
    folder = source.member.rstrip("/")
    inside = (n for n in archive_names(path) if PurePosixPath(n).parent.as_posix() == folder)
    names = sorted(filter(is_image, inside), key=natural_key)

    def reader(name: str) -> Callable[[], np.ndarray]:
        return lambda: read_picture(read_member(path, name), f"{name} in {path}", max_side=max_side)

    return _images([(f"{n} in {path}", reader(n)) for n in names], source)


def _images(readers: list[tuple[str, Callable[[], np.ndarray]]], source: Source) -> Pictures:
    if not readers:
        raise UserError(f"{source.name} holds no images; give another folder")

    def frames() -> Iterator[Frame]:
        size: tuple[int, ...] | None = None
        for index, (name, read) in enumerate(readers):
            time_s = index / DEFAULT_FPS
            if time_s < source.start_s or (source.end_s is not None and time_s >= source.end_s):
                continue
            image = read()
            if size is not None and image.shape != size:
                raise UserError(f"{name} has another size than the images before; make them equal")
            size = image.shape
            yield Frame(image, index, time_s)

    height, width = readers[0][1]().shape[:2]
    _check_size(width, height, source.name)
    pictures = Pictures(frames(), width, height, DEFAULT_FPS)
    times = [i / DEFAULT_FPS for i in range(len(readers))]
    numbering = Numbering(times, source.start_s, source.end_s)
    pictures.first, pictures.count = numbering.first, numbering.count
    return pictures


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE_PX:
        raise UserError(
            f"{name} has {width} x {height} pixels; give videos of at least {MIN_SIDE_PX} x {MIN_SIDE_PX}"
        )
