"""Clips on disk and their pairs of frames: folders of frames (one per clip) and videos, streamed, failures counted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnnlib.errors import UserError
from dnnlib.listing import is_image, is_video, listed, natural_key
from dnnlib.reading.pictures import read_picture
from tracking.media import VideoReader
from tracking.pictures import open_pictures
from tracking.timeline import Playhead

Loader = Callable[[], np.ndarray]  # -> uint8 [H, W, 3]
MAX_MEGAPIXELS = 9.0  # that are compared, 4096 x 2160 and some more: SSIM takes 280 bytes a pixel


class FramePair(NamedTuple):
    """Two frames that can be compared."""

    place: int  # among the reference's own frames, whatever the prediction holds
    number: int  # frames that follow each other differ by one
    pred: np.ndarray  # uint8 [H, W, 3]
    ref: np.ndarray  # uint8 [H, W, 3]


@dataclass
class Failures:
    """What could not be scored, counted by reason: memory does not grow with the number of frames."""

    counts: dict[str, list[Any]] = field(default_factory=dict)  # reason -> [how often, first frame]

    def add(self, reason: str, frame: str | None = None, times: int = 1) -> None:
        entry = self.counts.setdefault(reason, [0, frame])
        entry[0] += times

    def lines(self) -> list[str]:
        out = []
        for reason, (count, frame) in self.counts.items():
            where = "" if frame is None else f" (first: frame {frame})"
            out.append(f"{reason}{f', {count} times' if count > 1 else ''}{where}")
        return out


def list_clips(path: Path) -> dict[str, Path]:
    """Name -> path of the clips at `path`: itself, or the videos and frame folders inside.

    Raises:
        UserError: there is nothing of the kind, or frames and clips lie side by side.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} does not exist; give a video, a folder of frames or of clips")
        return {path.stem: path}
    entries = listed(path)
    picture = next((e for e in entries if _is_picture(e)), None)
    if picture is not None:
        clip = next((e for e in entries if _is_clip(e)), None)
        if clip is None:
            return {path.name: path}
        raise UserError(
            f"{path} holds the picture {picture.name} and the clip {clip.name}; move one of them to another folder"
        )
    found = [e for e in entries if e.is_dir() or is_video(e)]
    clips = {e.name if e.is_dir() else e.stem: e for e in found}
    if not clips:
        raise UserError(
            f"{path} holds neither frames nor clips; give a folder of frames, of clips, or a video"
        )
    if len(clips) < len(found):
        raise UserError(f"{path} holds two clips of one name; rename one of them")
    return clips


def _is_picture(path: Path) -> bool:
    return is_image(path) and not path.is_dir()


def _is_clip(path: Path) -> bool:
    if path.is_dir():
        return any(map(_is_picture, listed(path)))
    return is_video(path)


def partners(pred: Path, ref: Path, failures: Failures) -> list[tuple[str, Path, Path]]:
    """(name, prediction, reference) of the clips of two places; what has no partner is a failure."""
    refs, preds = list_clips(ref), list_clips(pred)
    if len(preds) == len(refs) == 1:  # two single clips are partners whatever their names
        (name, ref_path), (pred_path,) = next(iter(refs.items())), preds.values()
        return [(name, pred_path, ref_path)]
    for name in refs:
        if name not in preds:
            failures.add(f"{name}: no prediction")
    for name in preds:
        if name not in refs:
            failures.add(f"{name}: no reference")
    return [(name, preds[name], refs[name]) for name in refs if name in preds]


def source_of(sources: dict[str, Path], name: str) -> np.ndarray:
    """The source picture of a clip, uint8 [H, W, 3]: a picture, or the first frame of a clip of that name.

    Only its face counts: the longer side is at most 4096.

    Raises:
        UserError: there is none.
    """
    if name not in sources:
        raise UserError(f"{name} has no source picture; give one of that name in --source")
    return next(open_pictures(sources[name]).frames())


