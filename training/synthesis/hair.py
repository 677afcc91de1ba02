"""Hair, headgear, clothes and glasses: geometry added to a neutral head, in decimetres, once per identity.

Hair is a shell over the scalp (the mass) and several hundred ribbons that grow from it (the strands and the outline).
Nothing here follows the expression: a scalp hardly moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.synthesis.appearance import Appearance
from training.synthesis.basis import HeadBasis, load_basis
from training.synthesis.noise import fractal, noise, smoothstep
from training.synthesis.rays import Tracer
from training.synthesis.shape import Shape

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

# Parts that follow those of `basis.PARTS` in the numbering of a scene.
HAIR, CAP, CLOTH, FRAME = 7, 8, 9, 10
HEAD_CENTRE = np.array([0.0, 7.35, 0.40], np.float32)
# Height of the hairline around the head: azimuth from the front in degrees, y in dm of the template.
_HAIRLINE_DEG = np.array([0, 22, 38, 52, 64, 74, 84, 96, 112, 135, 180], np.float32)
_HAIRLINE_Y = np.array([8.03, 8.02, 7.95, 7.74, 7.55, 7.32, 7.22, 7.12, 6.98, 6.75, 6.62], np.float32)


@dataclass(frozen=True)
class Piece:
    """Some geometry: vertices and normals [V, 3], triangles [T, 3], part number, per-vertex `canonical` texture
    coordinates [V, 3] and five `extra` values [V, 5] whose meaning is the material's."""

    vertices: FloatArray
    normals: FloatArray
    triangles: IntArray
    part: int
    canonical: FloatArray
    extra: FloatArray


def azimuth_rad(points: FloatArray) -> FloatArray:
    """Angle of template points around the head from the front, -pi..pi, positive to +x."""
    return np.arctan2(points[:, 0], points[:, 2] - np.float32(0.45)).astype(np.float32)


def scalp_height(points: FloatArray, lift_dm: float = 0.0) -> FloatArray:
    """How far template points [N, 3] lie above the hairline (dm, negative below); `lift_dm` raises its front."""
    degrees = np.abs(np.rad2deg(azimuth_rad(points)))
    line = np.interp(degrees, _HAIRLINE_DEG, _HAIRLINE_Y)
    front = smoothstep(70.0, 30.0, degrees)
    return np.asarray(points[:, 1] - line - lift_dm * front, np.float32)


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


def build_pieces(shape: Shape, look: Appearance, rng: np.random.Generator) -> list[Piece]:
    """All static geometry of an identity."""
    basis = load_basis()
    skin = basis.triangles[basis.part_of_face == 0]
    normals = vertex_normals(shape.vertices, skin)
    pieces = [_cloth(basis, shape, look, skin, normals)]
    style = look.hair_style
    if style in ("beanie", "scarf"):
        pieces.append(_cap(basis, shape, look, skin, rng))
        if style == "beanie" and rng.random() < 0.6:
            pieces += _hair(basis, shape, look, skin, normals, rng, str(rng.choice(["short", "medium", "long"])))
    elif style != "bald":
        pieces += _hair(basis, shape, look, skin, normals, rng, style)
    if look.glasses is not None:
        pieces.append(_glasses(basis, shape, look.glasses))
    return pieces


def _shell(
    shape: Shape, basis: HeadBasis, skin: IntArray, lift: FloatArray, chosen: NDArray[np.bool_]
) -> tuple[FloatArray, IntArray, NDArray[np.int64]]:
    """Copies the triangles whose corners are all `chosen`, moved outwards by `lift` dm."""
    triangles = skin[chosen[skin].all(axis=1)]
    ids = np.unique(triangles)
    new = np.zeros(len(shape.vertices), np.int32)
    new[ids] = np.arange(len(ids), dtype=np.int32)
    base = shape.vertices[ids]
    out = base - HEAD_CENTRE
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return (base + lift[ids, None] * out).astype(np.float32), new[triangles], ids


