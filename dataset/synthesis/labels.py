"""Labels of synthetic frames in the language of the tracker, so that heads and people are driven in one space.

A painted unit is not what a tracker reads: a lowered brow of 1 is measured as 0.4, a smile lifts other units too
(`benchmarks.language`). So beta is what the tracker measures on the picture, as for photographs (paper, sec. 4).
The camera is the true one, moved into the frame in which the tracker places this person: the two disagree by a
rotation of a few degrees that belongs to the person, most of it pitch, and by noise from frame to frame, and only the
first is wanted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from conventions.cameras import CAMERA_RADIUS
from dataset.synthesis.arrays import FloatArray
from tracking.landmarker import Landmarker
from tracking.pose import fit_camera


class Measured(NamedTuple):
    """What the tracker says of the frames of a clip."""

    beta: FloatArray  # float32 [n, 52]; zero where no face was seen
    cameras: FloatArray  # float32 [n, 25]: the true ones in the tracker's frame, at CAMERA_RADIUS
    farther: (
        FloatArray  # float32 [n]: what that adds to every distance from the camera, world units
    )
    confidence: FloatArray  # float32 [n], 0 where no face was seen


def measure_clip(
    landmarker: Landmarker, images: list[NDArray[np.uint8]], cameras: FloatArray
) -> Measured:
    """Measure frames uint8 [R, R, 3] of one clip whose true camera labels are float [n, 25]."""
    faces = [landmarker.detect(image) for image in images]
    found = [max(f, key=lambda face: face.area) if f else None for f in faces]
    beta = np.zeros((len(images), 52), np.float32)
    confidence = np.zeros(len(images), np.float32)
    seen: list[FloatArray] = []
    for i, (face, image) in enumerate(zip(found, images, strict=True)):
        if face is not None:
            beta[i], confidence[i] = face.blendshapes, face.score
            seen.append(fit_camera(face.landmarks.astype(np.float64), len(image)))
    moved, farther = in_the_trackers_frame(cameras, np.flatnonzero(confidence > 0), seen)
    return Measured(beta, moved, farther, confidence)


def in_the_trackers_frame(
    cameras: FloatArray, seen: NDArray[np.int64], tracked: list[FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """All cameras [n, 25] moved by the mean rigid motion that takes those of `seen` to the `tracked` labels [25].

    Returns:
        labels float32 [n, 25] whose distance is CAMERA_RADIUS again, and what that added to it, float32 [n].
    """
    labels = np.asarray(cameras, np.float64).copy()
    poses = labels[:, :16].reshape(-1, 4, 4)  # a view
    if tracked:
        told = np.stack(tracked).astype(np.float64)[:, :16].reshape(-1, 4, 4)
        mine = poses[seen]
        # The rotation nearest to all of told = R mine, least squares of chords.
        u, _, vt = np.linalg.svd(np.einsum("nij,nkj->ik", told[:, :3, :3], mine[:, :3, :3]))
        turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        shift = np.median(told[:, :3, 3] - mine[:, :3, 3] @ turn.T, axis=0)
        poses[:, :3, :3] = turn @ poses[:, :3, :3]
        poses[:, :3, 3] = poses[:, :3, 3] @ turn.T + shift
    distance = np.linalg.norm(poses[:, :3, 3], axis=1)
    poses[:, :3, 3] *= (CAMERA_RADIUS / distance)[:, None]
    return labels.astype(np.float32), (CAMERA_RADIUS - distance).astype(np.float32)
