"""Up-sample, filter with a finite impulse response, down-sample: anti-aliased resampling of images.

For every plane of x [N, C, H, W], in this order:

1. put ``up - 1`` zeros behind every sample,
2. pad with zeros by (x0, x1, y0, y1); a negative number crops,
3. convolve with f (true convolution: f is mirrored; ``flip_filter=True`` correlates), times gain,
4. keep every ``down``-th sample, starting with the first.

Output width: ``(W * up + x0 + x1 - f_width) // down + 1``. The gradient with respect to x is again
an upfirdn2d, with ``up`` and ``down`` exchanged and the filter mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from torch_utils.ops import library

Impl = Literal["auto", "ref", "cpu", "cuda"]
IMPLS = ("auto", "ref", "cpu", "cuda")
KERNEL_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ONE_PASS_TAPS = 8  # a longer separable filter runs as two passes on CUDA
FULL_VECTOR = 8  # channels that fill a vector of the narrowest processor worth tuning for
Pair = int | Sequence[int]


class UpfirdnSpec(NamedTuple):
    """The non-tensor arguments, one number per axis. ``flip`` True means correlation."""

    up_x: int
    up_y: int
    down_x: int
    down_y: int
    pad_x0: int
    pad_x1: int
    pad_y0: int
    pad_y1: int
    flip: bool
    gain: float

    def output_size(self, height: int, width: int, f_height: int, f_width: int) -> tuple[int, int]:
        """(height, width) of the result for an input plane and a filter of these sizes."""
        padded_x = width * self.up_x + self.pad_x0 + self.pad_x1
        padded_y = height * self.up_y + self.pad_y0 + self.pad_y1
        return (padded_y - f_height) // self.down_y + 1, (padded_x - f_width) // self.down_x + 1


def _pair(value: Pair, name: str) -> tuple[int, int]:
    x, y = (value, value) if isinstance(value, int) else (int(v) for v in value)
    if x < 1 or y < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return x, y


def _padding(padding: Pair) -> tuple[int, int, int, int]:
    if isinstance(padding, int):
        return padding, padding, padding, padding
    numbers = [int(p) for p in padding]
    if len(numbers) == 2:
        return numbers[0], numbers[0], numbers[1], numbers[1]
    if len(numbers) == 4:
        return numbers[0], numbers[1], numbers[2], numbers[3]
    raise ValueError(f"padding must be one number, (x, y) or (x0, x1, y0, y1), got {padding}")


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """(height, width) of the two-dimensional filter that f stands for."""
    if f is None:
        return 1, 1
    if f.ndim == 1:
        return f.shape[0], f.shape[0]
    return f.shape[0], f.shape[1]


def _resolve(
    x: Tensor,
    f: Tensor | None,
    up: Pair,
    down: Pair,
    padding: Pair,
    flip_filter: bool,
    gain: float,
) -> UpfirdnSpec:
    """Check the arguments once, for every implementation."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"x must be floating point [N, C, H, W], got {x.dtype} of shape {list(x.shape)}"
        )
    if f is not None and (f.ndim not in (1, 2) or f.numel() == 0 or not f.is_floating_point()):
        raise ValueError("f must be None or a non-empty floating point tensor [k] or [kh, kw]")
    spec = UpfirdnSpec(
        *_pair(up, "up"), *_pair(down, "down"), *_padding(padding), bool(flip_filter), float(gain)
    )
    f_height, f_width = filter_size(f)
    padded_y = x.shape[2] * spec.up_y + spec.pad_y0 + spec.pad_y1
    padded_x = x.shape[3] * spec.up_x + spec.pad_x0 + spec.pad_x1
    if padded_y < f_height or padded_x < f_width:
        raise ValueError(
            f"the padded image ({padded_y} x {padded_x}) is smaller than the filter "
            f"({f_height} x {f_width}); pad more"
        )
    return spec


