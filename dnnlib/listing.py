"""What lies in a folder: which names are pictures and which are videos, and the order in which people count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from dnnlib.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    ".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".flv"
)  # fmt: skip
WRITTEN_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")  # of videos that are made here


def is_image(path: PurePath | str) -> bool:
    """Whether the name is that of a picture."""
    return PurePath(path).suffix.lower() in IMAGE_SUFFIXES


def is_video(path: PurePath | str) -> bool:
    """Whether the name is that of a video."""
    return PurePath(path).suffix.lower() in VIDEO_SUFFIXES


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
        found = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); restore it") from error
    if suffixes:
        found = [p for p in found if p.suffix.lower() in suffixes]
    return sorted(found, key=natural_key)
