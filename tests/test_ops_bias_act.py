"""bias_act: hand-worked numbers, the reference by finite differences, the kernels against it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from torch_utils.ops import bias_act, library
from torch_utils.ops.bias_act import ACTIVATIONS, BiasActSpec, _choose, _resolve

ACTS = list(ACTIVATIONS)


@pytest.fixture(scope="module", autouse=True)
def _cpu_library() -> None:
    if not library.use_library("cpu", explicit=True):
        pytest.skip(f"no CPU operators: {library.load('cpu').cause}")


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("linear", [-2.0, 0.0, 3.0]),
        ("relu", [0.0, 0.0, 3.0 * math.sqrt(2)]),
        ("lrelu", [-0.4 * math.sqrt(2), 0.0, 3.0 * math.sqrt(2)]),
        ("tanh", [-0.9640275800758169, 0.0, 0.9950547536867305]),
        ("sigmoid", [0.11920292202211755, 0.5, 0.9525741268224334]),
        ("elu", [-0.8646647167633873, 0.0, 3.0]),
        ("selu", [-1.5201664685956948, 0.0, 3.1521029620664414]),
        ("softplus", [0.1269280110429725, 0.6931471805599453, 3.048587351573742]),
        ("swish", [-0.2384058440442351 * math.sqrt(2), 0.0, 2.8577223804673 * math.sqrt(2)]),
    ],
)
@pytest.mark.parametrize("impl", ["ref", "cpu"])
def test_values_worked_by_hand(act: str, expected: list[float], impl: Any) -> None:
    x = torch.tensor([-3.0, -1.0, 2.0], dtype=torch.float64)
    got = bias_act(x, torch.ones(3, dtype=torch.float64), dim=0, act=act, impl=impl)
    want = torch.tensor(expected, dtype=torch.float64)
    # float64 and a dozen roundings; torch's softplus is exact to 2e-9 above 20 only
    torch.testing.assert_close(got, want, atol=1e-14, rtol=1e-13)


@pytest.mark.parametrize("impl", ["ref", "cpu"])
def test_gain_alpha_clamp_in_this_order(impl: Any) -> None:
    x = torch.tensor([[-10.0, -1.0, 1.0, 10.0]])
    got = bias_act(x, act="lrelu", alpha=0.5, gain=2.0, clamp=4.0, impl=impl)
    assert got.tolist() == [[-4.0, -1.0, 2.0, 4.0]]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("impl", ["ref", "cpu"])
def test_gradients_by_finite_differences(act: str, impl: Any) -> None:
    # Away from the kinks at 0 and at the clamp, where no derivative exists.
    x = torch.tensor([[-1.7, -0.6, 0.31], [0.4, 1.1, -0.2]], dtype=torch.float64)
    x.requires_grad_()
    b = torch.tensor([0.05, -0.03, 0.02], dtype=torch.float64, requires_grad=True)

    def op(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, act=act, gain=1.3, clamp=1.0, impl=impl)

    assert torch.autograd.gradcheck(op, (x, b))
    assert torch.autograd.gradgradcheck(op, (x, b))


def outputs_and_gradients(
    x: Tensor, b: Tensor | None, impl: Any, **options: Any
) -> dict[str, Tensor]:
    """The value, first gradients, and gradients of a function of those, for fixed cotangents."""
    generator = torch.Generator().manual_seed(1)
    inputs = {"x": x.detach().clone(memory_format=torch.preserve_format).requires_grad_()}
    if b is not None:
        inputs["b"] = b.detach().clone().requires_grad_()
    y = bias_act(inputs["x"], inputs.get("b"), impl=impl, **options)
    g = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    g.requires_grad_()
    first = torch.autograd.grad(y, list(inputs.values()), g, create_graph=True)
    score = sum((grad.double() ** 2).sum() for grad in first)
    assert isinstance(score, Tensor)
    second = torch.autograd.grad(score, [*inputs.values(), g], allow_unused=True)
    result = {"y": y}
    for name, grad in zip(inputs, first, strict=True):
        result[f"d{name}"] = grad
    for (name, leaf), grad2 in zip([*inputs.items(), ("g", g)], second, strict=True):
        result[f"dd{name}"] = torch.zeros_like(leaf) if grad2 is None else grad2
    return {name: value.detach() for name, value in result.items()}


def agree(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        scale = 1.0 + float(value.abs().max()) if value.numel() else 1.0
        torch.testing.assert_close(
            got[name].double(),
            value.double(),
            atol=tolerance * scale,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )


SHAPES = [
    ((2, 3, 5, 7), 1),
    ((1, 1, 1, 1), 1),
    ((4, 33), 1),
    ((5,), 0),
    ((3, 600), -1),  # longer than a conversion block
    ((2, 3, 41), 2),
    ((0, 3, 4), 1),
    ((2, 0), 1),
    ((3, 1, 2), 1),
]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_kernel_equals_reference(act: str, clamp: float | None) -> None:
    for shape, dim in SHAPES:
        for bias in (True, False):
            x = 2 * torch.randn(shape, dtype=torch.float64)
            b = torch.randn(shape[dim], dtype=torch.float64) if bias else None
            options = {"dim": dim, "act": act, "clamp": clamp}
            ref = outputs_and_gradients(x, b, "ref", **options)
            # float64: exact but for torch's softplus, which drops exp(-x) above 20
            agree(outputs_and_gradients(x, b, "cpu", **options), ref, 1e-8)
            x, b = x.float(), None if b is None else b.float()
            ref = outputs_and_gradients(x, b, "ref", **options)
            # float32: own exponential, 2 ulp, times slopes of order 1; worst seen 2e-6
            agree(outputs_and_gradients(x, b, "cpu", **options), ref, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("act", ACTS)
def test_half_precision_is_rounded_once(act: str, dtype: torch.dtype) -> None:
    """The kernel computes in float32: closer to the truth than torch's chain of rounded steps."""
    x, b = torch.randn(3, 5, 130).to(dtype), torch.randn(5).to(dtype)
    got = bias_act(x, b, act=act, impl="cpu")
    want = bias_act(x.double(), b.double(), act=act, impl="ref")
    ulp = torch.finfo(dtype).eps
    # half an ulp for the store; another half for float32 before it, which never reaches that far
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=ulp)
    assert got.dtype == dtype
    grads = outputs_and_gradients(x, b, "cpu", act=act)
    truth = outputs_and_gradients(x.double(), b.double(), "ref", act=act)
    # dy is rounded to the type, and db sums 390 rounded numbers: a few ulp of the largest
    for name in ("dx", "db"):
        scale = float(truth[name].abs().max())
        error = float((grads[name].double() - truth[name]).abs().max())
        assert error <= 4 * ulp * scale


