"""The head pose that APD compares: the tracker's fit, on landmarks that are read three times more.

The landmark network answers a little differently when the face is turned or mirrored; the mean of three such readings
takes the error of APD on synthetic heads that nothing covers from 1.66 to 1.48 degrees (`python -m benchmarks.metrics
pose`). More readings, other landmarks, weights or depths in the fit, the rotation between the two sets of landmarks,
a larger nod, a correction learned from other people and even a fit of the person's own shape leave it there: what
remains is where the network puts the landmarks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from conventions.crop import crop_transform
from tracking.landmarker import Roi, TrackState, roi_of
from tracking.pose import canonical_face, fit_camera

if TYPE_CHECKING:
    from tracking.landmarker import Landmarker

TURN_RAD = 0.12  # of the region that is read again, to either side; 7 degrees
FIT_PX = 256  # of the crop in which the pose is fitted
_SAME_FACE = 0.1  # mean distance of two readings of one face, sides of the region; 0.01 is usual


def head_rotation(landmarker: Landmarker, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Head -> camera, float64 [3, 3], of the face with these landmarks [478, 3] in an image uint8 [H, W, 3]."""
    return fit_rotation(mean_reading(landmarker, image, landmarks))


def fit_rotation(points: np.ndarray) -> np.ndarray:
    """Head -> camera, float64 [3, 3], of landmarks [>=468, 3] in pixels: the tracker's fit in the aligned crop."""
    points = np.asarray(points, np.float64)
    crop = crop_transform(points, FIT_PX)
    inside = np.concatenate([crop.points(points[:, :2]), points[:, 2:] * crop.scale], axis=1)
    return rotation_of(fit_camera(inside, FIT_PX))


def rotation_of(label: np.ndarray) -> np.ndarray:
    """World (the head's frame) -> camera of a camera label [25], float64 [3, 3]."""
    return label[:16].reshape(4, 4)[:3, :3].T.astype(np.float64)


def mean_reading(landmarker: Landmarker, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Mean of the landmarks as read with the region turned to either side and with the picture mirrored, [468, 3].

    A reading that finds no face, or another one, is left out.
    """
    first = np.asarray(landmarks, np.float64)[: len(_mirrored())]
    roi, width = roi_of(landmarks), image.shape[1]
    mirrored = np.ascontiguousarray(image[:, ::-1])
    readings = []
    for picture, region in (
        (image, Roi(roi.x, roi.y, roi.side, roi.roll_rad + TURN_RAD)),
        (image, Roi(roi.x, roi.y, roi.side, roi.roll_rad - TURN_RAD)),
        (mirrored, Roi(width - roi.x, roi.y, roi.side, -roi.roll_rad)),
    ):
        found = landmarker.track(picture, TrackState(region, n_lost=1))  # 1: no search of tiles
        if found is None:
            continue
        points = found.landmarks[: len(first)].astype(np.float64)
        if picture is mirrored:
            points[:, 0] = width - points[:, 0]
            points = points[_mirrored()]
        if np.linalg.norm(points[:, :2] - first[:, :2], axis=1).mean() < _SAME_FACE * roi.side:
            readings.append(points)
    out: np.ndarray = np.mean(readings or [first], axis=0)
    return out


@lru_cache(maxsize=1)
def _mirrored() -> np.ndarray:
    """For each of the 468 landmarks of the mesh the one on the other side."""
    points = canonical_face().points
    distance = np.linalg.norm(points[:, None] * (-1, 1, 1) - points, axis=-1)
    out: np.ndarray = distance.argmin(axis=1)
    return out
