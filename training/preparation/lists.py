"""Clip lists: which part of which video shows whom, in the forms in which the public data sets bring them.

    .csv     columns path, and any of name, start_s, end_s, left, top, right, bottom, identity, split
    .jsonl   the same as one JSON object a line
    .json    CelebV-HQ's celebvhq_info.json: {"clips": {name: {"ytb_id", "duration", "bbox"}}}
    .txt     a path a line; HDTF's *_annotion_time.txt: NAME.mp4 00:30-01:00 01:30-02:30;
             TalkingHead-1KH's *_video_tubes.txt: name, height, width, first and last frame, left, top, right, bottom;
             one of VoxCeleb's files (training/preparation/tracks.py)

Paths lie below the list's folder; links in it are followed. Boxes are pixels, or shares of the picture when all four
are at most 1.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from dnnlib.errors import UserError
from dnnlib.names import inside, safe_name, safe_path
from dnnlib.reading.text import parse_json, read_text
from training.data.spec import SPLITS
from training.preparation.sources import VIDEO_SUFFIXES, Source
from training.preparation.tracks import is_track, read_track

_SPAN = re.compile(
    r"(?:(\d+):)?(\d{1,2}):(\d{2}(?:\.\d+)?)-(?:(\d+):)?(\d{1,2}):(\d{2}(?:\.\d+)?)$"
)
_TUBE_FPS = 25.0  # TalkingHead-1KH counts frames of its one-minute pieces
_COLUMNS = ("name", "start_s", "end_s", "left", "top", "right", "bottom", "identity", "split")


def read_list(path: Path) -> list[Source]:
    """The sources that a list names.

    Raises:
        UserError: the list is unreadable or a line of it is wrong.
    """
    text = read_text(path, "give a list of videos in UTF-8")
    readers = {".csv": _csv, ".jsonl": _jsonl, ".json": _celebvhq, ".txt": _txt}
    found = readers[path.suffix.lower()](text, path)
    counts = Counter(s.name for s in found)
    if doubled := [name for name, count in counts.items() if count > 1]:
        raise UserError(
            f"{path} names {doubled[0]} twice; give every part a name of its own in the column name"
        )
    return found


def _csv(text: str, path: Path) -> list[Source]:
    rows = csv.DictReader(io.StringIO(text))
    if "path" not in (rows.fieldnames or ()):
        raise UserError(
            f"{path} has no column path; write path,start_s,end_s,... in its first line"
        )
    unknown = set(rows.fieldnames or ()) - {"path", *_COLUMNS}
    if unknown:
        raise UserError(
            f"{path} has the unknown column {sorted(unknown)[0]}; the columns are path, {', '.join(_COLUMNS)}"
        )
    return [_row(row, path, number) for number, row in enumerate(rows, 2)]


def _jsonl(text: str, path: Path) -> list[Source]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            row = parse_json(line, f"{path}, line {number}", "mend the line")
            found.append(_row(row, path, number))
    return found


def _row(row: dict[str, Any], path: Path, number: int) -> Source:
    where = f"{path}, line {number}"
    file = str(row.get("path") or "").strip()
    if not file:
        raise UserError(f"{where}: no path; every line names a video")

    def value(name: str) -> float | None:
        raw = row.get(name)
        if raw is None or raw == "":
            return None
        try:
            result = float(raw)
        except (TypeError, ValueError, OverflowError):
            result = math.nan
        if not math.isfinite(result):
            raise UserError(f"{where}: {name} is {raw!r}; write a number")
        return result

    start, end = value("start_s") or 0.0, value("end_s")
    if start < 0 or (end is not None and end <= start):
        raise UserError(f"{where}: the part from {start} to {end} s is empty; mend the times")
    edges = [value(name) for name in ("left", "top", "right", "bottom")]
    box = None
    if any(e is not None for e in edges):
        left, top, right, bottom = (e if e is not None else math.nan for e in edges)
        if not (left < right and top < bottom):
            raise UserError(f"{where}: the box {left}, {top}, {right}, {bottom} is empty; mend it")
        box = (left, top, right, bottom)
    split = str(row.get("split") or "")
    if split and split not in SPLITS:
        raise UserError(f"{where}: there is no split {split!r}; use {', '.join(SPLITS)}")
    part = f"@{start:g}" if start or end is not None else ""
    place = inside(path.parent, file, where)
    return Source(
        name=safe_path(str(row.get("name") or f"{file}{part}"), where),
        path=str(place),
        kind="images" if place.is_dir() else "video",
        identity=str(row.get("identity") or ""),
        start_s=start,
        end_s=end,
        box=box,
        split=split,
    )


def _celebvhq(text: str, path: Path) -> list[Source]:
    try:
        clips = parse_json(text, str(path), "write a .csv list")["clips"]
        found = []
        for name, clip in sorted(clips.items()):
            box, span = clip["bbox"], clip["duration"]
            ready = path.parent / f"{safe_name(name, str(path))}.mp4"  # cut already
            whole = safe_name(clip["ytb_id"], f"{path}: {name}")
            file = ready if ready.is_file() else path.parent / f"{whole}.mp4"
            found.append(
                Source(
                    name=name,
                    path=str(file),
                    identity=f"celebvhq:{clip['ytb_id']}",
                    start_s=0.0 if file == ready else float(span["start_sec"]),
                    end_s=None if file == ready else float(span["end_sec"]),
                    box=None
                    if file == ready
                    else (
                        float(box["left"]),
                        float(box["top"]),
                        float(box["right"]),
                        float(box["bottom"]),
                    ),
                )
            )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is not of the form of celebvhq_info.json; write a .csv list"
        ) from error
    return found


def _txt(text: str, path: Path) -> list[Source]:
    if is_track(path):
        return [read_track(path)]
    found: list[Source] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = [f.strip() for f in line.split(",")]
        if len(fields) == 9 and all(re.fullmatch(r"-?\d+", f) for f in fields[1:]):
            found.append(_tube(fields, path, number))
            continue
        words = line.split()
        if len(words) > 1 and all(_SPAN.match(w) for w in words[1:]):
            found += [_span(words[0], word, i, path) for i, word in enumerate(words[1:])]
            continue
        found.append(_row({"path": line.strip()}, path, number))
    return found


def _span(name: str, word: str, index: int, path: Path) -> Source:
    match = _SPAN.match(word)
    assert match is not None
    h0, m0, s0, h1, m1, s1 = (float(g or 0) for g in match.groups())
    start, end = h0 * 3600 + m0 * 60 + s0, h1 * 3600 + m1 * 60 + s1
    if end <= start:
        raise UserError(f"{path}: the span {word} of {name} is empty; mend the times")
    stem = (
        name if Path(name).suffix.lower() not in VIDEO_SUFFIXES else str(Path(name).with_suffix(""))
    )
    return Source(
        name=f"{stem}_{index}",
        path=str(inside(path.parent, name, str(path))),
        identity=f"hdtf:{stem}",
        start_s=start,
        end_s=end,
    )


def _tube(fields: list[str], path: Path, number: int) -> Source:
    name = safe_path(fields[0], f"{path}, line {number}")
    height, width, first, last, left, top, right, bottom = (int(f) for f in fields[1:])
    if not (first < last and left < right and top < bottom and width > 0 and height > 0):
        raise UserError(f"{path}, line {number}: the part or the box is empty; mend it")
    return Source(
        name=f"{name}_S{first}_E{last}_L{left}_T{top}_R{right}_B{bottom}",
        path=str(path.parent / f"{name}.mp4"),
        identity=f"talkinghead1kh:{name[:11]}",
        start_s=first / _TUBE_FPS,
        end_s=last / _TUBE_FPS,
        box=(left, top, right, bottom),
        box_size=(width, height),
    )
