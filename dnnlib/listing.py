"""What lies in a folder: which names are pictures and which are videos, and the order in which people count."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
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
    its own where it has one, else under the first link to it. Left out are links that lead nowhere or to a folder
    above, pipes, devices, and what the kernel shows as files (/proc).

    every_name: a file comes under each of its names (folders still come once), where names mean something.

    Raises:
        UserError: the folder itself cannot be read, or is the root of all files; folders inside that cannot be read
            are passed over.
    """
    if root.resolve() == Path(root.resolve().anchor):
        raise UserError(f"{root} holds all files of this machine; give a folder in it")
    above = {_identity(p) for p in root.resolve().parents}
    seen = {
        key for key in above if key is not None
    }  # a link up would bring in all that lies beside
    listed(root)  # says why, when it cannot be read
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        if not folders:  # what has a name of its own comes first
            link = links.popleft()
            if _is(stat.S_ISDIR, link):
                folders.append(link)
            elif _is(stat.S_ISREG, link) and (_first_time(link, seen) or every_name):
                yield link
            continue
        folder = folders.popleft()
        if not _first_time(folder, seen):
            continue
        inside = []
        for path in _readable(folder):
            if path.is_symlink():
                links.append(path)
            elif _is(stat.S_ISDIR, path):
                inside.append(path)
            elif _is(stat.S_ISREG, path) and (_first_time(path, seen) or every_name):
                yield path
        folders.extendleft(reversed(inside))


def _readable(folder: Path) -> list[Path]:
    try:
        return listed(folder)
    except UserError:
        return []


def _is(test: Callable[[int], bool], path: Path) -> bool:
    """Whether the mode of what a path leads to passes `test`. `Path.is_dir` raises where permission is lacking."""
    try:
        return test(os.stat(path).st_mode)
    except OSError:
        return False


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Device and inode; None for what is gone, or not ours to look at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@cache
def _kernels() -> frozenset[int]:
    """The devices of file systems that are no disks: their files have no size, and links in them lead everywhere."""
    of_root, *others = (_identity(p) for p in ("/", "/proc", "/sys"))
    return frozenset(k[0] for k in others if k and of_root and k[0] != of_root[0])


def _first_time(path: Path, seen: set[tuple[int, int]]) -> bool:
    key = _identity(path)
    if key is None or key in seen or key[0] in _kernels():
        return False
    seen.add(key)
    return True
