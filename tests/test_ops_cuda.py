"""The CUDA sources: they compile for every architecture, and their arithmetic runs here.

Without a GPU the same .cu files are built by the C++ compiler with csrc/cuda_shim.h, which runs
blocks and threads one after another; the autograd code above them is the one of the GPU.
"""

from __future__ import annotations

import ctypes
import random
import sys
from pathlib import Path
from typing import Any

import cuda_support
import pytest
import torch
from test_ops_bias_act import ACTS, SHAPES, agree, check_overwriting, outputs_and_gradients
from test_ops_upfirdn2d import random_case, value_and_gradient
from torch import Tensor

from torch_utils.ops import bias_act, library, setup_filter, upsample2d

CUDA_SOURCES = ("bias_act.cu", "upfirdn2d.cu")
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

_P, _L, _D, _I = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int32


class BiasActArgs(ctypes.Structure):
    """Mirrors csrc/bias_act.h."""

    _fields_ = (
        [(name, _P) for name in ("x", "b", "g", "h", "out")]
        + [(name, _L) for name in ("numel", "bias_size", "bias_stride")]
        + [(name, _D) for name in ("alpha", "gain", "clamp")]
        + [(name, _I) for name in ("act", "order")]
    )


class UpfirdnArgs(ctypes.Structure):
    """Mirrors csrc/upfirdn2d.h."""

    _fields_ = (
        [(name, _P) for name in ("x", "f", "out")]
        + [(name, _L) for name in ("n", "c", "in_h", "in_w", "out_h", "out_w", "fh", "fw")]
        + [(n, _L) for n in ("up_x", "up_y", "down_x", "down_y", "pad_x0", "pad_y0")]
        + [("gain", _D)]
        + [(name, _I) for name in ("flip", "separable", "channels_last", "reserved")]
    )


class EmulatedOps:
    """What torch.ops.export3d_cuda offers, on CPU tensors, through the emulated kernels."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.calls = 0

    def _call(self, name: str, args: ctypes.Structure, dtype: torch.dtype) -> None:
        self.calls += 1
        function = getattr(self.lib, name)
        function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        assert function(ctypes.byref(args), DTYPE_CODES[dtype], None) == 0

    def bias_act(
        self,
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
        out: Tensor | None = None,
    ) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        for other in (out, g, h):
            assert other is None or (other.stride() == x.stride() and other.dtype == x.dtype)
        size = 1 if b is None else b.numel()
        stride = max(x.numel(), 1) if size == 1 else x.stride(dim)
        pointers = [None if t is None else t.data_ptr() for t in (x, b, g, h, out)]
        args = BiasActArgs(*pointers, x.numel(), size, stride, alpha, gain, clamp, act, order)
        self._call("export3d_bias_act_cuda", args, x.dtype)
        return out

    def bias_act_(self, x: Tensor, b: Tensor | None, *scalars: Any) -> None:
        self.bias_act(x, b, None, None, 0, *scalars, out=x)

    def upfirdn2d(
        self, x: Tensor, f: Tensor, size: list[int], factors: list[int], flip: bool, gain: float
    ) -> Tensor:
        contiguous = x.is_contiguous()
        layout = torch.contiguous_format if contiguous else torch.channels_last
        out = torch.empty(*x.shape[:2], *size, dtype=x.dtype).contiguous(memory_format=layout)
        f = f.contiguous()
        args = UpfirdnArgs(
            *(t.data_ptr() for t in (x, f, out)),
            *x.shape,
            *size,
            f.shape[0],
            f.shape[-1],
            *factors,
            gain,
            flip,
            f.ndim == 1,
            not contiguous,
            0,
        )
        self._call("export3d_upfirdn2d_cuda", args, x.dtype)
        return out


@pytest.fixture(scope="module")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shim") / "emulated.so"
    # Small tensors need several sweeps of the grid and several launches.
    return cuda_support.emulated_library(path, CUDA_SOURCES, MAX_BLOCKS=2, SLICE=1300)


@pytest.fixture
def emulated(emulated_library: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatedOps:
    """From here on impl='cuda' on a CPU tensor runs the CUDA kernels' source."""
    ops = EmulatedOps(emulated_library)
    monkeypatch.setattr(library, "namespace", lambda kind: ops)
    for name in ("torch_utils.ops.bias_act", "torch_utils.ops.upfirdn2d"):
        # by sys.modules: as an attribute of the package each name is the function
        choose = lambda *arguments: None if arguments[-1] == "ref" else "cuda"  # noqa: E731
        monkeypatch.setattr(sys.modules[name], "_choose", choose)
    return ops


