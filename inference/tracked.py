"""Photos and videos as a network wants them: aligned crops, camera labels and beta.

A driving clip is tracked once, from start to end; only its labels and crop transforms are kept (about 400 bytes a
frame). Its pictures are decoded a second time while the result is written, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np

from conventions.crop import CropTransform
from conventions.spaces import ExpressionSpace, check_same_space
from dnnlib.cores import available_cores
from dnnlib.errors import UserError
from dnnlib.listing import is_image
from inference.network import Network
from inference.output import Report, progress_bar, write_video
from inference.panels import resize
from tracking.media import load_photo
from tracking.pictures import open_frames
from tracking.tracker import Tracker

AUTO = 0  # crop size: as many pixels as the picture has there, up to LARGEST_AUTO
LARGEST_AUTO = 512
LARGEST_PX = 1920  # longer side of a whole picture; larger ones are reduced


Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Whole:
    """A picture and where its face was cropped."""

    image: np.ndarray  # uint8 [H, W, 3]
    transform: CropTransform  # picture -> crop

    def reduced(self, largest_px: int = LARGEST_PX) -> Whole:
        """The same with a longer side of at most `largest_px`; 0: as it is."""
        height, width = self.image.shape[:2]
        share = largest_px / max(height, width)
        if share >= 1 or largest_px == 0:
            return self
        w, h = max(1, round(width * share)), max(1, round(height * share))
        matrix = self.transform.matrix.copy()
        matrix[:, :2] *= np.sqrt(
            width / w * height / h
        )  # one for both: they differ by less than a pixel
        return Whole(resize(self.image, w, h), CropTransform(matrix, self.transform.size))

    def place(self, x0: int, y0: int, x1: int, y1: int) -> Box:
        """Corners in pixels of the picture -> in widths of the crop."""
        corners = self.transform.points(np.array([[x0, y0], [x1, y1]], np.float64))
        left, top, right, bottom = (corners / self.transform.size).ravel().tolist()
        return left, top, right, bottom

    def pixels(self, box: Box) -> tuple[int, int, int, int]:
        """Corners in widths of the crop -> the whole pixels of the picture inside, (x0, y0, x1, y1)."""
        height, width = self.image.shape[:2]
        size = self.transform.size
        corners = self.transform.inverse_points(np.array(box, np.float64).reshape(2, 2) * size)
        x0, y0 = (max(0, int(np.ceil(v - 1e-6))) for v in corners[0])
        x1, y1 = (int(np.floor(v + 1e-6)) for v in corners[1])
        return x0, y0, max(x0, min(x1, width)), max(y0, min(y1, height))


@dataclass(frozen=True)
class Photo:
    """A source portrait."""

    name: str
    crop: np.ndarray  # uint8 [kH, kW, 3], aligned; frames take its size
    beta: np.ndarray  # float32 [D]
    camera: np.ndarray  # float32 [25]
    picture: Whole | None = None  # None: the crop is all there is

    @property
    def whole(self) -> Whole:
        """The picture that the crop was taken from."""
        return self.picture or Whole(self.crop, CropTransform(np.eye(2, 3), len(self.crop)))


class Driving(Interface):
    """A driving clip of T frames."""

    @property
    def name(self) -> str: ...
    @property
    def fps(self) -> float: ...
    @property
    def times_s(self) -> np.ndarray:
        """float64 [T + 1]: when each frame is shown, from the first, and when the last one ends."""
        ...

    @property
    def betas(self) -> np.ndarray:
        """float32 [T, D], smoothed where asked for."""
        ...

    @property
    def cameras(self) -> np.ndarray:
        """float32 [T, 25]."""
        ...

    @property
    def n_missing(self) -> int:
        """Frames without the face; their labels come from their neighbours."""
        ...

    @property
    def n_others(self) -> int:
        """Of those, frames that show another face."""
        ...

    @property
    def sound(self) -> Path | None:
        """File with the clip's sound."""
        ...

    @property
    def own_share(self) -> np.ndarray | None:
        """float32 [T]: how much of the source's own beta is added to the clip's; None: nothing."""
        ...

    def crops(self) -> Iterator[np.ndarray | None]:
        """Aligned pictures uint8 [H, W, 3] of the T frames, from the start; None where there are none."""
        ...


