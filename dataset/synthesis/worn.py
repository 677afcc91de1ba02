"""Clothes, headgear and glasses around a neutral head, in decimetres."""

from __future__ import annotations

import numpy as np

from dataset.synthesis.appearance import Appearance, Glasses
from dataset.synthesis.arrays import FloatArray, IntArray
from dataset.synthesis.basis import HeadBasis, Part, Region
from dataset.synthesis.geometry import Piece, azimuth_rad, shell, vertex_normals
from dataset.synthesis.noise import fractal, noise, smoothstep
from dataset.synthesis.shape import Shape


def cloth(
    basis: HeadBasis, shape: Shape, look: Appearance, skin: IntArray, normals: FloatArray
) -> Piece:
    points = basis.vertices
    front = np.exp(-((azimuth_rad(points) / 0.6) ** 2))
    line = look.collar_dm - (0.35 * front if look.collar_dm < 5.75 else 0.0)
    chosen = (basis.part_of_vertex == Part.SKIN) & (points[:, 1] < line + 0.1)
    triangles = skin[chosen[skin].all(axis=1)]
    ids = np.unique(triangles)
    new = np.zeros(len(points), np.int32)
    new[ids] = np.arange(len(ids), dtype=np.int32)
    grown = shape.vertices[ids] + normals[ids] * 0.07
    grown += normals[ids] * 0.02 * noise(points[ids], 2.0, 3)[:, None]
    triangles = new[triangles]
    grown = grown.astype(np.float32)
    extra = np.zeros((len(ids), 5), np.float32)
    return Piece(grown, vertex_normals(grown, triangles), triangles, Part.CLOTH, points[ids], extra)


def cap(
    basis: HeadBasis, shape: Shape, look: Appearance, skin: IntArray, rng: np.random.Generator
) -> Piece:
    points = basis.vertices
    if look.hair_style == "beanie":
        lowest = 7.72 + float(rng.uniform(-0.08, 0.12))
        height = points[:, 1] - lowest + 0.25 * np.abs(azimuth_rad(points)) / np.pi
        thickness = 0.10 + 0.25 * smoothstep(8.1, 8.6, points[:, 1])
    else:
        degrees = np.abs(np.rad2deg(azimuth_rad(points)))
        edge = np.interp(degrees, [0, 25, 45, 60, 75, 180], [7.93, 7.88, 7.65, 7.2, 5.0, 5.0])
        height = points[:, 1] - edge
        thickness = np.full(len(points), 0.14, np.float32)
    chosen = (basis.part_of_vertex == Part.SKIN) & (basis.masks[:, Region.INSIDE_MOUTH] < 0.2)
    # One ring of vertices beyond the edge is pulled up to it, for a clean rim.
    near = skin[(height > 0)[skin].any(axis=1)]
    chosen &= np.isin(np.arange(len(points)), near)
    lift = thickness * (0.55 + 0.45 * smoothstep(0.0, 0.2, height)) + 0.02 * fractal(
        points, 1.5, 2, 4
    )
    vertices, triangles, ids = shell(shape, basis, skin, lift.astype(np.float32), chosen)
    vertices[:, 1] += np.clip(-height[ids], 0, 0.3)
    extra = np.zeros((len(ids), 5), np.float32)
    return Piece(
        vertices, vertex_normals(vertices, triangles), triangles, Part.CAP, points[ids], extra
    )


def _tube(
    centre: FloatArray, radius: float, closed: bool
) -> tuple[FloatArray, FloatArray, IntArray]:
    """A tube of six sides along the polyline `centre` [n, 3]."""
    n, sides = len(centre), 6
    tangent = np.empty_like(centre)
    if closed:
        tangent[:] = np.roll(centre, -1, 0) - np.roll(centre, 1, 0)
    else:
        tangent[1:-1] = centre[2:] - centre[:-2]
        tangent[0], tangent[-1] = centre[1] - centre[0], centre[-1] - centre[-2]
    tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
    up = (
        np.array([0.05, 0.1, 1.0])
        if abs(tangent[:, 2]).mean() < 0.7
        else np.array([0.0, 1.0, 0.05])
    )
    across = np.cross(tangent, up)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    above = np.cross(tangent, across)
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    normals = (
        across[:, None] * np.cos(turn)[None, :, None] + above[:, None] * np.sin(turn)[None, :, None]
    )
    vertices = centre[:, None] + radius * normals
    i = np.arange(n if closed else n - 1)
    j, k = (i + 1) % n, np.arange(sides)
    quad = np.stack(np.broadcast_arrays(
        i[:, None] * sides + k, j[:, None] * sides + k,
        j[:, None] * sides + (k + 1) % sides, i[:, None] * sides + (k + 1) % sides), -1).reshape(-1, 4)  # fmt: skip
    triangles = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]).astype(np.int32)
    return (
        vertices.reshape(-1, 3).astype(np.float32),
        normals.reshape(-1, 3).astype(np.float32),
        triangles,
    )


def glasses(basis: HeadBasis, shape: Shape, form: Glasses) -> Piece:
    corners = shape.vertices[[basis.landmark(n) for n in ("left_eye_outer", "left_eye_inner")]]
    eye = corners.mean(axis=0)
    mirror = shape.vertices[
        [basis.landmark(n) for n in ("right_eye_outer", "right_eye_inner")]
    ].mean(axis=0)
    depth = max(eye[2], mirror[2]) + 0.24
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    power = 2 / form.square
    ring_x = form.half_width_dm * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power
    ring_y = form.half_height_dm * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power
    parts = []
    y = 0.5 * (eye[1] + mirror[1]) - form.drop_dm
    for side, middle in ((1.0, eye), (-1.0, mirror)):
        x0 = side * max(abs(middle[0]) + 0.01, form.half_width_dm + 0.05)
        ring = np.stack([x0 + ring_x, y + ring_y, depth - 0.12 * (np.abs(x0 + ring_x)) ** 2], 1)
        parts.append(_tube(ring, form.thickness_dm, True))
        start = np.array([x0 + side * form.half_width_dm, y + 0.05, ring[:, 2].min()])
        temple = np.abs(shape.vertices[basis.masks[:, Region.EARS] > 0.5][:, 0]).min()
        end = np.array([side * (temple + 0.06), y + 0.05, 0.25])
        parts.append(_tube(np.linspace(start, end, 4), form.thickness_dm * 0.8, False))
    inner = [
        max(abs(m[0]) + 0.01, form.half_width_dm + 0.05) - form.half_width_dm for m in (eye, mirror)
    ]
    bridge = np.array(
        [[inner[0], y + 0.04, depth], [0, y + 0.07, depth + 0.01], [-inner[1], y + 0.04, depth]]
    )
    parts.append(_tube(bridge, form.thickness_dm, False))
    vertices, normals, triangles, start_id = [], [], [], 0
    for v, m, t in parts:
        vertices.append(v)
        normals.append(m)
        triangles.append(t + start_id)
        start_id += len(v)
    merged = np.concatenate(vertices)
    return Piece(merged, np.concatenate(normals), np.concatenate(triangles), Part.FRAME, merged,
                 np.zeros((len(merged), 5), np.float32))  # fmt: skip
