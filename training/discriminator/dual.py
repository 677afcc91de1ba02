"""The dual discriminator: final image and up-sampled raw image, six channels (paper, sec. 3.5)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig
from training.layers import ConvLayer


class DownBlock(nn.Module):
    """Residual block that halves the resolution; its variance stays one: (branch + skip) / sqrt(2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels)
        self.conv2 = ConvLayer(in_channels, out_channels, resample="down")
        self.skip = ConvLayer(
            in_channels, out_channels, kernel=1, act="linear", resample="down", bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) * math.sqrt(0.5)


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """Append one channel: the mean standard deviation over groups of the batch. [N, C, h, w] -> [N, C+1, h, w].

    The group is the largest divisor of N that is not above `group`.
    """
    n, c, h, w = x.shape
    size = next(s for s in range(min(group, n), 0, -1) if n % s == 0)
    # a strided grouping: members of a group come from all over the batch
    grouped = x.float().view(size, n // size, c, h, w)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = deviation.repeat(size).view(n, 1, 1, 1).expand(n, 1, h, w)
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class DualDiscriminator(nn.Module):
    """(image [N, 3, H, W], raw [N, 3, h, h], camera [N, 25]) -> logits [N, 1].

    Camera-conditioned by projection: the logit is the inner product of the image's features with an embedding
    of the camera label.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.discriminator
        self.group = d.minibatch_std_group
        stages = int(math.log2(config.resolution / 4))
        widths = [min(d.base_channels * 2**i, d.max_channels) for i in range(stages + 1)]
        self.from_rgb = ConvLayer(6, widths[0], kernel=1)
        self.blocks = nn.Sequential(
            *(DownBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        )
        self.last = ConvLayer(widths[-1] + 1, widths[-1])
        side = config.resolution // 2**stages
        self.dense = nn.Linear(widths[-1] * side * side, widths[-1])
        self.out = nn.Linear(widths[-1], d.camera_dim or 1)
        self.embed: nn.Module | None = None
        if d.camera_dim:
            self.embed = nn.Sequential(
                nn.Linear(25, d.camera_dim),
                nn.LeakyReLU(0.2),
                nn.Linear(d.camera_dim, d.camera_dim),
            )

    def forward(self, image: Tensor, raw: Tensor, camera: Tensor) -> Tensor:
        raw = F.interpolate(
            raw, size=image.shape[-2:], mode="bilinear", align_corners=False, antialias=False
        )
        x = self.blocks(self.from_rgb(torch.cat([image, raw], dim=1)))
        x = self.last(minibatch_std(x, self.group)).flatten(1)
        x = self.out(F.leaky_relu(self.dense(x), 0.2)).float()
        if self.embed is None:
            return x
        embedding = F.normalize(self.embed(camera.float()), dim=1)
        out: Tensor = (x * embedding).sum(dim=1, keepdim=True)
        return out
