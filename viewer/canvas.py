"""Between a picture and a browser's window: the page around it, and where its camera looks from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from inference.panels import PAGE

MIN_PX = 384  # of the page's shorter side
TURN_SHARE = (
    0.5  # a drag over the window's height turns viser's camera by 360 degrees, a head by this share
)
_WIDEST = 3.0  # width to height, or the reverse


def on_canvas(image: np.ndarray, width: int, height: int, moving: bool = False) -> np.ndarray:
    """A square picture uint8 [s, s, 3] in the middle of a page with the sides of a window of [height, width] pixels.

    At rest it is enlarged to MIN_PX; while it moves the browser does that.
    """
    side = len(image) if moving else max(len(image), MIN_PX)
    if len(image) != side:
        image = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    ratio = width / height if width > 0 and height > 0 else 1.0
    ratio = min(max(ratio, 1 / _WIDEST), _WIDEST)
    across, down = (round(side * ratio), side) if ratio > 1 else (side, round(side / ratio))
    page = np.full((down, across, 3), PAGE, np.uint8)
    top, left = (down - side) // 2, (across - side) // 2
    page[top : top + side, left : left + side] = image
    return page


def view_angles_deg(position: Sequence[float], look_at: Sequence[float]) -> tuple[float, float]:
    """(yaw, pitch) in degrees that a browser's camera asks for: TURN_SHARE of its own; y is up, frontal is +z."""
    x, y, z = (float(p) - float(q) for p, q in zip(position, look_at, strict=True))
    yaw, pitch = math.atan2(x, z), math.atan2(y, math.hypot(x, z))
    return TURN_SHARE * math.degrees(yaw), TURN_SHARE * math.degrees(pitch)
