"""Bias, activation, gain and clamp in one pass over memory.

    y = clamp(gain * act(x + b), -clamp, +clamp)

The torch expression in :func:`_reference` is the specification; the C++ and CUDA kernels in
``csrc/`` are held against it, for the value and for the first and second gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from torch_utils.ops import library

Impl = Literal["auto", "ref", "cpu", "cuda"]
IMPLS = ("auto", "ref", "cpu", "cuda")
KERNEL_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PIECEWISE = ("linear", "relu", "lrelu")  # the second derivative is zero


@dataclass(frozen=True)
class Activation:
    """One activation function: its number in the kernels, its defaults, its torch expression."""

    code: int  # value of the enum in csrc/bias_act.h
    default_alpha: float
    default_gain: float  # sqrt(2) where about half of the signal's energy is cut away
    torch_expression: Callable[[Tensor, float], Tensor]


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(0, 0.0, 1.0, lambda x, a: x),
    "relu": Activation(1, 0.0, math.sqrt(2.0), lambda x, a: functional.relu(x)),
    "lrelu": Activation(2, 0.2, math.sqrt(2.0), lambda x, a: functional.leaky_relu(x, a)),
    "tanh": Activation(3, 0.0, 1.0, lambda x, a: torch.tanh(x)),
    "sigmoid": Activation(4, 0.0, 1.0, lambda x, a: torch.sigmoid(x)),
    "elu": Activation(5, 1.0, 1.0, lambda x, a: functional.elu(x, a)),
    "selu": Activation(6, 0.0, 1.0, lambda x, a: functional.selu(x)),
    "softplus": Activation(7, 0.0, 1.0, lambda x, a: functional.softplus(x)),
    "swish": Activation(8, 0.0, math.sqrt(2.0), lambda x, a: functional.silu(x)),
}


@dataclass(frozen=True)
class BiasActSpec:
    """The non-tensor arguments with every default filled in."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float | None


def _resolve(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float | None,
    gain: float | None,
    clamp: float | None,
) -> BiasActSpec:
    """Check the arguments once, for every implementation, and fill in the defaults."""
    if act not in ACTIVATIONS:
        raise ValueError(f"act={act!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp must be None or >= 0, got {clamp}")
    if b is not None:
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"dim={dim} does not exist in x of shape {tuple(x.shape)}")
        dim %= x.ndim
        if b.ndim != 1 or b.shape[0] != x.shape[dim]:
            raise ValueError(
                f"b must have shape [{x.shape[dim]}] to match x{list(x.shape)} at dim={dim}, "
                f"got {list(b.shape)}"
            )
    entry = ACTIVATIONS[act]
    return BiasActSpec(
        dim=dim,
        act=act,
        alpha=entry.default_alpha if alpha is None else float(alpha),
        gain=entry.default_gain if gain is None else float(gain),
        clamp=None if clamp is None else float(clamp),
    )


def _reference(x: Tensor, b: Tensor | None, spec: BiasActSpec) -> Tensor:
    if b is not None:
        shape = [1] * x.ndim
        shape[spec.dim] = -1
        x = x + b.to(x.dtype).reshape(shape)
    x = ACTIVATIONS[spec.act].torch_expression(x, spec.alpha)
    if spec.gain != 1.0:
        x = x * spec.gain
    if spec.clamp is not None:
        x = x.clamp(-spec.clamp, spec.clamp)
    return x


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: Impl = "auto",
    overwrite: bool = False,
) -> Tensor:
    """Compute ``clamp(gain * act(x + b))``.

    Args:
        x: any shape, floating point.
        b: [x.shape[dim]], added along ``dim``; cast to the dtype of x. None adds nothing.
        dim: the dimension of x that b belongs to; ignored without b.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: negative slope of lrelu (default 0.2), scale of elu (default 1).
        gain: factor behind the activation; None means sqrt(2) for relu, lrelu and swish, else 1.
        clamp: bound of the absolute output value, after the gain; None means no bound.
        impl: ``auto`` takes the fastest that works here, ``ref`` the torch expression,
            ``cpu`` and ``cuda`` the kernels (the reference with one warning if they do not build).
        overwrite: the caller has no more use for x: where no gradient is recorded, a kernel puts the
            result into x's memory and returns x, which saves touching as much memory anew. As after
            any function in place, a gradient of something else that needs the old x is an error.

    Returns:
        A tensor of the shape and dtype of x. Gradients of first and second order flow to x and b.

    Raises:
        ValueError: unknown ``act`` or ``impl``, or shapes that do not fit.
        TypeError: x is not floating point.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl={impl!r} is unknown; choose one of {', '.join(IMPLS)}")
    spec = _resolve(x, b, dim, act, alpha, gain, clamp)
    kind = _choose(x, spec, impl)
    if kind is None:
        return _reference(x, b, spec)
    if b is not None:
        b = b.to(x.dtype)
    if overwrite and not _records_gradients(x, b) and _reproducible(x):
        _launch_in_place(kind, spec, x, b)
        return x
    result: Tensor = _BiasAct.apply(x, b, spec, kind)
    return result


# ------------------------------------------------------------------------------------------------
# Fast path


def _choose(x: Tensor, spec: BiasActSpec, impl: Impl) -> library.Kind | None:
    """The library to use, or None for the reference."""
    if impl == "ref" or x.dtype not in KERNEL_DTYPES:
        return None
    device = x.device.type
    if impl == "auto":
        if device == "cpu":
            wanted = _faster_on_cpu(spec)
        else:
            wanted = device == "cuda"
        return device if wanted and library.use_library(device) else None  # type: ignore[arg-type,return-value]
    if device != impl:
        raise ValueError(f"impl={impl!r} needs a tensor on that device, x is on {x.device}")
    return impl if library.use_library(impl, explicit=True) else None


def _faster_on_cpu(spec: BiasActSpec) -> bool:
    """Whether the C++ kernel beats the torch expression, as benchmarks/ops.py measured it.

    Not for softplus: its logarithm is a call per element, torch's is vectorised. Not for linear
    alone, which is one addition in torch as well and mostly as fast.
    """
    return spec.act != "softplus" and not (spec.act == "linear" and spec.clamp is None)


def _records_gradients(x: Tensor, b: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))


class _BiasAct(torch.autograd.Function):
    """The value; x and b are kept, and everything else is computed from them again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, b: Tensor | None, spec: BiasActSpec, kind: library.Kind
    ) -> Tensor:
        x = _dense(x)
        b = None if b is None else b.contiguous()
        ctx.save_for_backward(x, b)
        ctx.spec, ctx.kind = spec, kind
        return _launch(kind, spec, 0, x, b)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, b = ctx.saved_tensors
        if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            return None, None, None, None
        du: Tensor = _BiasActGrad.apply(dy, x, b, ctx.spec, ctx.kind)
        db = _sum_to_bias(du, ctx.spec) if ctx.needs_input_grad[1] else None
        return (du if ctx.needs_input_grad[0] else None), db, None, None


