"""Tri-plane volume rendering in one pass: sample, decode, composite, with importance sampling.

The values are those of ``training/rendering`` (triplane.py, volume.py), which is the specification
and the reference; ``training/rendering/fused.py`` chooses between the two. The kernels store nothing
of a sample: the backward pass computes it again, so that memory grows with rays and planes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from torch_utils.ops import library

Layout = Literal["xyz", "eg3d_legacy"]
LAYOUTS: tuple[Layout, ...] = ("xyz", "eg3d_legacy")
PLANE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHANNEL_STEP = 16  # the kernels' planes have a multiple of so many channels
# At most so many channels, and colours, on CUDA: kMaxWidth in csrc/triplane_sample.h.
CUDA_WIDTH = 64


@dataclass(frozen=True)
class RaySpec:
    """How a ray is sampled."""

    near: float  # distance along the ray, world units
    far: float
    samples_coarse: int  # at least 2
    samples_fine: int = 0
    box_side: float = 1.0  # world units
    layout: Layout = "xyz"
    # Nothing that weighs no more than this gets a colour or, on the CPU, fine samples, and coarse
    # samples end where no more light is left. 0 changes nothing. Gradients are always those of 0.
    min_weight: float = 0.0


def channels_last(planes: Tensor) -> Tensor:
    """Planes [N, 3, C, P, P] of any strides -> the same numbers, with channels adjacent in memory.

    What the kernels read: planes in this layout, with C a multiple of 16, are used without a copy, so
    keep the result where the same planes are rendered again.
    """
    return _packed(planes, step=1).permute(0, 1, 4, 2, 3)


def triplane_render(
    planes: Tensor,
    decoder: tuple[Tensor, Tensor, Tensor, Tensor],
    origins: Tensor,
    directions: Tensor,
    spec: RaySpec,
    noise: tuple[Tensor, Tensor | None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render rays through tri-planes with the kernels of the planes' device.

    Args:
        planes: [N, 3, C, P, P] float32, any strides; N = 1: one for all. An expanded tensor counts as one,
            too, but its gradient has the size of N. Without gradients also bfloat16 or float16: half the
            bytes, computed with in float32. On CUDA C and F are at most CUDA_WIDTH.
        decoder: W1 [H, C], b1 [H], W2 [1 + F, H], b2 [1 + F], float32; output 0 is the density.
        origins: [N, R, 3] float32, world units.
        directions: [N, R, 3] float32, unit.
        noise: uniform in [0, 1), float32 [N, R, samples_coarse] and [N, R, samples_fine]; None: the
            middle of the strata and evenly spaced quantiles.

    Returns:
        Features [N, R, F], depth [N, R, 1] (distance along the ray, ``far`` where nothing was hit) and
        opacity [N, R, 1]. Gradients flow to planes, decoder and rays (through the samples' places; their
        distances count as given), not twice.

    Raises:
        ValueError: shapes or dtypes do not fit, or there is no such kernel.
        RuntimeError: the library could not be built; ask ``available`` first.
    """
    coarse, fine = (None, None) if noise is None else noise
    fine = fine if spec.samples_fine else None
    spec_check(planes, decoder, origins, directions, spec, (coarse, fine))
    if len(planes) > 1 and planes.stride(0) == 0:
        planes = planes[:1]
    kind = planes.device.type
    if kind not in ("cpu", "cuda") or not library.use_library(kind):  # type: ignore[arg-type]
        raise RuntimeError(f"no kernel of triplane_render for {planes.device}")
    if kind == "cuda":
        planes = planes.float()
    result: tuple[Tensor, Tensor, Tensor] = _TriplaneRender.apply(
        planes, *decoder, origins.contiguous(), directions.contiguous(), coarse, fine, spec
    )
    return result


