"""Repeating noise volumes: one array look-up per sample instead of an evaluated Perlin noise.

A volume is built once per process from a constant seed, so that a picture depends on the identity's seed alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from dataset.synthesis.arrays import FloatArray

SIZE = 128  # voxels a side, a power of two: wrapping is a bit mask


@cache
def _volume(channel: int, blur_voxels: float) -> FloatArray:
    rng = np.random.default_rng([20240401, channel])
    volume = gaussian_filter(
        rng.standard_normal((SIZE,) * 3, dtype=np.float32), blur_voxels, mode="wrap"
    )
    return np.ascontiguousarray((volume - volume.mean()) / volume.std(), dtype=np.float32).ravel()


def noise(points: FloatArray, frequency: float, channel: int = 0) -> FloatArray:
    """Smooth noise of mean 0 and deviation 1 at `points`.

    Args:
        points: float [N, 3], any units.
        frequency: blobs per unit of `points`.
        channel: 0..7, independent patterns.

    Returns:
        float32 [N].
    """
    blur = 3.0  # voxels: nearest look-up shows no steps, one blob is about 3.5 blurs wide
    scaled = np.asarray(points * np.float32(frequency * 3.5 * blur), np.float32)
    index = np.floor(scaled).astype(np.int32) & (SIZE - 1)
    flat = (index[:, 0] * SIZE + index[:, 1]) * SIZE + index[:, 2]
    return _volume(channel & 7, blur)[flat]


def fractal(points: FloatArray, frequency: float, octaves: int = 3, channel: int = 0) -> FloatArray:
    """Sum of octaves with halving amplitude, deviation about 1; float32 [N]."""
    total = np.zeros(len(points), np.float32)
    amplitude, power = 1.0, 0.0
    for octave in range(octaves):
        total += np.float32(amplitude) * noise(points, frequency * 2.03**octave, channel + octave)
        power += amplitude**2
        amplitude *= 0.5
    return total / np.float32(np.sqrt(power))


def smoothstep(low: float | FloatArray, high: float | FloatArray, x: FloatArray) -> FloatArray:
    """0 below `low`, 1 above `high`, smooth between; works with low > high too."""
    t = np.clip((x - low) / (np.asarray(high) - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)
