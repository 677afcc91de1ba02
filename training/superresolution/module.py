"""Super-resolution H/4 -> H with plain convolutions, no style code (paper, sec. 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import SuperResolutionConfig
from training.layers import ConvLayer, ResidualBlock


class SuperResolution(nn.Module):
    """Features [N, C, H/4, W/4], whose first three channels are RGB, -> image [N, 3, H, W] in about [-1, 1].

    A residual over the bilinearly up-sampled raw RGB; the up-sampling of features is anti-aliased.   [ours]
    """

    def __init__(self, in_channels: int, config: SuperResolutionConfig) -> None:
        super().__init__()
        c4, c2, c1 = config.channels
        self.body = nn.Sequential(
            ConvLayer(in_channels, c4),
            *(ResidualBlock(c4) for _ in range(config.blocks)),
            ConvLayer(c4, c2, resample="up"),
            ConvLayer(c2, c2),
            ConvLayer(c2, c1, resample="up"),
            ConvLayer(c1, c1),
        )
        self.to_rgb = ConvLayer(c1, 3, act="linear", zero=True)

    def forward(self, features: Tensor) -> Tensor:
        raw = features[:, :3].float()
        base = F.interpolate(raw, scale_factor=4, mode="bilinear", align_corners=False)
        residual: Tensor = self.to_rgb(self.body(features)).float()
        return torch.add(base, residual)
