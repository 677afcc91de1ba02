"""Export3D: one source image, free expression, free view (paper, sec. 3).

    source = model.encode_source(image, camera, beta)  # once per source image; camera and beta are its own, optional
    volume = model.planes(source, beta)                # once per expression
    frame = model.render(volume, camera)               # once per view: frame.image, .raw, .depth, .opacity

Pure functions: caching is the caller's. The one buffer, T_EMA, changes in `update_plane_mean` only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.config import ModelConfig
from training.expression.clebs import ExpressionEncoder
from training.generator.motion import MotionFields
from training.generator.planes import PlaneHead, SourceFeatures
from training.generator.stem import SourceEncoder, StemFeatures
from training.generator.vit import ExpressionViT
from training.rendering.background import over_background
from training.rendering.fused import trace
from training.rendering.rays import ray_bundle
from training.rendering.texture import Carried, add_detail, carry, look_up, seen_texture
from training.rendering.triplane import TriplaneDecoder, sample_triplane
from training.rendering.volume import RayOutput
from training.superresolution.module import Enlarged, SuperResolution


class Volume(NamedTuple):
    """A head with one expression and what stands behind it, ready to be seen from any camera."""

    planes: Tensor  # T = G(S, beta') + T_EMA, [N, 3, C, H/2, W/2]: XY, YZ, ZX
    background: Tensor | None = (
        None  # [N, C + 1, H/4, W/4], colour features behind the volume, trust
    )
    image: Tensor | None = None  # [N, 3, H, W], the source, where its pixels are to be shown
    camera: Tensor | None = None  # [N, 25], the source's, likewise
    detail: Tensor | None = None  # [N, 3, kH, kH], the source, larger than the network sees it
    undo: Tensor | None = (
        None  # [N, 3, P, P], what this expression did to the surface, see motion.py
    )
    apply: Tensor | None = None  # [N, 3, P, P], what the source's did
    inside: Tensor | None = None  # [N, 1, P, P], where this expression shows the mouth's inside
    source_inside: Tensor | None = None  # [N, 1, P, P], where the source's did


class RenderOutput(NamedTuple):
    image: Tensor  # [N, 3, H, W], about [-1, 1]; where the source came with detail, of its size
    raw: Tensor  # [N, 3, h, h], [-1, 1]; h is `raw_resolution`, the paper's H/4
    features: Tensor  # [N, C, h, h], the first three channels are `raw`
    depth: Tensor  # [N, 1, h, h], distance along the ray, world units
    opacity: Tensor  # [N, 1, h, h], [0, 1]
    painted: Tensor | None = None  # [N, 1, h, h], how far the volume's own, none of the photo's

    def each(self, change: Callable[[Tensor], Tensor]) -> RenderOutput:
        """The same of every tensor that there is."""
        image, raw, features, depth, opacity = (change(x) for x in self[:5])
        painted = None if self.painted is None else change(self.painted)
        return RenderOutput(image, raw, features, depth, opacity, painted)


class Export3D(nn.Module):
    """Generator, renderer and super-resolution.

    space_dim is the length D of beta, that of the expression space the data were tracked with.
    """

    def __init__(self, config: ModelConfig, space_dim: int) -> None:
        super().__init__()
        g, r = config.generator, config.render
        self.config = config
        self.gradient_checkpointing = False  # parts run again on the way back
        self.expression = ExpressionEncoder(config.expression, space_dim)
        self.source_encoder = SourceEncoder(g, r, config.resolution)
        self.vit = ExpressionViT(
            g.width,
            g.depth,
            g.heads,
            g.ffn_ratio,
            self.expression.out_dim,
            g.conditioning,
            g.cross_tokens,
        )
        self.plane_head = PlaneHead(g, config.resolution, self.expression.out_dim)
        self.texture = g.texture == "source"
        self.decoder = TriplaneDecoder(g.plane_channels, r.hidden, g.plane_channels, self.texture)
        self.superresolution = SuperResolution(
            g.plane_channels,
            config.superresolution,
            g.background == "image",
            self.texture,
        )
        side = config.resolution // 2
        self.motion: MotionFields | None = None
        if g.motion_modes:
            self.motion = MotionFields(
                self.expression.out_dim, g.motion_modes, side, r.box_side, g.texture_inside
            )
        self.register_buffer("plane_mean", torch.zeros(3, g.plane_channels, side, side))
        self.plane_mean: Tensor

    def encode_source(
        self,
        image: Tensor,
        camera: Tensor | None = None,
        beta: Tensor | None = None,
        detail: Tensor | None = None,
    ) -> SourceFeatures:
        """Image [N, 3, H, W] in [-1, 1] -> what the generator needs of it, whatever driving beta and camera.

        camera: the source's own label [N, 25], for networks with align = "source"; None counts as frontal.
        beta: the source's own expression [N, D], for networks with motion fields; None counts as neutral, zero.
        detail: the same picture at a multiple of H, [N, 3, kH, kW], for networks with texture = "source": frames are
            then of that size, with the photo's own detail wherever they show it.

        Raises ValueError for other shapes, or detail that the network cannot show.
        """
        size = self.config.resolution
        if image.ndim != 4 or image.shape[1:] != (3, size, size):
            raise ValueError(
                f"source image is {tuple(image.shape)}; expected [N, 3, {size}, {size}]"
            )
        read: StemFeatures = self._run(self.source_encoder, image, camera)
        motion = inside = None
        if self.motion is not None:
            if beta is None:
                beta = image.new_zeros(len(image), self.expression.space_dim)
            refined = self.expression(beta)
            motion, inside = self.motion.apply_to_neutral(refined), self.motion.inside(refined)
        source = self.plane_head.prepare(read, motion)._replace(inside=inside)
        if detail is None:
            return source
        if not self.texture or detail.shape[-1] % size or detail.shape[-2] != detail.shape[-1]:
            raise ValueError(
                f"detail {tuple(detail.shape)} needs texture=source and a multiple of {size} pixels a side"
            )
        return source._replace(detail=detail)

    def planes(self, source: SourceFeatures, beta: Tensor) -> Volume:
        """T = G(S, f_e(beta)) + T_EMA for beta [N, D], in the model's expression space."""
        return self.planes_from_refined(source, self.expression(beta))

    def planes_from_refined(self, source: SourceFeatures, refined: Tensor) -> Volume:
        """The tri-plane for a refined expression beta' [N, d]; N may be 1 for the source, or the batch."""
        return self.with_residual(source, refined, self.plane_residual(source, refined))

    def with_residual(self, source: SourceFeatures, refined: Tensor, residual: Tensor) -> Volume:
        """The head of a known G(S, beta') [N, 3, C, H/2, W/2], see `plane_residual`."""
        undo = inside = None
        if self.motion is not None:
            undo, inside = self.motion.undo(refined), self.motion.inside(refined)
        return Volume(
            planes=self._add_mean(residual),
            background=source.background,
            image=source.image,
            camera=source.camera,
            detail=source.detail,
            undo=undo,
            apply=source.motion,
            inside=inside,
            source_inside=source.inside,
        )

    def _add_mean(self, residual: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return residual + self.plane_mean
        # straight into the layout that the renderer reads: turning the planes would take longer than the sum
        n, three, c, p, _ = residual.shape
        planes = residual.new_empty(n, three, p, p, c).permute(0, 1, 4, 2, 3)
        return torch.add(residual, self.plane_mean, out=planes)

    def plane_residual(self, source: SourceFeatures, refined: Tensor) -> Tensor:
        """G(S, beta') [N, 3, C, H/2, W/2] without T_EMA, float32; its running mean is T_EMA."""
        tokens = self._run(self.vit, source.tokens, refined)
        out: Tensor = self._run(self.plane_head, tokens, source, refined)
        return out.float()

    @torch.no_grad()
    def update_plane_mean(self, generated: Tensor) -> None:
        """T_EMA <- decay T_EMA + (1 - decay) mean(G).   [paper, sec. 3.3]

        generated: mean of G(S, beta') over the global batch, [3, C, H/2, W/2], the same on every rank; the
        training loop calls this once per step.
        """
        self.plane_mean.lerp_(
            generated.to(self.plane_mean), 1 - self.config.generator.plane_mean_decay
        )

    def field(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points [N, M, 3] in world units -> colour features [N, M, C (+3: motion)], density [N, M, 1] >= 0."""
        r = self.config.render
        out: tuple[Tensor, Tensor] = self.decoder(
            sample_triplane(planes, points, r.box_side, r.planes)
        )
        return out

    def density(self, volume: Volume, points: Tensor) -> Tensor:
        """Density [N, M, 1] at points [N, M, 3]; for the total variation loss."""
        return self.field(volume.planes, points)[1]

    def render(
        self, volume: Volume, camera: Tensor, noise: tuple[Tensor, Tensor] | None = None
    ) -> RenderOutput:
        """See a volume from camera labels [N, 25]: rays, tri-planes, super-resolution. One volume may have N cameras.

        noise: uniform in [0, 1), for the coarse samples [N, R, S] and the fine ones [N, R, F], R = h^2; None puts the
        samples in the middle of their strata, the same result every time. Raises ValueError when the label is not
        [N, 25].
        """
        side = self.config.raw_resolution
        rays = ray_bundle(camera, side)
        traced = trace(volume.planes, self.decoder, *rays, self.config.render, noise)
        features, depth, opacity = (x.transpose(1, 2).unflatten(2, (side, side)) for x in traced)
        texture = visible = painted = None
        layers = self._carry(volume, rays, traced)
        if layers:
            features = features[:, :-3]
        if volume.background is not None:
            features, visible = over_background(features, opacity, volume.background)
        features = features * 2 - 1
        if layers and volume.image is not None:
            texture = (
                seen_texture(volume.image, layers, features[:, :3])
                if self.config.generator.texture_visible
                else look_up(volume.image, layers[0].shift)
            )
        if layers and self.config.generator.texture_visible:
            painted = opacity * torch.stack([1 - layer.visible for layer in layers]).prod(dim=0)
        shown: Enlarged = self._run(self.superresolution, features, visible, volume.image, texture)
        image = shown.image
        if volume.detail is not None and shown.texture_share is not None:
            image = add_detail(
                image, volume.detail, layers, shown.texture_share, shown.background_share
            )
        return RenderOutput(image, features[:, :3], features, depth, opacity, painted)

    def _carry(
        self, volume: Volume, rays: tuple[Tensor, Tensor], traced: RayOutput
    ) -> tuple[Carried, ...]:
        """Where the source has the surface that rays have found, for networks with texture = "source".

        With texture_visible also where it has the head's other half, which shows what the first one hid.
        """
        if not self.texture or volume.camera is None:
            return ()
        follow = partial(
            carry,
            volume.camera,
            *rays,
            traced.depth,
            traced.opacity,
            traced.features[..., -3:],
            self.config.render.far,
            lambda points: self._to_source(volume, points),
        )
        halves = (False, True) if self.config.generator.texture_visible else (False,)
        return tuple(follow(mirrored=half) for half in halves)

    def random_noise(
        self, camera: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise for `render` of camera labels [N, 25]."""
        r = self.config.render
        rays = self.config.raw_resolution**2
        coarse, fine = (
            torch.rand(len(camera), rays, s, device=camera.device, generator=generator)
            for s in (r.samples_coarse, r.samples_fine)
        )
        return coarse, fine

    def forward(
        self,
        image: Tensor,
        beta: Tensor,
        camera: Tensor,
        deterministic: bool = True,
        source_camera: Tensor | None = None,
        source_beta: Tensor | None = None,
    ) -> RenderOutput:
        """The three verbs in one: image [N, 3, H, W], beta [N, D], camera [N, 25]."""
        source = self.encode_source(image, source_camera, source_beta)
        noise = None if deterministic else self.random_noise(camera)
        return self.render(self.planes(source, beta), camera, noise)

    def _run(self, part: nn.Module, *inputs: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def _to_source(self, volume: Volume, points: Tensor) -> tuple[Tensor, Tensor | None]:
        """Surface points [N, M, 3] of this expression -> the same material points in the source's, and how far the
        two are of one sort, see `MotionFields.alike`; None: wholly."""
        if self.motion is None or volume.undo is None or volume.apply is None:
            return points, None
        neutral = points - self.motion.displace(points, volume.undo)
        there = neutral + self.motion.displace(neutral, volume.apply)
        if volume.inside is None or volume.source_inside is None:
            return there, None
        return there, self.motion.alike(points, there, volume.inside, volume.source_inside)
