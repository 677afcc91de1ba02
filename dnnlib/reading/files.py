"""What is a file: the check before anything is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from dnnlib.errors import UserError

GIB = 2**30
HALF_GIB = GIB // 2  # of what is held twice while it is read


def check_file(path: str | os.PathLike[str], advice: str, may_be_empty: bool = False) -> Path:
    """The path of a regular file that is not empty and may be read; links are followed.

    A pipe would be waited for without end, and a device has none.

    Raises:
        UserError: names the path and ends in `advice`, e.g. "give the path of a video".
    """
    name = os.fspath(path)
    try:
        status = os.stat(path)
    except PermissionError as error:
        raise UserError(f"{name} may not be read (permission denied); allow reading it") from error
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist; {advice}") from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name!r} cannot be opened ({reason}); {advice}") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{name} is a folder, not a file; {advice}")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{name} is a device or a pipe, not a file; {advice}")
    if status.st_size == 0 and not may_be_empty:
        raise UserError(f"{name} is empty; {advice}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{name} may not be read (permission denied); allow reading it")
    return Path(path)


def open_file(
    path: str | os.PathLike[str], advice: str, buffering: int = -1, may_be_empty: bool = False
) -> IO[bytes]:
    """A regular file, open to read its bytes; close it.

    Raises:
        UserError: see `check_file`; or the disk fails.
    """
    file = check_file(path, advice, may_be_empty)
    try:
        return open(file, "rb", buffering=buffering)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {advice}") from error


def read_head(path: str | os.PathLike[str], n_bytes: int) -> bytes:
    """The first bytes of a file, to see of what kind it is; none where there is no file or it cannot be read."""
    try:
        with open_file(path, "") as stream:
            return stream.read(n_bytes)
    except (UserError, OSError):
        return b""


def read_bytes(path: str | os.PathLike[str], advice: str, limit: int = GIB) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        UserError: see `check_file`; it is larger, or the disk fails.
    """
    with open_file(path, advice) as stream:
        try:
            size = os.fstat(stream.fileno()).st_size
            # python takes the memory of what is asked for
            content = stream.read(min(size, limit) + 1)
            if len(content) > size:  # it has grown meanwhile
                content += stream.read(limit + 1 - len(content))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    if len(content) > limit:
        raise UserError(f"{path} is larger than {limit / 2**20:.0f} MiB; {advice}")
    return content
