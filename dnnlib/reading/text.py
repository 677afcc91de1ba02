"""Text and JSON from outside: bounded, and any mistake in it one sentence."""

from __future__ import annotations

import json
import os
from typing import Any

from dnnlib.errors import UserError
from dnnlib.reading.files import GIB, HALF_GIB, read_bytes


def read_text(
    path: str | os.PathLike[str], advice: str = "save it as one", limit: int = HALF_GIB
) -> str:
    """A text file in UTF-8, a byte order mark left out.

    Raises:
        UserError: see `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path, advice, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{os.fspath(path)} is not a text file in UTF-8; {advice}") from error


def read_json(
    path: str | os.PathLike[str], advice: str = "restore the file", limit: int = GIB
) -> dict[str, Any]:
    """The object of a JSON file in UTF-8.

    Raises:
        UserError: see `parse_json`; the file is missing or larger than `limit` bytes.
    """
    return parse_json(read_bytes(path, advice, limit), os.fspath(path), advice)


def parse_json(text: bytes | str, name: str, advice: str = "restore the file") -> dict[str, Any]:
    """The object that a JSON text holds; `name` is what messages call it.

    Raises:
        UserError: it is no JSON, nested too deeply, holds a number of thousands of digits, or is not an object.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "no plain JSON in UTF-8"
        raise UserError(f"{name} is damaged ({reason}); {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} holds a {type(content).__name__} instead of an object; {advice}")
    return content