class _BiasActGrad(torch.autograd.Function):
    """du = dy * gain act'(x + b) inside the clamp, as a differentiable function of dy, x and b."""

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, b: Tensor | None, spec: BiasActSpec, kind: library.Kind
    ) -> Tensor:
        dy = _like(dy, x)
        ctx.save_for_backward(dy, x, b)
        ctx.spec, ctx.kind = spec, kind
        return _launch(kind, spec, 1, x, b, dy)

    @staticmethod
    def backward(ctx: Any, ddu: Tensor) -> tuple[Tensor | None, ...]:
        dy, x, b = ctx.saved_tensors
        spec, kind = ctx.spec, ctx.kind
        d_dy = d_x = d_b = None
        if ctx.needs_input_grad[0]:
            d_dy = _BiasActGrad.apply(ddu, x, b, spec, kind)
        if (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]) and spec.act not in PIECEWISE:
            d_u: Tensor = _BiasActCurvature.apply(dy, ddu, x, b, spec, kind)
            d_x = d_u if ctx.needs_input_grad[1] else None
            d_b = _sum_to_bias(d_u, spec) if ctx.needs_input_grad[2] else None
        return d_dy, d_x, d_b, None, None


class _BiasActCurvature(torch.autograd.Function):
    """dy * ddu * gain act''(x + b) inside the clamp; not differentiable any further."""

    @staticmethod
    def forward(
        ctx: Any,
        dy: Tensor,
        ddu: Tensor,
        x: Tensor,
        b: Tensor | None,
        spec: BiasActSpec,
        kind: library.Kind,
    ) -> Tensor:
        return _launch(kind, spec, 2, x, b, dy, _like(ddu, x))

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError("third derivatives of bias_act need impl='ref'")


def _launch(
    kind: library.Kind,
    spec: BiasActSpec,
    order: int,
    x: Tensor,
    b: Tensor | None,
    g: Tensor | None = None,
    h: Tensor | None = None,
) -> Tensor:
    result: Tensor = library.namespace(kind).bias_act(x, b, g, h, order, *_scalars(spec, b))
    return result


def _launch_in_place(kind: library.Kind, spec: BiasActSpec, x: Tensor, b: Tensor | None) -> None:
    b = None if b is None else b.contiguous()
    library.namespace(kind).bias_act_(x, b, *_scalars(spec, b))


def _scalars(spec: BiasActSpec, b: Tensor | None) -> tuple[int, int, float, float, float]:
    """dim, act, alpha, gain and clamp as the kernels take them."""
    dim = spec.dim if b is not None else 0
    clamp = -1.0 if spec.clamp is None else spec.clamp
    return dim, ACTIVATIONS[spec.act].code, spec.alpha, spec.gain, clamp


def _dense(x: Tensor) -> Tensor:
    """x, or a copy of it if its memory has gaps or overlaps; keeps channels_last as it is."""
    return x if _reproducible(x) else x.contiguous()


def _reproducible(x: Tensor) -> bool:
    """True if empty_like(x) has the strides of x; the kernels walk memory in order."""
    return torch.empty_like(x, device="meta").stride() == x.stride()


def _like(t: Tensor, x: Tensor) -> Tensor:
    """t with the strides of x."""
    return t if t.stride() == x.stride() else torch.empty_like(x).copy_(t)


def _sum_to_bias(du: Tensor, spec: BiasActSpec) -> Tensor:
    others = [i for i in range(du.ndim) if i != spec.dim]
    return du.sum(others) if others else du  # an empty list would mean all of them
