"""From a posed head and a camera label to a picture: primary rays, materials, light with shadows, sensor."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset.synthesis import background as backgrounds
from dataset.synthesis import materials
from dataset.synthesis.appearance import Appearance, Light
from dataset.synthesis.arrays import FloatArray, IntArray
from dataset.synthesis.basis import TEETH, Part, Region, load_basis
from dataset.synthesis.expression import EYES, Eye, pose_head
from dataset.synthesis.geometry import Piece, vertex_normals
from dataset.synthesis.light import light_frame, lit, shadow_of_key
from dataset.synthesis.materials import Surface
from dataset.synthesis.noise import smoothstep
from dataset.synthesis.rays import Hits, PairTracer, Tracer
from dataset.synthesis.sensor import develop
from dataset.synthesis.shape import Shape

_NOTHING = 255  # where a ray meets no part
NO_DEPTH = 4.0  # world units: what the depth of a pixel without a surface is set to


class HeadImage(NamedTuple):
    """One rendered frame.

    image: uint8 [R, R, 3], sRGB. depth: float32 [R, R], world units along the ray through the pixel's
    centre, `NO_DEPTH` where it meets nothing. mask: float32 [R, R], share of the pixel that shows the person.
    """

    image: NDArray[np.uint8]
    depth: FloatArray
    mask: FloatArray


@dataclass(frozen=True)
class Scene:
    """A person with an expression, lit, and the point [3] it is seen from; decimetres."""

    person: Person
    tracer: PairTracer
    light: Light
    normals: FloatArray  # [V, 3], of head and added geometry
    eyes: tuple[Eye, Eye]
    start: FloatArray
    beta: FloatArray  # [52]


@dataclass(frozen=True)
class Person:
    """An identity, ready to render. `occlusion` [V] is the ambient light that reaches each vertex, 0..1."""

    shape: Shape
    look: Appearance
    pieces: tuple[Piece, ...]
    background: FloatArray
    occlusion: FloatArray
    triangles: IntArray
    part_of_face: NDArray[np.uint8]
    noise_seed: int
    n_moving: int
    still: Tracer


def assemble(
    shape: Shape, look: Appearance, pieces: list[Piece], background: FloatArray, noise_seed: int
) -> Person:
    """Joins head and added geometry and bakes the ambient occlusion."""
    basis = load_basis()
    # Lash cards are opaque strips: the liner painted on the lids' rims does their work.
    keep = basis.part_of_face != Part.LASHES
    triangles, parts = [basis.triangles[keep]], [basis.part_of_face[keep]]
    start = len(basis.vertices)
    for piece in pieces:
        triangles.append(piece.triangles + start)
        parts.append(np.full(len(piece.triangles), piece.part, np.uint8))
        start += len(piece.vertices)
    joined = np.concatenate(triangles).astype(np.int32)
    vertices, normals = _static_geometry(shape.vertices, basis.triangles[keep], pieces)
    n_moving = int(keep.sum())
    return Person(
        shape=shape,
        look=look,
        pieces=tuple(pieces),
        background=background,
        occlusion=_bake_occlusion(vertices, normals, joined, pieces),
        triangles=joined,
        part_of_face=np.concatenate(parts),
        noise_seed=noise_seed,
        n_moving=n_moving,
        still=Tracer(vertices, joined[n_moving:]),
    )


def _static_geometry(
    head: FloatArray, triangles: IntArray, pieces: list[Piece] | tuple[Piece, ...]
) -> tuple[FloatArray, FloatArray]:
    normals = vertex_normals(head, triangles)
    return (
        np.concatenate([head, *(p.vertices for p in pieces)]),
        np.concatenate([normals, *(p.normals for p in pieces)]),
    )


def _bake_occlusion(
    vertices: FloatArray, normals: FloatArray, triangles: IntArray, pieces: list[Piece]
) -> FloatArray:
    basis = load_basis()
    n = len(basis.vertices)
    # Strands shade each other by a rule of their own; only what is smooth is measured.
    measured = [np.arange(n)]
    start = n
    for piece in pieces:
        if piece.part != Part.HAIR:
            measured.append(np.arange(start, start + len(piece.vertices)))
        start += len(piece.vertices)
    chosen = np.concatenate(measured)
    result = np.full(len(vertices), 0.75, np.float32)
    result[chosen] = _open_share(vertices, normals, triangles, chosen)
    # The mouth was shut while this was measured: inside it, depth decides instead.
    depth = smoothstep(0.7, 1.5, basis.vertices[:, 2])
    within = np.isin(basis.part_of_vertex, [*TEETH, Part.TONGUE]) | (
        basis.masks[:, Region.INSIDE_MOUTH] > 0.2
    )
    result[:n] = np.where(within, 0.16 + 0.6 * depth, result[:n])
    result[:n] = np.where(np.isin(basis.part_of_vertex, TEETH), 0.35 + 0.5 * depth, result[:n])
    lips = basis.masks[:, Region.LIPS] > 0.2
    result[:n] = np.where(lips, np.maximum(result[:n], 0.5), result[:n])
    return result


def _open_share(
    vertices: FloatArray, normals: FloatArray, triangles: IntArray, chosen: NDArray[np.int64]
) -> FloatArray:
    """Share of the sky that each of the `chosen` vertices sees; what is far away counts as sky in part."""
    rng = np.random.default_rng(7)
    n_rays = 20
    tracer = Tracer(vertices, triangles)
    direction = rng.standard_normal((n_rays, 3), dtype=np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    open_share = np.zeros(len(chosen), np.float32)
    normal = normals[chosen]
    origin = vertices[chosen] + 0.02 * normal
    for d in direction:
        ray = normal + 0.95 * d  # cosine-weighted
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        hit = tracer.first_hit(origin, ray)
        open_share += np.where(hit.triangle < 0, 1.0, np.clip(hit.distance / 1.2, 0, 1))
    return open_share / np.float32(n_rays)


def camera_rays(
    label: FloatArray, resolution: int, offsets: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Origin [3] and unit directions [R, R, K, 3] of rays through the pixels of a camera label.

    Args:
        label: float [25].
        resolution: pixels a side.
        offsets: float [K, 2], (x, y) inside the pixel in 0..1; 0.5 is its centre.
    """
    label = np.asarray(label, np.float64)
    cam2world, intrinsics = label[:16].reshape(4, 4), label[16:].reshape(3, 3)
    grid = np.arange(resolution)
    u = (grid[None, :, None] + offsets[None, None, :, 0]) / resolution
    v = (grid[:, None, None] + offsets[None, None, :, 1]) / resolution
    y = (v - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (u - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    right, down, forward = cam2world[:3, :3].T.astype(np.float32)
    world = (
        x.astype(np.float32)[..., None] * right + y.astype(np.float32)[..., None] * down + forward
    )
    world /= np.sqrt(np.einsum("...i,...i", world, world))[..., None]
    return cam2world[:3, 3].astype(np.float32), world


def render_head(
    person: Person,
    beta: FloatArray,
    label: FloatArray,
    resolution: int,
    samples: int = 2,
    background_in: str = "image",
    light_in: str = "head",
    sensor_noise: bool = True,
) -> HeadImage:
    """Render a person.

    Args:
        person: who.
        beta: float [52], true expression units, 0..1.
        label: float [25], camera label.
        resolution: pixels a side.
        samples: rays a pixel side; the picture takes samples^2 rays per pixel.
        background_in: "image" (does not move with the camera) or "world".
        light_in: "head" (light turns with the head) or "camera".
        sensor_noise: add the noise of the person's camera.
    """
    beta = np.asarray(beta, np.float32)
    head, eyes = pose_head(person.shape, beta)
    head = _grow_beard(person, head)
    moving = person.triangles[: person.n_moving]
    _, normals = _static_geometry(head, moving, person.pieces)
    tracer = PairTracer(Tracer(head, moving), person.still, person.n_moving)
    step = (np.arange(samples) + 0.5) / samples
    offsets = np.array([[x, y] for y in step for x in step] + [[0.5, 0.5]], np.float32)
    origin, directions = camera_rays(label, resolution, offsets)
    # The scene stays in decimetres; rays come to it instead.
    scale = np.float32(person.shape.scale)
    start = (origin - person.shape.offset) / scale
    k = samples * samples
    flat = directions.transpose(2, 0, 1, 3).reshape(-1, 3)
    n_pixels = resolution * resolution
    hits, source = _trace_pixels(tracer, start, flat, k, n_pixels, person.part_of_face)
    central = hits.triangle[k * n_pixels :]
    depth = np.where(central >= 0, hits.distance[k * n_pixels :] * scale, NO_DEPTH)
    primary = hits.triangle[: k * n_pixels]
    shaded = np.flatnonzero((source == np.arange(k * n_pixels)) & (primary >= 0))
    colour = np.zeros((k * n_pixels, 3), np.float32)
    if len(shaded):
        light = light_frame(person.look, label, light_in)
        scene = Scene(person, tracer, light, normals, eyes, start, beta)
        seen = Hits(hits.triangle[shaded], hits.distance[shaded], hits.weights[shaded])
        colour[shaded] = _shade(scene, flat[shaded], seen, shaded // n_pixels)
        colour = colour[source]
    behind = _background(person, resolution, background_in, directions[:, :, -1])
    mask = (primary >= 0).reshape(k, n_pixels).mean(axis=0, dtype=np.float32)
    image = colour.reshape(k, n_pixels, 3).mean(axis=0) + (1 - mask)[:, None] * behind
    shape2d = (resolution, resolution)
    moment = zlib.crc32(beta.tobytes() + np.asarray(label, np.float32).tobytes())
    seed = [person.noise_seed, moment] if sensor_noise else None
    picture = develop(person.look.camera, image.reshape(*shape2d, 3), seed)
    return HeadImage(picture, depth.reshape(shape2d).astype(np.float32), mask.reshape(shape2d))


def _trace_pixels(
    tracer: PairTracer,
    start: FloatArray,
    directions: FloatArray,
    k: int,
    n_pixels: int,
    part_of_face: NDArray[np.uint8],
) -> tuple[Hits, NDArray[np.int64]]:
    """Hits of all rays, [(K + 1) * pixels] (the last ones go through the centres), and the ray whose colour each of
    the first K * pixels takes.

    Where the centre and two corners of a pixel meet the same even part, or nothing, the other two corners are neither
    traced nor shaded: they only serve edges.
    """
    n = (k + 1) * n_pixels
    ray = np.arange(n).reshape(k + 1, n_pixels)
    first = ray[[0, 3, 4]].reshape(-1) if k == 4 else np.arange(n)
    source = np.arange(k * n_pixels)
    hits = Hits(np.full(n, -1, np.int32), np.zeros(n, np.float32), np.zeros((n, 3), np.float32))
    _trace_into(hits, tracer, start, directions, first)
    if k == 4:
        triangle = hits.triangle.reshape(k + 1, n_pixels)[[0, 3, 4]]
        part = np.where(triangle >= 0, part_of_face[triangle], _NOTHING)
        even = (part == part[:1]).all(axis=0) & np.isin(part[0], [Part.SKIN, Part.CLOTH, _NOTHING])
        _trace_into(hits, tracer, start, directions, ray[1:3, ~even].reshape(-1))
        for target, origin in ((1, 0), (2, 3)):
            source[ray[target, even]] = ray[origin, even]
            hits.triangle[ray[target, even]] = hits.triangle[ray[origin, even]]
    return hits, source


def _trace_into(
    hits: Hits,
    tracer: PairTracer,
    start: FloatArray,
    directions: FloatArray,
    rays: NDArray[np.int64],
) -> None:
    if len(rays):
        some = directions[rays]
        found = tracer.first_hit(np.broadcast_to(start, some.shape), some)
        hits.triangle[rays] = found.triangle
        hits.distance[rays] = found.distance
        hits.weights[rays] = found.weights


def _grow_beard(person: Person, head: FloatArray) -> FloatArray:
    length = person.look.beard.length_dm
    if length == 0.0:
        return head
    basis = load_basis()
    weight = materials.beard_weight(person.look, basis.vertices) * (
        basis.part_of_vertex == Part.SKIN
    )
    weight *= (basis.masks[:, Region.INSIDE_MOUTH] < 0.1) * (basis.masks[:, Region.LIPS] < 0.2)
    normals = vertex_normals(head, basis.triangles[basis.part_of_face == Part.SKIN])
    down = normals + np.array([0, -0.5, 0], np.float32)
    return np.asarray(head + (length * weight)[:, None] * down, np.float32)


def _shade(
    scene: Scene, directions: FloatArray, hits: Hits, sample: NDArray[np.int64]
) -> FloatArray:
    """Colours [N, 3] that rays with `directions` bring from their hits; `sample` is the number of the ray in its
    pixel."""
    person, basis = scene.person, load_basis()
    corner = person.triangles[hits.triangle]
    canonical = np.concatenate([basis.vertices, *(p.canonical for p in person.pieces)])
    extra = np.concatenate([basis.masks, *(p.extra for p in person.pieces)])
    table = np.concatenate(
        [canonical, scene.normals, extra, person.occlusion[:, None]], axis=1, dtype=np.float32
    )
    w = hits.weights.astype(np.float32)
    value = (
        table[corner[:, 0]] * w[:, :1]
        + table[corner[:, 1]] * w[:, 1:2]
        + table[corner[:, 2]] * w[:, 2:]
    )
    points = scene.start + hits.distance[:, None] * directions
    normal = value[:, 3:6]
    # Ribbons have two sides; everything is lit from the side it is seen from.
    normal = normal * np.where(
        np.sum(normal * directions, axis=1, keepdims=True) > 0.25, np.float32(-1), np.float32(1)
    )
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    part_of_hit = person.part_of_face[hits.triangle]
    result = np.zeros((len(corner), 3), np.float32)
    open_share = value[:, 11].copy()
    shadow = shadow_of_key(scene.tracer, scene.light, points, normal, sample)
    for part in map(Part, np.unique(part_of_hit)):
        chosen = np.flatnonzero(part_of_hit == part)
        at = _Points(points[chosen], value[chosen, :3], normal[chosen], value[chosen, 6:11])
        surface = _surface(scene, part, at)
        if part == Part.HAIR:
            open_share[chosen] = 0.5 + 0.5 * open_share[chosen]
        result[chosen] = lit(
            scene.light,
            surface,
            directions[chosen],
            open_share[chosen],
            shadow[chosen],
            translucent=part == Part.SKIN,
        )
    return result


class _Points(NamedTuple):
    """Surface points of one part."""

    posed: FloatArray  # [N, 3], decimetres, after the expression
    canonical: FloatArray  # [N, 3], template coordinates
    normals: FloatArray  # [N, 3]
    extra: FloatArray  # [N, 5], masks of the skin, what the material says elsewhere


def _surface(scene: Scene, part: Part, at: _Points) -> Surface:
    look = scene.person.look
    if part == Part.SKIN:
        return materials.skin(look, at.canonical, at.normals, at.extra, scene.beta)
    if part in EYES:
        return materials.eye(look, scene.eyes[EYES.index(part)], at.posed)
    if part in TEETH:
        return materials.teeth(look, at.canonical, at.normals, upper=part == Part.UPPER_TEETH)
    if part == Part.TONGUE:
        return materials.tongue(at.canonical, at.normals)
    if part == Part.HAIR:
        return materials.hair(look, at.canonical, at.normals, at.extra)
    if part in (Part.CAP, Part.CLOTH):
        ribs = part == Part.CAP and look.hair_style == "beanie"
        return materials.cloth(look, at.canonical, at.normals, ribs)
    assert part == Part.FRAME
    return materials.frame(look, at.normals)


def _background(person: Person, resolution: int, where: str, directions: FloatArray) -> FloatArray:
    if where == "image":
        return backgrounds.image_fixed(person.background, resolution).reshape(-1, 3)
    if where == "world":
        return backgrounds.world_fixed(person.background, directions.reshape(-1, 3))
    raise ValueError(f"background_in must be 'image' or 'world', not {where!r}")