def test_layouts() -> None:
    base = torch.randn(2, 6, 5, 7)
    b = torch.randn(6)
    want = outputs_and_gradients(base, b, "ref", act="swish")
    layouts = {
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "transposed": base.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": torch.randn(2, 6, 5, 14)[..., ::2].copy_(base),
        "expanded": base[:, :, :1].expand(2, 6, 5, 7),
    }
    for name, x in layouts.items():
        if name == "expanded":
            want = outputs_and_gradients(x.contiguous(), b, "ref", act="swish")
        y = bias_act(x.detach().requires_grad_(), b, act="swish", impl="cpu")
        torch.testing.assert_close(y, want["y"], atol=1e-5, rtol=0)  # float32, as above
        # a cotangent in another layout than the value's
        (dx,) = torch.autograd.grad(
            bias_act(z := x.detach().requires_grad_(), b, act="swish", impl="cpu"),
            z,
            torch.ones(2, 6, 7, 5).transpose(2, 3),
        )
        ref = x.detach().clone().requires_grad_()
        (dx_ref,) = torch.autograd.grad(bias_act(ref, b, act="swish", impl="ref").sum(), ref)
        torch.testing.assert_close(dx, dx_ref, atol=1e-5, rtol=0)
    y = bias_act(layouts["channels_last"], b, impl="cpu")
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("act", ACTS)
def test_nan_and_extremes_come_through(act: str) -> None:
    x = torch.tensor([math.nan, 300.0, -300.0, 1e-30, 88.0])
    got = bias_act(x, act=act, clamp=50.0, impl="cpu")
    want = bias_act(x, act=act, clamp=50.0, impl="ref")
    assert torch.isnan(got[0])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6, equal_nan=True)  # float32


def test_bias_of_another_type_is_cast_and_gets_its_gradient() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.bfloat16)
    b = torch.randn(3, requires_grad=True)
    y = bias_act(x, b, act="lrelu", impl="cpu")
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert b.grad is not None and b.grad.dtype == torch.float32