def _cloth(
    basis: HeadBasis, shape: Shape, look: Appearance, skin: IntArray, normals: FloatArray
) -> Piece:
    points = basis.vertices
    front = np.exp(-((azimuth_rad(points) / 0.6) ** 2))
    line = look.collar_dm - (0.35 * front if look.collar_dm < 5.75 else 0.0)
    chosen = (basis.part_of_vertex == 0) & (points[:, 1] < line + 0.1)
    triangles = skin[chosen[skin].all(axis=1)]
    ids = np.unique(triangles)
    new = np.zeros(len(points), np.int32)
    new[ids] = np.arange(len(ids), dtype=np.int32)
    grown = shape.vertices[ids] + normals[ids] * 0.07
    grown += normals[ids] * 0.02 * noise(points[ids], 2.0, 3)[:, None]
    triangles = new[triangles]
    grown = grown.astype(np.float32)
    extra = np.zeros((len(ids), 5), np.float32)
    return Piece(grown, vertex_normals(grown, triangles), triangles, CLOTH, points[ids], extra)


def _cap(
    basis: HeadBasis, shape: Shape, look: Appearance, skin: IntArray, rng: np.random.Generator
) -> Piece:
    points = basis.vertices
    if look.hair_style == "beanie":
        edge = 7.72 + rng.uniform(-0.08, 0.12)
        height = points[:, 1] - edge + 0.25 * np.abs(azimuth_rad(points)) / np.pi
        thickness = 0.10 + 0.25 * smoothstep(8.1, 8.6, points[:, 1])
    else:
        degrees = np.abs(np.rad2deg(azimuth_rad(points)))
        edge = np.interp(degrees, [0, 25, 45, 60, 75, 180], [7.93, 7.88, 7.65, 7.2, 5.0, 5.0])
        height = points[:, 1] - edge
        thickness = np.full(len(points), 0.14, np.float32)
    chosen = (basis.part_of_vertex == 0) & (basis.masks[:, 4] < 0.2)
    # One ring of vertices beyond the edge is pulled up to it, for a clean rim.
    near = skin[(height > 0)[skin].any(axis=1)]
    chosen &= np.isin(np.arange(len(points)), near)
    lift = thickness * (0.55 + 0.45 * smoothstep(0.0, 0.2, height)) + 0.02 * fractal(points, 1.5, 2, 4)
    vertices, triangles, ids = _shell(shape, basis, skin, lift.astype(np.float32), chosen)
    vertices[:, 1] += np.clip(-height[ids], 0, 0.3)
    extra = np.zeros((len(ids), 5), np.float32)
    return Piece(vertices, vertex_normals(vertices, triangles), triangles, CAP, points[ids], extra)


# ---- hair -------------------------------------------------------------------------------------

_THICKNESS_DM = {"buzz": 0.02, "short": 0.12, "medium": 0.14, "long": 0.13, "tied": 0.05, "curly": 0.35}


