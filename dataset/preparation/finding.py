"""What is to be prepared: the sources in a folder, a clip list, an archive, or one video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dataset.preparation.lists import LIST_SUFFIXES, read_list
from dataset.preparation.sources import Source, identified
from dataset.preparation.tracks import is_track, read_track
from dnnlib.errors import UserError
from dnnlib.listing import files_below, is_image, is_video
from dnnlib.reading.archives import archive_names
from dnnlib.reading.files import read_head

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


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
        found = read_list(path)
    else:
        found = [Source(path.name, str(path))]
    if not found:
        raise UserError(
            f"{path} holds no videos; give a folder with videos, image sequences or archives"
        )
    return sorted(identified(found, layout), key=lambda s: s.name)


def _in_folder(root: Path) -> Iterator[Source]:
    """Videos, folders of images and archives, each once (`files_below`)."""
    sequences = set()
    for path in files_below(root):
        name = path.relative_to(root).as_posix()
        if is_image(path):
            sequences.add(path.parent)
        elif name.lower().endswith(ARCHIVE_SUFFIXES):
            yield from _in_archive(path, name)
        elif is_video(path) or _is_video_by_content(path):
            yield Source(name, str(path))
        elif path.suffix.lower() == ".txt" and (tracked := _tracked(path, name, root)):
            yield tracked
    for folder in sequences:
        name = folder.relative_to(root).as_posix()
        yield Source(name if name != "." else root.name, str(folder), "images")


def _tracked(path: Path, name: str, root: Path) -> Source | None:
    """What a text file of VoxCeleb describes; None for other files, and where there is no such video."""
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
    if is_image(path) or path.suffix.lower() in LIST_SUFFIXES:
        return False
    head = read_head(path, 12)
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
        if is_video(member):
            found.append(Source(f"{name}/{member}", str(path), "member", member))
        elif is_image(member):
            sequences.add(PurePosixPath(member).parent.as_posix())
    for folder in sequences:
        found.append(Source(f"{name}/{folder}/", str(path), "member", f"{folder}/"))
    return found
