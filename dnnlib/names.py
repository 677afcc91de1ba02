"""Names that come from files: checked before they become part of a path.

A protocol, a list, an archive or a data set may come from anywhere. A name in it says which file of a folder is meant,
never a place outside of that folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from dnnlib.errors import UserError

MAX_NAME_BYTES = 255  # of one part of a path, on the usual file systems
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_DRIVE = re.compile(r"[A-Za-z]:")


def safe_name(name: object, what: str) -> str:
    """A name that makes one file or folder: no separators, not hidden.

    Args:
        name: what the file says.
        what: where it stands, for the message: "pair 3 of p.json".

    Raises:
        UserError: it is no text, empty, too long, hidden, or could lead elsewhere.
    """
    text = safe_path(name, what)
    if "/" in text or text.startswith("."):
        raise UserError(
            f"{what} has the name {text!r}; give a plain name, without slashes and not beginning with a dot"
        )
    return text


def safe_path(name: object, what: str) -> str:
    """A relative path that stays below the folder it is joined to; parts are separated by `/`.

    Links that lie in the folder are followed as usual: who owns the folder made them.

    Raises:
        UserError: it is no text, empty, absolute, holds "..", a backslash or a control character, or is too long.
    """
    if not isinstance(name, str):
        raise UserError(f"{what} has {name!r} for a name; give text")
    if _CONTROL.search(name):
        raise UserError(f"{what} has the name {name!r}, which holds control characters; rename it")
    parts = name.split("/")
    wrong = (
        "\\" in name
        or _DRIVE.match(name) is not None
        or name.startswith("/")
        or ".." in parts
        or all(part in ("", ".") for part in parts)
    )
    if wrong:
        raise UserError(
            f"{what} has the name {name!r}, which points outside of its folder; give a path inside"
        )
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise UserError(f"{what} has a name of more than {MAX_NAME_BYTES} bytes; shorten it")
    return name


def inside(folder: Path, name: object, what: str) -> Path:
    """`folder / name` for a name that stays inside. Raises UserError: see `safe_path`."""
    return folder / safe_path(name, what)
