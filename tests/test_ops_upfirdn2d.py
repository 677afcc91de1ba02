"""upfirdn2d and its helpers: hand-worked numbers, finite differences, kernels against reference."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from torch_utils.ops import (
    downsample2d,
    filter2d,
    library,
    setup_filter,
    upfirdn2d,
    upsample2d,
)

IMPLS = ["ref", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def _cpu_library() -> None:
    if not library.use_library("cpu", explicit=True):
        pytest.skip(f"no CPU operators: {library.load('cpu').cause}")


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("impl", IMPLS)
def test_values_worked_by_hand(impl: Any) -> None:
    x = row(1, 2, 3)
    f = torch.tensor([[1.0, 10.0, 100.0]])
    # Full convolution of 1 2 3 with 1 10 100, and correlation.
    y = upfirdn2d(x, f, padding=(2, 2, 0, 0), impl=impl)
    assert y.flatten().tolist() == [1, 12, 123, 230, 300]
    y = upfirdn2d(x, f, padding=(2, 2, 0, 0), flip_filter=True, impl=impl)
    assert y.flatten().tolist() == [100, 210, 321, 32, 3]
    # 1 0 2 0 3 0, convolved, every second from the first.
    y = upfirdn2d(x, f, up=(2, 1), down=(2, 1), padding=(2, 0, 0, 0), gain=2.0, impl=impl)
    assert y.flatten().tolist() == [2, 204, 406]
    # Cropping by negative padding.
    assert upfirdn2d(x, None, padding=(-1, 0, 0, 0), impl=impl).flatten().tolist() == [2, 3]
    # A separable filter acts along both axes; the gain counts once.
    y = upfirdn2d(row(1), torch.tensor([1.0, 2.0]), padding=1, gain=3.0, impl=impl)
    assert y[0, 0].tolist() == [[3, 6], [6, 12]]


def test_setup_filter() -> None:
    f = setup_filter((1, 3, 3, 1))
    assert f.tolist() == [0.125, 0.375, 0.375, 0.125] and f.dtype == torch.float32
    assert float(setup_filter((1, 3, 3, 1), gain=4.0, separable=False).sum()) == 4.0
    assert float(setup_filter((1, 3, 3, 1), gain=4.0).sum()) == 2.0  # once along each axis
    assert setup_filter([[1, 2], [3, 4]], normalize=False, flip_filter=True).tolist() == [
        [4, 3],
        [2, 1],
    ]
    assert setup_filter(None).tolist() == [1.0]
    for bad, message in (([], "non-empty"), ([1, -1], "sum to zero"), ([[[1]]], "non-empty")):
        with pytest.raises(ValueError, match=message):
            setup_filter(bad)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("taps", [None, (1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1), [[1, 2]]])
def test_sizes_and_level(impl: Any, taps: Any) -> None:
    """Exactly doubled, halved and kept; a constant stays constant away from the border."""
    f = None if taps is None else setup_filter(taps)
    for height, width in ((16, 24), (17, 13)):
        x = torch.full((1, 2, height, width), 3.0)
        up, down = upsample2d(x, f, impl=impl), downsample2d(x, f, impl=impl)
        assert up.shape == (1, 2, 2 * height, 2 * width)
        assert down.shape == (1, 2, height // 2, width // 2)
        assert filter2d(x, f, impl=impl).shape == x.shape
        assert downsample2d(x, f, down=3, impl=impl).shape == (1, 2, height // 3, width // 3)
        assert upsample2d(x, f, up=(3, 1), impl=impl).shape == (1, 2, height, 3 * width)
        assert upsample2d(x, f, padding=1, impl=impl).shape == (1, 2, 2 * height + 2, 2 * width + 2)
        if taps is not None and len(taps) > 1 and taps != (1, 2, 1) and taps != (1, 4, 6, 4, 1):
            torch.testing.assert_close(
                up[..., 8:-8, 8:-8], torch.full_like(up, 3.0)[..., 8:-8, 8:-8]
            )
        torch.testing.assert_close(
            down[..., 3:-3, 3:-3], torch.full_like(down, 3.0)[..., 3:-3, 3:-3]
        )


@pytest.mark.parametrize("impl", IMPLS)
def test_resampling_does_not_shift(impl: Any) -> None:
    """Up then down keeps the centre of mass of a blob; each alone maps pixel centres correctly."""
    f = setup_filter((1, 3, 3, 1))
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 5, 9] = 1.0

    def centre(image: Tensor) -> tuple[float, float]:
        """Centre of mass (y, x) as a fraction of the image's size."""
        image = image[0, 0] / image.sum()
        ys = (torch.arange(image.shape[0]) + 0.5) / image.shape[0]
        xs = (torch.arange(image.shape[1]) + 0.5) / image.shape[1]
        return float(image.sum(1) @ ys), float(image.sum(0) @ xs)

    want = centre(x)
    up = upsample2d(x, f, impl=impl)
    assert centre(up) == pytest.approx(want, abs=1e-6)  # float32 sums of 16 numbers
    assert centre(downsample2d(up, f, impl=impl)) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("f", "options"),
    [
        (torch.tensor([1.0, 3.0, 3.0, 1.0]), {"up": 2, "padding": (2, 1, 2, 1)}),
        (torch.tensor([1.0, 3.0, 3.0, 1.0]), {"down": 2, "padding": 1}),
        (torch.tensor([[1.0, -2.0, 0.5], [0.3, 4.0, 1.0]]), {"up": 3, "down": 2, "padding": 2}),
        (None, {"up": (2, 1), "padding": (-1, 2, 0, 1)}),
    ],
)
def test_gradients_by_finite_differences(impl: Any, f: Tensor | None, options: Any) -> None:
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)

    def op(x: Tensor) -> Tensor:
        return upfirdn2d(x, f, gain=1.3, impl=impl, **options)

    assert torch.autograd.gradcheck(op, x)
    assert torch.autograd.gradgradcheck(op, x)
    # linear in x, so second derivatives are zero; a square makes them worth checking
    assert torch.autograd.gradgradcheck(lambda x: op(x) ** 2, x)


