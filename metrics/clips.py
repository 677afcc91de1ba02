"""Clips on disk and their pairs of frames: folders of frames (one per clip) and videos, streamed, failures counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from dnnlib.errors import UserError
from inference.pictures import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key, open_pictures

Loader = Callable[[], np.ndarray]  # -> uint8 [H, W, 3]


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
        UserError: there is nothing of the kind.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} does not exist; give a video, a folder of frames or of clips")
        return {path.stem: path}
    entries = sorted((e for e in path.iterdir() if e.name[0] != "."), key=natural_key)
    if any(e.suffix.lower() in IMAGE_SUFFIXES for e in entries):
        return {path.name: path}
    found = [e for e in entries if e.is_dir() or e.suffix.lower() in VIDEO_SUFFIXES]
    clips = {e.name if e.is_dir() else e.stem: e for e in found}
    if not clips:
        raise UserError(
            f"{path} holds neither frames nor clips; give a folder of frames, of clips, or a video"
        )
    if len(clips) < len(found):
        raise UserError(f"{path} holds two clips of one name; rename one of them")
    return clips


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

    Raises:
        UserError: there is none.
    """
    if name not in sources:
        raise UserError(f"{name} has no source picture; give one of that name in --source")
    return next(iter(_loaders(sources[name])))[1]()


def list_sources(path: Path) -> dict[str, Path]:
    """Name -> path of source pictures: pictures, folders and videos inside `path`, by name."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give a folder with a picture or clip per clip")
    kinds = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    found = {
        (e.name if e.is_dir() else e.stem): e
        for e in sorted(path.iterdir(), key=natural_key)
        if e.is_dir() or e.suffix.lower() in kinds
    }
    if not found:
        raise UserError(f"{path} holds no pictures; give a folder with a source picture per clip")
    return found


def frame_pairs(
    pred: Path, ref: Path, failures: Failures, what: str
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(number in the reference, prediction, reference) of the frames of a clip that can be compared.

    Two folders that share names of frames are matched by name, everything else by order. A frame without a partner,
    that cannot be read, or of another size is a failure.

    Raises:
        UserError: a video or folder that cannot be opened at all.
    """
    for index, name, a, b in _partners_of_frames(pred, ref):
        if a is None or b is None:
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
        yield index, first, second


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]} px"


def _partners_of_frames(
    pred: Path, ref: Path
) -> Iterator[tuple[int, str, Loader | None, Loader | None]]:
    if pred.is_dir() and ref.is_dir():
        preds, refs = ({f.stem: f for f in open_pictures(path).files} for path in (pred, ref))
        if preds.keys() & refs.keys():
            names = sorted(preds.keys() | refs.keys(), key=lambda n: natural_key(Path(n)))
            for i, name in enumerate(names):
                pair = [_loader(side[name]) if name in side else None for side in (preds, refs)]
                yield i, name, pair[0], pair[1]
            return
    for i, (a, b) in enumerate(zip_longest(_loaders(pred), _loaders(ref))):
        name = b[0] if b is not None else a[0] if a is not None else ""
        yield i, name, None if a is None else a[1], None if b is None else b[1]


def _loaders(path: Path) -> Iterator[tuple[str, Loader]]:
    pictures = open_pictures(path)
    if pictures.files:
        for file in pictures.files:
            yield file.stem, _loader(file)
        return
    for i, image in enumerate(pictures.frames()):
        yield str(i), _given(image)


def _given(image: np.ndarray) -> Loader:
    return lambda: image


def _loader(file: Path) -> Loader:
    return lambda: read_frame(file)


def read_frame(path: Path) -> np.ndarray:
    """A picture as uint8 RGB [H, W, 3]; 16-bit and floating-point files (0..1) are scaled, not cut.

    Raises:
        UserError: it cannot be read, or holds NaN or infinity.
    """
    try:
        with Image.open(path) as image:
            if image.mode != "F" and image.mode != "I" and not image.mode.startswith("I;16"):
                return np.asarray(image.convert("RGB"))
            values = np.asarray(image).astype(np.float64)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a picture; remove it or replace it") from error
    if not np.isfinite(values).all():
        raise UserError(f"{path} holds NaN or infinity; write the frame again")
    top = 1.0 if image.mode == "F" else 65535.0
    grey = np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