@pytest.mark.parametrize("act", ACTS)
def test_emulated_bias_act_equals_reference(emulated: EmulatedOps, act: str) -> None:
    for clamp in (None, 0.7):
        for shape, dim in SHAPES:
            x = 2 * torch.randn(shape, dtype=torch.float64)
            b = torch.randn(shape[dim], dtype=torch.float64)
            options = {"dim": dim, "act": act, "clamp": clamp}
            ref = outputs_and_gradients(x, b, "ref", **options)
            # float64; torch's softplus drops exp(-x) above 20
            agree(outputs_and_gradients(x, b, "cuda", **options), ref, 1e-8)
    assert emulated.calls > 30
    x = torch.randn(2, 40, 3, 3).contiguous(memory_format=torch.channels_last)
    ref = outputs_and_gradients(x, torch.ones(40), "ref", act=act)
    # float32: own exponential, 2 ulp, times slopes of order 1
    agree(outputs_and_gradients(x, torch.ones(40), "cuda", act=act), ref, 1e-5)


def test_emulated_overwriting(emulated: EmulatedOps) -> None:
    check_overwriting("cuda")
    assert emulated.calls


def test_emulated_upfirdn2d_equals_reference(emulated: EmulatedOps) -> None:
    rng = random.Random(1)
    for _ in range(120):
        x, f, options = random_case(rng)
        try:
            want = value_and_gradient(x, f, "ref", options)
        except ValueError:  # the filter is larger than the padded image
            continue
        for a, b in zip(value_and_gradient(x, f, "cuda", options), want, strict=True):
            # float64 sums of at most 144 products
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
        for a, b in zip(value_and_gradient(x.float(), f, "cuda", options), want, strict=True):
            # float32 sums of at most 144 products of size 10
            torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-5)
    assert emulated.calls > 200


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_emulated_half_precision(emulated: EmulatedOps, dtype: torch.dtype) -> None:
    f, x = setup_filter((1, 3, 3, 1)), torch.randn(2, 3, 5, 7).to(dtype)
    ulp = torch.finfo(dtype).eps  # half an ulp for the store, computed in float32 before
    for got, want in (
        (upsample2d(x, f, impl="cuda"), upsample2d(x.double(), f, impl="ref")),
        (bias_act(x, act="swish", impl="cuda"), bias_act(x.double(), act="swish", impl="ref")),
    ):
        torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=ulp)


def test_large_tensors_take_several_sweeps_and_launches(emulated: EmulatedOps) -> None:
    x = torch.randn(11, 5, 37, 3)
    for b in (torch.randn(5), None):
        got = bias_act(x, b, act="relu", gain=2.0, impl="cuda")
        assert torch.equal(got, bias_act(x, b, act="relu", gain=2.0, impl="ref"))
    for layout in (torch.contiguous_format, torch.channels_last):
        image = x.contiguous(memory_format=layout)
        got = upsample2d(image, None, impl="cuda")
        assert torch.equal(got, upsample2d(image, None, impl="ref"))


@pytest.mark.parametrize("source", CUDA_SOURCES)
def test_sources_compile_for_every_architecture(source: str, tmp_path: Path) -> None:
    cuda_support.assert_compiles_for_every_architecture(source, tmp_path)


# ------------------------------------------------------------------------------------------------
# On a GPU


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if not library.use_library("cuda", explicit=True):
        pytest.fail(f"the CUDA operators do not build: {library.load('cuda').cause}")
    return torch.device("cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_gpu_equals_reference(gpu: torch.device, dtype: torch.dtype) -> None:
    tolerance = {torch.float64: 1e-8, torch.float32: 1e-5}.get(dtype, 2 * torch.finfo(dtype).eps)
    f = setup_filter((1, 3, 3, 1))
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 33, 17, 19).to(dtype).contiguous(memory_format=layout)
        b = torch.randn(33).to(dtype)
        for act in ACTS:
            got = bias_act(x.to(gpu), b.to(gpu), act=act, impl="cuda").cpu()
            want = bias_act(x.double(), b.double(), act=act, impl="ref")
            torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=tolerance)
        got = upsample2d(x.to(gpu), f, impl="cuda").cpu()
        want = upsample2d(x.double(), f, impl="ref")
        torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=tolerance)


@pytest.mark.cuda
def test_gpu_gradients(gpu: torch.device) -> None:
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, device=gpu, requires_grad=True)
    f = setup_filter((1, 3, 3, 1))
    for function in (
        lambda x: bias_act(x, act="swish", impl="cuda"),
        lambda x: upsample2d(x, f, impl="cuda") ** 2,
    ):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
    rng = random.Random(2)
    for _ in range(50):
        case, taps, options = random_case(rng)
        try:
            want = value_and_gradient(case, taps, "ref", options)
        except ValueError:
            continue
        got = value_and_gradient(case.to(gpu), taps, "cuda", options)
        torch.testing.assert_close(got[0].cpu(), want[0], atol=1e-12, rtol=0)  # float64 sums