@dataclass(frozen=True)
class TrackedClip:
    """A driving video whose motion is known."""

    path: Path
    fps: float
    times_s: np.ndarray
    betas: np.ndarray
    cameras: np.ndarray
    n_missing: int
    size: int  # of the crops, pixels
    transforms: np.ndarray  # float64 [T, 2, 3], picture -> crop
    n_others: int = 0

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def sound(self) -> Path | None:
        return None if self.path.is_dir() or is_image(self.path) else self.path

    @property
    def own_share(self) -> None:
        return None

    def crops(self) -> Iterator[np.ndarray]:
        for frame, matrix in zip(open_frames(self.path), self.transforms):
            yield CropTransform(matrix, self.size).apply(frame.image)

    def photos(self) -> Iterator[Photo]:
        """Each frame as a source, from the start."""
        labels = zip(self.betas, self.cameras, self.transforms)
        for frame, (beta, camera, matrix) in zip(open_frames(self.path), labels):
            whole = Whole(frame.image, CropTransform(matrix, self.size))
            yield Photo(
                self.name, whole.transform.apply(frame.image), beta, camera, whole.reduced()
            )


class NetworkTracker:
    """Tracks what one network is to see, and refuses what it was not trained for.

    Raises:
        UserError: no tracker measures the network's expression space, or its crop or tracker is another one.
    """

    def __init__(
        self,
        network: Network,
        weights: Path | None = None,  # of Deep3DFaceRecon, for networks of the space bfm64
        size: int
        | None = None,  # of source crops, pixels; None: the network's, AUTO: the photo's own
    ) -> None:
        self.size = network.resolution
        self._output = output_size(network, size)
        self.tracker = new_tracker(network.space, weights)
        check_same_space(network.space, self.tracker.space, f"{network.name} and the tracker")
        check_trained_on(network, self.tracker.crop_record, self.tracker.record)

    def photo(self, path: Path, face: str = "largest") -> Photo:
        """The face of a photo. Raises UserError: unreadable, no such face."""
        return self._photo(load_photo(path), path.stem, face, str(path))

    def image(self, image: np.ndarray, name: str) -> Photo:
        """The face of a picture uint8 [H, W, 3]."""
        return self._photo(image, name, "largest", name)

    def _photo(self, image: np.ndarray, name: str, face: str, where: str) -> Photo:
        tracked = self.tracker.track_photo(image, self.size, face, where)
        transform = tracked.transform
        crop = tracked.crop
        if (size := self._crop_size(transform)) != self.size:
            transform = transform.resized(size)
            crop = transform.apply(image)
        whole = Whole(image, transform).reduced()
        return Photo(name, crop, tracked.beta, tracked.camera, whole)

    def _crop_size(self, transform: CropTransform) -> int:
        """The wanted size; AUTO: the multiple of the network's resolution nearest to the picture's own pixels."""
        if self._output != AUTO:
            return self._output
        own = self.size / transform.scale
        return self.size * max(1, min(round(own / self.size), LARGEST_AUTO // self.size))

    def clip(
        self,
        path: Path,
        smooth: bool = True,
        max_frames: int | None = None,
        face: str = "largest",
    ) -> TrackedClip:
        """The motion of a face in a video, a picture or a folder of frames.

        Raises UserError: unreadable, no (such) face in any frame.
        """
        clip = follow_clip(self.tracker, path, self.size, smooth, max_frames, face)
        size = self._crop_size(CropTransform(clip.transforms[0], self.size))
        return replace(clip, size=size, transforms=clip.transforms * (size / self.size))


def new_tracker(space: str | ExpressionSpace, weights: Path | None = None) -> Tracker:
    """What measures an expression space. Raises UserError: nothing does, or weights are missing."""
    return Tracker(space, weights, threads=available_cores())


def follow_clip(
    tracker: Tracker,
    path: Path,
    size: int,  # of the crops, pixels
    smooth: bool = True,
    max_frames: int | None = None,
    face: str = "largest",
) -> TrackedClip:
    """Track a clip from start to end; its pictures are not kept."""
    reader = open_frames(path)
    betas, cameras, transforms, times, missing, others = [], [], [], [], 0, 0
    end_s = 0.0
    total = min(len(reader), max_frames or len(reader)) or None
    frames = tracker.track_video(reader, size, smooth, max_frames, face)
    for frame in progress_bar(frames, total, "track"):
        betas.append(frame.beta)
        cameras.append(frame.camera)
        transforms.append(frame.transform.matrix)
        missing += frame.confidence == 0
        others += frame.other_face
        times.append(frame.time_s)
        end_s = frame.time_s + (frame.duration_s or 1 / reader.fps)
    return TrackedClip(
        path,
        reader.fps,
        np.array([*times, end_s]),
        np.stack(betas),
        np.stack(cameras),
        missing,
        size,
        np.stack(transforms),
        others,
    )


def output_size(network: Network, size: int | None) -> int:
    """Check a wanted side of source crops and frames, pixels; AUTO for networks that take detail stays AUTO.

    Raises:
        UserError: it is no multiple of the network's resolution, or the network takes no detail.
    """
    own = network.resolution
    if size is None or size == own or (size == AUTO and not network.takes_detail):
        return own
    if size == AUTO:
        return AUTO
    if not network.takes_detail:
        raise UserError(
            f"{network.name} paints frames of {own} pixels and takes no detail from the photo; leave --size out"
        )
    if size % own:
        sizes = ", ".join(str(own * k) for k in range(1, max(1, 512 // own) + 1))
        raise UserError(
            f"--size {size} is no multiple of the {own} pixels of {network.name}; use one, for example {sizes}"
        )
    return size


def check_trained_on(
    network: Network,
    crop: Mapping[str, Any],  # name and version of what is given to it
    tracker: Mapping[str, Any],  # name and hash
) -> None:
    """Refuse pictures and labels of another kind than the network was trained on.

    Raises:
        UserError: the crop or the tracker is another one; where one of both does not say, nothing is compared.
    """
    trained = network.metadata.get("crop")
    if trained and crop and trained != crop:
        raise UserError(
            f"{network.name} was trained on the crop {trained} but the tracker makes {dict(crop)}; "
            "take a network of this crop"
        )
    trained = network.metadata.get("tracker") or {}
    theirs, ours = trained.get("hash"), tracker.get("hash")
    # Trackers that paint or copy labels have names of their own and are never run here.
    if trained.get("name") == tracker.get("name") and theirs and ours and theirs != ours:
        raise UserError(
            f"{network.name} was trained with the {tracker['name']} {_short(theirs)} but the tracker "
            f"here is {_short(ours)}; take a network of this tracker or its weights"
        )


def notes_on(driving: Driving) -> list[str]:
    """What the user has to know of a clip's motion."""
    notes = []
    if driving.n_missing:
        notes.append(
            f"no face in {driving.n_missing} of {len(driving.betas)} frames of {driving.name}; "
            "their motion comes from the frames beside them"
        )
    if driving.n_others:
        notes.append(
            f"{driving.n_others} of those frames show another face, which is not followed; --driver-face chooses one"
        )
    return notes


def _short(digest: object) -> str:
    return f"of hash {str(digest)[:12]}"


def write_driven(
    out: Path,
    frames: Iterable[np.ndarray],
    driving: Driving,
    what: str = "frames",
    sound: Path | None = None,  # None: the clip's
) -> Report:
    """Write a frame for each of a clip's frames, at the clip's times and with its sound."""
    count, times_s = len(driving.betas), driving.times_s
    return write_video(
        out, frames, driving.fps, sound or driving.sound, count, what, lambda i: float(times_s[i])
    )


def photo_of_clip(clip: TrackedClip, index: int) -> Photo:
    """A frame of a clip as the source. Raises UserError when the clip is shorter."""
    if index >= len(clip.betas):
        raise UserError(
            f"--source-frame {index} does not exist in {clip.name} with {len(clip.betas)} frames; count from 0"
        )
    return next(islice(clip.photos(), index, None))
