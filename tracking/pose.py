"""Camera label of an aligned crop: the canonical face, placed in the world, is fitted to the crop's landmarks.

Focal length and principal point are those of every aligned crop, so six numbers of the pose are sought; then its
distance from the origin is rescaled to 2.7 (docs/conventions.md). Size and shape of a person's head are left in the
image, where the network has to see them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dnnlib.reading.archives import member_bytes, open_zip
from tracking.landmarker import find_task_file
from training.rendering.cameras import CAMERA_RADIUS, FOCAL_NORMALISED, label_from_pose

# Deep3DFaceRecon's mean face stands in the world at 0.27 x + (0, 0.006, 0.161), seen from 2.7 in front of its own
# origin, which is 2.861 from the world's. Labels rescale that to 2.7, so what they show is that face times
# 2.7 / 2.861; without the factor every projected face would be 6 % too large. The canonical mesh is in centimetres, 10
# of which are one Deep3DFaceRecon unit; the offset brings its five points (eyes, nose tip, mouth corners) onto those
# of the mean face, least squares.
WORLD_PER_CM = 0.02548  # 0.027 * 2.7 / 2.861
CANONICAL_OFFSET = (0.0, 0.0139, 0.0987)  # (0, 0.0147, 0.1046) * 2.7 / 2.861
METADATA = "geometry_pipeline_metadata_landmarks.binarypb"
N_MESH = 468

Z_WEIGHT = 0.15  # of a landmark's own depth against its position in the image: settles near-frontal ambiguity
ROBUST_PX = 0.01  # image widths; residuals beyond count linearly
STEP_END = 1e-5  # radians and world units: 0.004 pixels of a crop of 256
RADIUS_WEIGHT = 1e-3  # a mere tether: a firm one turns a head of unusual size into a nod


@dataclass(frozen=True)
class CanonicalFace:
    """MediaPipe's canonical face in world units."""

    points: np.ndarray  # float64 [468, 3]
    weights: np.ndarray  # float64 [468], sum 1: how much a landmark counts for the pose


@lru_cache(maxsize=2)
def canonical_face(task_file: Path | None = None) -> CanonicalFace:
    """The mesh and its weights, read from the geometry metadata inside `face_landmarker.task`."""
    with open_zip(task_file or find_task_file()) as archive:
        metadata = member_bytes(archive, METADATA)
    weights = np.zeros(N_MESH)
    vertices = np.zeros((0, 5))
    for number, content in _fields(metadata):
        if number == 1:  # Mesh3d; its field 3: x, y, z, u, v of each vertex
            vertices = np.concatenate([_floats(c) for n, c in _fields(content) if n == 3]).reshape(
                -1, 5
            )
        elif number == 2:  # WeightedLandmarkRef: landmark, weight
            entry = dict(_fields(content))
            weights[int.from_bytes(entry.get(1, b"\0"), "little")] = _floats(entry[2])[0]
    if vertices.shape != (N_MESH, 5):
        raise ValueError(f"{METADATA} holds {len(vertices)} vertices; expected {N_MESH}")
    # Every landmark counts a little, so that a hidden nose does not undo the fit.
    weights = 0.8 * weights / weights.sum() + 0.2 / N_MESH
    points = vertices[:, :3] * WORLD_PER_CM + CANONICAL_OFFSET
    return CanonicalFace(points, weights)


