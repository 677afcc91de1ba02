"""The source's own pixels on the rendered head: full resolution where the raw image has a fraction of it.   [ours]

A pixel of the frame is a surface point of the volume; moved back by what the expression moved it, the point is
somewhere in the source photo. The motion is that of the expression's fields (generator/motion.py), where there are
any, and a remainder rendered like a colour. Depth and motion are rendered small; they are smooth and may be enlarged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from conventions.cameras import CAMERA_RADIUS, project_points, split_label

TRACE = 0.005  # opacity
# Cosine at the source / cosine at the frame: up to the first hidden, from the second on seen.
SEEN_AS_WELL = (0.25, 0.6)
FLATTEST = 0.1  # cosine at the frame: silhouettes have no normal
INSIDE = (-0.02, 0.02)  # image widths from the source's border, likewise
MOTION_RANGE = 0.2  # world units; the motion of a point lies within half of it


class Carried(NamedTuple):
    """Where the source has what the frame shows; where nothing is hit, it means nothing."""

    shift: Tensor  # [N, 2, h, h], (x, y) from a pixel of the frame to its place in the source, image widths
    visible: Tensor  # [N, 1, h, h] in [0, 1], how far the source saw it, see `visibility`


def carry(
    camera: Tensor,  # [N, 25], the source's
    origins: Tensor,  # [N, R, 3], rays of the frame, R = side^2
    directions: Tensor,  # [N, R, 3], unit
    depth: Tensor,  # [N, R, 1], as rendered: (1 - opacity) * far included
    opacity: Tensor,  # [N, R, 1]
    motion: Tensor,  # [N, R, 3], composited, in [0, opacity]; opacity / 2 is none
    far: float,
    # points [N, R, 3] of the frame -> where the source has them, and how far it is the same sort of surface, [N, R, 1]
    to_source: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None = None,
    mirrored: bool = False,  # follow the same place of the head's other half
) -> Carried:
    """Follow the surface of the head from the frame back into the source."""
    with torch.autocast(depth.device.type, enabled=False):
        opacity = opacity.float()
        # A trace of matter in the middle of the box: without it the edge of the head has no surface to divide by.
        solid = opacity + TRACE
        surface = (depth.float() - (1 - opacity) * far + TRACE * CAMERA_RADIUS) / solid
        moved = ((motion.float() - opacity / 2) / solid).clamp(-0.5, 0.5) * MOTION_RANGE
        points = origins + surface * directions
        if mirrored:
            half = points.new_tensor([-1.0, 1.0, 1.0])
            points, moved, directions = points * half, moved * half, directions * half
        surface_points = points.detach()
        alike = None
        if to_source is not None:
            points, alike = to_source(points)
        points = points + moved
        seen = project_points(points, camera.float().expand(len(points), -1)).transpose(1, 2)
        side = int(seen.shape[2] ** 0.5)
        # the shift is enlarged later, not the place: the place would stop growing at the border
        shift = seen.unflatten(2, (side, side)) - pixel_centres(side, seen.device)
        visible = visibility(surface_points, directions, seen.detach(), camera)
        if alike is not None:
            visible = visible * alike.transpose(1, 2).unflatten(2, (side, side))
        return Carried(shift, visible)


def look_up(image: Tensor, shift: Tensor) -> Tensor:
    """The source [N or 1, 3, S, S] seen on the surface of the head: [N, 3, S, S] by a shift [N, 2, h, h] of any h."""
    size = image.shape[-1]
    with torch.autocast(image.device.type, enabled=False):
        shift = F.interpolate(shift, size=(size, size), mode="bilinear", align_corners=False)
        grid = (pixel_centres(size, shift.device) + shift).permute(0, 2, 3, 1) * 2 - 1
        return F.grid_sample(
            image.float().expand(len(grid), -1, -1, -1),
            grid,
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )


def seen_texture(image: Tensor, layers: Sequence[Carried], otherwise: Tensor) -> Tensor:
    """The source's pixels where it saw the surface, by the first of `layers` that did, else `otherwise`.

    image: the source [N or 1, 3, H, W]; otherwise: [N, 3, h, h], what the volume itself shows. Returns [N, 3, H, W].
    """
    size = image.shape[-1]
    out = enlarge(otherwise, size)
    for carried in reversed(layers):
        out = torch.lerp(out, look_up(image, carried.shift), enlarge(carried.visible, size))
    return out


def add_detail(
    image: Tensor,  # [N, 3, H, W], as the network shows it
    detail: Tensor,  # [N or 1, 3, K, K], the source at K = kH
    layers: Sequence[Carried],  # as for `seen_texture`
    texture_share: Tensor,  # [N, 1, H, W] in [0, 1], of the source's texture in the image
    background_share: Tensor | None,  # [N, 1, H, W], of the source's still background
) -> Tensor:
    """The image at K, [N, 3, K, K]: wherever it shows the source's pixels, what the photo knows beyond H joins.

    The network decides at H where a pixel is the photo's; the share is the same for what lies above its resolution.
    """
    size, factor = detail.shape[-1], detail.shape[-1] // image.shape[-1]

    def beyond(x: Tensor) -> Tensor:  # what H does not hold
        return x - enlarge(F.avg_pool2d(x, factor), size)

    left = enlarge(texture_share, size)
    out = enlarge(image, size)
    if background_share is not None:
        still = enlarge(background_share, size)
        out = out + still * beyond(detail.float())
        left = left * (1 - still)
    for carried in layers:
        visible = enlarge(carried.visible, size)
        out = out + left * visible * beyond(look_up(detail, carried.shift))
        left = left * (1 - visible)
    return out


def visibility(
    points: Tensor,  # [N, R, 3], surface of the frame, R = side^2
    directions: Tensor,  # [N, R, 3], unit, that it is seen along
    seen: Tensor,  # [N, 2, R], where the source's image has the points, image widths
    camera: Tensor,  # [N, 25], the source's
) -> Tensor:
    """How far the source's pixels can be had for the surface, [N, 1, side, side] in [0, 1].

    A head is nearly convex: what the source did not see is what turned away from its camera. What turned almost away it
    saw flatter than the frame sees it, and its few pixels would streak; seen as flat by both, they are as good as
    any. So what counts is the cosine under which the source saw the surface as a part of the frame's own. Beyond
    the border of its image the source knows nothing.
    """
    n, rays, _ = points.shape
    side = int(rays**0.5)
    grid = F.avg_pool2d(
        F.pad(points.transpose(1, 2).unflatten(2, (side, side)), (2, 2, 2, 2), mode="replicate"),
        3,
        1,
    )  # depth is rendered from few samples: a mean over its neighbours, one pixel wider than the frame
    across = grid[..., 1:-1, 2:] - grid[..., 1:-1, :-2]
    down = grid[..., 2:, 1:-1] - grid[..., :-2, 1:-1]
    normal = F.normalize(torch.linalg.cross(down, across, dim=1), dim=1)
    towards = -directions.transpose(1, 2).unflatten(2, (side, side))
    own = (normal * towards).sum(dim=1, keepdim=True)
    # rows run down and columns right: the cross product points at the frame's camera, or the depth has a step
    normal, own = torch.where(own < 0, -normal, normal), own.abs()
    eye = split_label(camera.float())[0][:, :3, 3].expand(n, -1)[..., None, None]
    facing = (normal * F.normalize(eye - grid[..., 1:-1, 1:-1], dim=1)).sum(dim=1, keepdim=True)
    place = seen.unflatten(2, (side, side))
    inside = torch.minimum(place, 1 - place).amin(dim=1, keepdim=True)
    return _ramp(facing / own.clamp_min(FLATTEST), *SEEN_AS_WELL) * _ramp(inside, *INSIDE)


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def enlarge(x: Tensor, size: int) -> Tensor:
    """[N, C, h, h] -> float32 [N, C, size, size], bilinear."""
    return F.interpolate(x.float(), size=(size, size), mode="bilinear", align_corners=False)


def pixel_centres(side: int, device: torch.device) -> Tensor:
    """(x, y) in image widths of the pixel centres, [1, 2, side, side]."""
    at = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y])[None]
