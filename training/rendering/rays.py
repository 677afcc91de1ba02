"""Rays of a camera label: through pixel centres, unit directions, world units (docs/conventions.md)."""

from __future__ import annotations

import torch
from torch import Tensor


def ray_bundle(camera: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions [N, R, 3] of the R = resolution^2 rays of camera labels [N, 25].

    Rays are in row-major pixel order, the pixel in row i and column j at ((j + 0.5), (i + 0.5)) / resolution.
    Always float32, under autocast too: half precision moves a ray by more than a texel.
    """
    if camera.ndim != 2 or camera.shape[1] != 25:
        raise ValueError(f"camera is {tuple(camera.shape)}; expected [N, 25]")
    with torch.autocast(camera.device.type, enabled=False):
        return _rays(camera.float(), resolution)


def _rays(camera: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    pose = camera[:, :16].view(-1, 4, 4)
    k = camera[:, 16:].view(-1, 3, 3)
    at = (torch.arange(resolution, device=camera.device, dtype=torch.float32) + 0.5) / resolution
    v, u = torch.meshgrid(at, at, indexing="ij")
    u, v = u.reshape(1, -1), v.reshape(1, -1)
    fx, fy, cx, cy, skew = (k[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx
    in_camera = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    directions = in_camera @ pose[:, :3, :3].transpose(1, 2)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    origins = pose[:, None, :3, 3].expand_as(directions)
    return origins, directions
