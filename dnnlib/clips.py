"""A clip of a data set as a value of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dnnlib.params import CONTROL, InputPath


class ClipOf(NamedTuple):
    """A clip of a data set, DATASET:CLIP."""

    folder: Path
    clip: str

    @property
    def name(self) -> str:
        return self.clip

    @property
    def stem(self) -> str:
        return Path(self.clip).stem

    def __str__(self) -> str:
        return f"{self.folder}:{self.clip}"


class InputPathOrClip(InputPath):
    """A path that is read, or DATASET:CLIP; arrives as a path or as `ClipOf`."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, ClipOf):
            return value
        folder, _, clip = str(value).rpartition(":")
        # a folder called `data` is no address; a file's name may hold a colon
        if folder and clip and not Path(str(value)).exists() and Path(folder).is_dir():
            if CONTROL.search(clip):
                self.fail(f"{clip!r} holds a control character; give a clip's name", param, ctx)
            return ClipOf(self._path(folder, param, ctx), clip)
        return super().convert(value, param, ctx)

    def reads(self, value: Any) -> Iterator[Path]:
        yield value.folder if isinstance(value, ClipOf) else value

    def kinds_of(self, value: Any) -> tuple[str, ...]:
        return ("folder",) if isinstance(value, ClipOf) else self.kinds
