"""A source: a video, an image sequence, an archive's member, or a part of one; and whose face it shows."""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

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

    @property
    def is_part(self) -> bool:
        """Whether it is not the whole video."""
        return self.start_s > 0 or self.end_s is not None

    def box_at(self, time_s: float) -> Box | None:
        """Where the face is `time_s` after the video's first frame: the nearest box in time."""
        if not self.track:
            return self.box
        i = bisect.bisect_left(self.track, time_s, key=lambda timed: timed[0])
        near = self.track[max(0, i - 1) : i + 1]
        return min(near, key=lambda timed: abs(timed[0] - time_s))[1]


def identified(sources: Iterable[Source], layout: str) -> list[Source]:
    """The sources with their identity, where a list has not given it.

    Parts of one video show one person, whatever their names and the links to it, unless boxes tell people apart.
    """
    out, people = [], dict[tuple[str, str], str]()
    for source in sources:
        identity = source.identity
        if not identity:
            identity = identity_of(source.name, layout)
            if source.box is None:
                place = (os.path.realpath(source.path), source.member)
                identity = people.setdefault(place, identity)
        out.append(replace(source, identity=identity))
    return out


def identity_of(name: str, layout: str) -> str:
    """Who a file shows, by its name: the same text for the same person. A file of no known layout is a person."""
    if layout == "folder":
        return PurePosixPath(name).parent.as_posix()
    for candidate in _SURE if layout == "auto" else (layout,):
        pattern = _IDENTITY_PATTERNS.get(candidate)
        if pattern is not None and (match := pattern.search(name)):
            return f"{candidate}:{match.group(1)}"
    return name
