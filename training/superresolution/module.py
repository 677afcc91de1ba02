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

    With `background`, pixels of a still background come straight from the source: the caller gives how visible it
    is, at H/4, and the network cleans the edge of that mask while it up-samples. With `texture`, it chooses pixel by
    pixel between its own image and the source's texture on the head.   [ours]
    """

    def __init__(
        self,
        in_channels: int,
        config: SuperResolutionConfig,
        background: bool = False,
        texture: bool = False,
    ) -> None:
        super().__init__()
        c4, c2, c1 = config.channels
        self.body = nn.Sequential(
            ConvLayer(in_channels + int(background), c4),
            *(ResidualBlock(c4) for _ in range(config.blocks)),
            ConvLayer(c4, c2, resample="up"),
            ConvLayer(c2, c2),
            ConvLayer(c2, c1, resample="up"),
        )
        self.last = ConvLayer(c1 + 3 * texture, c1)
        self.to_rgb = ConvLayer(c1, 3 + background + texture, act="linear", zero=True)

    def forward(
        self,
        features: Tensor,
        visible: Tensor | None = None,  # [N, 1, H/4, W/4] in [0, 1], of the background
        behind: Tensor | None = None,  # [N, 3, H, W], the background's pixels
        texture: Tensor | None = None,  # [N, 3, H, W], the source's pixels on the head
    ) -> Tensor:
        def enlarge(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)

        y = self.body(features if visible is None else torch.cat([features, visible], dim=1))
        if texture is not None:
            y = torch.cat([y, texture.to(y.dtype)], dim=1)
        residual = self.to_rgb(self.last(y)).float()
        image = enlarge(features[:, :3].float()) + residual[:, :3]
        if texture is not None:
            image = torch.lerp(image, texture, torch.sigmoid(residual[:, -1:]))
        if visible is not None and behind is not None:
            # The network may only take pixels back: were it free to show more of the source, it would copy the head.
            share = enlarge(visible.float()) * torch.sigmoid(residual[:, 3:4] + 4)
            image = torch.lerp(image, behind.float().expand_as(image), share)
        return image