def random_case(rng: random.Random) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    x = torch.randn(rng.randint(1, 2), rng.choice([1, 2, 5]), rng.randint(1, 9), rng.randint(1, 11))
    f = rng.choice(
        [
            None,
            torch.randn(rng.randint(1, 12)),
            torch.randn(rng.randint(1, 5), rng.randint(1, 5)),
        ]
    )
    options = {
        "up": (rng.randint(1, 3), rng.randint(1, 3)),
        "down": (rng.randint(1, 4), rng.randint(1, 3)),
        "padding": [rng.randint(-1, 7) for _ in range(4)],
        "flip_filter": rng.random() < 0.5,
        "gain": 1.7,
    }
    if rng.random() < 0.4:
        x = x.contiguous(memory_format=torch.channels_last)
    return x.double(), f, options


def value_and_gradient(x: Tensor, f: Tensor | None, impl: Any, options: Any) -> list[Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = upfirdn2d(x, f, impl=impl, **options)
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    (dx,) = torch.autograd.grad(y, x, g)
    return [y.detach(), dx]


def test_kernel_equals_reference_for_random_arguments() -> None:
    rng = random.Random(0)
    done = 0
    for _ in range(250):
        x, f, options = random_case(rng)
        try:
            want = value_and_gradient(x, f, "ref", options)
        except ValueError as error:  # the filter is larger than the padded image
            assert "pad more" in str(error)
            continue
        got = value_and_gradient(x, f, "cpu", options)
        for a, b in zip(got, want, strict=True):
            # float64 sums of at most 144 products; worst seen 2e-14
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
        got = value_and_gradient(x.float(), f, "cpu", options)
        for a, b in zip(got, want, strict=True):
            # float32 sums of at most 144 products of size 10
            torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-5)
        done += 1
    assert done > 150


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("separable", [True, False])
def test_half_precision_is_rounded_once(dtype: torch.dtype, separable: bool) -> None:
    f = setup_filter((1, 3, 3, 1), separable=separable)
    x = torch.randn(2, 3, 9, 17).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = upsample2d(x.contiguous(memory_format=layout), f, impl="cpu")
        want = upsample2d(x.double(), f, impl="ref")
        assert y.dtype == dtype
        # half an ulp for the store, summed in float32 before
        torch.testing.assert_close(y.double(), want, atol=1e-6, rtol=torch.finfo(dtype).eps)


def test_layouts_and_empty_images() -> None:
    f = setup_filter((1, 3, 3, 1))
    base = torch.randn(2, 6, 5, 7)
    want = upsample2d(base, f, impl="ref")
    last = upsample2d(base.contiguous(memory_format=torch.channels_last), f, impl="cpu")
    assert last.is_contiguous(memory_format=torch.channels_last)
    strided = torch.randn(2, 6, 5, 14)[..., ::2].copy_(base)
    flipped = base.flip(1).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2).flip(1)
    for y in (last, upsample2d(strided, f, impl="cpu"), upsample2d(flipped, f, impl="cpu")):
        torch.testing.assert_close(y, want, atol=1e-5, rtol=0)  # float32 sums of 4 products
    for shape in ((0, 3, 4, 4), (2, 0, 4, 4)):
        x = torch.zeros(shape, requires_grad=True)
        for impl in IMPLS:
            y = upsample2d(x, f, impl=impl)  # type: ignore[arg-type]
            assert y.shape == (shape[0], shape[1], 8, 8)
            y.sum().backward()
    for impl in IMPLS:
        y = upfirdn2d(torch.zeros(1, 1, 0, 3), f, padding=4, impl=impl)  # type: ignore[arg-type]
        assert y.shape == (1, 1, 5, 8) and not y.any()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, f = torch.randn(2, 5, 67, 129), setup_filter((1, 3, 3, 1))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(upsample2d(x, f, impl="cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_a_learned_filter_gets_its_gradient_through_the_reference() -> None:
    f = torch.rand(3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: filter2d(x, f), f)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3, 4, 4)}, r"\[N, C, H, W\]"),
        ({"x": torch.zeros(1, 1, 4, 4, dtype=torch.int32)}, "floating point"),
        ({"f": torch.zeros(0)}, "non-empty"),
        ({"up": 0}, "up must be >= 1"),
        ({"down": (1, 0)}, "down must be >= 1"),
        ({"padding": (1, 2, 3)}, "padding must be"),
        ({"padding": -2}, "pad more"),
        ({"impl": "gpu"}, "impl='gpu' is unknown"),
        ({"impl": "cuda"}, "x is on cpu"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upfirdn2d(**{"x": torch.zeros(1, 1, 4, 4), "f": torch.ones(3), **arguments})
