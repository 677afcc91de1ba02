"""Pieces of geometry that are added to a head: what they hold and how a layer over the skin is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataset.synthesis.arrays import FloatArray, IntArray
from dataset.synthesis.basis import HeadBasis, Part
from dataset.synthesis.shape import Shape

HEAD_CENTRE = np.array([0.0, 7.35, 0.40], np.float32)


@dataclass(frozen=True)
class Piece:
    """Some geometry: vertices and normals [V, 3], triangles [T, 3], part, per-vertex `canonical` texture
    coordinates [V, 3] and five `extra` values [V, 5] whose meaning is the material's."""

    vertices: FloatArray
    normals: FloatArray
    triangles: IntArray
    part: Part
    canonical: FloatArray
    extra: FloatArray


def azimuth_rad(points: FloatArray) -> FloatArray:
    """Angle of template points around the head from the front, -pi..pi, positive to +x."""
    return np.arctan2(points[:, 0], points[:, 2] - np.float32(0.45)).astype(np.float32)


def vertex_normals(vertices: FloatArray, triangles: IntArray) -> FloatArray:
    """Area-weighted unit normals, float32 [V, 3]."""
    corner = vertices[triangles]
    face = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = np.empty_like(vertices)
    for axis in range(3):
        normals[:, axis] = sum(
            np.bincount(triangles[:, k], face[:, axis], len(vertices)) for k in range(3)
        )
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


def shell(
    shape: Shape, basis: HeadBasis, skin: IntArray, lift: FloatArray, chosen: NDArray[np.bool_]
) -> tuple[FloatArray, IntArray, IntArray]:
    """Copies the triangles whose corners are all `chosen`, moved outwards by `lift` dm."""
    triangles = skin[chosen[skin].all(axis=1)]
    ids = np.unique(triangles)
    new = np.zeros(len(shape.vertices), np.int32)
    new[ids] = np.arange(len(ids), dtype=np.int32)
    base = shape.vertices[ids]
    out = base - HEAD_CENTRE
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return (base + lift[ids, None] * out).astype(np.float32), new[triangles], ids