def _reference(x: Tensor, f: Tensor | None, spec: UpfirdnSpec) -> Tensor:
    n, c, h, w = x.shape
    if x.numel() == 0:
        out_h, out_w = spec.output_size(h, w, *filter_size(f))
        # An empty image padded to something is zeros; multiplied in to keep the graph connected.
        return x.new_zeros(n, c, out_h, out_w) + x.sum() * 0
    # 1. zeros behind every sample: grow two length-1 axes, then fold them back.
    x = x.reshape(n, c, h, 1, w, 1)
    x = functional.pad(x, [0, spec.up_x - 1, 0, 0, 0, spec.up_y - 1])
    x = x.reshape(n, c, h * spec.up_y, w * spec.up_x)
    # 2. padding; torch accepts negative numbers as cropping.
    x = functional.pad(x, [spec.pad_x0, spec.pad_x1, spec.pad_y0, spec.pad_y1])
    # 3. filter, one convolution per axis where f is separable. conv2d correlates.
    if f is None:
        x = x * spec.gain if spec.gain != 1.0 else x
    else:
        taps = f.to(device=x.device, dtype=x.dtype)
        if not spec.flip:
            taps = taps.flip(list(range(taps.ndim)))
        kernels = (
            [taps.reshape(1, -1) * spec.gain, taps.reshape(-1, 1)]
            if taps.ndim == 1
            else [taps * spec.gain]
        )
        for kernel in kernels:
            x = functional.conv2d(x, kernel[None, None].repeat(c, 1, 1, 1), groups=c)
    # 4. decimation.
    return x[:, :, :: spec.down_y, :: spec.down_x]


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: Impl = "auto",
) -> Tensor:
    """Up-sample, pad, filter and down-sample every plane of x; see the module's text for the order.

    Args:
        x: [N, C, H, W], floating point.
        f: taps; None is the identity, [k] is separable (the same taps along both axes),
            [kh, kw] is a general filter. Cast to the dtype of x. See :func:`setup_filter`.
        up, down: integer factors >= 1; one number, or (x, y).
        padding: zeros around the up-sampled image; one number, (x, y) or (x0, x1, y0, y1);
            negative numbers crop.
        flip_filter: False convolves, True correlates.
        gain: factor on the result (once, not per axis).
        impl: ``auto`` takes the fastest that works here, ``ref`` the torch expression,
            ``cpu`` and ``cuda`` the kernels (the reference with one warning if they do not build).

    Returns:
        [N, C, (H * up + y0 + y1 - kh) // down + 1, (W * up + x0 + x1 - kw) // down + 1], dtype of
        x. Gradients of any order flow to x; gradients to f only through the reference, which is
        chosen when f requires them.

    Raises:
        ValueError: shapes or numbers that do not fit.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl={impl!r} is unknown; choose one of {', '.join(IMPLS)}")
    spec = _resolve(x, f, up, down, padding, flip_filter, gain)
    kind = _choose(x, f, impl)
    if kind is None:
        return _reference(x, f, spec)
    # Taps are kept in the type that the kernel sums in: float32, or float64 for float64 images.
    accumulate = torch.float64 if x.dtype == torch.float64 else torch.float32
    taps = torch.ones(1) if f is None else f.detach()
    taps = taps.to(device=x.device, dtype=accumulate).contiguous()
    size = spec.output_size(x.shape[2], x.shape[3], *filter_size(f))
    result: Tensor = _Upfirdn2d.apply(x, taps, spec, size, kind)
    return result


# ------------------------------------------------------------------------------------------------
# Fast path


def _choose(x: Tensor, f: Tensor | None, impl: Impl) -> library.Kind | None:
    """The library to use, or None for the reference."""
    if impl == "ref" or x.dtype not in KERNEL_DTYPES:
        return None
    if f is not None and f.requires_grad:
        return None
    device = x.device.type
    if impl == "auto":
        wanted = device in ("cpu", "cuda")
        return device if wanted and library.use_library(device) else None  # type: ignore[arg-type,return-value]
    if device != impl:
        raise ValueError(f"impl={impl!r} needs a tensor on that device, x is on {x.device}")
    return impl if library.use_library(impl, explicit=True) else None


class _Upfirdn2d(torch.autograd.Function):
    """Linear in x, and its adjoint is of the same kind: so gradients of any order come for free."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        f: Tensor,
        spec: UpfirdnSpec,
        size: tuple[int, int],
        kind: library.Kind,
    ) -> Tensor:
        ctx.save_for_backward(f)
        ctx.spec, ctx.kind, ctx.input_size = spec, kind, (x.shape[2], x.shape[3])
        return _launch(kind, x, f, spec, size)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        (f,) = ctx.saved_tensors
        spec = _adjoint(ctx.spec, filter_size(f), ctx.input_size, (dy.shape[2], dy.shape[3]))
        dx = _Upfirdn2d.apply(dy, f, spec, ctx.input_size, ctx.kind)
        return dx, None, None, None, None


def _adjoint(
    spec: UpfirdnSpec, f_size: tuple[int, int], in_size: tuple[int, int], out_size: tuple[int, int]
) -> UpfirdnSpec:
    """The upfirdn2d that takes dL/dy to dL/dx.

    y[o] = sum_i x[i] w[i up - o down + p0], so dx[i] = sum_o dy[o] w[i up - o down + p0]: dy is
    spread by `down`, correlated with the mirrored w, and every up-th sample kept. The mirrored tap
    K - 1 - k has to meet the sample, hence p0' = K - 1 - p0; p1' makes the size come out.
    """
    f_height, f_width = f_size
    in_h, in_w = in_size
    out_h, out_w = out_size
    return UpfirdnSpec(
        up_x=spec.down_x,
        up_y=spec.down_y,
        down_x=spec.up_x,
        down_y=spec.up_y,
        pad_x0=f_width - 1 - spec.pad_x0,
        pad_x1=(in_w - 1) * spec.up_x + 1 + spec.pad_x0 - out_w * spec.down_x,
        pad_y0=f_height - 1 - spec.pad_y0,
        pad_y1=(in_h - 1) * spec.up_y + 1 + spec.pad_y0 - out_h * spec.down_y,
        flip=not spec.flip,
        gain=spec.gain,
    )


