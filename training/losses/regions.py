"""Where eyes and mouth are in an aligned crop: fixed points of the canonical head, seen by the frame's camera.

Every tracker of this project places heads alike (docs/conventions.md), so that a soft spot around the projected
point finds eyes and mouth of anyone; no landmarks are needed at training time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.rendering.cameras import FOCAL_NORMALISED, project_points


class Spot(NamedTuple):
    centre: tuple[float, float, float]  # world units
    half_width: float  # world units at which the weight has fallen to exp(-1/2), across the image
    half_height: float


# The five points of the face model that the crop is aligned with, in world units: 0.27 (x, y, z) + (0, 0.006, 0.161).
EYES = (
    Spot((-0.084, 0.084, 0.198), 0.045, 0.030),
    Spot((0.084, 0.084, 0.198), 0.045, 0.030),
)
MOUTH = (Spot((0.0, -0.129, 0.267), 0.065, 0.045),)
FACE = (Spot((0.0, -0.02, 0.25), 0.16, 0.20),)


def region_weights(
    camera: Tensor,  # [N, 25]
    size: int,  # H = W of the wanted map, pixels
    spots: tuple[Spot, ...] = EYES + MOUTH,
) -> Tensor:
    """Soft map [N, 1, size, size] in [0, 1]: the largest of the spots' Gaussians at each pixel."""
    camera = camera.float()
    centres = torch.tensor([s.centre for s in spots], device=camera.device)
    with torch.autocast(camera.device.type, enabled=False):
        at = project_points(centres, camera)  # [N, S, 2], image widths
        distance = torch.linalg.vector_norm(
            camera[:, None, [3, 7, 11]] - centres, dim=-1
        )  # [N, S]
    sizes = torch.tensor([(s.half_width, s.half_height) for s in spots], device=camera.device)
    sigma = sizes * FOCAL_NORMALISED / distance[..., None]  # [N, S, 2], image widths
    axis = (torch.arange(size, device=camera.device) + 0.5) / size
    along = torch.exp(-0.5 * ((axis - at[..., None]) / sigma[..., None]) ** 2)  # [N, S, 2, size]
    return (along[:, :, 1, :, None] * along[:, :, 0, None, :]).amax(dim=1, keepdim=True)


def face_disk(camera: Tensor, size: int) -> Tensor:
    """Hard map [N, 1, size, size] of the face without hair and ears: 1 within the ellipse of `FACE`."""
    return (region_weights(camera, size, FACE) >= 0.6065).float()  # exp(-1/2), the ellipse itself
