"""From tokens to the tri-plane: pixel shuffle, low-pass filter, stem features (paper, sec. 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import GeneratorConfig
from training.generator.stem import SourceFeatures
from training.layers import ConvLayer, LowPass, ResidualBlock


class Fuse(nn.Module):
    """Feature maps of the same size, mixed: [N, a_i, s, s], ... -> [N, c, s, s].

    All but the first may have N = 1: one source under many expressions.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = ConvLayer(in_channels, out_channels)
        self.block = ResidualBlock(out_channels)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        parts = [x, *(other.to(x.dtype).expand(len(x), -1, -1, -1) for other in others)]
        out: Tensor = self.block(self.mix(torch.cat(parts, dim=1)))
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
        self.fuse4 = Fuse(wide + quarter + extra + config.expression_map, wide)
        self.expand2 = nn.Conv2d(wide, narrow * 4, 1)
        self.smooth2 = LowPass(2)
        self.fuse2 = Fuse(narrow + half + extra, narrow)
        self.out = ConvLayer(narrow, 3 * config.plane_channels, kernel=1, act="linear")

    def forward(self, tokens: Tensor, source: SourceFeatures, refined: Tensor) -> Tensor:
        x = self.smooth4(F.pixel_shuffle(self.expand4(tokens), 4))
        direct = () if self.map is None else (self.map(refined),)
        x = self.fuse4(x, source.quarter, *direct)
        x = self.smooth2(F.pixel_shuffle(self.expand2(x), 2))
        x = self.out(self.fuse2(x, source.half))
        return x.unflatten(1, (3, self.plane_channels))
