"""Files that are whole or absent: atomic writing, hashes, free space.

A reader never sees a half-written file: the bytes go to a temporary name in the same folder, reach the disk, and
then take the final name in one step. A process killed in between leaves the old file as it was.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

from dnnlib.errors import UserError
from dnnlib.places import check_new_file, check_new_folder
from dnnlib.reading.files import open_file
from dnnlib.signals import signals_held

_LONGEST_STEM = 64  # characters of a target's name that its temporary name repeats
_TEMPORARY = re.compile(r"\..*\.tmp-\d+-[0-9a-f]{8}(\.[^.]*)?$", re.DOTALL)
_LEFT_OVER: set[tuple[int, Path]] = set()  # (process, temporary file or folder)
_CURES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "files may not become that large here (ulimit -f); raise the limit or choose another folder",
    errno.ENOENT: "the folder cannot be made there; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "the operation is not permitted; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose a folder that you may write to",
    errno.EISDIR: "there is a folder of that name; choose another file name",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another path",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def _file_mode() -> int:
    """What the user's umask makes of a new file; read once, since reading it means setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()


def os_error_to_user_error(
    error: OSError, path: str | os.PathLike[str] | None = None
) -> UserError | None:
    """The sentence for an `OSError` that the user can mend, or None when it is not of that kind."""
    cure = _CURES.get(error.errno or 0)
    if cure is None:
        return None
    name = path if path is not None else error.filename
    return UserError(f"cannot write {os.fsdecode(name)}: {cure}" if name is not None else cure)


class Pending:
    """Files under temporary names beside the places that they are to take.

        pending = Pending(path)
        write_something(pending.paths[0])
        pending.commit()        # or pending.discard()

    A temporary name keeps the suffix of its target, because many writers choose the format by it. Missing parent
    folders are made. Whatever way the program ends short of being killed, what was not committed is removed.

    Raises:
        UserError: a target is a folder, a link, a device or a pipe, or its place is not writable.
    """

    def __init__(self, *targets: str | os.PathLike[str]) -> None:
        self.targets = [Path(t) for t in targets]
        self.paths = [temporary_beside(t) for t in self.targets]
        self._made: list[Path] = []  # folders, the outermost first
        for target in self.targets:
            check_new_file(target)
            try:
                self._made += make_folders(target.parent)
            except OSError as error:
                self.discard()
                raise os_error_to_user_error(error, target) or error from error
        _LEFT_OVER.update((os.getpid(), p) for p in self.paths)

    def commit(self, marker: bool = False) -> None:
        """Give the files their names, all after all are safe on the disk.

        marker: the last target says that the others are complete; it goes first and comes back last, so that a program
        that is killed in between leaves no set that is half old and half new and says it is whole.

        Raises:
            UserError: the disk is full, or the place is not writable; the old files are still there.
        """
        try:
            for path in self.paths:
                path.chmod(_FILE_MODE)  # some writers make private files
                _flush_to_disk(path)
            with signals_held():
                if marker:
                    self.targets[-1].unlink(missing_ok=True)
                for path, target in zip(self.paths, self.targets, strict=True):
                    os.replace(path, target)
                for folder in {t.parent for t in self.targets}:
                    _flush_to_disk(folder)
        except OSError as error:
            self.discard()
            raise os_error_to_user_error(error, self.targets[0]) or error from error
        except BaseException:
            self.discard()
            raise
        _LEFT_OVER.difference_update((os.getpid(), p) for p in self.paths)

    def discard(self) -> None:
        """Remove the temporary files, and the folders that were made for them; harmless when there are none."""
        for path in self.paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            _LEFT_OVER.discard((os.getpid(), path))
        remove_empty(self._made)


def make_folders(folder: Path) -> list[Path]:
    """Make a folder with those around it; returns the ones that were not there, the outermost first."""
    missing = []
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        missing.append(place)
        place = place.parent
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that `make_folders` returned, as far as nobody has put anything there."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def temporary_beside(target: Path) -> Path:
    """A hidden name in the same folder, as nobody else takes it."""
    mark = f"tmp-{os.getpid()}-{secrets.token_hex(4)}"
    return target.with_name(f".{target.stem[:_LONGEST_STEM]}.{mark}{target.suffix}")


