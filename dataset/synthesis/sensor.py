"""The camera's part of a picture: exposure, blur, tones, noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dataset.synthesis.appearance import Camera
from dataset.synthesis.arrays import FloatArray


def develop(camera: Camera, linear: FloatArray, seed: list[int] | None) -> NDArray[np.uint8]:
    """Exposure, lens blur, tone curve, saturation and sensor noise of a person's camera."""
    resolution = linear.shape[0]
    blur = camera.blur_px_at_128 * resolution / 128
    if blur > 0.15:
        linear = gaussian_filter(linear, (blur, blur, 0), mode="nearest")
    x = linear * camera.exposure
    # Straight in the middle, rolled off above 0.7, so that highlights keep their colour.
    x = np.where(x > 0.7, 0.7 + 0.3 * (1 - np.exp(-(x - 0.7) / 0.45)), x)
    grey = x @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    x = np.clip(grey[..., None] + camera.saturation * (x - grey[..., None]), 0, 1)
    srgb = np.where(
        x <= 0.0031308, 12.92 * x, 1.055 * np.power(np.maximum(x, 1e-8), 1 / 2.4) - 0.055
    )
    srgb = 0.5 + camera.contrast * (srgb - 0.5) + camera.lift
    if seed is not None and camera.noise > 0:
        srgb = srgb + camera.noise * np.random.default_rng(seed).standard_normal(
            srgb.shape, dtype=np.float32
        )
    return (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8)
