"""Files inside zip and tar archives, read without unpacking them."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from dnnlib.errors import UserError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def archive_names(path: Path) -> list[str]:
    """Names of an archive's files. Raises what the library raises."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            return [i.filename for i in archive.infolist() if not i.is_dir()]
    with tarfile.open(path) as tar:
        # Everything that is not a folder: links are refused later, by name, rather than passed over.
        return [m.name for m in tar.getmembers() if not m.isdir()]


def read_member(path: Path, member: str) -> bytes:
    """The bytes of an archive's file. Nothing is ever extracted to the place its name says.

    Raises:
        UserError: the name points outside of the archive, it is a link, or it is damaged.
    """
    pure = PurePosixPath(member.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or re.match(r"[A-Za-z]:", member):
        raise UserError(f"{member} in {path} points outside of the archive; pack it anew")
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.read(member)
        with tarfile.open(path) as tar:
            info = tar.getmember(member)
            content = tar.extractfile(info) if info.isfile() else None
            if content is None:
                raise UserError(f"{member} in {path} is a link, not a file; pack the file itself")
            return content.read()
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path} may not be read (permission denied); allow reading it") from error
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, tarfile.TarError, ValueError) as error:
        raise UserError(f"{member or 'the archive'} in {path} is damaged; pack it anew") from error
    except (RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{member} in {path} is encrypted or packed in an unknown way; pack it anew"
        ) from error
    except Exception as error:  # zlib.error and lzma's own
        raise UserError(f"{member} in {path} is damaged; pack it anew") from error
