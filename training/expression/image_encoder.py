"""f_I, the image encoder of the contrastive pre-training: thrown away afterwards (paper, sec. 3.2)."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualStage(nn.Module):
    """Two basic residual blocks; the first may halve the resolution. [N, a, h, w] -> [N, b, h/s, w/s]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = BasicBlock(in_channels, out_channels, stride)
        self.second = BasicBlock(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


class BasicBlock(nn.Module):
    """relu(x' + norm conv relu norm conv x). Group norm: a batch holds few videos, whose statistics differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        groups = next(g for g in (8, 4, 2, 1) if out_channels % g == 0)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        out: Tensor = self.act(y + self.skip(x))
        return out


class ImageEncoder(nn.Module):
    """A ResNet-18-size encoder: image [N, 3, s, s] in [-1, 1] -> embedding [N, d]."""

    def __init__(
        self,
        channels: int = 64,  # of the first stage; doubled at each of the three others
        dim: int = 512,  # d
    ) -> None:
        super().__init__()
        c = channels
        groups = next(g for g in (8, 4, 2, 1) if c % g == 0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, c, 5, 2, 2, bias=False), nn.GroupNorm(groups, c), nn.ReLU()
        )
        self.stages = nn.Sequential(
            ResidualStage(c, c, 1),
            ResidualStage(c, 2 * c, 2),
            ResidualStage(2 * c, 4 * c, 2),
            ResidualStage(4 * c, 8 * c, 2),
        )
        self.head = nn.Linear(8 * c, dim)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stages(self.stem(image))
        out: Tensor = self.head(x.mean(dim=(2, 3)))
        return out
