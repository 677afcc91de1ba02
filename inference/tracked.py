"""Photos and videos as a network wants them: aligned crops, camera labels and beta.

A driving clip is tracked once, from start to end; only its labels and crop transforms are kept (about 400 bytes a
frame). Its pictures are decoded a second time while the result is written, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np

from conventions.crop import CropTransform
from conventions.spaces import SPACES, ExpressionSpace, check_same_space, same_tracker
from dnnlib.clips import ClipOf
from dnnlib.cores import available_cores
from dnnlib.errors import UserError
from dnnlib.listing import is_image
from inference.network import Network
from inference.output import Report, progress_bar, write_video
from inference.photo import Photo, Whole
from inference.stored import StoredClip, open_clip
from tracking.expression import ExpressionPlugin
from tracking.media import load_photo
from tracking.pictures import open_frames
from tracking.tracker import TrackedFrame, Tracker

AUTO = 0  # crop size: as many pixels as the picture has there, up to LARGEST_AUTO
LARGEST_AUTO = 512


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
        plugin: ExpressionPlugin
        | None = None,  # what measures the network's space, if not built in
    ) -> None:
        self.size = network.resolution
        self._output = output_size(network, size)
        self._network, self._weights, self._plugin = network, weights, plugin
        if plugin is not None or network.space.name in SPACES:
            _ = self.tracker  # what does not fit is said now

    @cached_property
    def tracker(self) -> Tracker:
        """Made when it is wanted: a clip of a data set, which has its labels, needs none."""
        network, plugin = self._network, self._plugin
        if plugin is None and network.space.name not in SPACES:
            raise UserError(
                f"no built-in tracker measures {network.space.name}, the expression space of {network.name}; give "
                "--tracker module:factory or --results, or drive it by a clip of a data set, --driving DATASET:CLIP"
            )
        if plugin is None:
            tracker = new_tracker(network.space, self._weights)
        else:
            tracker = Tracker(plugin=plugin, threads=available_cores())
        check_same_space(network.space, tracker.space, f"{network.name} and the tracker")
        check_trained_on(network, tracker.crop_record, tracker.record)
        return tracker

    def photo(self, path: Path, face: str = "largest") -> Photo:
        """The face of a photo. Raises UserError: unreadable, no such face."""
        picture, tracker = load_photo(path), self.tracker
        self._begin(path.name)
        tracked = tracker.track_photo(picture, self.size, face, str(path))
        return self._cropped(picture, tracked, path.stem)

    def image(self, image: np.ndarray, name: str) -> Photo:
        """The face of a picture uint8 [H, W, 3]."""
        tracker = self.tracker
        self._begin(name)
        return self._cropped(image, tracker.track_photo(image, self.size, "largest", name), name)

    def _begin(self, name: str) -> None:
        if self._plugin is not None:
            self._plugin.begin(name)

    def _cropped(self, image: np.ndarray, tracked: TrackedFrame, name: str) -> Photo:
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
        tracker = self.tracker
        self._begin(path.name)
        clip = follow_clip(tracker, path, self.size, smooth, max_frames, face)
        size = self._crop_size(CropTransform(clip.transforms[0], self.size))
        return replace(clip, size=size, transforms=clip.transforms * (size / self.size))

    def stored(self, place: ClipOf, max_frames: int | None = None) -> StoredClip:
        """A clip of a data set with its own labels. Raises UserError: made with another tracker or crop."""
        clip = open_clip(place.folder, place.clip, self._output or self.size, max_frames)
        check_same_space(self._network.space, clip.space, f"{self._network.name} and {place}")
        check_trained_on(self._network, clip.crop_record, clip.tracker_record)
        return clip


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
    if not same_tracker(trained, tracker):
        raise UserError(
            f"{network.name} was trained with the {tracker['name']} {_short(trained['hash'])} but the tracker "
            f"here is {_short(tracker['hash'])}; take a network of this tracker or its weights"
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


def photo_of_clip(clip: TrackedClip | StoredClip, index: int) -> Photo:
    """A frame of a clip as the source. Raises UserError when the clip is shorter."""
    if index >= len(clip.betas):
        raise UserError(
            f"--source-frame {index} does not exist in {clip.name} with {len(clip.betas)} frames; count from 0"
        )
    if isinstance(clip, StoredClip):
        crop = next(islice(clip.crops(), index, None))
        return Photo(clip.name, crop, clip.betas[index], clip.cameras[index])
    return next(islice(clip.photos(), index, None))
