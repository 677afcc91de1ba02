"""What is to be prepared: videos, image sequences, archive members, parts of them; and whose face each shows."""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dnnlib.errors import UserError
from dnnlib.reading.archives import archive_names

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".flv")
    + (".wmv", ".ogv", ".3gp", ".gif")
)
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
LIST_SUFFIXES = (".csv", ".json", ".jsonl", ".txt")

Box = tuple[float, float, float, float]  # left, top, right, bottom
TimedBox = tuple[float, Box]  # seconds from the video's first frame, box

# How names tell who is seen. Each pattern is tried on the path within the source folder.
_IDENTITY_PATTERNS = {
    "voxceleb": re.compile(r"(?:^|/)(id\d{5})(?:/|\.)"),  # id10001/1zcIwhmdeo4/00001.mp4
    "vfhq": re.compile(r"(?:^|/)Clip\+(.+?\+P\d+)\+C\d+\+"),  # Clip+<video>+P0+C0+F100-220
    "talkinghead1kh": re.compile(
        r"(?:^|/)(.{11})_\d+_S\d+_E\d+_L\d+_T\d+_R\d+_B\d+"
    ),  # <video>_0000_S0_E10_L..
    "celebvhq": re.compile(r"(?:^|/)(.{11})_\d+(?:_\d+)?\.\w+$"),  # <video>_3.mp4
}
_SURE = ("voxceleb", "vfhq", "talkinghead1kh")  # patterns that nothing else looks like


@dataclass(frozen=True)
class Source:
    """One video, or a part of one."""

    name: str  # unique; the path within the source folder, parts with their number
    path: str  # of the file, the folder of images, or the archive
    kind: str = "video"  # "video", "images", "member" (of an archive)
    member: str = ""  # within the archive
    identity: str = ""  # who is seen; the same text is the same person
    start_s: float = 0.0
    end_s: float | None = None
    box: Box | None = None  # where the face is: pixels, or shares of the picture when all are <= 1
    box_size: tuple[int, int] | None = None  # width and height of the picture that the box is for
    split: str = ""  # prescribed
    track: tuple[TimedBox, ...] = ()  # where the face is as time goes on, in place of `box`
    problem: str = ""  # why nothing can be read from it

    def box_at(self, time_s: float) -> Box | None:
        """Where the face is `time_s` after the video's first frame: the nearest box in time."""
        if not self.track:
            return self.box
        i = bisect.bisect_left(self.track, time_s, key=lambda timed: timed[0])
        near = self.track[max(0, i - 1) : i + 1]
        return min(near, key=lambda timed: abs(timed[0] - time_s))[1]


def find_sources(source: str | os.PathLike[str], layout: str = "auto") -> list[Source]:
    """Everything in a folder, a clip list, an archive, or one video, in the order of the names.

    Raises:
        UserError: there is nothing, or the list is broken.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder, a list, an archive or a video")
    if path.is_dir():
        found = _without_tracked(list(_in_folder(path)))
    elif path.name.lower().endswith(ARCHIVE_SUFFIXES):
        found = _in_archive(path, path.name)
    elif path.suffix.lower() in LIST_SUFFIXES:
        from training.preparation.lists import read_list

        found = read_list(path)
    else:
        found = [Source(path.name, str(path))]
    if not found:
        raise UserError(
            f"{path} holds no videos; give a folder with videos, image sequences or archives"
        )
    return sorted(identified(found, layout), key=lambda s: s.name)


def identified(sources: Iterable[Source], layout: str) -> list[Source]:
    """The sources with their identity, where a list has not given it."""
    return [
        s if s.identity else Source(**{**s.__dict__, "identity": identity_of(s.name, layout)})
        for s in sources
    ]


def identity_of(name: str, layout: str) -> str:
    """Who a file shows, by its name: the same text for the same person. A file of no known layout is a person."""
    if layout == "folder":
        return PurePosixPath(name).parent.as_posix()
    for candidate in _SURE if layout == "auto" else (layout,):
        pattern = _IDENTITY_PATTERNS.get(candidate)
        if pattern is not None and (match := pattern.search(name)):
            return f"{candidate}:{match.group(1)}"
    return name


def _in_folder(root: Path) -> Iterator[Source]:
    """Videos, folders of images and archives; hidden files and folders are passed over."""
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        folder = Path(place)
        visible = [f for f in files if not f.startswith(".")]
        images = [f for f in visible if Path(f).suffix.lower() in IMAGE_SUFFIXES]
        if images:
            name = folder.relative_to(root).as_posix()
            yield Source(name if name != "." else root.name, str(folder), "images")
        for file in visible:
            path = folder / file
            name = path.relative_to(root).as_posix()
            if file.lower().endswith(ARCHIVE_SUFFIXES):
                yield from _in_archive(path, name)
            elif path.suffix.lower() in VIDEO_SUFFIXES or _is_video_by_content(path):
                yield Source(name, str(path))
            elif path.suffix.lower() == ".txt" and (tracked := _tracked(path, name, root)):
                yield tracked


def _tracked(path: Path, name: str, root: Path) -> Source | None:
    """What a text file of VoxCeleb describes; None for other files, and where there is no such video."""
    from training.preparation.tracks import is_track, read_track

    if not is_track(path):
        return None
    try:
        source = read_track(path, root, name)
    except UserError as error:
        return Source(name, str(path), problem=str(error))
    return source if Path(source.path).is_file() else None


def _without_tracked(sources: list[Source]) -> list[Source]:
    """Of a video with such files only the described parts are prepared."""
    described = {s.path for s in sources if s.track}
    return [s for s in sources if s.track or s.path not in described]


def _is_video_by_content(path: Path) -> bool:
    """Whether a file of another name begins as MP4, Matroska or AVI files do."""
    if path.suffix.lower() in (*IMAGE_SUFFIXES, *LIST_SUFFIXES) or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or head[8:12] == b"AVI "


def _in_archive(path: Path, name: str) -> list[Source]:
    """Videos and image sequences inside; an unreadable archive is a source that will be rejected."""
    try:
        members = archive_names(path)
    except UserError:
        return [Source(name, str(path), "member", "")]
    found = []
    sequences = set()
    for member in members:
        suffix = PurePosixPath(member).suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            found.append(Source(f"{name}/{member}", str(path), "member", member))
        elif suffix in IMAGE_SUFFIXES:
            sequences.add(PurePosixPath(member).parent.as_posix())
    for folder in sequences:
        found.append(Source(f"{name}/{folder}/", str(path), "member", f"{folder}/"))
    return found