@pytest.mark.parametrize("size", [1, 3, 24, 500, 513])
def test_biases_in_the_order_of_memory(size: int) -> None:
    """Short sequences are repeated to fill a block; a second thread begins amid one."""
    x = torch.randn(40_000 // size | 1, size)  # an odd number of rows, cut into halves
    b = torch.randn(size, requires_grad=True)
    threads = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        try:
            got, want = (bias_act(x, b, act="relu", gain=1.0, impl=impl) for impl in ("cpu", "ref"))
            grads = [torch.autograd.grad(y, b, x)[0] for y in (got, want)]
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(got, want) and torch.equal(*grads)


def check_overwriting(impl: Any) -> None:
    """The result of overwrite=True is that of a new tensor, bit for bit, in x's memory where that is allowed."""
    b = torch.randn(24)
    image = torch.randn(2, 24, 9, 40)
    for x in (image, image.contiguous(memory_format=torch.channels_last), image.bfloat16()):
        want = bias_act(x, b, act="lrelu", clamp=0.9, impl=impl)
        again = x.clone(memory_format=torch.preserve_format)
        got = bias_act(again, b, act="lrelu", clamp=0.9, impl=impl, overwrite=True)
        assert torch.equal(got, want) and got.data_ptr() == again.data_ptr()
    before = image.clone()
    crop = image[:, :, 1:, :-1]  # not dense: there is more in its memory than it shows
    got = bias_act(crop, b, act="relu", impl=impl, overwrite=True)
    assert torch.equal(got, bias_act(crop, b, act="relu", impl=impl))
    for learned in (image.clone().requires_grad_(), b.clone().requires_grad_()):
        x, bias = (learned, b) if learned.ndim == 4 else (image, learned)
        got = bias_act(x, bias, act="relu", impl=impl, overwrite=True)
        assert got.requires_grad and got.data_ptr() != x.data_ptr()
        with torch.no_grad():
            again = x.clone()
            assert bias_act(again, bias, act="relu", impl=impl, overwrite=True) is again
    assert torch.equal(image, before)


def test_overwriting() -> None:
    check_overwriting("cpu")


# torch's own dual numbers compile with torch.jit.script
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_overwriting_is_no_secret() -> None:
    """Autograd refuses a gradient that needs the old x, as it does behind torch.relu_."""

    def overwrite(x: Tensor, b: Tensor | None = None) -> Tensor:
        return bias_act(x, b, act="relu", gain=3.0, impl="cpu", overwrite=True)

    w = torch.ones(600, requires_grad=True)
    x = torch.randn(1000, 600)
    product = (x * w).sum()
    b = x[0].clone()
    want = bias_act(x, b, act="relu", gain=3.0, impl="ref")
    assert torch.equal(overwrite(x, x[0]), want)  # b is a part of x
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with torch.inference_mode():
        inferred = torch.randn(5)
        assert overwrite(inferred) is inferred
    with pytest.raises(RuntimeError, match="nference"):
        overwrite(inferred)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward"):
        overwrite(forward_ad.make_dual(x, x))


def test_third_derivative_names_the_way_out() -> None:
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    y = bias_act(x, dim=0, act="tanh", impl="cpu")
    (d1,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (d2,) = torch.autograd.grad(d1.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="impl='ref'"):
        torch.autograd.grad(d2.sum(), x)


def test_auto_takes_the_faster() -> None:
    def choice(x: Tensor, b: Tensor | None, act: str) -> str | None:
        spec: BiasActSpec = _resolve(x, b, 1, act, None, None, None)
        return _choose(x, spec, "auto")

    image = torch.zeros(1, 8, 4, 4)
    assert choice(image, torch.zeros(8), "lrelu") == "cpu"
    assert choice(image, torch.zeros(8), "softplus") is None
    last = image.contiguous(memory_format=torch.channels_last)
    assert choice(last, torch.zeros(8), "lrelu") == "cpu"
    assert choice(image.int().float().to(torch.complex64).real, None, "lrelu") == "cpu"
    assert choice(torch.zeros(2, 3, device="meta"), None, "lrelu") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"act": "gelu"}, "act='gelu' is unknown"),
        ({"impl": "gpu"}, "impl='gpu' is unknown"),
        ({"clamp": -1.0}, "clamp must be"),
        ({"b": torch.zeros(4)}, "b must have shape"),
        ({"b": torch.zeros(3), "dim": 5}, "dim=5 does not exist"),
        ({"impl": "cuda"}, "x is on cpu"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias_act(torch.zeros(2, 3), **arguments)
    with pytest.raises(TypeError, match="floating point"):
        bias_act(torch.zeros(2, dtype=torch.int64))
