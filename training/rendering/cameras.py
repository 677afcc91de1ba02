"""Camera labels: 25 floats, cam2world 4x4 row-major then normalised intrinsics 3x3 (docs/conventions.md).

OpenCV camera: x right, y down, z forward. World: x to the image's right, y up, the face looks along +z. A
frontal camera sits at (0, 0, +r) and looks along -z. Angles are in radians, zero is frontal.
Functions take and return numpy arrays, or torch tensors where they are given tensors.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch

CAMERA_RADIUS = 2.7  # r, world units
FOCAL_NORMALISED = 2985.29 / 700  # focal length / image width of the aligned crop
LOOK_AT_PIVOT = (0.0, 0.0, 0.2)  # what sampled cameras look at

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def fov_x_deg_to_focal(fov_x_deg: float) -> float:
    """Image-width field of view in degrees -> focal length / image width."""
    return 0.5 / math.tan(math.radians(fov_x_deg) / 2)


def focal_to_fov_x_deg(focal: float) -> float:
    """Focal length / image width -> image-width field of view in degrees."""
    return math.degrees(2 * math.atan(0.5 / focal))


def camera_label(
    yaw_rad: float,  # > 0: the camera moves to +x
    pitch_rad: float,  # > 0: the camera moves up, to +y
    roll_rad: float = 0.0,  # > 0: the camera turns clockwise, its x axis towards -y of the world
    radius: float = CAMERA_RADIUS,
    pivot: tuple[float, float, float] = LOOK_AT_PIVOT,
    focal: float = FOCAL_NORMALISED,
) -> np.ndarray:
    """Label float32 [25] of a camera at distance `radius` from the origin that looks at `pivot`.

    Raises ValueError straight above or below the pivot, where "up" has no meaning.
    """
    origin = radius * np.array(
        [
            math.sin(yaw_rad) * math.cos(pitch_rad),
            math.sin(pitch_rad),
            math.cos(yaw_rad) * math.cos(pitch_rad),
        ]
    )
    forward = np.asarray(pivot, dtype=np.float64) - origin
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    if np.linalg.norm(right) < 1e-6:
        raise ValueError(f"pitch {pitch_rad} rad looks straight along the vertical axis")
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = math.cos(roll_rad), math.sin(roll_rad)
    pose = np.eye(4)
    pose[:3, 0] = c * right + s * down
    pose[:3, 1] = c * down - s * right
    pose[:3, 2] = forward
    pose[:3, 3] = origin
    intrinsics = np.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]])
    return np.concatenate([pose.ravel(), intrinsics.ravel()]).astype(np.float32)


def split_label(label: Array) -> tuple[Array, Array]:
    """Labels [..., 25] -> cam2world [..., 4, 4], normalised intrinsics [..., 3, 3]."""
    if label.shape[-1] != 25:
        raise ValueError(f"label is {tuple(label.shape)}; expected [..., 25]")
    head = tuple(label.shape[:-1])
    return label[..., :16].reshape(*head, 4, 4), label[..., 16:].reshape(*head, 3, 3)


def mirror_label(label: Array) -> Array:
    """The label of the left-right mirrored image: entries [0,1] [0,2] [1,0] [2,0] [0,3] change sign."""
    flip = [1, 2, 4, 8, 3]
    out = label.copy() if isinstance(label, np.ndarray) else label.clone()
    out[..., flip] = -out[..., flip]
    return out


def label_angles_rad(label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(yaw, pitch, roll) in radians of labels [..., 25], of the viewing direction: frontal is (0, 0, 0).

    The direction, not the position, counts: a camera that looks at `LOOK_AT_PIVOT` from yaw 0.5 has a viewing
    yaw of 0.54.
    """
    pose, _ = split_label(np.asarray(label, dtype=np.float64))
    backward, right = -pose[..., :3, 2], pose[..., :3, 0]
    yaw = np.arctan2(backward[..., 0], backward[..., 2])
    pitch = np.arcsin(np.clip(backward[..., 1], -1, 1))
    level = np.stack([np.cos(yaw), np.zeros_like(yaw), -np.sin(yaw)], axis=-1)
    up = np.cross(backward, level)
    roll = np.arctan2(-(right * up).sum(-1), (right * level).sum(-1))
    return yaw, pitch, roll


def project_points(points_world: Array, label: Array) -> Array:
    """World points [..., N, 3] seen by labels [..., 25] -> [..., N, 2], in image widths, x right, y down."""
    pose, k = split_label(label)
    local = (points_world - pose[..., None, :3, 3]) @ pose[..., :3, :3]
    uvw = local @ k.swapaxes(-1, -2)
    return uvw[..., :2] / uvw[..., 2:]
