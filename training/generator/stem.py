"""Convolution stem and patch merge: what the generator reads from the source, once (paper, sec. 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import GeneratorConfig, RenderConfig
from training.layers import ConvLayer, ResidualBlock
from training.rendering.cameras import CAMERA_RADIUS, FOCAL_NORMALISED, LOOK_AT_PIVOT


class SourceFeatures(NamedTuple):
    """What `Export3D.encode_source` returns: independent of beta' and of the camera, so cached per source."""

    tokens: Tensor  # [N, h, H/16, W/16]
    quarter: Tensor  # [N, C2, H/4, W/4], stem features (where the plane wants them, if aligned)
    half: Tensor  # [N, C1, H/2, W/2]
    background: Tensor | None  # [N, 32, H/4, W/4] colour features behind the volume, or None


class FrontalLift(nn.Module):
    """Moves image features to where a frontal camera sees them on the XY plane (plane z = pivot).   [ours]

    The crop covers only a part of the tri-plane's box (0.586 of its side at box_side 1), so that stem
    features taken cell by cell would sit next to the tokens' features of another place: a shift of up to a
    fifth of the plane, more than a few 3x3 convolutions can undo.
    """

    def __init__(self, box_side: float) -> None:
        super().__init__()
        # u - 1/2 = f x / (r - z), and x = box_side / 2 at the plane's border
        self.scale = FOCAL_NORMALISED * box_side / (CAMERA_RADIUS - LOOK_AT_PIVOT[2])

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # a grid in half precision shifts pixels
            x = x.float()
            theta = x.new_tensor([[self.scale, 0.0, 0.0], [0.0, self.scale, 0.0]])
            grid = F.affine_grid(theta.expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)
            return F.grid_sample(
                x, grid, mode="bilinear", padding_mode="border", align_corners=False
            )


class BackgroundHead(nn.Module):
    """A 2D layer behind the volume, from the source alone.   [ours]

    A tracked talking-head clip has a still background and a moving head; a volume seen from the head's camera
    cannot keep that background still. Two wide convolutions on the tokens look behind the head.
    """

    def __init__(self, width: int, stem_channels: int, out_channels: int) -> None:
        super().__init__()
        c = out_channels
        self.coarse = nn.Sequential(ConvLayer(width, c), ConvLayer(c, c, kernel=5))
        self.mix = nn.Sequential(ConvLayer(c + stem_channels, c), ConvLayer(c, c, act="linear"))

    def forward(self, tokens: Tensor, quarter: Tensor) -> Tensor:
        coarse = F.interpolate(
            self.coarse(tokens), size=quarter.shape[-2:], mode="bilinear", align_corners=False
        )
        out: Tensor = self.mix(torch.cat([coarse, quarter], dim=1))
        return torch.sigmoid(out.float()) * 1.002 - 0.001


class SourceEncoder(nn.Module):
    """Image [N, 3, H, W] in [-1, 1] -> `SourceFeatures`. Does not see beta'."""

    def __init__(self, config: GeneratorConfig, render: RenderConfig, resolution: int) -> None:
        super().__init__()
        c0, c1, c2, c3 = config.stem_channels
        self.full = ConvLayer(3, c0)
        self.to_half = nn.Sequential(ConvLayer(c0, c1, resample="down"), ResidualBlock(c1))
        self.to_quarter = nn.Sequential(ConvLayer(c1, c2, resample="down"), ResidualBlock(c2))
        self.to_eighth = nn.Sequential(ConvLayer(c2, c3, resample="down"), ResidualBlock(c3))
        self.merge = nn.Conv2d(c3, config.width, kernel_size=2, stride=2)
        side = resolution // 16
        self.position = nn.Parameter(torch.randn(1, config.width, side, side) * 0.02)
        self.lift: nn.Module = FrontalLift(render.box_side) if config.align_stem else nn.Identity()
        self.background: BackgroundHead | None = None
        if config.background == "image":
            self.background = BackgroundHead(config.width, c2, config.plane_channels)

    def forward(self, image: Tensor) -> SourceFeatures:
        half = self.to_half(self.full(image))
        quarter = self.to_quarter(half)
        tokens = self.merge(self.to_eighth(quarter)) + self.position
        background = None if self.background is None else self.background(tokens, quarter)
        return SourceFeatures(tokens, self.lift(quarter), self.lift(half), background)