def list_sources(path: Path) -> dict[str, Path]:
    """Name -> path of source pictures: pictures, folders and videos inside `path`, by name.

    Raises:
        UserError: there are none, or two of one name.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give a folder with a picture or clip per clip")
    found: dict[str, Path] = {}
    for entry in listed(path):
        if not (entry.is_dir() or is_image(entry) or is_video(entry)):
            continue
        other = found.setdefault(entry.name if entry.is_dir() else entry.stem, entry)
        if other is not entry:
            raise UserError(
                f"{path} holds {other.name} and {entry.name}, two sources of one name; remove one of them"
            )
    if not found:
        raise UserError(f"{path} holds no pictures; give a folder with a source picture per clip")
    return found


def frame_pairs(pred: Path, ref: Path, failures: Failures, what: str) -> Iterator[FramePair]:
    """The frames of a clip that can be compared.

    Two folders that share names of frames are matched by name; two videos of one length at different rates by time,
    to each frame of the reference the one that is shown then; everything else by order. A frame without a partner,
    that cannot be read, or of another size is a failure.

    Raises:
        UserError: a video or folder that cannot be opened at all, or two files of one frame.
    """
    for place, number, name, a, b in _partners_of_frames(pred, ref):
        if a is None or b is None or place is None:
            failures.add(f"{what}: no {'prediction' if a is None else 'reference'}", name)
            continue
        try:
            first, second = a(), b()
        except UserError as error:
            failures.add(f"{what}: {error}", name)
            continue
        if first.shape != second.shape:
            failures.add(f"{what}: {_size(first)} against {_size(second)}", name)
            continue
        if first.shape[0] * first.shape[1] > MAX_MEGAPIXELS * 1e6:  # of a video
            most = f"reduce the videos below {MAX_MEGAPIXELS:.0f} megapixels"
            failures.add(f"{what}: {_size(first)} are too many pixels; {most}", name)
            continue
        yield FramePair(place, number, first, second)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]} px"


def _partners_of_frames(
    pred: Path, ref: Path
) -> Iterator[tuple[int | None, int, str, Loader | None, Loader | None]]:
    """(place in the reference, number, name, prediction, reference) of every frame of either."""
    refs = _frame_files(ref) if ref.is_dir() else {}
    if pred.is_dir() and refs:
        preds = _frame_files(pred)
        if preds.keys() & refs.keys():
            places = {name: i for i, name in enumerate(refs)}
            names = sorted(preds.keys() | refs.keys(), key=lambda n: natural_key(n))
            for number, name in zip(_frame_numbers(names), names, strict=True):
                a, b = (_loader(side[name]) if name in side else None for side in (preds, refs))
                yield places.get(name), number, name, a, b
            return
    if _differ_in_rate(pred, ref):
        head = Playhead(open_pictures(pred).timed())
        for frame in open_pictures(ref).timed():
            shown = head.frame if head.seek(frame.time_s) else None
            a = None if shown is None else _given(shown.image)
            yield frame.index, frame.index, str(frame.index), a, _given(frame.image)
        return
    numbers = _frame_numbers(list(refs))
    for i, (first, second) in enumerate(zip_longest(_loaders(pred), _loaders(ref))):
        name = second[0] if second is not None else first[0] if first is not None else ""
        number = numbers[i] if i < len(numbers) else i
        a, b = (None if side is None else side[1] for side in (first, second))
        yield None if second is None else i, number, name, a, b


def _differ_in_rate(pred: Path, ref: Path) -> bool:
    """Whether both are videos that show the same seconds in different numbers of frames.

    As many frames belong together in their order, whatever rate a method wrote its results at.
    """
    if pred.is_dir() or ref.is_dir() or is_image(pred) or is_image(ref):
        return False
    times = [VideoReader(path).packet_times_s() for path in (pred, ref)]
    if len(times[0]) == len(times[1]) or min(map(len, times)) < 2:
        return False
    steps_s = [(t[-1] - t[0]) / (len(t) - 1) for t in times]
    lengths_s = [step * len(t) for step, t in zip(steps_s, times, strict=True)]
    is_same_length = abs(lengths_s[0] - lengths_s[1]) < 0.1 * max(lengths_s)
    return is_same_length and abs(steps_s[0] - steps_s[1]) > 0.01 * max(steps_s)


def _frame_numbers(names: list[str]) -> list[int]:
    """The integers that end the names, so that a frame missing on both sides is a gap; else the names' order.

    Every fifth frame of a video is consecutive, too: what counts is the largest step that fits all of them.
    """
    found = [re.search(r"\d+$", name) for name in names]
    numbers = [int(match[0]) for match in found if match is not None]
    steps = [b - a for a, b in pairwise(numbers)]
    if len(numbers) < len(names) or not steps or min(steps) <= 0:
        return list(range(len(names)))
    return [(n - numbers[0]) // math.gcd(*steps) for n in numbers]


def _frame_files(path: Path) -> dict[str, Path]:
    """Name -> file of the frames of a folder, in natural order. Raises UserError for two files of one name."""
    files: dict[str, Path] = {}
    for file in open_pictures(path).files:
        if (other := files.setdefault(file.stem, file)) is not file:
            raise UserError(
                f"{path} holds {other.name} and {file.name}, two files of one frame; remove one of them"
            )
    return files


def _loaders(path: Path) -> Iterator[tuple[str, Loader]]:
    if path.is_dir():
        for name, file in _frame_files(path).items():
            yield name, _loader(file)
        return
    pictures = open_pictures(path)
    for file in pictures.files:  # one picture
        yield file.stem, _loader(file)
    for i, image in enumerate(() if pictures.files else pictures.frames()):
        yield str(i), _given(image)


def _given(image: np.ndarray) -> Loader:
    return lambda: image


def _loader(file: Path) -> Loader:
    return lambda: read_picture(file, max_megapixels=MAX_MEGAPIXELS)
