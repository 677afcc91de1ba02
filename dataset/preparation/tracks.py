"""VoxCeleb's text files: where a face is in a video, frame by frame.

    Identity  :  id00017
    Reference :  _mjZ87sK6cA        the video's name
    ...
    FRAME   X       Y       W       H
    008809  0.123   0.136   0.422   0.749

Frames count 25 a second. VoxCeleb1 writes pixels, VoxCeleb2 shares of the picture.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from dataset.preparation.sources import Source, TimedBox
from dnnlib.errors import UserError
from dnnlib.listing import VIDEO_SUFFIXES
from dnnlib.names import safe_name
from dnnlib.reading.files import read_head
from dnnlib.reading.text import read_text

FPS = 25.0
_COLUMNS = ["FRAME", "X", "Y", "W", "H"]
_HEAD_BYTES = 2048  # the header is a few lines
_SHARES_UP_TO = 2.0  # boxes reach a little beyond the picture; no face is two pixels large


def is_track(path: Path) -> bool:
    """Whether a text file is one of VoxCeleb's."""
    return _header_line(read_head(path, _HEAD_BYTES).decode("utf-8", "replace")) is not None


def read_track(path: Path, root: Path | None = None, name: str = "") -> Source:
    """The part of a video that a file describes.

    The video is looked for by its reference beside the file and in the folders above it, up to `root` (two above when
    it is None). name: of the source; identity/reference/file by default.

    Raises:
        UserError: a line is wrong, or there is no box.
    """
    text = read_text(path)
    header = _header_line(text)
    if header is None:
        raise UserError(f"{path} has no line FRAME X Y W H; give a file of VoxCeleb")
    rows = []
    for number, line in enumerate(text.splitlines()[header + 1 :], header + 2):
        if line.strip():
            rows.append(_row(line, f"{path}, line {number}"))
    if not rows:
        raise UserError(f"{path} has no boxes; remove it or load it anew")
    facts = dict(re.findall(r"^\s*(\w+)\s*:\s*(\S+)", text, re.MULTILINE))
    reference = safe_name(facts.get("Reference", path.parent.name), str(path))
    identity = facts.get("Identity", path.parent.parent.name)
    track = _timed(sorted(rows))
    video = _find_video(path, reference, root)
    return Source(
        name=name or f"{identity}/{reference}/{path.stem}",
        path=str(video or path.parent / f"{reference}.mp4"),
        identity=f"voxceleb:{identity}",
        start_s=track[0][0],
        end_s=track[-1][0] + 1 / FPS,
        box=track[0][1],
        track=track,
    )


def _header_line(text: str) -> int | None:
    lines = text.splitlines()
    return next((i for i, line in enumerate(lines) if line.split()[:5] == _COLUMNS), None)


def _row(line: str, where: str) -> tuple[float, ...]:
    try:
        frame, x, y, w, h = (float(word) for word in line.split()[:5])
    except ValueError as error:
        raise UserError(f"{where}: not of the form FRAME X Y W H; mend it") from error
    if not (all(map(math.isfinite, (frame, x, y, w, h))) and frame >= 0 and w > 0 and h > 0):
        raise UserError(f"{where}: the frame or the box is out of range; mend it")
    return frame, x, y, w, h


def _timed(rows: list[tuple[float, ...]]) -> tuple[TimedBox, ...]:
    shares = max(max(row[1:]) for row in rows) <= _SHARES_UP_TO
    top = 1.0 if shares else math.inf  # edges beyond the picture would make pixels of shares
    return tuple(
        (f / FPS, (min(x, top), min(y, top), min(x + w, top), min(y + h, top)))
        for f, x, y, w, h in rows
    )


def _find_video(path: Path, reference: str, root: Path | None) -> Path | None:
    for depth, folder in enumerate(path.parents):
        for suffix in sorted(VIDEO_SUFFIXES):
            if (video := folder / f"{reference}{suffix}").is_file():
                return video
        if folder == root or (root is None and depth == 2):
            break
    return None