def fit_camera(
    landmarks: np.ndarray,  # [>=468, 3], crop pixels (z in the same unit, smaller is nearer)
    size: int,  # side of the crop, pixels
    start: np.ndarray | None = None,  # label [25] to start from, e.g. of the frame before
    iterations: int = 12,
) -> np.ndarray:
    """Camera label float32 [25] under which the canonical face falls onto the landmarks."""
    face = canonical_face()
    observed = np.asarray(landmarks, dtype=np.float64)[:N_MESH] / size
    rotation, position = _start_pose(face, observed) if start is None else _pose_of(start)
    used = np.flatnonzero(face.weights > 0)
    target = observed[used]
    points, weights = face.points[used], face.weights[used]
    depth_target = target[:, 2] - np.average(target[:, 2], weights=weights)
    for _ in range(iterations):
        # rotation: world -> camera (x right, y down, z forward); position: of the camera in the world
        local = (points - position) @ rotation.T
        inverse_z = 1 / local[:, 2]
        uv = FOCAL_NORMALISED * local[:, :2] * inverse_z[:, None] + 0.5
        mean_z = np.average(local[:, 2], weights=weights)
        depth = (local[:, 2] - mean_z) * FOCAL_NORMALISED / mean_z
        error = np.concatenate([uv - target[:, :2], (depth - depth_target)[:, None]], axis=1)
        distance = np.linalg.norm(error[:, :2], axis=1)
        robust = weights / np.maximum(1, distance / ROBUST_PX)
        w = np.sqrt(np.stack([robust, robust, robust * Z_WEIGHT**2], axis=1))
        jacobian = _jacobian(local, rotation, inverse_z, mean_z)
        radius = float(np.linalg.norm(position))
        pull = np.concatenate([np.zeros(3), position / radius])[None] * RADIUS_WEIGHT
        a = np.concatenate([(jacobian * w[..., None]).reshape(-1, 6), pull])
        b = np.concatenate([(error * w).ravel(), [(radius - CAMERA_RADIUS) * RADIUS_WEIGHT]])
        step = np.linalg.solve(a.T @ a + 1e-9 * np.eye(6), -a.T @ b)
        rotation = rotation_from_vector(step[:3]) @ rotation
        position = position + step[3:]
        if np.abs(step).max() < STEP_END:
            break
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = position * (CAMERA_RADIUS / np.linalg.norm(position))
    return label_from_pose(pose)


def _jacobian(
    local: np.ndarray, rotation: np.ndarray, inverse_z: np.ndarray, mean_z: float
) -> np.ndarray:
    """d (u, v, depth) / d (rotation vector, position), [K, 3, 6]."""
    x, y, z = local.T
    # d local / d rotation vector = -[local]_x for rotation <- exp(v) rotation
    d_local = np.zeros((len(local), 3, 6))
    d_local[:, 0, 1], d_local[:, 0, 2] = z, -y
    d_local[:, 1, 0], d_local[:, 1, 2] = -z, x
    d_local[:, 2, 0], d_local[:, 2, 1] = y, -x
    d_local[:, :, 3:] = -rotation
    f = FOCAL_NORMALISED
    out = np.empty_like(d_local)
    scale = (f * inverse_z)[:, None]
    out[:, 0] = scale * (d_local[:, 0] - (x * inverse_z)[:, None] * d_local[:, 2])
    out[:, 1] = scale * (d_local[:, 1] - (y * inverse_z)[:, None] * d_local[:, 2])
    out[:, 2] = f / mean_z * (d_local[:, 2] - d_local[:, 2].mean(axis=0))
    return out


def _start_pose(face: CanonicalFace, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted Procrustes of the landmarks' own three dimensions, as if seen from far away."""
    w = face.weights[:, None]
    a = face.points - (face.points * w).sum(0)
    centre = (observed * w).sum(0)
    u, _, vt = np.linalg.svd((observed - centre).T @ (a * w))
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    # The camera stands where the face's centre projects to where it was seen, at the common distance.
    middle = (face.points * w).sum(0)
    z = CAMERA_RADIUS - float(np.linalg.norm(middle))
    ray = np.array([*(centre[:2] - 0.5) / FOCAL_NORMALISED, 1.0]) * z
    return rotation, middle - rotation.T @ ray


def _pose_of(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pose = np.asarray(label, dtype=np.float64)[:16].reshape(4, 4)
    return pose[:3, :3].T, pose[:3, 3]


def rotation_from_vector(vector: np.ndarray) -> np.ndarray:
    """exp: axis times angle [..., 3] -> rotation [..., 3, 3] (Rodrigues)."""
    v = np.asarray(vector, dtype=np.float64)
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    zero = np.zeros_like(v[..., 0])
    k = np.stack(
        [zero, -v[..., 2], v[..., 1], v[..., 2], zero, -v[..., 0], -v[..., 1], v[..., 0], zero], -1
    ).reshape(*v.shape[:-1], 3, 3)
    # sinc keeps both factors right at angle 0.
    return np.eye(3) + np.sinc(angle / np.pi) * k + 0.5 * np.sinc(angle / 2 / np.pi) ** 2 * k @ k


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, bytes) of a protobuf message: varints as their little-endian value, the rest as it is."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value.to_bytes(8, "little")
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"protobuf wire type {kind} is not supported")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _floats(content: bytes) -> np.ndarray:
    return np.array(struct.unpack(f"<{len(content) // 4}f", content))
