"""Expression units acting on a head: skin, jaw and tongue by linear displacement, eyeballs by rotation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from conventions.gaze import LOOK_DOWN_RAD, LOOK_SIDE_RAD, LOOK_UP_RAD
from dataset.synthesis.arrays import FloatArray
from dataset.synthesis.basis import UNIT_INDEX, UNIT_NAMES, Part, load_basis
from dataset.synthesis.shape import Shape

N_UNITS = len(UNIT_NAMES)
EYES = (Part.LEFT_EYE, Part.RIGHT_EYE)
# The base mesh shows some units more weakly than people do: at 1, a tracker reads a brow or an upper lip as a third of
# what it reads on people who raise them. These factors bring the range of what is measured to that of real clips.
_UNIT_GAIN = {
    "browInnerUp": 2.5, "browOuterUp": 1.5, "browDown": 1.5, "eyeWide": 2.0,
    "mouthUpperUp": 1.7, "mouthLowerDown": 1.5, "mouthRollLower": 2.0, "mouthRollUpper": 2.0,
    "mouthShrugUpper": 2.0, "mouthLeft": 2.0, "mouthRight": 2.0, "mouthPucker": 1.3,
}  # fmt: skip
UNIT_GAIN = np.array(
    [
        _UNIT_GAIN.get(n, _UNIT_GAIN.get(n.removesuffix("Left").removesuffix("Right"), 1.0))
        for n in UNIT_NAMES
    ],
    np.float32,
)
_LID_GAP = 1.035  # lids stay this many eyeball radii away from its centre


@dataclass(frozen=True)
class Eye:
    """An eyeball after the expression: centre [3] and unit gaze direction [3] (decimetre frame), radius in dm."""

    centre: FloatArray
    gaze: FloatArray
    radius: float


def gaze_angles_rad(beta: FloatArray) -> tuple[tuple[float, float], tuple[float, float]]:
    """(yaw, pitch) of the left and of the right eyeball; yaw > 0 turns to +x, pitch > 0 up."""

    def unit(name: str) -> float:
        return float(beta[UNIT_INDEX[name]])

    result = []
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        yaw = sign * LOOK_SIDE_RAD * (unit(f"eyeLookOut{side}") - unit(f"eyeLookIn{side}"))
        pitch = LOOK_UP_RAD * unit(f"eyeLookUp{side}") - LOOK_DOWN_RAD * unit(f"eyeLookDown{side}")
        result.append((yaw, pitch))
    return result[0], result[1]


@cache
def _lid_vertices() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Skin around each eyeball that can touch it: vertices in front of the ball, near its surface."""
    basis = load_basis()
    found = []
    for part in EYES:
        centre, radius = _ball(basis.vertices[basis.vertices_of(part)])
        distance = np.linalg.norm(basis.vertices - centre, axis=1)
        lid = (basis.part_of_vertex == Part.SKIN) & (distance < 2.0 * radius)
        found.append(np.flatnonzero(lid & (basis.vertices[:, 2] > centre[2] + 0.2 * radius)))
    return found[0], found[1]


def _ball(points: FloatArray) -> tuple[FloatArray, float]:
    low, high = points.min(axis=0), points.max(axis=0)
    # The depth range includes the bulge of the cornea; the width is that of the ball.
    radius = 0.25 * float(np.sum(high[:2] - low[:2]))
    centre = 0.5 * (low + high)
    centre[2] = low[2] + radius
    return centre.astype(np.float32), radius


def pose_head(shape: Shape, beta: FloatArray) -> tuple[FloatArray, tuple[Eye, Eye]]:
    """Vertices of `shape` under the expression.

    Args:
        shape: a neutral head.
        beta: float [52], units in 0..1 in the order of `UNIT_NAMES`; `_neutral` has no effect.

    Returns:
        vertices float32 [V, 3] in decimetres, and the left and the right eye.
    """
    basis = load_basis()
    beta = np.asarray(beta, np.float32)
    if beta.shape != (N_UNITS,):
        raise ValueError(f"beta must have shape ({N_UNITS},), got {beta.shape}")
    active = np.flatnonzero(beta)
    vertices = shape.vertices.copy()
    if len(active):
        vertices += np.tensordot((beta * UNIT_GAIN)[active], basis.units[active], axes=1)
    eyes = []
    for part, lids, angles in zip(EYES, _lid_vertices(), gaze_angles_rad(beta), strict=True):
        ids = basis.vertices_of(part)
        centre, radius = _ball(shape.vertices[ids])
        rotation = _rotation(*angles)
        vertices[ids] = (shape.vertices[ids] - centre) @ rotation.T + centre
        _keep_outside(vertices, lids, centre, radius * _LID_GAP)
        eyes.append(Eye(centre, rotation[:, 2].astype(np.float32), radius))
    return vertices, (eyes[0], eyes[1])


def _rotation(yaw_rad: float, pitch_rad: float) -> FloatArray:
    cy, sy, cp, sp = np.cos(yaw_rad), np.sin(yaw_rad), np.cos(pitch_rad), np.sin(pitch_rad)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    return (about_y @ about_x).astype(np.float32)


def _keep_outside(
    vertices: FloatArray, ids: NDArray[np.int64], centre: FloatArray, radius: float
) -> None:
    away = vertices[ids] - centre
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    # Only what lies on the front of the ball: the socket behind it is never seen.
    inside = (distance[:, 0] < radius) & (away[:, 2] > 0)
    vertices[ids[inside]] = centre + away[inside] * (radius / distance[inside])
