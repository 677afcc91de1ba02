"""Which aligned frames are kept, and the reason of each that is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conventions.cameras import label_angles_rad, project_points
from conventions.crop import five_points
from dataset.preparation.options import VideoOptions
from dataset.preparation.people import sharpness
from tracking.pose import N_MESH, canonical_face
from tracking.tracker import TrackedFrame

# Reason -> what the report says.
REASONS = {
    "no_face": "no face was found",
    "low_confidence": "the tracker was not sure",
    "small_face": "the face is too small",
    "outside": "the face reaches beyond the picture",
    "turned_away": "the head is turned away",
    "bad_fit": "the camera label does not fit the landmarks",
    "blurred": "the picture is blurred",
    "short_clip": "the clip has too few frames",
}


@dataclass(frozen=True)
class Quality:
    """What was measured of a frame."""

    sharpness: float
    face_px: float  # height of the face in the video, pixels
    fit: float  # median distance of landmarks from where the label puts them, face heights
    reason: str  # "" for frames that are kept


def judge(frame: TrackedFrame, width: int, height: int, options: VideoOptions) -> Quality:
    """Measure an aligned frame of a picture of width x height pixels."""
    if frame.confidence <= 0:
        return Quality(0.0, 0.0, 0.0, "no_face")
    face_px = float(np.ptp(frame.landmarks[:, 1])) / frame.transform.scale
    fit = fit_error(frame.camera, frame.landmarks, frame.transform.size, frame.five_points)
    seen = frame.transform.inverse_points(frame.landmarks[:, :2].astype(np.float64))
    inside = float(((seen >= 0) & (seen <= (width, height))).all(axis=1).mean())
    yaw_deg = abs(np.degrees(label_angles_rad(frame.camera)[0]))
    sharp = sharpness(frame.crop)
    checks = {
        "low_confidence": frame.confidence < options.min_confidence,
        "small_face": face_px < options.min_face_px,
        "outside": inside < options.min_inside,
        "turned_away": yaw_deg > options.max_yaw_deg,
        "bad_fit": fit > options.max_fit,
        "blurred": sharp < options.min_sharpness,
    }
    reason = next((name for name, failed in checks.items() if failed), "")
    return Quality(sharp, face_px, fit, reason)


def fit_error(
    camera: np.ndarray,
    landmarks: np.ndarray,
    size: int,
    five_points_world: np.ndarray | None = None,
) -> float:
    """Median distance of the canonical face under the label from the landmarks, in heights of the face.

    camera: [25]; landmarks: [>=468, >=2], crop pixels of a crop of `size` pixels. With the person's own eyes, nose tip
    and mouth corners in the world [5, 3], those are compared instead.
    """
    seen = np.asarray(landmarks, np.float64)[:N_MESH, :2]
    height = np.ptp(seen[:, 1])
    points = canonical_face().points
    if five_points_world is not None:
        points, seen = five_points_world, five_points(landmarks)
    expected = project_points(points, np.asarray(camera, np.float64)) * size
    return float(np.median(np.linalg.norm(expected - seen, axis=1)) / height)
