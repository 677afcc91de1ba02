"""Rays through tri-planes by the fastest way there is: the fused operator, or the plain torch renderer.

The plain one (triplane.py, volume.py) is the specification. Both give the same numbers to the rounding of float32;
tests hold the operator against it in float64.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torch_utils.ops import library
from torch_utils.ops.triplane_render import PLANE_DTYPES, RaySpec, fits_cuda, triplane_render
from training.config import RenderConfig
from training.rendering.triplane import TriplaneDecoder, sample_triplane
from training.rendering.volume import RayOutput, render_rays


class Quality(NamedTuple):
    """What `config.quality` leaves out without gradients; seconds and PSNR are in docs/performance.md."""

    min_weight: float  # see RaySpec
    share_of_samples: float = 1.0


QUALITIES = {"full": Quality(0.0), "fast": Quality(1e-3), "draft": Quality(1e-3, 0.5)}


def trace(
    planes: Tensor,  # [N, 3, C, P, P]; N = 1: one for all rays
    decoder: TriplaneDecoder,
    origins: Tensor,  # [N, R, 3]
    directions: Tensor,  # [N, R, 3], unit
    config: RenderConfig,
    noise: tuple[Tensor, Tensor | None] | None = None,
) -> RayOutput:
    """Render rays with what `config.impl` names; `auto` takes the operator wherever it gives the same result.

    Raises ValueError when `config.impl` names the kernel of another device.
    """
    # what is left out has no gradient either: training sees everything
    quality = QUALITIES["full" if torch.is_grad_enabled() else config.quality]
    if noise is None and quality.share_of_samples != 1:
        coarse, fine = (
            math.ceil(quality.share_of_samples * s)
            for s in (config.samples_coarse, config.samples_fine)
        )
        config = replace(config, samples_coarse=max(coarse, 2), samples_fine=fine)
    if _takes_operator(planes, decoder, origins, directions, config):
        hidden, out = decoder.hidden, decoder.out
        spec = RaySpec(
            config.near,
            config.far,
            config.samples_coarse,
            config.samples_fine,
            config.box_side,
            config.planes,
            quality.min_weight,
        )
        weights = (hidden.weight, hidden.bias, out.weight, out.bias)
        return RayOutput(*triplane_render(planes, weights, origins, directions, spec, noise))
    return _trace_in_torch(planes, decoder, origins, directions, config, noise)


def _takes_operator(
    planes: Tensor,
    decoder: TriplaneDecoder,
    origins: Tensor,
    directions: Tensor,
    config: RenderConfig,
) -> bool:
    device = planes.device.type
    if config.impl == "ref":
        return False
    if config.impl != "auto" and config.impl != device:
        raise ValueError(f"render.impl={config.impl} needs tensors on that device, not on {device}")
    fits = all(t.dtype == torch.float32 for t in (origins, directions, *decoder.parameters()))
    inputs = (planes, origins, directions, *decoder.parameters())
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    fits &= planes.dtype in ((torch.float32,) if learning else PLANE_DTYPES)
    if device == "cuda":
        fits &= fits_cuda(planes.shape[2], decoder.out.out_features - 1)
    if not fits or device not in ("cpu", "cuda"):
        return False
    return library.use_library(device, explicit=config.impl != "auto")  # type: ignore[arg-type]


def _trace_in_torch(
    planes: Tensor,
    decoder: TriplaneDecoder,
    origins: Tensor,
    directions: Tensor,
    config: RenderConfig,
    noise: tuple[Tensor, Tensor | None] | None,
) -> RayOutput:
    planes = planes.expand(len(origins), -1, -1, -1, -1)

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = decoder(
            sample_triplane(planes, points, config.box_side, config.planes)
        )
        return out

    def render(part: slice) -> RayOutput:
        part_noise = None
        if noise is not None:
            part_noise = (noise[0][:, part], None if noise[1] is None else noise[1][:, part])
        return render_rays(
            field,
            origins[:, part],
            directions[:, part],
            config.near,
            config.far,
            config.samples_coarse,
            config.samples_fine,
            part_noise,
        )

    total = origins.shape[1]
    chunk = config.ray_chunk
    if not 0 < chunk < total:
        return render(slice(0, total))
    run = render
    if torch.is_grad_enabled():  # else the samples of all chunks would wait for the way back
        run = partial(checkpoint, render, use_reentrant=False)
    parts = [run(slice(start, start + chunk)) for start in range(0, total, chunk)]
    return RayOutput(*(torch.cat(x, dim=1) for x in zip(*parts, strict=True)))
