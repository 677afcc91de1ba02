"""What lies behind a head: smooth gradients, blurred rooms and lights, patterns. Fixed to the image or to the world."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from dataset.synthesis.arrays import FloatArray

SIZE = 192  # pixels a side, of which a picture shows all (image-fixed) or a window (world-fixed)
KINDS = ("gradient", "room", "lights", "clouds", "pattern")


def make_background(rng: np.random.Generator, wild: bool) -> FloatArray:
    """A linear-RGB picture, float32 [SIZE, SIZE, 3]."""
    share = (0.3, 0.28, 0.16, 0.16, 0.10) if not wild else (0.1, 0.2, 0.2, 0.2, 0.3)
    kind = str(rng.choice(KINDS, p=share))
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    base, other = _colour(rng, wild), _colour(rng, wild)
    angle = rng.uniform(0, 2 * np.pi)
    t = np.clip(
        0.5 + (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) * rng.uniform(0.3, 1.4), 0, 1
    )
    picture = base + t[..., None] * (other - base) * rng.uniform(0.1, 1.0)
    if kind == "gradient" and rng.random() < 0.5:
        d2 = (x - rng.uniform(0.2, 0.8)) ** 2 + (y - rng.uniform(0.1, 0.7)) ** 2
        picture = picture * (0.6 + 0.8 * np.exp(-d2 / rng.uniform(0.05, 0.4)))[..., None]
    elif kind == "room":
        picture = _room(rng, picture, x, y, wild)
    elif kind == "lights":
        picture = _lights(rng, picture * 0.4, x, y, wild)
    elif kind in ("clouds", "pattern"):
        picture = _clouds(rng, picture, kind == "pattern", wild)
    blur = rng.uniform(0.5, 7) if kind != "gradient" else 3.0
    picture = gaussian_filter(picture.astype(np.float32), (blur, blur, 0), mode="nearest")
    return np.clip(picture, 0.0, 3.0).astype(np.float32)


def _colour(rng: np.random.Generator, wild: bool) -> FloatArray:
    value = rng.beta(1.0, 1.6)
    tint = rng.normal(1, 0.5 if wild else 0.16, 3)
    return np.clip(value * tint, 0.003, 1.2).astype(np.float32)


def _room(
    rng: np.random.Generator, picture: FloatArray, x: FloatArray, y: FloatArray, wild: bool
) -> FloatArray:
    for _ in range(int(rng.integers(3, 12))):
        w, h = rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.9)
        cx, cy, turn = rng.random(), rng.random(), rng.normal(0, 0.06)
        u, v = (x - cx) + turn * (y - cy), (y - cy) - turn * (x - cx)
        inside = (np.abs(u) < w / 2) & (np.abs(v) < h / 2)
        picture = np.where(inside[..., None], _colour(rng, wild) * rng.uniform(0.4, 1.4), picture)
    return picture


def _lights(
    rng: np.random.Generator, picture: FloatArray, x: FloatArray, y: FloatArray, wild: bool
) -> FloatArray:
    radius = rng.uniform(0.02, 0.1)
    for _ in range(int(rng.integers(6, 40))):
        d = np.hypot(x - rng.random(), y - rng.random()) / (radius * rng.uniform(0.6, 1.4))
        picture = picture + _colour(rng, True)[None, None] * (d < 1)[..., None] * rng.uniform(
            0.2, 1.2
        )
    return picture


def _clouds(rng: np.random.Generator, picture: FloatArray, hard: bool, wild: bool) -> FloatArray:
    total = np.zeros((SIZE, SIZE), np.float32)
    for size, weight in ((4, 1.0), (9, 0.6), (20, 0.35), (48, 0.2)):
        grid = rng.standard_normal((size, size)).astype(np.float32)
        total += weight * zoom(grid, SIZE / size, order=1)[:SIZE, :SIZE]
    mix = np.clip(0.5 + 0.5 * total, 0, 1)
    if hard:
        mix = (np.sin(total * rng.uniform(2, 9)) > 0).astype(np.float32)
    return picture + mix[..., None] * (_colour(rng, wild) - picture)


def image_fixed(background: FloatArray, resolution: int) -> FloatArray:
    """The background behind every pixel when it stays put in the image, float32 [R, R, 3]."""
    channels = [
        np.asarray(
            Image.fromarray(background[..., k]).resize(
                (resolution, resolution), Image.Resampling.BICUBIC
            )
        )
        for k in range(3)
    ]
    return np.clip(np.stack(channels, -1), 0, None).astype(np.float32)


def world_fixed(background: FloatArray, directions: FloatArray) -> FloatArray:
    """The background seen in unit directions [N, 3] when it stays put in the world, float32 [N, 3]."""
    u = 0.5 + 0.5 * np.arctan2(directions[:, 0], -directions[:, 2]) / np.deg2rad(70)
    v = 0.5 - 0.5 * np.arcsin(np.clip(directions[:, 1], -1, 1)) / np.deg2rad(45)
    # Mirrored beyond its edges.
    fold = [np.abs((t + 1) % 2 - 1) * (SIZE - 1) for t in (u, v)]
    column, row = (np.clip(f, 0, SIZE - 1).astype(np.int32) for f in fold)
    return background[row, column]
