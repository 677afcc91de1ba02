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

# Deep3DFaceRecon -> world (docs/conventions.md): x_world = 0.27 x + (0, 0.006, 0.161), camera 10 units away
DEEP3D_CAMERA_DISTANCE = 10.0
DEEP3D_SCALE = 0.27
DEEP3D_OFFSET = (0.0, 0.006, 0.161)

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def eg3d_fov_deg_to_focal(eg3d_fov_deg: float) -> float:
    """EG3D's "FOV" (18.837 for faces), which is not a width field of view, -> focal length / image width."""
    return 1 / (math.tan(math.radians(eg3d_fov_deg) / 2) * 1.414)


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


def eg3d_sampler_angles_rad(yaw_rad: float, pitch_rad: float) -> tuple[float, float]:
    """(horizontal, vertical) angle for EG3D's camera samplers that gives the position of this yaw and pitch.

    They put the camera at polar angle arccos(1 - 2 v / pi), so v falls as the camera rises, and not evenly.
    """
    return math.pi / 2 + yaw_rad, math.pi / 2 * (1 - math.sin(pitch_rad))


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


def label_angles_rad(
    label: np.ndarray | torch.Tensor,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def turned(label: np.ndarray, yaw_rad: float, pitch_rad: float, roll_rad: float) -> np.ndarray:
    """A label [25] whose viewing angles are larger by so much, the distance kept: float32 [25].

    The camera turns about `LOOK_AT_PIVOT`, so that what it sees there stays where it is in the picture.
    """
    if not (yaw_rad or pitch_rad or roll_rad):
        return np.asarray(label, np.float32)
    before = [float(a) for a in label_angles_rad(label)]
    after = [a + b for a, b in zip(before, (yaw_rad, pitch_rad, roll_rad), strict=True)]
    turn = _view_rotation(*after) @ _view_rotation(*before).T
    pose, k = split_label(np.asarray(label, np.float64))
    moved = np.eye(4)
    moved[:3, :3] = turn @ pose[:3, :3]
    pivot = np.asarray(LOOK_AT_PIVOT)
    origin = pivot + turn @ (pose[:3, 3] - pivot)
    moved[:3, 3] = origin * (np.linalg.norm(pose[:3, 3]) / np.linalg.norm(origin))
    return np.concatenate([moved.ravel(), k.ravel()]).astype(np.float32)


def _view_rotation(yaw_rad: float, pitch_rad: float, roll_rad: float) -> np.ndarray:
    """Rotation [3, 3] of a camera with these `label_angles_rad`: columns right, down, forward."""
    cy, sy, cp, sp = math.cos(yaw_rad), math.sin(yaw_rad), math.cos(pitch_rad), math.sin(pitch_rad)
    level = np.array([cy, 0, -sy])
    forward = -np.array([sy * cp, sp, cy * cp])
    down = np.cross(forward, level)
    c, s = math.cos(roll_rad), math.sin(roll_rad)
    return np.stack([c * level + s * down, c * down - s * level, forward], axis=1)


def label_from_pose(cam2world: np.ndarray, focal: float = FOCAL_NORMALISED) -> np.ndarray:
    """Label float32 [..., 25] of camera poses [..., 4, 4] with the principal point in the middle."""
    pose = np.asarray(cam2world, dtype=np.float64)
    k = np.array([focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1])
    flat = pose.reshape(*pose.shape[:-2], 16)
    return np.concatenate([flat, np.broadcast_to(k, (*flat.shape[:-1], 9))], axis=-1).astype(
        np.float32
    )


def from_deep3d(
    angle_rad: np.ndarray, trans: np.ndarray, radius: float = CAMERA_RADIUS
) -> np.ndarray:
    """Deep3DFaceRecon's pose coefficients -> label float32 [25].

    angle_rad [3]: rotations about x, y, z; trans [3]: translation in its model units. The face is moved by
    x' = Rz Ry Rx x + trans before a camera at (0, 0, 10) that looks along -z. The position is rescaled to `radius`
    from the origin.
    """
    rotation, origin = _deep3d_camera(angle_rad, trans)
    pose = np.eye(4)
    pose[:3, :3] = rotation @ np.diag([1.0, -1.0, -1.0])
    pose[:3, 3] = origin * (radius / np.linalg.norm(origin))
    return label_from_pose(pose)


def deep3d_to_world(
    points: np.ndarray, angle_rad: np.ndarray, trans: np.ndarray, radius: float = CAMERA_RADIUS
) -> np.ndarray:
    """Points [N, 3] of Deep3DFaceRecon's model, before its pose -> the world of the label `from_deep3d` gives.

    The distance of a label is rescaled, so the face is, too: it is seen where Deep3DFaceRecon sees it.
    """
    _, origin = _deep3d_camera(angle_rad, trans)
    placed = np.asarray(points, np.float64) * DEEP3D_SCALE + DEEP3D_OFFSET
    return np.asarray(placed * (radius / np.linalg.norm(origin)))


def _deep3d_camera(angle_rad: np.ndarray, trans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] of the camera before OpenCV's flips, and its place [3] before the distance is rescaled."""
    ax, ay, az = np.asarray(angle_rad, dtype=np.float64)
    cx, sx, cy, sy, cz, sz = (
        *(math.cos(ax), math.sin(ax)),
        *(math.cos(ay), math.sin(ay)),
        *(math.cos(az), math.sin(az)),
    )
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation = (rz @ ry @ rx).T
    shifted = np.asarray(trans, dtype=np.float64) - (0.0, 0.0, DEEP3D_CAMERA_DISTANCE)
    return rotation, -rotation @ shifted * DEEP3D_SCALE + DEEP3D_OFFSET
