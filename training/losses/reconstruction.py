"""Losses against the driving frame and against synthetic ground truth: pixels, gradients, opacity, depth, density.

All images are float [N, 3, H, W] in [-1, 1]. A weight map is float [N, 1, H, W] >= 0; a loss is normalised by the
map's mean in each image, so that a map shifts attention and leaves the loss' scale alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from conventions.cameras import project_points
from training.rendering.volume import surface_depth

Losses = dict[str, Tensor]

# Where eyes and mouth of an aligned face lie in the world (x right, y up, z towards a frontal camera): the mean face of
# Deep3DFaceRecon in the place that docs/conventions.md gives it; the middle of the mouth between its corners.
EYES_WORLD = ((-0.079, 0.080, 0.186), (0.079, 0.080, 0.186))
MOUTH_WORLD = ((-0.052, -0.092, 0.212), (0.0, -0.092, 0.231), (0.052, -0.092, 0.212))
REGION_RADIUS_WORLD = 0.04  # standard deviation of the bump around each point


def resize(image: Tensor, size: int) -> Tensor:
    """[N, C, H, W] to [N, C, size, size]: the area's mean where it shrinks (integer factors), else bilinear."""
    height = image.shape[-1]
    if height == size:
        return image
    if height % size == 0:
        return functional.avg_pool2d(image, height // size)
    return functional.interpolate(
        image, size=(size, size), mode="bilinear", antialias=height > size
    )


def weighted_l1(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of |output - target|, each pixel counting by `weight`."""
    difference = (output.float() - target.float()).abs()
    if weight is None:
        return difference.mean()
    return _weighted_mean(difference, weight)


def gradient_l1(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error of horizontal plus that of vertical finite differences."""
    difference = output.float() - target.float()
    total = difference.new_zeros(())
    for dim in (-1, -2):
        n = difference.shape[dim] - 1
        slope = (difference.narrow(dim, 1, n) - difference.narrow(dim, 0, n)).abs()
        if weight is None:
            total = total + slope.mean()
        else:  # a difference counts as the mean of its two pixels
            between = 0.5 * (weight.narrow(dim, 1, n) + weight.narrow(dim, 0, n))
            total = total + _weighted_mean(slope, between)
    return total


def _weighted_mean(value: Tensor, weight: Tensor) -> Tensor:
    # Image by image: how a batch is divided among processes must not change the loss.
    mean = weight.mean(dim=(1, 2, 3)).clamp_min(1e-8)
    return ((value * weight).mean(dim=(1, 2, 3)) / mean).mean()


def reconstruction_losses(
    image: Tensor,  # [N, 3, H, W] final output
    raw: Tensor,  # [N, 3, h, h] raw render
    target: Tensor,  # [N, 3, H, W] driving frame
    weight: Tensor | None = None,  # [N, 1, H, W]
) -> Losses:
    """`l1` and `gradient` of the final image, `l1_raw` of the raw render against the shrunk target."""
    if image.shape != target.shape:
        raise ValueError(
            f"image {tuple(image.shape)} and target {tuple(target.shape)} differ in shape"
        )
    size = raw.shape[-1]
    small_weight = None if weight is None else resize(weight, size)
    return {
        "l1": weighted_l1(image, target, weight),
        "l1_raw": weighted_l1(raw, resize(target, size), small_weight),
        "gradient": gradient_l1(image, target, weight),
    }


def opacity_loss(opacity: Tensor, mask: Tensor) -> Losses:
    """`opacity`: mean |accumulated opacity [N, 1, h, h] - mask [N, 1, H, W] shrunk to it|, both in 0..1."""
    return {"opacity": weighted_l1(opacity, resize(mask, opacity.shape[-1]))}


def depth_loss(depth: Tensor, opacity: Tensor, far: float, target: Tensor, mask: Tensor) -> Losses:
    """`depth`: mean absolute error of the surface's distance inside the mask, in world units, by opacity.

    What is compared is the mean distance of what a ray hit, not `depth` as rendered: that holds `far` for the part
    of the ray that passed by, and where the head ends, half of every pixel does. Held against the surface, the far
    part would be an error that only matter beyond the true edge makes smaller. A pixel counts by its opacity,
    as a constant: an error is made smaller by moving matter, never by removing or adding it, and where nothing was
    hit nothing is compared. That the mask is filled is for `opacity_loss` to say.

    Args:
        depth: [N, 1, h, h] rendered ray distance, (1 - opacity) * far included.
        opacity: [N, 1, h, h] in 0..1.
        far: where rays end, world units.
        target, mask: [N, 1, H, W] true ray distance and 0..1; outside the mask the distance means nothing, so a
            shrunk pixel takes the mean over its masked part only, and counts by the size of that part. Images
            count alike.
    """
    size = depth.shape[-1]
    part = resize(mask.float(), size)
    inside = resize(target.float() * mask, size) / part.clamp_min(1e-6)
    surface = surface_depth(depth.float(), opacity.float(), far)
    error = (surface - inside).abs() * part * opacity.detach().float()
    of_image = error.sum(dim=(1, 2, 3)) / part.sum(dim=(1, 2, 3)).clamp_min(1.0)
    return {"depth": of_image.mean()}


def density_tv_loss(
    density: Callable[[Tensor], Tensor],  # world points [N, P, 3] -> density [N, P] or [N, P, 1]
    points: Tensor,  # [N, P, 3] in the rendered box
    steps: Tensor,  # [N, P, 3], small against the box
) -> Losses:
    """`density_tv`: mean |density(x) - density(x + step)|, total variation by sampling."""
    both = density(torch.cat([points, points + steps], dim=1)).reshape(points.shape[0], -1)
    here, there = both.chunk(2, dim=1)
    return {"density_tv": (here - there).abs().mean()}


def point_weight_map(
    points: Tensor,  # [N, K, 2] in image coordinates 0..1, x right, y down
    resolution: int,
    gain: float,  # extra weight at a point; the rest of the image has 1
    radius: Tensor
    | float = 0.06,  # standard deviation of the bumps, in image widths; [N, K] or one for all
) -> Tensor:
    """[N, 1, H, W]: 1 + gain at the points, falling off as a Gaussian; overlapping bumps do not add up."""
    centres = (
        torch.arange(resolution, device=points.device, dtype=points.dtype) + 0.5
    ) / resolution
    x, y = points[..., 0, None], points[..., 1, None]
    radius = torch.as_tensor(radius, dtype=points.dtype, device=points.device).expand(
        points.shape[:-1]
    )[..., None]
    across = torch.exp(-0.5 * ((centres - x) / radius) ** 2)  # [N, K, W]
    down = torch.exp(-0.5 * ((centres - y) / radius) ** 2)  # [N, K, H]
    bumps = (down[..., :, None] * across[..., None, :]).amax(dim=1)
    return 1.0 + gain * bumps[:, None]


def face_weight_map(
    camera: Tensor,  # [N, 25]
    resolution: int,
    gain: float,  # extra weight of eyes and mouth
) -> Tensor:
    """[N, 1, H, W]: more weight on eyes and mouth, found by projecting where an aligned face has them."""
    world = torch.tensor((*EYES_WORLD, *MOUTH_WORLD), dtype=camera.dtype, device=camera.device)
    world = world.expand(camera.shape[0], -1, -1)
    points = project_points(world, camera)
    shifted = project_points(world + world.new_tensor((0.0, REGION_RADIUS_WORLD, 0.0)), camera)
    radius = (shifted - points).norm(dim=-1)  # vertical, so that yaw does not narrow it
    return point_weight_map(points, resolution, gain, radius)
