"""Floating point operations of what runs, and how many a device could do: for FLOP/s and for the share of the peak.

Counted are products: matrices, convolutions, attention, and the decoder inside the fused renderer; 2 for a
multiply-add. Not counted: sampling, norms, activations, blurs, the optimiser, and what is computed again (kernels that
keep nothing for the way back, gradient checkpointing). So the number is the model's, whatever computes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TERA = 1e12


class FlopCount(TorchDispatchMode):
    """`with FlopCount() as count: ...` - then `count.total`; the backward pass counts too when it is inside.

    Not torch.utils.flop_counter: it takes a grouped convolution's backward pass for a full one, and knows neither
    attention on the CPU nor our operators.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().partition(".")[0]
        if formula := _FORMULAS.get(name):
            self.total += formula(args, out)
        elif "scaled_dot_product" in name:
            self.total += _attention(args, backward=name.endswith("_backward"))
        return out


def _mm(args: tuple[Any, ...], out: Tensor) -> int:
    return 2 * out.numel() * int(args[0].shape[-1])


def _addmm(args: tuple[Any, ...], out: Tensor) -> int:
    return 2 * out.numel() * int(args[1].shape[-1])


def _convolution(args: tuple[Any, ...], out: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    # each value of the output (of the input when transposed) meets one filter
    return 2 * (x if transposed else out).numel() * prod(weight.shape[1:])


def _convolution_backward(args: tuple[Any, ...], _: Any) -> int:
    grad, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
    once = 2 * (x if transposed else grad).numel() * prod(weight.shape[1:])
    return once * (bool(wanted[0]) + bool(wanted[1]))


def _attention(args: tuple[Any, ...], backward: bool) -> int:
    query, key, value = args[1:4] if backward else args[:3]
    *batch, n, width = query.shape
    forward = 2 * prod(batch) * n * key.shape[-2] * (width + value.shape[-1])
    return int(forward * (2 if backward else 1))


def _renderer(args: tuple[Any, ...], times: int) -> int:
    decoder, origins, *_, sizes, _lengths = args
    per_sample = decoder[0].numel() + decoder[2].numel()
    return times * 2 * prod(origins.shape[:2]) * (sizes[1] + sizes[2]) * int(per_sample)


_FORMULAS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "aten::mm": _mm,
    "aten::bmm": _mm,
    "aten::addmm": _addmm,
    "aten::baddbmm": _addmm,
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
}
for _kind in ("cpu", "cuda"):
    _FORMULAS[f"export3d_{_kind}::triplane_render"] = lambda args, _: _renderer(args[1:], 1)
    _FORMULAS[f"export3d_{_kind}::triplane_render_backward"] = lambda args, _: _renderer(
        args[2:-1], 2
    )


class Peak(NamedTuple):
    """TFLOP/s of a GPU by its maker's data sheet, dense; 0: it has no such unit.

    Where a sheet prints only the number with sparsity this is half of it. Cards for games add float16 to float16 twice
    as fast; theirs is the number with sums in float32.
    """

    fp32: float
    tf32: float
    half: float  # bfloat16 and float16, sums in float32


# By the words of torch.cuda.get_device_name; the first that fits.
PEAKS: tuple[tuple[str, Peak], ...] = (
    (r"GB[23]00", Peak(80.0, 1250.0, 2500.0)),
    (r"B[23]00", Peak(75.0, 1125.0, 2250.0)),
    (r"H[12]00 NVL", Peak(60.0, 417.5, 835.5)),
    (r"G?H200|H100.*HBM3|H100 SXM5?", Peak(66.9, 494.7, 989.4)),
    (r"H100 PCIe", Peak(51.2, 378.0, 756.0)),
    (r"A100", Peak(19.5, 156.0, 312.0)),
    (r"V100-SXM[23]", Peak(15.7, 0.0, 125.0)),
    (r"V100-PCIE", Peak(14.0, 0.0, 112.0)),
    (r"L40S", Peak(91.6, 183.0, 362.0)),
    (r"L40", Peak(90.5, 90.5, 181.0)),
    (r"L4", Peak(30.3, 60.0, 121.0)),
    (r"RTX 6000 Ada", Peak(91.1, 182.1, 364.2)),
    (r"A6000", Peak(38.7, 77.4, 154.8)),
    (r"A40", Peak(37.4, 74.8, 149.7)),
    (r"A10", Peak(31.2, 62.5, 125.0)),
    (r"T4", Peak(8.1, 0.0, 65.0)),
    (r"RTX 5090", Peak(104.8, 104.8, 209.5)),
    (r"RTX 4090", Peak(82.6, 82.6, 165.2)),
    (r"RTX 3090", Peak(35.6, 35.6, 71.0)),
)
# A slice of a GPU, and cards that share a name with a faster one: no number is better than a wrong one.
_OTHERS = r"\b(?:MIG|Laptop|Max-Q|Ti|D)\b"


def peak_of(name: str) -> Peak | None:
    """The peak of a GPU by its name; None when it is not in the table."""
    if re.search(_OTHERS, name):
        return None
    return next((p for words, p in PEAKS if re.search(rf"\b(?:{words})\b", name)), None)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s of the fastest unit that a run of this precision may use; None where it is not known, as on a CPU."""
    found = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if found is None:
        return None
    if precision != "fp32":
        return found.half * TERA
    # torch convolves in TF32 unless it is told not to
    return (found.tf32 if torch.backends.cudnn.allow_tf32 else 0.0) * TERA or found.fp32 * TERA
