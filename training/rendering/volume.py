"""Volume rendering in plain torch: the specification that any faster operator is held against (paper, eq. 6).

Sampling: stratified along [near, far], then importance samples drawn from the coarse weights. Quadrature: the
midpoint rule, alpha_i = 1 - exp(-sigma_i delta_i) with the mean of neighbouring samples on each interval.
Depth is the distance along the ray, in world units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# points [N, M, 3], world units -> features [N, M, C], density [N, M, 1]
Field = Callable[[Tensor], tuple[Tensor, Tensor]]


class RayOutput(NamedTuple):
    features: Tensor  # [N, R, C], composited
    depth: Tensor  # [N, R, 1], expected distance in world units; far where nothing was hit
    opacity: Tensor  # [N, R, 1] in [0, 1], accumulated


def stratified_depths(
    n: int, rays: int, near: float, far: float, samples: int, noise: Tensor | None = None
) -> Tensor:
    """Distances [N, R, S]: one in each of S equal parts of [near, far]; the middle of the part without noise.

    noise: uniform in [0, 1), [N, R, S], or None for the deterministic mode.
    """
    edges = torch.arange(
        samples, dtype=torch.float32, device=None if noise is None else noise.device
    )
    offset: Tensor | float = 0.5 if noise is None else noise
    return ((edges + offset) / samples * (far - near) + near).expand(n, rays, samples)


def composite(
    features: Tensor,  # [N, R, S, C]
    density: Tensor,  # [N, R, S, 1] >= 0
    depths: Tensor,  # [N, R, S], increasing
    far: float,
) -> tuple[RayOutput, Tensor]:
    """Midpoint quadrature -> (composited output, interval weights [N, R, S-1]).

    w_i = T_i (1 - exp(-sigma_i delta_i)),  T_i = exp(-sum_{j<i} sigma_j delta_j).   [paper, eq. 6]
    """
    delta = depths[..., 1:] - depths[..., :-1]
    sigma = (density[..., 1:, 0] + density[..., :-1, 0]) / 2
    middle = (depths[..., 1:] + depths[..., :-1]) / 2
    optical = sigma * delta
    passed = torch.cumsum(optical, dim=-1) - optical
    weights = torch.exp(-passed) * -torch.expm1(-optical)
    opacity = weights.sum(dim=-1, keepdim=True)
    # sum_i w_i (f_i + f_{i+1})/2 without building the mean features of every interval
    shared = torch.nn.functional.pad(weights, (1, 1))
    at_sample = (shared[..., 1:] + shared[..., :-1]) / 2
    with torch.autocast(features.device.type, enabled=False):  # half precision costs a grey level
        out = torch.einsum("nrs,nrsc->nrc", at_sample, features.to(at_sample.dtype))
    depth = (weights * middle).sum(dim=-1, keepdim=True) + (1 - opacity) * far
    return RayOutput(out, depth, opacity), weights


def surface_depth(depth: Tensor, opacity: Tensor, far: float) -> Tensor:
    """Mean distance of what a ray hit, from depth as rendered (shapes alike); about `far` where it hit nothing."""
    # below this opacity a float32 depth holds nothing but its own rounding
    return far - (far - depth) / opacity.clamp_min(1e-4)


def importance_depths(
    depths: Tensor,  # [N, R, S], increasing
    weights: Tensor,  # [N, R, S-1]
    samples: int,
    noise: Tensor
    | None = None,  # uniform in [0, 1), [N, R, samples]; None: evenly spaced quantiles
) -> Tensor:
    """Distances [N, R, samples] drawn from the piecewise constant density that the weights give.

    The weights are smoothed a little (maximum of neighbours, then their mean, as in mip-NeRF), so that a thin surface
    between two samples is not missed. No gradient flows through the choice of samples.
    """
    with torch.no_grad():
        w = weights + 1e-5
        padded = torch.cat([w[..., :1], w, w[..., -1:]], dim=-1)
        peak = torch.maximum(padded[..., 1:], padded[..., :-1])
        smooth = (peak[..., 1:] + peak[..., :-1]) / 2 + 0.01
        cdf = torch.cumsum(smooth, dim=-1)
        cdf = torch.nn.functional.pad(cdf / cdf[..., -1:], (1, 0))
        if noise is None:
            u = (torch.arange(samples, dtype=w.dtype, device=w.device) + 0.5) / samples
            u = u.expand(*w.shape[:-1], samples).contiguous()
        else:
            u = noise.contiguous()
        above = torch.searchsorted(cdf, u, right=True).clamp(1, cdf.shape[-1] - 1)
        c0, c1 = cdf.gather(-1, above - 1), cdf.gather(-1, above)
        d0, d1 = depths.gather(-1, above - 1), depths.gather(-1, above)
        # An interval of (numerically) no mass has no inside to choose from: take its start.
        share = torch.where(c1 - c0 < 1e-7, 0.0, (u - c0) / (c1 - c0).clamp_min(1e-7))
        return d0 + share * (d1 - d0)


def render_rays(
    radiance: Field,
    origins: Tensor,  # [N, R, 3]
    directions: Tensor,  # [N, R, 3], unit
    near: float,
    far: float,
    samples_coarse: int,
    samples_fine: int = 0,
    noise: tuple[Tensor, Tensor | None]
    | None = None,  # for coarse [N,R,S] and fine [N,R,F]; None: deterministic
) -> RayOutput:
    """Render rays through a field, coarse pass and, if samples_fine > 0, importance pass over all samples."""
    n, r, _ = origins.shape

    def query(at: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, :, None] + at[..., None] * directions[:, :, None]
        s = at.shape[-1]
        features, density = radiance(points.reshape(n, r * s, 3))
        return features.view(n, r, s, features.shape[-1]), density.view(n, r, s, 1)

    depths = stratified_depths(
        n, r, near, far, samples_coarse, None if noise is None else noise[0]
    ).to(origins)
    features, density = query(depths)
    out, weights = composite(features, density, depths, far)
    if samples_fine == 0:
        return out
    fine = importance_depths(
        depths, weights.detach(), samples_fine, None if noise is None else noise[1]
    )
    fine_features, fine_density = query(fine)
    depths, order = torch.cat([depths, fine], dim=-1).sort(dim=-1)
    features = torch.cat([features, fine_features], dim=2)
    density = torch.cat([density, fine_density], dim=2)
    features = features.gather(2, order[..., None].expand_as(features))
    density = density.gather(2, order[..., None])
    return composite(features, density, depths, far)[0]
