"""Files that are whole or absent: atomic writing, hashes, free space.

A reader never sees a half-written file: the bytes go to a temporary name in the same folder, reach the disk, and
then take the final name in one step. A process killed in between leaves the old file as it was.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dnnlib.errors import UserError

_CURES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
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
    return UserError(f"cannot write {os.fspath(name)}: {cure}" if name is not None else cure)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, the file made there takes the final name.

    For writers that want a file name (videos, safetensors, numpy). The temporary name keeps the suffix of `path`,
    because many writers choose the format by it. Missing parent folders are made. When the block raises, the
    temporary file is removed and an old `path` stays as it was.

    Raises:
        UserError: the disk is full, or the place is not writable.
    """
    target = Path(path)
    temporary = target.with_name(
        f".{target.stem}.tmp-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}"
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        yield temporary
        temporary.chmod(_FILE_MODE)  # some writers make private files
        _flush_to_disk(temporary)
        os.replace(temporary, target)
        _flush_to_disk(target.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and _concerns(error, target, temporary):
            sentence = os_error_to_user_error(error, target)
            if sentence is not None:
                raise sentence from error
        raise


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


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 lower-case hexadecimal digits; memory does not grow with its size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    return name in (target, temporary) or name in target.parents


def _readable(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"
