"""Photos and videos as the networks want them: aligned crop, camera label, beta, for every frame."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from conventions.cameras import label_from_pose
from conventions.crop import (
    CROP_NAME,
    CROP_VERSION,
    CropTransform,
    crop_from_parameters,
    crop_parameters,
)
from conventions.spaces import ARKIT52, ExpressionSpace
from dnnlib.errors import UserError
from tracking.expression import (
    ExpressionPlugin,
    ExpressionReader,
    FromPlugin,
    Measurement,
    expression_reader,
)
from tracking.following import Embed, OneFace, is_jump, lazy_embedder
from tracking.landmarker import Detection, Landmarker, choose_face
from tracking.media import Frame, VideoReader, load_photo
from tracking.pictures import PictureFrames
from tracking.pose import fit_camera
from tracking.smoothing import StreamingSmoother, Window

LOOK_AHEAD = 5  # frames, of each of the two stages
CROP_WINDOW = Window(3.0, LOOK_AHEAD, degree=1)
LANDMARK_WINDOW = Window(1.0, LOOK_AHEAD, degree=2)
CAMERA_WINDOW = Window(1.5, LOOK_AHEAD, degree=1)
BETA_WINDOW = Window(0.9, LOOK_AHEAD, degree=2)  # a blink lasts four frames and has to survive
BETA_AS_IT_IS = Window(0.0, LOOK_AHEAD)  # in step with the other windows
OFF = Window(0.0, 0)


@dataclass(frozen=True)
class TrackedFrame:
    """One aligned face."""

    crop: np.ndarray  # uint8 [size, size, 3]
    camera: np.ndarray  # float32 [25]
    beta: np.ndarray  # float32 [D]
    landmarks: np.ndarray  # float32 [478, 3], crop pixels
    confidence: float  # 0: no face was seen here, the labels come from neighbours
    transform: CropTransform  # photo -> crop
    index: int = 0
    time_s: float = 0.0
    duration_s: float = 0.0  # how long the video shows it
    five_points: np.ndarray | None = (
        None  # [5, 3], world: of the person's own face, where the tracker models it
    )
    other_face: bool = False  # another face is seen, and not the one that is followed


class Tracker:
    """Turns photos and videos into aligned frames.

    space: "arkit52" (built in) or "bfm64" (`weights`: Deep3DFaceRecon's). Opens no network connection.
    Raises UserError when a model file is missing or wrong.
    """

    def __init__(
        self,
        space: str | ExpressionSpace = ARKIT52,
        weights: str | os.PathLike[str] | None = None,
        task_file: str | os.PathLike[str] | None = None,
        threads: int = 1,
        plugin: ExpressionPlugin | None = None,  # takes the place of `space` and `weights`
        bfm_model: str | os.PathLike[str] | None = None,  # Basel face model, for bfm64
    ) -> None:
        self.landmarker = Landmarker(None if task_file is None else Path(task_file), threads)
        self._expression: ExpressionReader
        if plugin is not None:
            self._expression = FromPlugin(plugin)
        else:
            name = space if isinstance(space, str) else space.name
            self._expression = expression_reader(name, self.landmarker, weights, bfm_model)
        self.space = self._expression.space
        self._embed: Embed = lazy_embedder()  # kept: it is loaded once

    @property
    def record(self) -> dict[str, Any]:
        """For datasets and checkpoints: {"name", "hash"}."""
        return {"name": self.space.tracker, "hash": self._expression.hash}

    @property
    def files(self) -> str:
        """Hash of files that decide which frames a data set keeps, but change neither beta nor camera; or ""."""
        return self._expression.files

    @property
    def crop_record(self) -> dict[str, Any]:
        """For datasets and checkpoints: {"name", "version"}."""
        return {"name": CROP_NAME, "version": CROP_VERSION}

    def track_photo(
        self,
        photo: np.ndarray | str | os.PathLike[str],  # uint8 [H, W, 3] or a file
        size: int,  # side of the crop, pixels
        on_multiple: str = "error",  # "error" | "largest" | "left" | "right" | "0", "1", ... from the left
        name: str = "the photo",  # for messages, when `photo` is an array
    ) -> TrackedFrame:
        """The face of a photo. Raises UserError: unreadable, no face, several faces."""
        if not isinstance(photo, np.ndarray):
            name, photo = os.fspath(photo), load_photo(photo)
        face = choose_face(self.landmarker.detect(photo), on_multiple, name)
        raw = self.measure(Frame(photo, 0, 0.0), face)
        assert raw.parameters is not None and raw.landmarks is not None
        held = self._expression.first(raw)
        return self._aligned(raw, raw.parameters, raw.landmarks, held, size, None)

    def track_video(
        self,
        video: VideoReader | PictureFrames | str | os.PathLike[str],
        size: int,  # side of the crop, pixels
        smooth: bool = True,
        max_frames: int | None = None,
        face: str = "largest",  # of several: or "left", "right", "0", "1", ... from the left
    ) -> Iterator[TrackedFrame]:
        """One aligned frame for every frame of the video, streaming; holds back at most ten.

        One face is followed, whatever others are seen. Frames that do not show it take their labels from the
        neighbours and have confidence 0.
        Raises UserError when no frame shows a face.
        """
        reader = VideoReader(video) if isinstance(video, (str, os.PathLike)) else video
        first = self._first_face(reader, max_frames, face)
        raws = self._raws(reader, max_frames, face)
        if not smooth:
            yield from self._steady(raws, first, size, OFF, OFF)
            return
        frames = self._steady(raws, first, size, CROP_WINDOW, LANDMARK_WINDOW)
        yield from self._smooth_labels(frames)

    def align(self, shot: Iterable[Measurement], size: int) -> Iterator[TrackedFrame]:
        """One aligned frame for every measurement of a shot, as `track_video` makes them; holds back at most ten.

        The first measurement shows a face. Raises ValueError when it does not.
        """
        measurements = iter(shot)
        first = next(measurements, None)
        if first is None:
            return
        if first.landmarks is None:
            raise ValueError("the first measurement of a shot must show a face")
        shot = chain([first], measurements)
        yield from self._smooth_labels(
            self._steady(shot, first, size, CROP_WINDOW, LANDMARK_WINDOW)
        )

    def _smooth_labels(self, frames: Iterable[tuple[TrackedFrame, bool]]) -> Iterator[TrackedFrame]:
        window = BETA_WINDOW if self._expression.smooth else BETA_AS_IT_IS
        return _smooth_labels(frames, window, self.space.limits)

    def measure(self, frame: Frame, face: Detection | None, cut: bool = False) -> Measurement:
        """What a frame says by itself. cut: it has nothing to do with the frame before."""
        if face is None:
            return Measurement(frame, None, None, None, 0.0)
        points = face.landmarks.astype(np.float64)
        return Measurement(
            frame, crop_parameters(points), points.ravel(), face.blendshapes, face.score, cut
        )

    def _first_face(
        self, reader: VideoReader | PictureFrames, max_frames: int | None, which: str
    ) -> Measurement:
        follower = OneFace(self.landmarker, which, self._embed)
        for raw in self._raws(reader, max_frames, which, follower):
            if raw.landmarks is not None:
                return raw
        if follower.most_faces:
            raise UserError(
                f"--face {which} does not exist in {reader.path} with {follower.most_faces} faces; count from 0"
            )
        raise UserError(
            f"{reader.path} shows no face; give a video in which a face is seen from the front"
        )

    def _raws(
        self,
        reader: VideoReader | PictureFrames,
        max_frames: int | None,
        which: str,
        follower: OneFace | None = None,
    ) -> Iterator[Measurement]:
        follower = follower or OneFace(self.landmarker, which, self._embed)
        before: np.ndarray | None = None
        for frame in reader:
            if max_frames is not None and frame.index >= max_frames:
                return
            face = follower(frame.image)
            raw = replace(self.measure(frame, face), other_face=follower.other)
            if raw.parameters is not None:
                cut = before is not None and is_jump(before, raw.parameters)
                before = raw.parameters
                raw = self.measure(frame, face, cut) if cut else raw
            yield raw

    def _steady(
        self,
        raws: Iterable[Measurement],
        first: Measurement,
        size: int,
        crop_window: Window,
        window: Window,
    ) -> Iterator[Any]:
        """Steady crop and landmarks, then camera and beta of each frame."""
        crops: StreamingSmoother[Measurement] = StreamingSmoother(crop_window)
        points: StreamingSmoother[None] = StreamingSmoother(window)
        previous: TrackedFrame | None = None
        held = self._expression.first(first)
        with_cut = crop_window is not OFF

        def give(
            crop_out: Iterable[tuple[np.ndarray | None, Measurement]],
            point_out: Iterable[tuple[np.ndarray | None, None]],
        ) -> Iterator[Any]:
            nonlocal previous
            for (parameters, raw), (landmarks, _) in zip(crop_out, point_out, strict=True):
                previous = self._aligned(
                    raw,
                    first.parameters if parameters is None else parameters,  # type: ignore[arg-type]
                    first.landmarks if landmarks is None else landmarks,  # type: ignore[arg-type]
                    held if previous is None else previous.beta,
                    size,
                    None if previous is None or raw.cut else previous.camera,
                )
                yield (previous, raw.cut) if with_cut else previous

        for raw in raws:
            if raw.cut:
                yield from give(crops.flush(), points.flush())
            yield from give(crops.push(raw.parameters, raw), points.push(raw.landmarks, None))
        yield from give(crops.flush(), points.flush())

    def _aligned(
        self,
        raw: Measurement,
        parameters: np.ndarray,  # of the steady crop
        landmarks: np.ndarray,  # steady, too
        held: np.ndarray,  # beta of a frame that has none
        size: int,
        start: np.ndarray | None,  # label to start the camera's fit from
    ) -> TrackedFrame:
        transform = crop_from_parameters(parameters, size)
        points = landmarks.reshape(-1, 3)
        inside = np.concatenate(
            [transform.points(points[:, :2]), points[:, 2:] * transform.scale], axis=1
        )
        reading = self._expression.read(raw, parameters)
        camera = None if reading is None else reading.camera
        return TrackedFrame(
            crop=transform.apply(raw.frame.image),
            camera=fit_camera(inside, size, start) if camera is None else camera,
            beta=np.asarray(held if reading is None else reading.beta, np.float32),
            landmarks=inside.astype(np.float32),
            confidence=0.0 if reading is None else raw.confidence,
            transform=transform,
            index=raw.frame.index,
            time_s=raw.frame.time_s,
            duration_s=raw.frame.duration_s,
            five_points=None if reading is None else reading.five_points,
            other_face=raw.other_face,
        )


def _smooth_labels(
    frames: Iterable[tuple[TrackedFrame, bool]],
    beta_window: Window,
    limits: tuple[float, float] | None,
) -> Iterator[TrackedFrame]:
    """Camera and beta over time; missing frames take both from their neighbours."""
    rotations: StreamingSmoother[TrackedFrame] = StreamingSmoother(CAMERA_WINDOW, rotation=True)
    positions: StreamingSmoother[None] = StreamingSmoother(CAMERA_WINDOW)
    betas: StreamingSmoother[None] = StreamingSmoother(beta_window)

    def give(*outs: Iterable[tuple[np.ndarray | None, Any]]) -> Iterator[TrackedFrame]:
        for (rotation, frame), (position, _), (beta, _) in zip(*outs, strict=True):
            if rotation is None or position is None or beta is None:  # before the first face
                yield frame
                continue
            pose = np.eye(4)
            pose[:3, :3] = rotation.reshape(3, 3)
            radius = np.linalg.norm(frame.camera[[3, 7, 11]])
            pose[:3, 3] = position * (radius / np.linalg.norm(position))
            focal = float(frame.camera[16])
            beta = beta if limits is None else np.clip(beta, *limits)
            yield replace(frame, camera=label_from_pose(pose, focal), beta=beta.astype(np.float32))

    for frame, cut in frames:
        if cut:
            yield from give(rotations.flush(), positions.flush(), betas.flush())
        pose = frame.camera[:16].reshape(4, 4)
        seen = frame.confidence > 0
        yield from give(
            rotations.push(pose[:3, :3].ravel() if seen else None, frame),
            positions.push(pose[:3, 3] if seen else None, None),
            betas.push(frame.beta if seen else None, None),
        )
    yield from give(rotations.flush(), positions.flush(), betas.flush())
