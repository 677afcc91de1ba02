"""Hair: a shell over the scalp (the mass) and some 1,500 ribbons that grow from it (strands and outline).

In decimetres, around a neutral head, once per identity; a scalp hardly moves with the expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset.synthesis.appearance import Appearance
from dataset.synthesis.arrays import FloatArray, IntArray
from dataset.synthesis.basis import HeadBasis, Part, Region
from dataset.synthesis.geometry import (
    HEAD_CENTRE,
    Piece,
    azimuth_rad,
    shell,
    vertex_normals,
)
from dataset.synthesis.noise import fractal, noise, smoothstep
from dataset.synthesis.rays import Tracer
from dataset.synthesis.shape import Shape

# Height of the hairline around the head: azimuth from the front in degrees, y in dm of the template.
_HAIRLINE_DEG = np.array([0, 22, 38, 52, 64, 74, 84, 96, 112, 135, 180], np.float32)
_HAIRLINE_Y = np.array(
    [8.03, 8.02, 7.95, 7.74, 7.55, 7.32, 7.22, 7.12, 6.98, 6.75, 6.62], np.float32
)


def scalp_height(points: FloatArray, lift_dm: float = 0.0) -> FloatArray:
    """How far template points [N, 3] lie above the hairline (dm, negative below); `lift_dm` raises its front."""
    degrees = np.abs(np.rad2deg(azimuth_rad(points)))
    line = np.interp(degrees, _HAIRLINE_DEG, _HAIRLINE_Y)
    front = smoothstep(70.0, 30.0, degrees)
    return np.asarray(points[:, 1] - line - lift_dm * front, np.float32)


_THICKNESS_DM = {
    "buzz": 0.02,
    "short": 0.12,
    "medium": 0.14,
    "long": 0.13,
    "tied": 0.05,
    "curly": 0.35,
}


def grow_hair(
    basis: HeadBasis,
    shape: Shape,
    look: Appearance,
    skin: IntArray,
    normals: FloatArray,
    rng: np.random.Generator,
    style: str,
) -> list[Piece]:
    points = basis.vertices
    thick = _THICKNESS_DM[style] * rng.uniform(0.6, 1.6)
    ragged = 0.05 * fractal(points, 2.5, 2, int(rng.integers(4)))
    height = scalp_height(points, look.hairline_lift_dm) + ragged
    if look.hair_style == "beanie":  # only what hangs out below it
        height = np.minimum(height, 7.8 - points[:, 1])
    on_head = (
        (basis.part_of_vertex == Part.SKIN)
        & (basis.masks[:, Region.EARS] < 0.3)
        & (basis.masks[:, Region.INSIDE_MOUTH] < 0.2)
    )
    chosen = on_head & (height > -0.15)
    crown = smoothstep(7.3, 8.2, points[:, 1])
    lift = thick * smoothstep(-0.02, 0.35, height) * (0.45 + 0.75 * crown)
    lift *= 1 + 0.25 * fractal(points, 1.2 if style != "curly" else 2.5, 2, int(rng.integers(4)))
    lift -= 0.03 * smoothstep(0.0, -0.1, height)
    vertices, triangles, ids = shell(shape, basis, skin, lift.astype(np.float32), chosen)
    comb = _comb_direction(style, rng)
    extra = np.zeros((len(ids), 5), np.float32)
    extra[:, :3] = comb.along(points[ids], vertex_normals(vertices, triangles))
    extra[:, 3], extra[:, 4] = 0.5, 0.35
    pieces = [
        Piece(
            vertices,
            vertex_normals(vertices, triangles),
            triangles,
            Part.HAIR,
            points[ids] * 2,
            extra,
        )
    ]
    if style != "buzz":
        pieces.append(_wisps(basis, shape, skin, normals, height, lift, comb, style, rng))
    return pieces


@dataclass(frozen=True)
class _Comb:
    """Direction in which hair lies: away from a parting, plus a constant."""

    parting_x: float
    sideways: float
    constant: FloatArray

    def along(self, points: FloatArray, normals: FloatArray) -> FloatArray:
        direction = np.tile(self.constant, (len(points), 1)).astype(np.float32)
        direction[:, 0] += self.sideways * np.tanh((points[:, 0] - self.parting_x) / 0.12)
        direction -= np.sum(direction * normals, axis=1, keepdims=True) * normals
        return direction / (np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6)


def _comb_direction(style: str, rng: np.random.Generator) -> _Comb:
    parting = float(rng.choice([0.0, 0.25, -0.25, rng.normal(0, 0.3)]))
    if style == "tied":
        return _Comb(parting, 0.1, np.array([0, 0.15, -1], np.float32))
    if style in ("short", "curly"):
        flow = [
            [0, 0.1, -1],
            [1, 0, 0.1],
            [-1, 0, 0.1],
            [0, -0.2, 1],
            [0.6, 0.2, -0.8],
            [-0.6, 0.2, -0.8],
            [0.5, -0.3, 0.8],
        ]
        return _Comb(
            parting, float(rng.uniform(0, 0.5)), np.array(flow[rng.integers(len(flow))], np.float32)
        )
    fringe = rng.random() < 0.4
    constant = [0, -0.3, 0.55] if fringe else [0, -0.35, -0.45]
    return _Comb(
        parting,
        float(rng.uniform(0.15, 0.5) if fringe else rng.uniform(0.7, 1.2)),
        np.array(constant, np.float32),
    )


_LENGTH_DM = {
    "short": (0.18, 0.6),
    "medium": (1.1, 2.1),
    "long": (2.3, 4.2),
    "tied": (0.9, 1.3),
    "curly": (0.3, 1.2),
}
_N_WISPS = {"short": 1500, "medium": 1500, "long": 1600, "tied": 900, "curly": 1600}
_N_STEPS = 7


def _wisps(
    basis: HeadBasis,
    shape: Shape,
    skin: IntArray,
    normals: FloatArray,
    height: FloatArray,
    lift: FloatArray,
    comb: _Comb,
    style: str,
    rng: np.random.Generator,
) -> Piece:
    n = _N_WISPS[style]
    root, canon, normal, root_lift = _roots(basis, shape, skin, normals, height, lift, n, rng)
    length = rng.uniform(*_LENGTH_DM[style]) * rng.uniform(0.75, 1.1, n)
    curl = {"curly": 1.2}.get(style, float(rng.choice([0.03, 0.12, 0.4], p=[0.45, 0.35, 0.2])))
    gravity = {"short": 0.12, "curly": 0.25, "tied": 0.02}.get(style, 0.55)
    rise = {"short": rng.uniform(0.0, 0.45), "curly": 0.4}.get(style, 0.2)
    outside = Tracer(shape.vertices, _outer_triangles(basis, skin))
    point = root + normal * (root_lift * 0.7)[:, None]
    direction = comb.along(canon, normal) + rise * normal + 0.08 * rng.normal(size=(n, 3))
    # Neighbours wave together: locks, not fur.
    phase = rng.uniform(0, 1.5 if style == "curly" else 0.12, (n, 1)) + 1.2 * root
    cut_y = rng.uniform(7.5, 7.85) if style in ("medium", "long") else 7.75
    path = [point]
    margin = root_lift * 0.9 + rng.uniform(0.01, 0.07, n)
    for step in range(_N_STEPS):
        wave = np.stack(
            [noise((phase + 31.7 * k + 0.35 * step).astype(np.float32), 0.8, k) for k in range(3)],
            1,
        )
        direction = direction / (np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6)
        direction = direction + curl * 0.5 * wave
        direction[:, 1] -= gravity * (0.4 + step / _N_STEPS)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6
        point = point + direction * (length / _N_STEPS)[:, None]
        point = _push_out(point, outside, margin)
        point = _clear_face(point, cut_y)
        path.append(point)
    return _ribbons(np.stack(path, 1).astype(np.float32), style, rng)


def _roots(
    basis: HeadBasis,
    shape: Shape,
    skin: IntArray,
    normals: FloatArray,
    height: FloatArray,
    lift: FloatArray,
    n: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    good = (height > 0.03) & (basis.masks[:, Region.EARS] < 0.2)
    triangles = skin[good[skin].all(axis=1)]
    corner = basis.vertices[triangles]
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    # More on the front half, which is the one that a picture shows.
    area *= 0.35 + smoothstep(-0.5, 0.9, corner[:, :, 2].mean(axis=1))
    pick = triangles[rng.choice(len(triangles), n, p=area / area.sum())]
    weight = rng.dirichlet([1, 1, 1], n).astype(np.float32)[:, :, None]

    def at(values: FloatArray) -> FloatArray:
        return np.asarray((values[pick] * weight).sum(axis=1), np.float32)

    return at(shape.vertices), at(basis.vertices), at(normals), at(lift[:, None])[:, 0]


def _outer_triangles(basis: HeadBasis, skin: IntArray) -> IntArray:
    inner = (basis.masks[:, Region.INSIDE_MOUTH] > 0.2) | (basis.masks[:, Region.EARS] > 0.3)
    return skin[~inner[skin].any(axis=1)]


def _push_out(points: FloatArray, outside: Tracer, margin: FloatArray) -> FloatArray:
    """Moves points that are inside the head, or nearer to it than `margin`, out along the ray from its middle."""
    away = points - HEAD_CENTRE
    distance = np.linalg.norm(away, axis=1)
    unit = away / distance[:, None]
    hit = outside.first_hit(np.tile(HEAD_CENTRE, (len(points), 1)), unit)
    surface = np.where(hit.triangle >= 0, hit.distance, 0.0) + margin
    # Far inside is inside the neck or the shoulders, and the way out would tear the strand.
    surface = np.where(surface - distance < 0.5, surface, 0.0)
    return np.asarray(HEAD_CENTRE + unit * np.maximum(distance, surface)[:, None], np.float32)


def _clear_face(points: FloatArray, cut_y: float) -> FloatArray:
    """Below the fringe's edge no strand crosses the face: it is moved to the side of it."""
    points = points.copy()
    wide = np.interp(points[:, 1], [6.2, 6.8, 7.3, 7.8, 8.1], [0.55, 0.66, 0.66, 0.55, 0.0])
    before = (points[:, 2] > 0.75) & (points[:, 1] < cut_y) & (np.abs(points[:, 0]) < wide)
    side = np.where(points[:, 0] >= 0, 1.0, -1.0)
    centre = before & (np.abs(points[:, 0]) < 0.45)
    points[before, 0] = (side * wide)[before]
    # Strands in the middle end at the fringe instead of jumping across.
    points[centre, 0] = (side * np.abs(points[:, 0]))[centre] * 0 + (side * wide)[centre]
    points[before, 2] = np.minimum(points[before, 2], 1.0)
    return points


