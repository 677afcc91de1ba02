"""Where the camera stands in a video: the driver's view, one fixed view, or a swing around the head."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from conventions.cameras import camera_label, turned

CameraMode = Literal["driving", "fixed", "orbit"]
CAMERA_MODES: tuple[CameraMode, ...] = ("driving", "fixed", "orbit")

# (time in seconds, the driver's label [25]) -> label [25]
CameraPath = Callable[[float, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class View:
    """Where the camera is, or for `driving` how it is turned beside it; angles in degrees, as on the command line."""

    yaw_deg: float = 0.0  # > 0: camera to the image's right; centre of an orbit
    pitch_deg: float = 0.0  # > 0: camera up
    roll_deg: float = 0.0  # > 0: camera clockwise
    orbit_yaw_deg: float = 25.0  # largest deviation to either side
    orbit_pitch_deg: float = 8.0
    orbit_seconds: float = 4.0  # one swing left, right and back


def camera_path(mode: CameraMode, view: View | None = None) -> CameraPath:
    """The camera of every moment of a video.

    driving: the driver's own label, turned by yaw, pitch and roll. fixed: one view. orbit: a lying eight around the
    fixed view, which it starts from.
    """
    view = view or View()
    if mode == "driving":
        angles = [math.radians(v) for v in (view.yaw_deg, view.pitch_deg, view.roll_deg)]
        return lambda time_s, driving: turned(driving, *angles)
    if mode == "fixed":
        label = _label(view.yaw_deg, view.pitch_deg, view.roll_deg)
        return lambda time_s, driving: label
    return lambda time_s, driving: orbit_label(view, time_s)


def orbit_label(view: View, time_s: float) -> np.ndarray:
    """Label [25] of the orbit at a time."""
    phase = 2 * math.pi * time_s / view.orbit_seconds
    yaw = view.yaw_deg + view.orbit_yaw_deg * math.sin(phase)
    pitch = view.pitch_deg + view.orbit_pitch_deg * math.sin(2 * phase) / 2
    return _label(yaw, pitch, view.roll_deg)


def _label(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    return camera_label(math.radians(yaw_deg), math.radians(pitch_deg), math.radians(roll_deg))
