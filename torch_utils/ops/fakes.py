"""What the operators return, without the numbers: shapes, types and strides, for torch.compile.

Without these, torch.compile ends a graph at every operator and starts another behind it. Each is the
allocation of its function in ``csrc/binding.cpp`` or ``csrc/triplane_binding.cpp`` over again.
"""

from __future__ import annotations

import torch
from torch import Tensor

_registered: set[str] = set()


def register_fakes(kind: str) -> None:
    """Tell torch about the results of ``torch.ops.export3d_<kind>``, once per process."""
    namespace = f"export3d_{kind}"
    fakes = (_bias_act, _bias_act_, _upfirdn2d, _triplane_render, _triplane_render_backward)
    for fake in fakes:
        name = fake.__name__.removeprefix("_")
        operator = f"{namespace}::{name}"
        if operator not in _registered and hasattr(getattr(torch.ops, namespace), name):
            torch.library.register_fake(operator, fake)
            _registered.add(operator)


def _bias_act(
    x: Tensor,
    b: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    order: int,
    dim: int,
    act: int,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    return torch.empty_like(x)


def _bias_act_(
    x: Tensor, b: Tensor | None, dim: int, act: int, alpha: float, gain: float, clamp: float
) -> None:
    """Nothing: the result is in x."""


def _upfirdn2d(
    x: Tensor, f: Tensor, size: list[int], factors: list[int], flip: bool, gain: float
) -> Tensor:
    # a plane that is both (one channel, one pixel) counts as contiguous, as in the kernels
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    shape = (x.shape[0], x.shape[1], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _triplane_render(
    planes: Tensor,
    decoder: list[Tensor],
    origins: Tensor,
    directions: Tensor,
    noise_coarse: Tensor | None,
    noise_fine: Tensor | None,
    sizes: list[int],
    lengths: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    n, rays, _ = origins.shape
    colours = decoder[2].shape[0] - 1
    features, depth, opacity = (origins.new_empty(n, rays, k) for k in (colours, 1, 1))
    return features, depth, opacity


def _triplane_render_backward(
    cotangents: list[Tensor],
    planes: Tensor,
    decoder: list[Tensor],
    origins: Tensor,
    directions: Tensor,
    noise_coarse: Tensor | None,
    noise_fine: Tensor | None,
    sizes: list[int],
    lengths: list[float],
    of_rays: bool,
) -> list[Tensor]:
    rays = (origins, directions) if of_rays else ()
    return [torch.empty_like(t) for t in (planes, *decoder, *rays)]
