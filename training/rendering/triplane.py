"""Tri-plane features of 3D points and their decoder (paper, sec. 3.4).

Memory layout of a plane: like an image, row 0 at the top. With world axes x right, y up, z towards a frontal
camera, the planes' (column, row) axes are XY: (x, -y), YZ: (z, -y), ZX: (x, -z).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows: for each plane the world vector along its columns and along its rows.
_AXES: dict[str, tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...]] = {
    "xyz": (((1, 0, 0), (0, -1, 0)), ((0, 0, 1), (0, -1, 0)), ((1, 0, 0), (0, 0, -1))),
    # EG3D's released code: XY, XZ, ZX, rows along +y. For weights trained that way only.
    "eg3d_legacy": (((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, 0, 1)), ((0, 0, 1), (1, 0, 0))),
}


def plane_coordinates(
    points: Tensor, box_side: float, axes: Literal["xyz", "eg3d_legacy"] = "xyz"
) -> Tensor:
    """Points [N, M, 3] in world units -> (column, row) in [-1, 1] on each plane, [N, 3, M, 2]."""
    vectors = torch.tensor(_AXES[axes], dtype=points.dtype, device=points.device)
    with torch.autocast(
        points.device.type, enabled=False
    ):  # half precision is coarser than a texel
        return torch.einsum("nmc,pac->npma", points * (2.0 / box_side), vectors)


def sample_triplane(
    planes: Tensor,  # [N, 3, C, P, P]
    points: Tensor,  # [N, M, 3], world units
    box_side: float = 1.0,
    axes: Literal["xyz", "eg3d_legacy"] = "xyz",
) -> Tensor:
    """(F_xy + F_yz + F_zx) / 3, bilinear, zeros outside, align_corners=False -> [N, M, C].  [paper, eq. 5]"""
    n, three, c, p, _ = planes.shape
    if three != 3:
        raise ValueError(f"planes are {tuple(planes.shape)}; expected [N, 3, C, P, P]")
    m = points.shape[1]  # written out below: with none of them -1 could be any number
    grid = plane_coordinates(points, box_side, axes).reshape(n * 3, 1, m, 2)
    features = F.grid_sample(
        planes.reshape(n * 3, c, p, p).to(grid.dtype),
        grid,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return features.view(n, 3, c, m).mean(dim=1).transpose(1, 2)


class TriplaneDecoder(nn.Module):
    """Features [..., C] -> colour features [..., C_out] in (-0.001, 1.001) and density [..., 1] >= 0.

    `motion` appends three channels in the same range, 1/2 at the start (texture.py).

    One hidden softplus layer; density = softplus(s - 1), features = sigmoid(f) * 1.002 - 0.001 (EG3D's numbers).
    """

    def __init__(
        self,
        in_channels: int = 32,
        hidden: int = 64,
        out_channels: int = 32,
        motion: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_channels, hidden)
        self.out = nn.Linear(hidden, 1 + out_channels + 3 * motion)
        for layer in (self.hidden, self.out):
            nn.init.normal_(layer.weight, std=1.0 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
        if motion:
            nn.init.zeros_(self.out.weight[-3:])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        # float32 under autocast too, as the fused operator: the density's exponent magnifies rounding
        with torch.autocast(features.device.type, enabled=False):
            y = self.out(F.softplus(self.hidden(features.to(self.hidden.weight.dtype))))
        density = F.softplus(y[..., :1].float() - 1.0)
        colour = torch.sigmoid(y[..., 1:].float()) * 1.002 - 0.001
        return colour, density
