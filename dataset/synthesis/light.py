"""Light: where it comes from, what is in shadow, what a surface sends to the camera."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dataset.synthesis.appearance import Appearance, Light
from dataset.synthesis.arrays import FloatArray
from dataset.synthesis.materials import Surface
from dataset.synthesis.rays import PairTracer

_SHADOW_OFFSET_DM = 0.012


def light_frame(look: Appearance, label: FloatArray, light_in: str) -> Light:
    """The person's light as it stands to the head: fixed to it, or turned with the camera."""
    if light_in == "head":
        return look.light
    rotation = np.asarray(label[:16], np.float32).reshape(4, 4)[:3, :3] @ np.diag(
        [1, -1, -1]
    ).astype(np.float32)
    return replace(look.light, key=rotation @ look.light.key, rim=rotation @ look.light.rim)


def shadow_of_key(
    tracer: PairTracer,
    light: Light,
    points: FloatArray,
    normals: FloatArray,
    sample: NDArray[np.int64],
) -> FloatArray:
    """Share of the key light that arrives, 0..1, [N]."""
    facing = np.flatnonzero(normals @ light.key > -0.1)
    # One direction per ray of a pixel: a penumbra without grain.
    jitter = np.random.default_rng(11).standard_normal((16, 3), dtype=np.float32)
    spread = jitter[sample[facing] % 16] * light.shadow_softness
    ray = light.key + spread
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    lit = np.zeros(len(points), np.float32)
    origin = points[facing] + _SHADOW_OFFSET_DM * normals[facing] + 0.01 * ray
    lit[facing] = ~tracer.blocked(origin, ray)
    return lit


def lit(
    light: Light,
    surface: Surface,
    directions: FloatArray,
    open_share: FloatArray,
    shadow: FloatArray,
    translucent: bool,
) -> FloatArray:
    normal, view = surface.normals, -directions
    key, rim = light.key, light.rim
    n_key, n_rim = normal @ key, normal @ rim
    half_key, half_rim = view + key, view + rim
    half_key /= np.linalg.norm(half_key, axis=1, keepdims=True)
    half_rim /= np.linalg.norm(half_rim, axis=1, keepdims=True)
    if surface.tangent is not None:
        along = np.sum(surface.tangent * key, axis=1) if key.ndim == 2 else surface.tangent @ key
        fibre = np.sqrt(np.clip(1 - along**2, 0, 1))
        diffuse = 0.55 * np.clip(n_key * 0.7 + 0.3, 0, 1) + 0.45 * fibre * np.clip(
            n_key + 0.5, 0, 1
        )
        aligned = np.sqrt(np.clip(1 - np.sum(surface.tangent * half_key, axis=1) ** 2, 0, 1))
        gloss = aligned**surface.exponent * np.clip(n_key + 0.3, 0, 1)
    else:
        diffuse = np.clip(n_key, 0, 1)
        gloss = np.clip(np.sum(normal * half_key, axis=1), 0, 1) ** surface.exponent * (n_key > 0)
    fresnel = 1 + 3.0 * (1 - np.clip(np.sum(normal * view, axis=1), 0, 1)) ** 4
    energy = (surface.exponent + 8) / 25
    shade = diffuse * shadow
    direct = shade[:, None] * light.key_colour
    if translucent:
        # Red light leaks past the terminator of skin.
        wrap = np.clip((n_key + 0.3) / 1.3, 0, 1) - np.clip(n_key, 0, 1)
        direct = direct + (wrap * (0.35 + 0.65 * shadow))[:, None] * light.key_colour * np.array(
            [0.5, 0.14, 0.08], np.float32
        )
    direct = direct + np.clip(n_rim, 0, 1)[:, None] * light.rim_colour * open_share[:, None]
    up, side = normal[:, 1:2], normal[:, 0:1]
    ambient = light.ambient + light.ambient_up * up + light.ambient_side * side
    ambient = np.clip(ambient, 0.02, None) * (open_share**1.3)[:, None]
    gloss_key = (surface.specular * energy * gloss * fresnel * shadow)[:, None] * light.key_colour
    gloss_rim = surface.specular * energy * fresnel * open_share
    gloss_rim = (
        gloss_rim
        * np.clip(np.sum(normal * half_rim, axis=1), 0, 1) ** surface.exponent
        * (n_rim > 0)
    )[:, None]
    sky = (surface.specular * fresnel * 0.35 * open_share * np.clip(0.5 + 0.5 * up[:, 0], 0, 1))[
        :, None
    ] * light.ambient
    return np.asarray(
        surface.albedo * (direct + ambient) + gloss_key + gloss_rim * light.rim_colour + sky,
        np.float32,
    )