def remove_temporary(folder: Path) -> int:
    """Delete what killed writers left in a folder under `temporary_beside`'s names; call it while no writer runs.

    Folders within it are not looked into, nor removed. Returns the count.
    """
    found = [p for p in folder.glob(".*.tmp-*") if _TEMPORARY.match(p.name) and not p.is_dir()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


@contextmanager
def atomic_paths(
    *paths: str | os.PathLike[str],
    marker: bool = False,  # see `Pending.commit`
) -> Iterator[list[Path]]:
    """Yield a temporary path beside each of `paths`; when the block ends well, all files made there take their names.

    Raises:
        UserError: the disk is full, or a place is not writable.
    """
    pending = Pending(*paths)
    try:
        yield pending.paths
    except BaseException as error:
        pending.discard()
        if isinstance(error, OSError):
            for target, temporary in zip(pending.targets, pending.paths, strict=True):
                sentence = os_error_to_user_error(error, target)
                if sentence is not None and _concerns(error, target, temporary):
                    raise sentence from error
        raise
    pending.commit(marker)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, the file made there takes the final name.

    For writers that want a file name (videos, safetensors, numpy). When the block raises, the temporary file is
    removed and an old `path` stays as it was.

    Raises:
        UserError: the disk is full, or the place is not writable.
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    mode: str = "wb",  # "wb" or "w"
    encoding: str | None = None,  # None: UTF-8 for text
) -> Iterator[IO[Any]]:
    """Like `open(path, mode)` for writing, but the file appears under its name only when it is complete.

    Raises:
        UserError: the disk is full, or the place is not writable.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write writes whole files: mode is 'w' or 'wb', not {mode!r}")
    if mode == "w" and encoding is None:
        encoding = "utf-8"
    with atomic_path(path) as temporary, open(temporary, mode, encoding=encoding) as file:
        yield file


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """A JSON file that is whole or absent, indented by one. Raises UserError: see `atomic_write`."""
    with atomic_write(path, "w") as file:
        json.dump(values, file, indent=1)
        file.write("\n")


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str],
    marker: str,  # name of the file inside that says the rest is complete
) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends well, what it holds becomes `path`, else nothing is left of it.

    Raises:
        UserError: `path` exists and is not an empty folder, the disk is full, or the place is not writable.
    """
    target = Path(path)
    check_new_folder(target)
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} exists already; choose another name")
    # An empty folder may be a mounted disk of its own: then everything is made inside.
    temporary = temporary_beside(target / "new" if target.is_dir() else target)
    made: list[Path] = []
    try:
        made = make_folders(temporary.parent)
        temporary.mkdir()
        _LEFT_OVER.add((os.getpid(), temporary))
        yield temporary
        os.sync()
        with signals_held():
            if not target.is_dir():
                os.rename(temporary, target)
            else:
                for entry in sorted(temporary.iterdir(), key=lambda p: p.name == marker):
                    os.rename(entry, target / entry.name)
    except OSError as error:
        sentence = os_error_to_user_error(error, target)
        if sentence is not None and _concerns(error, target, temporary):
            raise sentence from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _LEFT_OVER.discard((os.getpid(), temporary))
        remove_empty(made)


@atexit.register
def _remove_what_is_left() -> None:
    """For exceptions that came too early or too late for the blocks above."""
    for owner, path in list(_LEFT_OVER):
        if owner == os.getpid():  # not in a process that was forked off
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 lower-case hexadecimal digits; memory does not grow with its size.

    Raises:
        UserError: it is no file, or cannot be read.
    """
    with open_file(path, "restore the file", may_be_empty=True) as file:
        try:
            return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); restore the file"
            ) from error


def open_lock(path: Path) -> IO[str]:
    """A file to lock, made where there is none; what lies there instead of a file is refused, not waited for.

    Raises:
        UserError: it is a folder, a link, a pipe or a device, or the place cannot be written to.
    """
    check_new_file(path)
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise os_error_to_user_error(error, path.parent) or error from error


def check_free_space(path: str | os.PathLike[str], n_bytes: int) -> None:
    """Refuse to start when the disk that holds (or will hold) `path` has less than `n_bytes` free.

    Raises:
        UserError: there is not enough space.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise UserError(
            f"{os.fspath(path)} needs {_readable(n_bytes)} but its disk has {_readable(free)} free; "
            "free some space or choose another folder"
        )


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _concerns(error: OSError, target: Path, temporary: Path) -> bool:
    # An error about another file (say, an input that cannot be read) must not be blamed on the output.
    # write() and fsync() report no name at all.
    if error.filename is None:
        return True
    name = Path(os.fsdecode(error.filename))
    return name == target or name in target.parents or name.is_relative_to(temporary)


def _readable(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"
