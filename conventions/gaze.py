"""Where the eyes look, as units of an expression space.

Directions are those of a head's own frame, in radians: (0, 0) is straight ahead, yaw > 0 looks to the image's right
(the subject's left), pitch > 0 up. Both eyes look the same way.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from conventions.spaces import ExpressionSpace

# Rotation of an eyeball at a look unit of 1.
LOOK_SIDE_RAD = math.radians(40.0)
LOOK_UP_RAD = math.radians(25.0)
LOOK_DOWN_RAD = math.radians(30.0)
BETWEEN_EYES = np.array([0.0, 0.07, 0.17])  # world: of the mean face

GAZES: tuple[Literal["driver", "photo", "camera"], ...] = ("driver", "photo", "camera")
# What decides where the eyes look: the driver, the source itself, the camera (they hold it), or degrees of yaw, pitch.
Gaze = Literal["driver", "photo", "camera"] | tuple[float, float]


def has_gaze(space: ExpressionSpace) -> bool:
    """Whether a space has a unit for each way in which an eye can look."""
    return set(_units(0.0, 0.0)) <= set(space.names)


def looking(
    beta: np.ndarray, yaw_rad: float, pitch_rad: float, space: ExpressionSpace
) -> np.ndarray:
    """An expression [D] whose eyes look there, as far as the units reach: float32 [D]."""
    out = np.array(beta, np.float32)
    for name, value in _units(yaw_rad, pitch_rad).items():
        out[space.names.index(name)] = min(max(value, 0.0), 1.0)
    return out


def towards_camera_rad(label: np.ndarray) -> tuple[float, float]:
    """(yaw, pitch) from between the eyes to the camera of a label [25]."""
    x, y, z = np.asarray(label, np.float64)[[3, 7, 11]] - BETWEEN_EYES
    return math.atan2(x, z), math.atan2(y, math.hypot(x, z))


def _units(yaw_rad: float, pitch_rad: float) -> dict[str, float]:
    side, up, down = yaw_rad / LOOK_SIDE_RAD, pitch_rad / LOOK_UP_RAD, -pitch_rad / LOOK_DOWN_RAD
    units: dict[str, float] = {}
    for eye, out in (("Left", side), ("Right", -side)):
        units |= {
            f"eyeLookOut{eye}": out,
            f"eyeLookIn{eye}": -out,
            f"eyeLookUp{eye}": up,
            f"eyeLookDown{eye}": down,
        }
    return units
