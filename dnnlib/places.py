"""Where a command may write: checked before any work, so that no good file is lost and no hour is.

An output is a regular file or a folder. It is not an input, through no link and under no other name, and does not lie
inside a folder that is read. `dnnlib.checks` asks these questions for every option of every command.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from dnnlib.errors import UserError

ANYTHING = ("*",)


def check_new_file(path: Path) -> None:
    """Refuse a path under which no regular file could be made or replaced. Makes nothing.

    Raises:
        UserError: it is a folder, a link, a device, a pipe or a socket, or the place cannot be written to.
    """
    if path.name in ("", ".."):
        raise UserError(f"{path} is a folder; choose a file name")
    _check_way(path)
    kind = _kind(path)
    if kind == "folder":
        raise UserError(f"{path} is a folder; choose a file name")
    if kind == "link":
        # Replacing it would leave what it points to as it was, and following it is more than the user may know of.
        raise UserError(f"{path} is a link; choose another name, or the name of the file itself")
    if kind == "other":
        raise UserError(f"{path} is a device, a pipe or a socket; choose a file name")
    if kind == "file" and not os.access(path, os.W_OK):
        raise UserError(f"{path} is write-protected; choose another name")
    _check_writable(path.parent, path.parent)


def check_new_folder(path: Path) -> None:
    """Refuse a path that is no folder and could not become one, or cannot be written to. Makes nothing."""
    _kind(path)  # refuses names that no disk takes
    _check_way(path)
    _check_writable(path, path)


def check_input(path: Path, wanted: str, kinds: Sequence[str] = ("file", "folder")) -> None:
    """Refuse what cannot be read again and again: pipes, devices, what is missing, and files for folders.

    wanted: what to give instead, for messages: "a checkpoint of train.py".

    Raises:
        UserError: names the path and `wanted`.
    """
    try:
        kind = _kind(path.resolve()) if path.is_symlink() else _kind(path)
    except (OSError, RuntimeError):  # a circle of links
        kind = "missing"
    if kind in ("missing", "link"):
        raise UserError(f"{path} does not exist; give {wanted}")
    if kind == "other":
        raise UserError(f"{path} is a device, a pipe or a socket; give {wanted}")
    if kind not in kinds:
        raise UserError(f"{path} is a {kind}; give {wanted}")
    if not os.access(path, os.R_OK if kind == "file" else os.R_OK | os.X_OK):
        raise UserError(f"{path} may not be read (permission denied); allow reading it")


def check_apart(
    output: Path,
    read: Path,
    writes: Sequence[
        str
    ] = (),  # patterns of the names that a command makes in a folder; () for a file
) -> None:
    """Refuse an output that is an input, holds it where it would be replaced, or lies in a folder that is read.

    Files are the same when device and inode are, whatever their names.

    Raises:
        UserError: names both.
    """
    _kind(output)  # refuses names that no disk takes
    if not os.path.exists(read):
        return
    if os.path.exists(output) and output.samefile(read):
        raise UserError(f"{output} is also an input and would be replaced; choose another name")
    if read.is_dir():
        if _place_within(output, read) is not None:
            raise UserError(f"{output} lies in the input {read}; choose a place outside of it")
        if output.is_file() and (twin := _find(output, read)) is not None:
            raise UserError(
                f"{output} is the file {twin} of an input and would be replaced; choose another name"
            )
    if writes:
        _check_spared(output, read, writes)


def _check_spared(folder: Path, read: Path, writes: Sequence[str]) -> None:
    """Refuse an input inside an output folder under a name that the command makes there."""
    inner = _place_within(read, folder)
    if inner is not None and any(fnmatch(inner.parts[0], pattern) for pattern in writes):
        raise UserError(f"{read} is also an input and would be replaced; choose another folder")
    if not folder.is_dir() or not read.is_file():
        return
    for entry in os.scandir(folder):
        is_made = any(fnmatch(entry.name, pattern) for pattern in writes)
        # A link that leads nowhere, or round and round, is no input.
        if is_made and os.path.exists(entry.path) and read.samefile(entry.path):
            raise UserError(
                f"{entry.path} is also an input and would be replaced; choose another folder"
            )


def _kind(path: Path) -> str:
    """ "file", "folder", "link", "other" (a device, a pipe, a socket) or "missing". Follows no link."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise UserError(f"{path} cannot be used ({error.strerror}); choose another name") from error
    for test, name in ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link")):
        if test(mode):
            return name
    return "other"


def _check_way(path: Path) -> None:
    """Refuse a way up out of a folder that is not there yet: what it leads to shows only when the folder is made."""
    for i, part in enumerate(path.parts):
        before = Path(*path.parts[:i])
        if part == ".." and i and not os.path.exists(before):
            raise UserError(
                f"{path} goes up from {before}, which does not exist; write it without .."
            )


def _check_writable(folder: Path, named: Path) -> None:
    """Refuse a folder that does not exist and cannot be made, or cannot be written to."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        if place == named:
            raise UserError(f"{named} is a file, not a folder; choose another folder")
        raise UserError(
            f"the folder {named} cannot be made: {place} is a file; choose another place"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"the folder {place} cannot be written to; choose another place")


def _place_within(path: Path, folder: Path) -> Path | None:
    """`path` relative to `folder` when it lies below it, through links too; None otherwise, and for the folder."""
    if not folder.is_dir():
        return None
    whole = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
    for start in (whole, path.resolve()):
        for parent in start.parents:
            if os.path.exists(parent) and parent.samefile(folder):
                return start.relative_to(parent)
    return None


def _find(file: Path, folder: Path) -> Path | None:
    """A file below `folder` that is `file` under another name. Stats only what has its inode, and links."""
    wanted = file.stat()
    for path, entry in _entries(folder, set()):
        if entry.is_symlink() or entry.inode() == wanted.st_ino:
            try:
                found = entry.stat()
            except OSError:  # a link to nothing
                continue
            if os.path.samestat(found, wanted):
                return path
    return None


def _entries(folder: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, os.DirEntry[str]]]:
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except OSError:  # may not be looked into: then nothing of it is read either
        return
    if (status.st_dev, status.st_ino) in seen:  # a circle of links
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.is_dir():
            yield from _entries(folder / entry.name, seen)
        else:
            yield folder / entry.name, entry