def _ribbons(path: FloatArray, style: str, rng: np.random.Generator) -> Piece:
    n, steps, _ = path.shape
    tangent = np.gradient(path, axis=1)
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True) + 1e-6
    axis = np.broadcast_to(HEAD_CENTRE, path.shape).copy()
    axis[..., 1] = np.minimum(path[..., 1], 7.5)
    out = path - axis
    out /= np.linalg.norm(out, axis=2, keepdims=True) + 1e-6
    out = out + 0.35 * rng.normal(size=(n, 1, 3))
    side = np.cross(tangent, out)
    side /= np.linalg.norm(side, axis=2, keepdims=True) + 1e-6
    normal = np.cross(side, tangent)
    along = np.linspace(0, 1, steps, dtype=np.float32)
    widest = {"medium": 0.085, "long": 0.09, "tied": 0.07}.get(style, 0.05)
    taper = np.interp(along, [0, 0.2, 0.7, 1], [0.8, 1, 0.9, 0.15])
    width = rng.uniform(0.02, widest, (n, 1)) * taper
    left = path - side * width[..., None] * 0.5
    right = path + side * width[..., None] * 0.5
    vertices = np.stack([left, right], 2).reshape(-1, 3)
    rand = np.broadcast_to(rng.random((n, 1, 1), dtype=np.float32), (n, steps, 2))
    extra = np.empty((n, steps, 2, 5), np.float32)
    extra[..., :3] = tangent[:, :, None]
    extra[..., 3] = rand
    extra[..., 4] = along[None, :, None]
    canonical = np.empty((n, steps, 2, 3), np.float32)
    canonical[..., 0] = np.arange(n)[:, None, None] * 3.1 + np.array([0, 0.5])
    canonical[..., 1] = along[None, :, None] * 0.6
    canonical[..., 2] = rand * 9
    # Tilted to the sides at the edges, a ribbon is lit like a bundle.
    normals = np.stack([normal - 0.5 * side, normal + 0.5 * side], 2)
    normals /= np.maximum(np.linalg.norm(normals, axis=3, keepdims=True), 1e-12)
    first = (np.arange(n)[:, None] * steps + np.arange(steps - 1)).reshape(-1) * 2
    triangles = np.concatenate(
        [np.stack([first, first + 1, first + 2], 1), np.stack([first + 1, first + 3, first + 2], 1)]
    )
    return Piece(
        vertices.astype(np.float32),
        normals.reshape(-1, 3).astype(np.float32),
        triangles.astype(np.int32),
        Part.HAIR,
        canonical.reshape(-1, 3),
        extra.reshape(-1, 5),
    )
