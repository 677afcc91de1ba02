"""Colours of surface points: as finished frames show them from around, else as the volume itself has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from conventions.cameras import project_points, split_label
from inference.shapes.surface import SOLID_OPACITY

_SHARPNESS = 4  # power of the cosine between normal and view: the view that faces a point rules
_HIDDEN = 0.04  # world units; a point so far behind the depth that a view shows is hidden there
_OWN_SHARE = 0.02  # weight of the volume's own colour, beside 1 of a view that a point faces


class Seen(NamedTuple):
    """A rendered view of the surface."""

    camera: np.ndarray  # float32 [25]
    image: np.ndarray  # uint8 [H, W, 3]
    depth: np.ndarray  # float32 [h, h], of what was hit, along the ray, world units
    opacity: np.ndarray  # float32 [h, h], [0, 1]


def seen_colours(
    vertices: np.ndarray,  # [V, 3], world units
    normals: np.ndarray,  # [V, 3], unit
    views: Sequence[Seen],
    own: np.ndarray,  # [V, 3] in [0, 1], the volume's colours, for what no view shows
) -> np.ndarray:
    """sRGB uint8 [V, 3]: c = (sum_v w_v c_v + w_own c_own) / (sum_v w_v + w_own).

    w_v is cos^4 between normal and direction to the camera where view v sees the point, else 0.
    """
    total = np.full((len(vertices), 1), _OWN_SHARE)
    colours = _OWN_SHARE * np.clip(own, 0, 1)
    for view in views:
        origin = split_label(view.camera)[0][:3, 3]
        towards = origin - vertices
        distance = np.linalg.norm(towards, axis=1)
        facing = np.clip((normals * towards).sum(axis=1) / distance, 0, 1)
        at = project_points(vertices, view.camera.astype(np.float64))
        inside = ((at > 0) & (at < 1)).all(axis=1)
        shown = distance < _look(view.depth, at) + _HIDDEN
        solid = _look(view.opacity, at) > SOLID_OPACITY
        weight = (facing**_SHARPNESS * (inside & shown & solid))[:, None]
        channels = [_look(view.image[..., k] / 255, at) for k in range(3)]
        colours += weight * np.stack(channels, axis=1)
        total += weight
    return np.round(colours / total * 255).astype(np.uint8)


def _look(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear values of [h, w] at image coordinates [V, 2], x right, y down, in [0, 1]."""
    rows, columns = at[:, 1] * values.shape[0] - 0.5, at[:, 0] * values.shape[1] - 0.5
    looked: np.ndarray = ndimage.map_coordinates(
        values.astype(np.float64), [rows, columns], order=1, mode="nearest"
    )
    return looked
