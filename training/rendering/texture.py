"""The source's own pixels on the rendered head: full resolution where the raw image has a fraction of it.   [ours]

A pixel of the frame is a surface point of the volume; moved back by what the expression moved it, the point is
somewhere in the source photo. The motion is that of the expression's fields (generator/motion.py), where there are
any, and a remainder rendered like a colour. Depth and motion are rendered small; they are smooth and may be enlarged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from conventions.cameras import CAMERA_RADIUS, project_points

TRACE = 0.005  # opacity
MOTION_RANGE = 0.2  # world units; the motion of a point lies within half of it


def carried_texture(
    image: Tensor,  # [N, 3, H, W], the source
    camera: Tensor,  # [N, 25], the source's
    origins: Tensor,  # [N, R, 3], rays of the frame, R = side^2
    directions: Tensor,  # [N, R, 3], unit
    depth: Tensor,  # [N, R, 1], as rendered: (1 - opacity) * far included
    opacity: Tensor,  # [N, R, 1]
    motion: Tensor,  # [N, R, 3], composited, in [0, opacity]; opacity / 2 is none
    far: float,
    to_source: Callable[[Tensor], Tensor]
    | None = None,  # points [N, R, 3] of the frame -> where the source has them
) -> Tensor:
    """The source seen on the surface of the head, [N, 3, H, W]; where nothing is hit, the result means nothing."""
    with torch.autocast(image.device.type, enabled=False):
        opacity = opacity.float()
        # A trace of matter in the middle of the box: without it the edge of the head has no surface to divide by.
        solid = opacity + TRACE
        surface = (depth.float() - (1 - opacity) * far + TRACE * CAMERA_RADIUS) / solid
        moved = ((motion.float() - opacity / 2) / solid).clamp(-0.5, 0.5) * MOTION_RANGE
        points = origins + surface * directions
        if to_source is not None:
            points = to_source(points)
        points = points + moved
        seen = project_points(points, camera.float().expand(len(points), -1)).transpose(1, 2)
        side, size = int(seen.shape[2] ** 0.5), image.shape[-1]
        # the shift is enlarged, not the place: the place would stop growing at the border
        shift = seen.unflatten(2, (side, side)) - pixel_centres(side, seen.device)
        shift = F.interpolate(shift, size=(size, size), mode="bilinear", align_corners=False)
        grid = (pixel_centres(size, seen.device) + shift).permute(0, 2, 3, 1) * 2 - 1
        return F.grid_sample(
            image.float().expand(len(grid), -1, -1, -1),
            grid,
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )


def pixel_centres(side: int, device: torch.device) -> Tensor:
    """(x, y) in image widths of the pixel centres, [1, 2, side, side]."""
    at = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y])[None]