def _hair(
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
    on_head = (basis.part_of_vertex == 0) & (basis.masks[:, 3] < 0.3) & (basis.masks[:, 4] < 0.2)
    chosen = on_head & (height > -0.15)
    crown = smoothstep(7.3, 8.2, points[:, 1])
    lift = thick * smoothstep(-0.02, 0.35, height) * (0.45 + 0.75 * crown)
    lift *= 1 + 0.25 * fractal(points, 1.2 if style != "curly" else 2.5, 2, int(rng.integers(4)))
    lift -= 0.03 * smoothstep(0.0, -0.1, height)
    vertices, triangles, ids = _shell(shape, basis, skin, lift.astype(np.float32), chosen)
    comb = _comb_direction(style, rng)
    extra = np.zeros((len(ids), 5), np.float32)
    extra[:, :3] = comb.along(points[ids], vertex_normals(vertices, triangles))
    extra[:, 3], extra[:, 4] = 0.5, 0.35
    pieces = [Piece(vertices, vertex_normals(vertices, triangles), triangles, HAIR, points[ids] * 2, extra)]
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
        flow = [[0, 0.1, -1], [1, 0, 0.1], [-1, 0, 0.1], [0, -0.2, 1], [0.6, 0.2, -0.8], [-0.6, 0.2, -0.8], [0.5, -0.3, 0.8]]
        return _Comb(parting, float(rng.uniform(0, 0.5)), np.array(flow[rng.integers(len(flow))], np.float32))
    fringe = rng.random() < 0.4
    constant = [0, -0.3, 0.55] if fringe else [0, -0.35, -0.45]
    return _Comb(parting, float(rng.uniform(0.15, 0.5) if fringe else rng.uniform(0.7, 1.2)), np.array(constant, np.float32))


_LENGTH_DM = {"short": (0.3, 0.75), "medium": (1.1, 2.1), "long": (2.3, 4.2), "tied": (0.9, 1.3), "curly": (0.35, 1.6)}
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
    curl = {"curly": 1.6}.get(style, float(rng.choice([0.03, 0.12, 0.4], p=[0.45, 0.35, 0.2])))
    gravity = {"short": 0.12, "curly": 0.25, "tied": 0.02}.get(style, 0.55)
    rise = {"short": rng.uniform(0.05, 0.6), "curly": 0.6}.get(style, 0.2)
    outside = Tracer(shape.vertices, _outer_triangles(basis, skin))
    point = root + normal * (root_lift * 0.7)[:, None]
    direction = comb.along(canon, normal) + rise * normal + 0.08 * rng.normal(size=(n, 3))
    # Neighbours wave together: locks, not fur.
    phase = rng.uniform(0, 1.5 if style == "curly" else 0.12, (n, 1)) + 1.2 * root
    cut_y = rng.uniform(7.5, 7.85) if style in ("medium", "long") else 7.75
    path = [point]
    margin = root_lift * 0.9 + rng.uniform(0.01, 0.07, n)
    for step in range(_N_STEPS):
        wave = np.stack([noise((phase + 31.7 * k + 0.35 * step).astype(np.float32), 0.8, k) for k in range(3)], 1)
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
    good = (height > 0.03) & (basis.masks[:, 3] < 0.2)
    triangles = skin[good[skin].all(axis=1)]
    corner = basis.vertices[triangles]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    # More on the front half, which is the one that a picture shows.
    area *= 0.35 + smoothstep(-0.5, 0.9, corner[:, :, 2].mean(axis=1))
    pick = triangles[rng.choice(len(triangles), n, p=area / area.sum())]
    weight = rng.dirichlet([1, 1, 1], n).astype(np.float32)[:, :, None]

    def at(values: FloatArray) -> FloatArray:
        return np.asarray((values[pick] * weight).sum(axis=1), np.float32)

    return at(shape.vertices), at(basis.vertices), at(normals), at(lift[:, None])[:, 0]


def _outer_triangles(basis: HeadBasis, skin: IntArray) -> IntArray:
    inner = (basis.masks[:, 4] > 0.2) | (basis.masks[:, 3] > 0.3)
    return skin[~inner[skin].any(axis=1)]


def _push_out(points: FloatArray, outside: Tracer, margin: FloatArray) -> FloatArray:
    """Moves points that are inside the head, or nearer to it than `margin`, out along the ray from its middle."""
    away = points - HEAD_CENTRE
    distance = np.linalg.norm(away, axis=1)
    unit = away / distance[:, None]
    hit = outside.first_hit(np.tile(HEAD_CENTRE, (len(points), 1)), unit)
    surface = np.where(hit.triangle >= 0, hit.distance, 0.0) + margin
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
    width = rng.uniform(0.02, {"medium": 0.085, "long": 0.09, "tied": 0.07}.get(style, 0.05), n)[:, None] * np.interp(along, [0, 0.2, 0.7, 1], [0.8, 1, 0.9, 0.15])
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
    normals /= np.linalg.norm(normals, axis=3, keepdims=True)
    first = (np.arange(n)[:, None] * steps + np.arange(steps - 1)).reshape(-1) * 2
    triangles = np.concatenate(
        [np.stack([first, first + 1, first + 2], 1), np.stack([first + 1, first + 3, first + 2], 1)]
    )
    return Piece(
        vertices.astype(np.float32),
        normals.reshape(-1, 3).astype(np.float32),
        triangles.astype(np.int32),
        HAIR,
        canonical.reshape(-1, 3),
        extra.reshape(-1, 5),
    )


# ---- glasses ----------------------------------------------------------------------------------


def _tube(centre: FloatArray, radius: float, closed: bool) -> tuple[FloatArray, FloatArray, IntArray]:
    """A tube of six sides along the polyline `centre` [n, 3]."""
    n, sides = len(centre), 6
    if closed:
        tangent = np.roll(centre, -1, 0) - np.roll(centre, 1, 0)
    else:
        tangent = np.gradient(centre, axis=0)
    tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
    up = np.array([0.05, 0.1, 1.0]) if abs(tangent[:, 2]).mean() < 0.7 else np.array([0.0, 1.0, 0.05])
    a = np.cross(tangent, up)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = np.cross(tangent, a)
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    normals = a[:, None] * np.cos(turn)[None, :, None] + b[:, None] * np.sin(turn)[None, :, None]
    vertices = centre[:, None] + radius * normals
    i = np.arange(n if closed else n - 1)
    j, k = (i + 1) % n, np.arange(sides)
    quad = np.stack(np.broadcast_arrays(
        i[:, None] * sides + k, j[:, None] * sides + k,
        j[:, None] * sides + (k + 1) % sides, i[:, None] * sides + (k + 1) % sides), -1).reshape(-1, 4)  # fmt: skip
    triangles = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]).astype(np.int32)
    return vertices.reshape(-1, 3).astype(np.float32), normals.reshape(-1, 3).astype(np.float32), triangles


