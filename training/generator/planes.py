"""From tokens to the tri-plane: pixel shuffle, low-pass filter, stem features (paper, sec. 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import GeneratorConfig
from training.generator.stem import SourceFeatures
from training.layers import ConvLayer, LowPass, ResidualBlock


class Fuse(nn.Module):
    """Shuffled features and stem features of the same size, mixed: [N, a, s, s] + [N, b, s, s] -> [N, c, s, s].

    The stem may have N = 1: one source under many expressions.
    """

    def __init__(self, shuffled: int, stem: int, out_channels: int) -> None:
        super().__init__()
        self.mix = ConvLayer(shuffled + stem, out_channels)
        self.block = ResidualBlock(out_channels)

    def forward(self, x: Tensor, stem: Tensor) -> Tensor:
        out: Tensor = self.block(self.mix(torch.cat([x, stem.to(x.dtype).expand(len(x), -1, -1, -1)], dim=1)))
        return out


class PlaneHead(nn.Module):
    """Tokens [N, h, H/16, W/16] -> tri-plane [N, 3, C, H/2, W/2], without T_EMA.

    Two pixel shuffles (x4, then x2), each with its Gaussian low-pass filter; behind each the stem features of
    that size join, so that fine detail of the source need not pass through the tokens.   [ours]
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        _, half, quarter, _ = config.stem_channels
        wide, narrow = config.fuse_channels
        self.plane_channels = config.plane_channels
        self.expand4 = nn.Conv2d(config.width, wide * 16, 1)
        self.smooth4 = LowPass(4)
        self.fuse4 = Fuse(wide, quarter, wide)
        self.expand2 = nn.Conv2d(wide, narrow * 4, 1)
        self.smooth2 = LowPass(2)
        self.fuse2 = Fuse(narrow, half, narrow)
        self.out = ConvLayer(narrow, 3 * config.plane_channels, kernel=1, act="linear")

    def forward(self, tokens: Tensor, source: SourceFeatures) -> Tensor:
        x = self.smooth4(F.pixel_shuffle(self.expand4(tokens), 4))
        x = self.fuse4(x, source.quarter)
        x = self.smooth2(F.pixel_shuffle(self.expand2(x), 2))
        x = self.out(self.fuse2(x, source.half))
        return x.unflatten(1, (3, self.plane_channels))