def _launch(
    kind: library.Kind, x: Tensor, f: Tensor, spec: UpfirdnSpec, size: tuple[int, int]
) -> Tensor:
    """One or two kernel calls. ``size`` is the output's (height, width)."""
    if not x.is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous()
    if kind == "cpu" and x.shape[1] < FULL_VECTOR and not x.is_contiguous():
        # vectors run along the channels there: a few of them are better moved out of the way and back
        out = _launch(kind, x.contiguous(), f, spec, size)
        return out.contiguous(memory_format=torch.channels_last)
    op = library.namespace(kind).upfirdn2d
    if kind == "cuda" and f.ndim == 1 and f.shape[0] > ONE_PASS_TAPS:
        # One thread per pixel would redo the sums along x for every tap along y.
        along_x = [spec.up_x, 1, spec.down_x, 1, spec.pad_x0, 0]
        along_y = [1, spec.up_y, 1, spec.down_y, 0, spec.pad_y0]
        x = op(x, f[None], [x.shape[2], size[1]], along_x, spec.flip, spec.gain)
        return op(x, f[:, None], list(size), along_y, spec.flip, 1.0)
    factors = [spec.up_x, spec.up_y, spec.down_x, spec.down_y, spec.pad_x0, spec.pad_y0]
    return op(x, f, list(size), factors, spec.flip, spec.gain)


# ------------------------------------------------------------------------------------------------
# Filters and the three usual uses


def setup_filter(
    taps: Sequence[float] | Sequence[Sequence[float]] | Tensor | None,
    *,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1.0,
    separable: bool = True,
) -> Tensor:
    """Make a float32 filter for :func:`upfirdn2d` from a list of taps.

    Args:
        taps: [k], such as (1, 3, 3, 1), or [kh, kw], or None for the single tap 1.
        normalize: divide by the sum of the taps, so that a constant image stays as it is.
        flip_filter: mirror the taps.
        gain: factor of the two-dimensional filter.
        separable: keep [k] one-dimensional (cheaper); False expands it to [k, k].

    Returns:
        float32 tensor [k] or [kh, kw].

    Raises:
        ValueError: no taps, more than two axes, or a sum of zero with ``normalize``.
    """
    # its sum is looked at, so that it never lies on the device "meta"
    device = device or "cpu"
    f = torch.as_tensor(1.0 if taps is None else taps, dtype=torch.float32, device=device)
    f = f.reshape(1) if f.ndim == 0 else f.clone()
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"taps must be a non-empty list [k] or [kh, kw], got {list(f.shape)}")
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if normalize:
        total = float(f.sum())
        if total == 0.0:
            raise ValueError("taps that sum to zero cannot be normalised; use normalize=False")
        f = f / total
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    if f.ndim == 1 and gain < 0:
        raise ValueError("a negative gain needs separable=False: it cannot be split over two axes")
    return f * gain ** (f.ndim / 2)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: Impl = "auto",
) -> Tensor:
    """Filter without resampling; the result has the size of x (plus ``padding``, which may be < 0).

    For filters of even length the extra sample of padding goes to the left and top.
    """
    f_height, f_width = filter_size(f)
    x0, x1, y0, y1 = _padding(padding)
    pads = (
        x0 + f_width // 2,
        x1 + (f_width - 1) // 2,
        y0 + f_height // 2,
        y1 + (f_height - 1) // 2,
    )
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: Impl = "auto",
) -> Tensor:
    """Enlarge by an integer factor: [N, C, H, W] -> [N, C, H * up, W * up] for ``padding=0``.

    A constant image keeps its value (away from the border, where zeros come in): the zeros
    between the samples are made good by a factor of up_x * up_y. ``padding`` counts output pixels.
    """
    up_x, up_y = _pair(up, "up")
    f_height, f_width = filter_size(f)
    x0, x1, y0, y1 = _padding(padding)
    # The filter's centre has to fall on the centre of the up_x samples that one pixel becomes.
    left = (f_width + up_x - 1) // 2
    top = (f_height + up_y - 1) // 2
    pads = (x0 + left, x1 + f_width - 1 - left, y0 + top, y1 + f_height - 1 - top)
    return upfirdn2d(
        x, f, up=up, padding=pads, flip_filter=flip_filter, gain=gain * up_x * up_y, impl=impl
    )


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: Impl = "auto",
) -> Tensor:
    """Shrink by an integer factor: [N, C, H, W] -> [N, C, H // down, W // down] for ``padding=0``.

    ``padding`` counts input pixels. A remainder of H that does not fill a step is dropped.
    """
    down_x, down_y = _pair(down, "down")
    f_height, f_width = filter_size(f)
    x0, x1, y0, y1 = _padding(padding)
    # The filter's centre has to fall on the centre of the down_x samples that become one pixel.
    left = (f_width - down_x + 1) // 2
    top = (f_height - down_y + 1) // 2
    pads = (x0 + left, x1 + f_width - down_x - left, y0 + top, y1 + f_height - down_y - top)
    return upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)
