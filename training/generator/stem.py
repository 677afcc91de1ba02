"""Convolution stem and patch merge: what the generator reads from the source, once (paper, sec. 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conventions.cameras import camera_label, project_points, split_label
from training.config import GeneratorConfig, RenderConfig
from training.generator.vit import SourceBlock
from training.layers import ConvLayer, ResidualBlock

# An ellipsoid for a head, in world units: a mean face lies on its front within 0.04 (docs/conventions.md)
HEAD_HALF_AXES = (0.19, 0.285, 0.255)


class StemFeatures(NamedTuple):
    """What `SourceEncoder` reads from the source; `PlaneHead.prepare` makes `SourceFeatures` of it."""

    tokens: Tensor  # [N, h, H/16, W/16]
    quarter: Tensor  # [N, C2 (+1 aligned), H/4, W/4]
    half: Tensor  # [N, C1 (+1 aligned), H/2, W/2]
    background: Tensor | None  # [N, C + 1, H/4, W/4], see BackgroundHead
    image: Tensor | None  # [N, 3, H, W], the source, where its pixels are to be shown
    camera: Tensor | None  # [N, 25], the source's, likewise


class CanonicalLift(nn.Module):
    """Moves image features to their places on the XY plane: undoes the pose of the source.   [ours]

    Each cell (x, y) of the plane is put on the front of an ellipsoid the size of a head and seen from the source's
    camera. Without it the tokens have to carry the texture of a turned head across the plane, which takes far more
    training than a demo has. A last channel says how frontally the source sees the cell: 1 straight on, 0 or less
    hidden.
    """

    def __init__(self, box_side: float) -> None:
        super().__init__()
        self.box_side = box_side

    def surface(self, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """World points and unit normals [side * side, 3] of the plane's cells, row 0 at the top."""
        at = ((torch.arange(side, device=device) + 0.5) / side - 0.5) * self.box_side
        y, x = torch.meshgrid(-at, at, indexing="ij")
        a, b, c = HEAD_HALF_AXES
        z = c * (1 - (x / a) ** 2 - (y / b) ** 2).clamp_min(0).sqrt()
        points = torch.stack([x, y, z], dim=-1).view(-1, 3)
        normals = points / points.new_tensor([a * a, b * b, c * c])
        return points, F.normalize(normals, dim=-1)

    def forward(self, x: Tensor, camera: Tensor) -> Tensor:
        """x [N, C, s, s], camera [N, 25] -> [N, C + 1, s, s]; beyond the image its border goes on."""
        side = x.shape[-1]
        with torch.autocast(x.device.type, enabled=False):  # a grid in half precision shifts pixels
            points, normals = self.surface(side, x.device)
            camera = camera.float()
            seen = project_points(points.expand(len(camera), -1, -1), camera)
            lifted = F.grid_sample(
                x.float(),
                seen.view(-1, side, side, 2) * 2 - 1,
                mode="bilinear",
                padding_mode="border",
                align_corners=False,
            )
            to_camera = F.normalize(split_label(camera)[0][:, None, :3, 3] - points, dim=-1)
            facing = (to_camera * normals).sum(dim=-1).view(-1, 1, side, side)
            return torch.cat([lifted, facing], dim=1)


class BackgroundHead(nn.Module):
    """A 2D layer behind the volume, from the source alone.   [ours]

    A tracked talking-head clip has a still background and a moving head; a volume seen from the head's camera
    cannot keep that background still. The last channel is how far a pixel of the source may be shown as it is:
    0 where the source's own head hides the background, which the colour features then have to invent.
    """

    def __init__(self, stem_channels: int, out_channels: int) -> None:
        super().__init__()
        c = out_channels
        self.coarse = nn.Sequential(
            ConvLayer(stem_channels, c, kernel=5),
            ConvLayer(c, c, kernel=5),
            ConvLayer(c, c, kernel=5),
        )
        self.mix = nn.Sequential(ConvLayer(c + stem_channels, c), ConvLayer(c, c + 1, act="linear"))

    def forward(self, quarter: Tensor) -> Tensor:
        """Stem features [N, C2, H/4, W/4] -> [N, C + 1, H/4, W/4] in (-0.001, 1.001)."""
        coarse = F.interpolate(
            self.coarse(F.avg_pool2d(quarter, 4)),
            size=quarter.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        out: Tensor = self.mix(torch.cat([coarse, quarter], dim=1))
        return torch.sigmoid(out.float()) * 1.002 - 0.001


class SourceEncoder(nn.Module):
    """Image [N, 3, H, W] in [-1, 1] and its camera -> `StemFeatures`. Does not see beta'."""

    def __init__(self, config: GeneratorConfig, render: RenderConfig, resolution: int) -> None:
        super().__init__()
        c0, c1, c2, c3 = config.stem_channels
        extra = int(config.align == "source")
        self.full = ConvLayer(3, c0)
        self.to_half = nn.Sequential(ConvLayer(c0, c1, resample="down"), ResidualBlock(c1))
        self.to_quarter = nn.Sequential(ConvLayer(c1, c2, resample="down"), ResidualBlock(c2))
        self.to_eighth = nn.Sequential(
            ConvLayer(c2 + extra, c3, resample="down"), ResidualBlock(c3)
        )
        self.merge = nn.Conv2d(c3, config.width, kernel_size=2, stride=2)
        side = resolution // 16
        self.position = nn.Parameter(torch.randn(1, config.width, side, side) * 0.02)
        hidden = int(config.width * config.ffn_ratio)
        self.blocks = nn.ModuleList(
            SourceBlock(config.width, config.heads, hidden) for _ in range(config.source_depth)
        )
        self.lift = CanonicalLift(render.box_side) if config.align == "source" else None
        self.shows_source = config.background == "image" or config.texture == "source"
        self.background: BackgroundHead | None = None
        if config.background == "image":
            self.background = BackgroundHead(c2, config.plane_channels)

    def forward(self, image: Tensor, camera: Tensor | None = None) -> StemFeatures:
        """camera: label [N, 25] of the source, for align or texture = "source"; None counts as frontal."""
        half = self.to_half(self.full(image))
        quarter = self.to_quarter(half)
        background = None if self.background is None else self.background(quarter)
        if camera is None:
            camera = torch.from_numpy(camera_label(0.0, 0.0)).to(image.device)
            camera = camera.expand(len(image), -1)
        if self.lift is not None:
            half, quarter = self.lift(half, camera), self.lift(quarter, camera)
        tokens = self.merge(self.to_eighth(quarter)) + self.position
        if len(self.blocks):
            side = tokens.shape[-1]
            x = tokens.flatten(2).transpose(1, 2)
            for block in self.blocks:
                x = block(x, side)
            tokens = x.transpose(1, 2).unflatten(2, (side, side))
        shown = (image, camera) if self.shows_source else (None, None)
        return StemFeatures(tokens, quarter, half, background, *shown)
