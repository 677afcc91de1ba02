"""Zip and tar files: listed and read with bounds; nothing is ever extracted to the place its name says."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dnnlib.errors import UserError
from dnnlib.listing import is_hidden
from dnnlib.names import safe_path
from dnnlib.reading.files import GIB, check_file

MAX_VIDEO_BYTES = 16 * GIB  # of a member that is copied to a file of its own
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK = 2**20


@contextmanager
def open_zip(
    path: str | os.PathLike[str], advice: str = "give another"
) -> Iterator[zipfile.ZipFile]:
    """A zip to read from, its members by `member_bytes`.

    Raises:
        UserError: it is missing, or its directory is damaged.
    """
    file = check_file(path, advice)
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # BadZipFile, and what the numbers of a damaged directory lead to
        raise UserError(f"{file} is not a readable zip ({error}); {advice}") from error
    with archive:
        yield archive


def zip_files(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that are files. (`is_dir` of zipfile fails on a name without letters.)"""
    return [i for i in archive.infolist() if i.filename and not i.filename.endswith("/")]


def member_bytes(
    archive: zipfile.ZipFile, member: str, advice: str = "pack it anew", limit: int = GIB
) -> bytes:
    """A member's content of at most `limit` bytes, its checksum verified.

    Raises:
        UserError: there is none of that name, or it is larger, encrypted, packed in another way or damaged.
    """
    with _zip_member(archive, member, advice, limit) as stream:
        return stream.read()


def archive_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of the files in a zip or tar, each once; what is hidden in a folder is hidden here (`is_hidden`).

    Links are included: they are refused later, by name, rather than passed over.

    Raises:
        UserError: the archive is missing or damaged.
    """
    if _is_zip(path):
        with open_zip(path) as archive:
            names = [i.filename for i in zip_files(archive)]
    else:
        with _open_tar(path) as tar, _in_words(os.fspath(path)):
            names = [m.name for m in tar.getmembers() if not m.isdir()]
    return [name for name in dict.fromkeys(names) if not is_hidden(name)]


def read_member(path: str | os.PathLike[str], member: str, limit: int = GIB) -> bytes:
    """The bytes of a file in a zip or tar, at most `limit`.

    Raises:
        UserError: the name points outside of the archive, it is a link, too large, or damaged.
    """
    with _member(path, member, limit) as stream:
        return stream.read()


def copy_member(path: str | os.PathLike[str], member: str, target: Path) -> None:
    """Copy a file in a zip or tar to `target`, a megabyte at a time.

    Raises:
        UserError: see `read_member`.
        OSError: `target` cannot be written.
    """
    with _member(path, member, MAX_VIDEO_BYTES) as stream, open(target, "wb") as file:
        while data := stream.read(_CHUNK):
            file.write(data)


class _Translated:
    """A member's stream whose errors are sentences."""

    def __init__(self, stream: IO[bytes], where: str, advice: str, size: int) -> None:
        self._stream, self._where, self._advice, self._left = stream, where, advice, size

    def read(self, n: int = -1) -> bytes:
        with _in_words(self._where, self._advice):
            # Never more than the archive promised: the checksum tells at the end.
            data = self._stream.read(self._left + 1 if n < 0 else n)
        self._left -= len(data)
        if self._left < 0 or (self._left > 0 and (n < 0 or not data)):
            raise UserError(f"{self._where} is damaged; {self._advice}")
        return data


@contextmanager
def _member(path: str | os.PathLike[str], member: str, limit: int) -> Iterator[_Translated]:
    where = f"{member or 'the archive'} in {os.fspath(path)}"
    if member:  # "": an archive that could not be listed
        safe_path(member, os.fspath(path))
    advice = "pack it anew"
    if _is_zip(path):
        with (
            open_zip(path, advice) as archive,
            _zip_member(archive, member, advice, limit) as stream,
        ):
            yield stream
        return
    with _open_tar(path) as tar:
        with _in_words(where):
            info = tar.getmember(member)
            content = tar.extractfile(info) if info.isfile() else None
        if content is None:
            raise UserError(f"{where} is a link, not a file; pack the file itself")
        _check_size(info.size, where, advice, limit)
        yield _Translated(content, where, advice, info.size)


@contextmanager
def _zip_member(
    archive: zipfile.ZipFile, member: str, advice: str, limit: int
) -> Iterator[_Translated]:
    where = f"{member or 'the archive'} in {archive.filename}"
    with _in_words(where, advice):
        info = archive.getinfo(member)
    if info.flag_bits & 1 or info.compress_type not in _METHODS:
        raise UserError(f"{where} is encrypted or packed in an unknown way; {advice}")
    _check_size(info.file_size, where, advice, limit)
    with _in_words(where, advice):
        stream = archive.open(info)
    with stream:
        yield _Translated(stream, where, advice, info.file_size)


@contextmanager
def _open_tar(path: str | os.PathLike[str]) -> Iterator[tarfile.TarFile]:
    file = check_file(path, "give another")
    with _in_words(str(file)):
        tar = tarfile.open(file)  # noqa: SIM115  (closed below)
    with tar:
        yield tar


@contextmanager
def _in_words(what: str, advice: str = "pack it anew") -> Iterator[None]:
    """Everything that zipfile, tarfile, zlib and lzma raise means one thing."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} is damaged; {advice}") from error


def _check_size(size: int, where: str, advice: str, limit: int) -> None:
    if size > limit:
        raise UserError(f"{where} unpacks to more than {limit / 2**20:.0f} MiB; {advice}")


def _is_zip(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).lower().endswith(".zip")
