"""Tracked frames of a protocol's clips: from a dataset of this project, or from videos and folders of frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from typing import Protocol as Interface

import numpy as np

from conventions.crop import CropTransform
from conventions.spaces import ExpressionSpace
from dataset.reader import open_dataset
from dnnlib.errors import UserError
from dnnlib.listing import listed
from dnnlib.names import inside
from metrics.protocols import Pair, Protocol
from tracking.pictures import open_frames, open_pictures
from tracking.tracker import Tracker

if TYPE_CHECKING:
    from dataset.frames import FrameDataset


class Labels(NamedTuple):
    """What tracking says of one frame, about 400 bytes."""

    beta: np.ndarray  # float32 [D]
    camera: np.ndarray  # float32 [25]
    crop: CropTransform


class Moment(NamedTuple):
    """One tracked frame."""

    crop: np.ndarray  # uint8 [H, W, 3]
    beta: np.ndarray  # float32 [D]
    camera: np.ndarray  # float32 [25]


class Footage(Interface):
    """Tracked frames of the clips of a data folder."""

    space: ExpressionSpace
    tracker: Mapping[str, Any]  # what found the faces, and what measured their expression
    crop: Mapping[str, Any]  # what cropped the frames: name and version

    def fingerprint(self, clip: str) -> str | None:
        """Another one when the clip's frames are others; None: there is no such clip."""
        ...

    def source(self, pair: Pair, size: int | None = None) -> Moment:
        """The source frame, cropped to `size` pixels; None: the footage's own resolution."""
        ...

    def driving(self, pair: Pair) -> Iterator[Moment]:
        """The driving frames, cropped to the footage's own resolution; labels do not depend on it."""
        ...


class DatasetFootage:
    """A dataset of this project: crops and labels are there, of one size."""

    def __init__(self, path: Path) -> None:
        self.dataset: FrameDataset = open_dataset(path)
        if self.dataset.space is None:
            raise UserError(f"{path} has no expression parameters; make it with dataset_tool.py")
        self.space = self.dataset.space
        self.tracker: Mapping[str, Any] = self.dataset.spec.tracker
        self.crop: Mapping[str, Any] = self.dataset.spec.crop
        self._clips = {row["name"].decode(): row for row in self.dataset.clips}

    def _frames(self, clip: str) -> range:
        if clip not in self._clips:
            raise UserError(
                f"{self.dataset.path} has no clip {clip!r}; use the protocol's own data"
            )
        row = self._clips[clip]
        return range(int(row["first_frame"]), int(row["first_frame"]) + int(row["n_frames"]))

    def fingerprint(self, clip: str) -> str | None:
        """Of the labels and sizes of all frames and the bytes of the first, wherever the dataset lies."""
        if clip not in self._clips:
            return None
        at = self._frames(clip)
        rows = self.dataset.frames[at.start : at.stop]
        digest = hashlib.sha256()
        with suppress(UserError):  # damaged: the pairs of this clip will say so
            digest.update(self.dataset.encoded(at.start) if len(rows) else b"")
        for name in ("image_size", "camera", "beta"):
            digest.update(np.ascontiguousarray(rows[name]).tobytes())
        return digest.hexdigest()[:16]

    def _moment(self, i: int) -> Moment:
        image = np.ascontiguousarray(self.dataset.image(i).transpose(1, 2, 0))
        return Moment(image, self.dataset.beta(i), self.dataset.camera(i))

    def source(self, pair: Pair, size: int | None = None) -> Moment:
        frames = self._frames(pair.source)
        if pair.source_frame >= len(frames):
            raise UserError(f"the clip {pair.source} has no frame {pair.source_frame}")
        return self._moment(frames[pair.source_frame])

    def driving(self, pair: Pair) -> Iterator[Moment]:
        for i in self._frames(pair.driving)[pair.start :: pair.step][: pair.count]:
            yield self._moment(i)


class FileFootage:
    """Videos and folders of frames, tracked as `gen_videos.py` tracks them; labels are smoothed over the clip."""

    def __init__(
        self, path: Path, size: int, space: str = "arkit52", weights: Path | None = None
    ) -> None:
        self.path, self.size = path, size
        self._labels: dict[
            tuple[str, int], list[Labels]
        ] = {}  # by clip and frames: methods share them
        self._tracker = Tracker(space, weights)
        self.space = self._tracker.space
        crop = {"landmarks": self._tracker.landmarker.hash}
        self.tracker: Mapping[str, Any] = {**crop, **self._tracker.record}
        self.crop: Mapping[str, Any] = self._tracker.crop_record

    def fingerprint(self, clip: str) -> str | None:
        """Of names, sizes and times of the clip's files: a video is not read twice."""
        path = inside(self.path, clip, "the protocol")
        if not path.exists():
            return None
        files = sorted(listed(path)) if path.is_dir() else [path]
        files = [f for f in files if f.is_file()]
        facts = [(f.name, (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def _clip(self, name: str) -> Path:
        path = inside(self.path, name, "the protocol")
        if not path.exists():
            raise UserError(f"{path} does not exist; use the protocol's own data")
        return path

    def source(self, pair: Pair, size: int | None = None) -> Moment:
        frames = open_pictures(self._clip(pair.source)).frames()
        image = next(islice(frames, pair.source_frame, None), None)
        name = f"frame {pair.source_frame} of {pair.source}"
        if image is None:
            raise UserError(f"there is no {name}; use the protocol's own data")
        tracked = self._tracker.track_photo(image, size or self.size, "largest", name)
        return Moment(tracked.crop, tracked.beta, tracked.camera)

    def driving(self, pair: Pair) -> Iterator[Moment]:
        path = self._clip(pair.driving)
        last = pair.start + pair.count * pair.step
        known = self._labels.setdefault((pair.driving, last), [])
        if not known:
            tracked = self._tracker.track_video(open_frames(path), self.size, max_frames=last)
            known += [Labels(frame.beta, frame.camera, frame.transform) for frame in tracked]
        frames = zip(open_frames(path), known, strict=False)
        for frame, labels in islice(frames, pair.start, last, pair.step):
            yield Moment(labels.crop.apply(frame.image), labels.beta, labels.camera)


def open_footage(
    protocol: Protocol, data: Path, size: int, space: str = "arkit52", weights: Path | None = None
) -> Footage:
    """The data of a protocol. Raises UserError when it is missing or cannot be tracked."""
    if protocol.layout == "heads":
        return DatasetFootage(data)
    return FileFootage(data, size, space, weights)
