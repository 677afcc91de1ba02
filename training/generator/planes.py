"""From tokens to the tri-plane: pixel shuffle, low-pass filter, stem features (paper, sec. 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops import bias_act
from training.config import GeneratorConfig
from training.generator.stem import StemFeatures
from training.layers import ConvLayer, LowPass, ResidualBlock


class SourceFeatures(NamedTuple):
    """What `Export3D.encode_source` returns: independent of beta' and of the driving camera, so cached per source."""

    tokens: Tensor  # [N, h, H/16, W/16]
    quarter: (
        Tensor  # [N, fuse_channels, H/4, W/4], what the stem's features add to those of the planes
    )
    half: Tensor  # [N, fuse_channels, H/2, W/2], likewise
    background: Tensor | None = None  # [N, C + 1, H/4, W/4], see BackgroundHead
    image: Tensor | None = None  # [N, 3, H, W], the source, where its pixels are to be shown
    camera: Tensor | None = None  # [N, 25], the source's, likewise
    motion: Tensor | None = (
        None  # [N, 3, P, P], how the source's expression moved it, see motion.py
    )
    inside: Tensor | None = None  # [N, 1, P, P], where the source shows the inside of its mouth
    detail: Tensor | None = None  # [N, 3, kH, kH], the source, larger than the network sees it


class MixConv(ConvLayer):
    """A 3 x 3 convolution of features that are joined from three parts, with bias and activation.

    A convolution is linear in each part: that of the source is computed once per source (`source_share`) and added
    under every expression. `forward` of the parts joined is the same.
    """

    def __init__(self, own: int, source: int, direct: int, out_channels: int) -> None:
        super().__init__(own + source + direct, out_channels)
        self.parts = own, source, direct

    def source_share(self, source: Tensor) -> Tensor:
        """Features of the source [N, b, s, s] -> what they add before the bias, [N, c, s, s]."""
        return F.conv2d(source, self.weight.split(self.parts, dim=1)[1], padding=1)

    def under(self, share: Tensor, x: Tensor, direct: Tensor | None) -> Tensor:
        """The layer's result [N, c, s, s] for the other parts; share has the N of x or N = 1."""
        own, _, extra = self.weight.split(self.parts, dim=1)
        if direct is not None:
            x, own = torch.cat([x, direct.to(x.dtype)], dim=1), torch.cat([own, extra], dim=1)
        x = F.conv2d(x, own, padding=1).add_(share)
        assert self.bias is not None
        return bias_act(x, self.bias.to(x.dtype), act=self.act, overwrite=True)


class Fuse(nn.Module):
    """Features of tokens, of the source and, where there are any, of beta', mixed: [N, c, s, s] of the first size."""

    def __init__(self, channels: int, source_channels: int, direct_channels: int = 0) -> None:
        super().__init__()
        self.mix = MixConv(channels, source_channels, direct_channels, channels)
        self.block = ResidualBlock(channels)

    def source_share(self, source: Tensor) -> Tensor:
        """Features of the source [N, b, s, s] -> what they add to the mix, [N, c, s, s]."""
        return self.mix.source_share(source)

    def forward(self, x: Tensor, share: Tensor, direct: Tensor | None = None) -> Tensor:
        """share has the N of x or N = 1, one source under many expressions."""
        out: Tensor = self.block(self.mix.under(share, x, direct))
        return out


class ExpressionMap(nn.Module):
    """beta' [N, d] -> feature map [N, C, side, side], linear: what a direction looks like, place by place.   [ours]

    The short way of the expression into the planes; EAdaLN alone starts as the identity and finds the mouth late.
    It paints what the source does not show, an opening mouth; what it shows is moved instead (motion.py).
    """

    def __init__(self, expression_dim: int, channels: int, side: int) -> None:
        super().__init__()
        self.shape = (channels, side, side)
        self.linear = nn.Linear(expression_dim, channels * side * side)
        nn.init.normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, refined: Tensor) -> Tensor:
        return self.linear(refined).unflatten(1, self.shape)


class PlaneHead(nn.Module):
    """Tokens [N, h, H/16, W/16] -> tri-plane [N, 3, C, H/2, W/2], without T_EMA.

    Two pixel shuffles (x4, then x2), each with its Gaussian low-pass filter; behind each the stem features of
    that size join, so that fine detail of the source need not pass through the tokens.   [ours]
    """

    def __init__(self, config: GeneratorConfig, resolution: int, expression_dim: int) -> None:
        super().__init__()
        _, half, quarter, _ = config.stem_channels
        extra = int(config.align == "source")
        wide, narrow = config.fuse_channels
        self.plane_channels = config.plane_channels
        self.expand4 = nn.Conv2d(config.width, wide * 16, 1)
        self.smooth4 = LowPass(4)
        self.map: ExpressionMap | None = None
        if config.expression_map:
            self.map = ExpressionMap(expression_dim, config.expression_map, resolution // 4)
        self.fuse4 = Fuse(wide, quarter + extra, config.expression_map)
        self.expand2 = nn.Conv2d(wide, narrow * 4, 1)
        self.smooth2 = LowPass(2)
        self.fuse2 = Fuse(narrow, half + extra)
        self.out = ConvLayer(narrow, 3 * config.plane_channels, kernel=1, act="linear")

    def prepare(self, read: StemFeatures, motion: Tensor | None) -> SourceFeatures:
        """Stem features -> what they add to the planes' features, whatever the expression: once per source."""
        return SourceFeatures(
            tokens=read.tokens,
            quarter=self.fuse4.source_share(read.quarter),
            half=self.fuse2.source_share(read.half),
            background=read.background,
            image=read.image,
            camera=read.camera,
            motion=motion,
        )

    def forward(self, tokens: Tensor, source: SourceFeatures, refined: Tensor) -> Tensor:
        x = self.smooth4(F.pixel_shuffle(self.expand4(tokens), 4))
        x = self.fuse4(x, source.quarter, None if self.map is None else self.map(refined))
        x = self.smooth2(F.pixel_shuffle(self.expand2(x), 2))
        x = self.out(self.fuse2(x, source.half))
        return x.unflatten(1, (3, self.plane_channels))
