"""What lies in a folder: which names are pictures and which are videos, and the order in which people count."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath

from dnnlib.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    ".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".flv"
)  # fmt: skip
# Folders that systems lay beside people's files, with names and suffixes like theirs: macOS in archives, Synology's
# thumbnails, Windows' and Linux' bins.
_SYSTEM_FOLDERS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"))
WRITTEN_VIDEO_SUFFIXES = (
    ".mp4",
    ".mkv",
    ".mov",
    ".webm",
    ".webp",
    ".gif",
)  # of videos that are made here
WRITTEN_STILL_SUFFIXES = (".png", ".jpg")  # of a single picture
TRANSPARENT_SUFFIXES = (".webm", ".webp", ".png")  # of those, what can have an alpha channel


def is_image(path: PurePath | str) -> bool:
    """Whether the name is that of a picture."""
    return PurePath(path).suffix.lower() in IMAGE_SUFFIXES


def is_video(path: PurePath | str) -> bool:
    """Whether the name is that of a video."""
    return PurePath(path).suffix.lower() in VIDEO_SUFFIXES


def is_hidden(path: PurePath | str) -> bool:
    """Whether a relative path is or lies in something hidden: a name with a dot first, a folder of the system's.

    ".." is none: who joins it to a folder has to refuse it.
    """
    parts = PurePosixPath(path).parts
    return any(p in _SYSTEM_FOLDERS or (p.startswith(".") and p != "..") for p in parts)


def natural_key(path: PurePath | str) -> list[tuple[int, int, str]]:
    """To sort frame2 before frame10."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", PurePath(path).name)
        if part
    ]


def listed(folder: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """What lies in a folder, or its entries with one of `suffixes`, in natural order; nothing hidden.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        found = [p for p in folder.iterdir() if not is_hidden(p.name)]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); restore it") from error
    if suffixes:
        found = [p for p in found if p.suffix.lower() in suffixes]
    return sorted(found, key=natural_key)


def files_below(root: Path, every_name: bool = False) -> Iterator[Path]:
    """The files in a folder and in the folders inside, folder after folder in natural order; nothing hidden.

    Links are followed, and every folder and every file comes once, whatever the number of its names: under a name of
    its own where it has one, else under the first link to it. Links that lead nowhere, pipes and devices are left out.

    every_name: a file comes under each of its names (folders still come once), where names mean something.

    Raises:
        UserError: the folder itself cannot be read; folders inside that cannot be are passed over.
    """
    seen: set[tuple[int, int]] = set()
    listed(root)  # says why, when it cannot be read
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        if not folders:  # what has a name of its own comes first
            link = links.popleft()
            if link.is_dir():
                folders.append(link)
            elif link.is_file() and (_first_time(link, seen) or every_name):
                yield link
            continue
        folder = folders.popleft()
        if not _first_time(folder, seen):
            continue
        inside = []
        for path in _readable(folder):
            if path.is_symlink():
                links.append(path)
            elif path.is_dir():
                inside.append(path)
            elif path.is_file() and (_first_time(path, seen) or every_name):
                yield path
        folders.extendleft(reversed(inside))


def _readable(folder: Path) -> list[Path]:
    try:
        return listed(folder)
    except UserError:
        return []


def _first_time(path: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        status = os.stat(path)
    except OSError:  # gone meanwhile, or not ours to look at
        return False
    key = (status.st_dev, status.st_ino)
    if key in seen:
        return False
    seen.add(key)
    return True