def _glasses(basis: HeadBasis, shape: Shape, form: dict[str, float]) -> Piece:
    corners = shape.vertices[[basis.landmark(n) for n in ("left_eye_outer", "left_eye_inner")]]
    eye = corners.mean(axis=0)
    mirror = shape.vertices[[basis.landmark(n) for n in ("right_eye_outer", "right_eye_inner")]].mean(axis=0)
    depth = max(eye[2], mirror[2]) + 0.24
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    power = 2 / form["square"]
    ring_x = form["half_width_dm"] * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power
    ring_y = form["half_height_dm"] * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power
    parts = []
    y = 0.5 * (eye[1] + mirror[1]) - form["drop_dm"]
    for side, middle in ((1.0, eye), (-1.0, mirror)):
        x0 = side * max(abs(middle[0]) + 0.01, form["half_width_dm"] + 0.05)
        ring = np.stack([x0 + ring_x, y + ring_y, depth - 0.12 * (np.abs(x0 + ring_x)) ** 2], 1)
        parts.append(_tube(ring, form["thickness_dm"], True))
        start = np.array([x0 + side * form["half_width_dm"], y + 0.05, ring[:, 2].min()])
        temple = np.abs(shape.vertices[basis.masks[:, 3] > 0.5][:, 0]).min()
        end = np.array([side * (temple + 0.06), y + 0.05, 0.25])
        parts.append(_tube(np.linspace(start, end, 4), form["thickness_dm"] * 0.8, False))
    inner = [max(abs(m[0]) + 0.01, form["half_width_dm"] + 0.05) - form["half_width_dm"] for m in (eye, mirror)]
    bridge = np.array([[inner[0], y + 0.04, depth], [0, y + 0.07, depth + 0.01], [-inner[1], y + 0.04, depth]])
    parts.append(_tube(bridge, form["thickness_dm"], False))
    vertices, normals, triangles, start_id = [], [], [], 0
    for v, m, t in parts:
        vertices.append(v), normals.append(m), triangles.append(t + start_id)
        start_id += len(v)
    merged = np.concatenate(vertices)
    return Piece(merged, np.concatenate(normals), np.concatenate(triangles), FRAME, merged,
                 np.zeros((len(merged), 5), np.float32))  # fmt: skip
