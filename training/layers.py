"""Small layers shared by generator, super-resolution and discriminator. Feature maps are [N, C, h, w]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops import bias_act, downsample2d, filter2d, setup_filter, upsample2d


class ConvLayer(nn.Module):
    """Convolution, optional anti-aliased x2 resampling, bias and activation.

    Weights start as N(0, 1/fan_in) and the leaky ReLU carries a gain of sqrt(2), so that a stack of layers
    keeps unit variance. `zero` starts the layer at zero, for the last layer of a residual branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        act: str = "lrelu",  # "lrelu" | "linear"
        resample: str = "",  # "" | "up" | "down"
        bias: bool = True,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.act = act
        self.resample = resample
        self.filter: Tensor
        shape = (out_channels, in_channels, kernel, kernel)
        scale = 0.0 if zero else 1 / math.sqrt(in_channels * kernel**2)
        self.weight = nn.Parameter(torch.randn(shape) * scale)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        if resample:
            self.register_buffer("filter", setup_filter((1, 3, 3, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            x = downsample2d(x, self.filter)
        padding = self.weight.shape[-1] // 2
        if self.act == "linear" and self.resample != "up":  # nothing comes between them
            return F.conv2d(x, self.weight, self.bias, padding=padding)
        x = F.conv2d(x, self.weight, padding=padding)
        if self.resample == "up":
            x = upsample2d(x, self.filter)
        b = None if self.bias is None else self.bias.to(x.dtype)
        return bias_act(x, b, act=self.act, overwrite=True)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))), starting as the identity; under autocast in the type of the convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels)
        self.conv2 = ConvLayer(channels, channels, act="linear", zero=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x)).add_(x)
        return out


class LowPass(nn.Module):
    """Gaussian low-pass filter behind a pixel shuffle: removes the grid of the patches (paper, sec. 3.3).

    sigma is a quarter of the shuffle factor: at the patch frequency 1/factor the response is
    exp(-2 (pi / 4)^2) = 0.29, and its harmonics vanish.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.kernel: Tensor
        radius = max(factor // 2, 1)
        taps = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (taps / (factor / 4)) ** 2)
        self.register_buffer("kernel", kernel / kernel.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return filter2d(x, self.kernel)
