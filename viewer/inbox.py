"""Files that a visitor sends: straight to a folder of theirs, of limited size, and of a kind that their content tells.

A name says nothing here. What a file is, its first bytes say; whether it really is that, the project's own readers say
later (`dnnlib.reading`), which run nothing and unpickle nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import IO

from dnnlib.errors import UserError
from inference.template import TEMPLATE_SUFFIX

PHOTO_BYTES = 20 * 2**20
DRIVER_BYTES = 200 * 2**20
_HEAD_BYTES = 16
_MAX_NAME = 80  # characters of a file's name that are kept


@dataclass(frozen=True)
class Wanted:
    """What one upload button takes."""

    what: str  # for messages
    limit: int  # bytes
    suffixes: tuple[str, ...]  # of `suffix_of`
    advice: str

    def check_size(self, name: str, size: int) -> None:
        """Raises UserError for a file that is empty or too large."""
        if size <= 0:
            raise UserError(f"{name} is empty; {self.advice}")
        if size > self.limit:
            raise UserError(
                f"{name} has {size / 2**20:,.0f} MiB, and {self.what} may have {self.limit / 2**20:.0f}; {self.advice}"
            )

    def suffix(self, name: str, head: bytes) -> str:
        """The suffix of a file that begins so. Raises UserError for another kind of file."""
        suffix = suffix_of(head)
        if suffix not in self.suffixes:
            raise UserError(f"{name} is not {self.what}, whatever its name says; {self.advice}")
        return suffix


PICTURES = (".png", ".jpg", ".webp", ".bmp", ".tif", ".avif", ".gif")
VIDEOS = (".mp4", ".mkv", ".avi", ".flv", ".mpg", ".ts")
PHOTO = Wanted("a photo", PHOTO_BYTES, PICTURES, "choose a JPEG, PNG, WebP, BMP, TIFF or AVIF file")
DRIVER = Wanted(
    "a video or a motion",
    DRIVER_BYTES,
    (*VIDEOS, *PICTURES, TEMPLATE_SUFFIX, ".json"),
    "choose a video, a GIF, a motion template or a motion file",
)


def suffix_of(head: bytes) -> str:
    """What a file is by its first 16 bytes, as the suffix by which readers know it; "" for anything else."""
    if head[4:8] == b"ftyp":
        return ".avif" if head[8:12] in (b"avif", b"avis") else ".mp4"
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"AVI ": ".avi"}.get(head[8:12], "")
    for start, suffix in (
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"GIF8", ".gif"),
        (b"II*\0", ".tif"),
        (b"MM\0*", ".tif"),
        (b"\x1aE\xdf\xa3", ".mkv"),
        (b"FLV\1", ".flv"),
        (b"\0\0\1\xba", ".mpg"),
        (b"BM", ".bmp"),
    ):
        if head.startswith(start):
            return suffix
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 * 2**20:
        return TEMPLATE_SUFFIX  # the length of its header, then the header
    if head[:1] == b"G" and len(head) == _HEAD_BYTES:
        return ".ts"
    return ".json" if head.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"{") else ""


def plain_name(name: object) -> str:
    """The last part of a name that a browser gave, printable; for messages and commands, never for a path."""
    text = PureWindowsPath(str(name)).name  # knows both kinds of slashes
    text = "".join(c for c in text if c.isprintable())[-_MAX_NAME:].strip()
    return text or "file"


class Inbox:
    """Takes one file at a time for one visitor; another one in between takes its place.

    received(button, name, path) is called when a file is whole, refused(sentence) when one is not taken.
    """

    def __init__(
        self,
        folder: Path,
        received: Callable[[str, str, Path], None],
        refused: Callable[[str], None],
    ) -> None:
        self._folder, self._received, self._refused = folder, received, refused
        self._numbers = itertools.count()
        self._upload: _Upload | None = None

    def start(self, transfer: str, button: str, wanted: Wanted, name: object, size: int) -> bool:
        """A browser says what it is about to send. False: it is refused."""
        self.close()
        shown = plain_name(name)
        try:
            wanted.check_size(shown, size)
        except UserError as error:
            self._refused(str(error))
            return False
        path = self._folder / f"part-{next(self._numbers)}"
        self._upload = _Upload(transfer, button, wanted, shown, size, path, path.open("xb"))
        return True

    def part(self, transfer: str, number: int, content: bytes) -> int | None:
        """The next part of a file: bytes taken so far, None when it is refused or was never begun."""
        upload = self._upload
        if upload is None or upload.transfer != transfer:
            return None
        try:
            upload.take(number, content)
            if upload.taken < upload.size:
                return upload.taken
            path = upload.finish()
        except (UserError, OSError) as error:
            self.close()
            sentence = str(error)
            if isinstance(error, OSError):
                sentence = f"{upload.name} cannot be kept ({error.strerror}); try again later"
            self._refused(sentence)
            return None
        self._upload = None
        self._received(upload.button, upload.name, path)
        return upload.size

    def size(self, transfer: str) -> int | None:
        """Bytes of a file that is being sent, None when nothing of it is expected."""
        upload = self._upload
        return None if upload is None or upload.transfer != transfer else upload.size

    def close(self) -> None:
        """Forget a file that is not whole."""
        if self._upload is not None:
            self._upload.stream.close()
            self._upload.path.unlink(missing_ok=True)
            self._upload = None


@dataclass
class _Upload:
    transfer: str
    button: str
    wanted: Wanted
    name: str
    size: int  # bytes that were announced
    path: Path
    stream: IO[bytes]
    taken: int = 0
    next_part: int = 0
    suffix: str = ""

    def take(self, number: int, content: bytes) -> None:
        if number != self.next_part or self.taken + len(content) > self.size or not content:
            raise UserError(f"{self.name} did not arrive as it was announced; send it again")
        if not self.taken:
            self.suffix = self.wanted.suffix(self.name, content[:_HEAD_BYTES])
        self.stream.write(content)
        self.taken += len(content)
        self.next_part += 1

    def finish(self) -> Path:
        self.stream.close()
        return self.path.rename(self.path.with_name(f"{self.path.name}{self.suffix}"))