def spec_check(
    planes: Tensor,
    decoder: tuple[Tensor, Tensor, Tensor, Tensor],
    origins: Tensor,
    directions: Tensor,
    spec: RaySpec,
    noise: tuple[Tensor | None, Tensor | None] = (None, None),
) -> None:
    """ValueError with one sentence if the arguments do not fit together."""
    if planes.ndim != 5 or planes.shape[1] != 3 or planes.shape[3] != planes.shape[4]:
        raise ValueError(f"planes are {tuple(planes.shape)}; expected [N, 3, C, P, P]")
    if origins.ndim != 3 or origins.shape[2] != 3 or directions.shape != origins.shape:
        raise ValueError(
            f"origins are {tuple(origins.shape)} and directions {tuple(directions.shape)}; "
            "expected two of [N, R, 3]"
        )
    if len(planes) not in (1, len(origins)):
        raise ValueError(f"{len(planes)} tri-planes do not fit rays of {len(origins)} images")
    if spec.samples_coarse < 2 or spec.samples_fine < 0:
        raise ValueError("samples_coarse must be at least 2 and samples_fine at least 0")
    if spec.layout not in LAYOUTS:
        raise ValueError(f"layout={spec.layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    w1, b1, w2, b2 = decoder
    if (
        w1.shape != (len(b1), planes.shape[2])
        or w2.shape != (len(b2), len(b1))
        or len(b2) < 2
        or len(b1) < 1
    ):
        raise ValueError(
            f"decoder weights {tuple(w1.shape)} and {tuple(w2.shape)} do not fit "
            f"{planes.shape[2]} plane channels"
        )
    for tensor in (*decoder, origins, directions):
        if tensor.dtype != torch.float32 or tensor.device != planes.device:
            raise ValueError("triplane_render takes float32 tensors on one device")
    for values, samples in zip(noise, (spec.samples_coarse, spec.samples_fine), strict=True):
        if values is not None and (
            values.shape != (*origins.shape[:2], samples)
            or values.dtype != torch.float32
            or values.device != planes.device
        ):
            raise ValueError(
                f"noise is {values.dtype} {tuple(values.shape)} on {values.device}; expected float32 "
                f"{(*origins.shape[:2], samples)} on the device of the planes"
            )
    if planes.is_cuda and not fits_cuda(planes.shape[2], len(b2) - 1):
        raise ValueError(
            f"{planes.shape[2]} plane channels and {len(b2) - 1} colours are more than the {CUDA_WIDTH} "
            "that the CUDA renderer takes; set render.impl=ref"
        )
    if planes.dtype not in PLANE_DTYPES:
        raise ValueError(f"planes are {planes.dtype}; expected float32, bfloat16 or float16")
    learning = torch.is_grad_enabled() and any(
        t.requires_grad for t in (planes, *decoder, origins, directions)
    )
    if planes.dtype != torch.float32 and learning:
        raise ValueError(f"there are no gradients with planes of {planes.dtype}; take float32")


def fits_cuda(channels: int, colours: int) -> bool:
    """Whether the CUDA kernels take planes and a decoder of these widths; those of the CPU take all."""
    return channels <= CUDA_WIDTH and colours <= CUDA_WIDTH


class _TriplaneRender(torch.autograd.Function):
    """Saves its inputs; everything about the samples is computed again on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        planes: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        origins: Tensor,
        directions: Tensor,
        noise_coarse: Tensor | None,
        noise_fine: Tensor | None,
        spec: RaySpec,
    ) -> tuple[Tensor, Tensor, Tensor]:
        packed = _packed(planes)
        decoder = [w.contiguous() for w in (w1, b1, w2, b2)]
        noise = [None if t is None else t.contiguous() for t in (noise_coarse, noise_fine)]
        sizes = [
            planes.shape[2],
            spec.samples_coarse,
            spec.samples_fine,
            LAYOUTS.index(spec.layout),
        ]
        lengths = [spec.near, spec.far, spec.box_side, spec.min_weight]
        ctx.save_for_backward(packed, *decoder, origins, directions, *noise)
        ctx.scalars = sizes, lengths
        ops = library.namespace(_kind(planes))
        out: tuple[Tensor, Tensor, Tensor] = ops.triplane_render(
            packed, decoder, origins, directions, *noise, sizes, lengths
        )
        return out

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "second gradients of the fused renderer do not exist; set render.impl=ref"
            )
        packed, w1, b1, w2, b2, origins, directions, *noise = ctx.saved_tensors
        sizes, (*lengths, _) = ctx.scalars
        of_rays = any(ctx.needs_input_grad[5:7])
        ops = library.namespace(_kind(packed))
        grads = ops.triplane_render_backward(
            [c.contiguous() for c in cotangents],
            packed,
            [w1, b1, w2, b2],
            origins,
            directions,
            *noise,
            sizes,
            [*lengths, 0.0],  # what the forward pass left out has a gradient all the same
            of_rays,
        )
        planes = grads[0][..., : sizes[0]].permute(0, 1, 4, 2, 3)
        rays = grads[5:] if of_rays else (None, None)
        return (planes, *grads[1:5], *rays, None, None, None)


def _kind(t: Tensor) -> library.Kind:
    return "cuda" if t.is_cuda else "cpu"


def _packed(planes: Tensor, step: int = CHANNEL_STEP) -> Tensor:
    """[N, 3, C, P, P] -> contiguous [N, 3, P, P, C rounded up], a view where memory is so already."""
    last = planes.permute(0, 1, 3, 4, 2)
    missing = -planes.shape[2] % step
    if missing:
        return functional.pad(last, (0, missing))
    if planes.is_contiguous():  # as a matrix it is turned a quarter faster
        return planes.flatten(3).transpose(2, 3).contiguous().unflatten(2, planes.shape[3:])
    return last.contiguous()
