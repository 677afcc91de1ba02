"""Super-resolution h -> H, the paper's h being H/4, with plain convolutions, no style code (paper, sec. 3.4)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import SuperResolutionConfig
from training.layers import ConvLayer, ResidualBlock


class Enlarged(NamedTuple):
    image: Tensor  # [N, 3, H, W]
    texture_share: Tensor | None = None  # [N, 1, H, W] in [0, 1], of the source's texture in it
    background_share: Tensor | None = (
        None  # [N, 1, H, W], of the still background, over the texture
    )


class SuperResolution(nn.Module):
    """Features [N, C, h, h], whose first three channels are RGB, -> image [N, 3, H, W] in about [-1, 1].

    A residual over the bilinearly up-sampled raw RGB; the up-sampling of features is anti-aliased.   [ours]

    With `background`, pixels of a still background come straight from the source: the caller gives how visible it
    is, at h, and the network cleans the edge of that mask while it up-samples. With `texture`, it chooses pixel by
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
        first, last = config.channels[0], config.channels[-1]
        body: list[nn.Module] = [ConvLayer(in_channels + int(background), first)]
        body += [ResidualBlock(first) for _ in range(config.blocks)]
        for i, (before, after) in enumerate(pairwise(config.channels)):
            body += [ConvLayer(before, before)] if i else []
            body += [ConvLayer(before, after, resample="up")]
        self.body = nn.Sequential(*body)
        self.factor = 2 ** (len(config.channels) - 1)  # H / h
        self.last = ConvLayer(last + 3 * texture, last)
        self.to_rgb = ConvLayer(last, 3 + background + texture, act="linear", zero=True)

    def forward(
        self,
        features: Tensor,
        visible: Tensor | None = None,  # [N, 1, h, h] in [0, 1], of the background
        behind: Tensor | None = None,  # [N, 3, H, W], the background's pixels
        texture: Tensor | None = None,  # [N, 3, H, W], the source's pixels on the head
    ) -> Enlarged:
        def enlarge(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)

        y = self.body(features if visible is None else torch.cat([features, visible], dim=1))
        if texture is not None:
            y = torch.cat([y, texture.to(y.dtype)], dim=1)
        residual = self.to_rgb(self.last(y)).float()
        image = enlarge(features[:, :3].float()) + residual[:, :3]
        from_texture = share = None
        if texture is not None:
            from_texture = torch.sigmoid(residual[:, -1:])
            image = torch.lerp(image, texture, from_texture)
        if visible is not None and behind is not None:
            # The network may only take pixels back: were it free to show more of the source, it would copy the head.
            share = enlarge(visible.float()) * torch.sigmoid(residual[:, 3:4] + 4)
            image = torch.lerp(image, behind.float().expand_as(image), share)
        return Enlarged(image, from_texture, share)
