"""The fused tri-plane renderer on the CPU: against the plain torch renderer in float64, and its promises."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triplane_support import CASES, Case, assert_agrees, spec

from torch_utils.ops import library
from torch_utils.ops.triplane_render import RaySpec, channels_last, triplane_render
from training.config import RenderConfig
from training.rendering.cameras import camera_label
from training.rendering.fused import trace
from training.rendering.rays import ray_bundle
from training.rendering.triplane import TriplaneDecoder, sample_triplane
from training.rendering.volume import render_rays


@pytest.fixture(scope="module", autouse=True)
def _cpu_library() -> None:
    if not library.use_library("cpu", explicit=True):
        pytest.skip(f"no CPU operators: {library.load('cpu').cause}")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_in_float64(name: str) -> None:
    assert_agrees(CASES[name]())


def test_gradients_by_finite_differences() -> None:
    """The reference's own backward pass, without importance sampling, which carries no gradient."""
    case = Case(2, 4, 2, 4, 2, spec(6, 0))
    leaves = case.leaves(torch.float64)

    def render(planes: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        def field(x: Tensor) -> tuple[Tensor, Tensor]:
            y = F.linear(F.softplus(F.linear(sample_triplane(planes, x), w1, b1)), w2, b2)
            return torch.sigmoid(y[..., 1:]) * 1.002 - 0.001, F.softplus(y[..., :1] - 1)

        rays = case.origins.double(), case.directions.double()
        return torch.cat(render_rays(field, *rays, 2.25, 3.3, 6), dim=-1)

    assert torch.autograd.gradcheck(render, tuple(leaves))


def test_same_bits_every_time_and_for_any_number_of_threads() -> None:
    case = Case(32, 64, 32, 32, 24, spec(24, 24), 2, True)
    first = case.fused()
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for a, b in zip(case.fused(), first, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


def test_layout_of_the_planes_changes_nothing() -> None:
    case = Case(16, 16, 4, 8, 6, spec(8, 8))
    plain = case.fused()
    case.planes = channels_last(case.planes)
    assert case.planes.stride(2) == 1
    for a, b in zip(case.fused(), plain, strict=True):
        assert torch.equal(a, b)


def test_one_triplane_for_many_cameras() -> None:
    case = Case(16, 16, 4, 8, 6, spec(8, 8), n=3)
    one = case.planes[:1].clone().requires_grad_()
    decoder: Any = tuple(case.weights)
    rays = case.origins, case.directions, case.spec
    shared = triplane_render(one.expand(3, -1, -1, -1, -1), decoder, *rays)
    (grad,) = torch.autograd.grad(shared[0].sum(), one)
    copies = case.planes[:1].repeat(3, 1, 1, 1, 1).requires_grad_()
    repeated = triplane_render(copies, decoder, *rays)
    (grads,) = torch.autograd.grad(repeated[0].sum(), copies)
    assert torch.equal(shared[0], repeated[0])
    # float32 sums of a few hundred samples in another order
    torch.testing.assert_close(grad, grads.sum(dim=0, keepdim=True), atol=1e-4, rtol=1e-5)


def test_skipping_faint_colours_is_bounded_by_their_weight() -> None:
    case = Case(32, 64, 32, 32, 12, spec(24, 24), density=30.0)
    decoder: Any = tuple(case.weights)
    full = triplane_render(case.planes, decoder, case.origins, case.directions, case.spec)
    limit = 1e-3
    lazy_spec = dataclasses.replace(case.spec, min_weight=limit)
    lazy = triplane_render(case.planes, decoder, case.origins, case.directions, lazy_spec)
    assert torch.equal(full[1], lazy[1]) and torch.equal(full[2], lazy[2])
    lost = (full[0] - lazy[0]).abs().max()
    assert 0 < lost <= 48 * limit  # 48 samples of a colour of at most 1


def test_nan_in_the_planes_shows() -> None:
    case = Case(16, 16, 4, 8, 6, spec(8, 0))
    case.planes[:, :, 3] = torch.nan
    assert all(bool(t.isnan().any()) for t in case.fused()[:3])


def test_second_gradients_are_refused_by_name() -> None:
    case = Case(4, 4, 2, 4, 2, spec(4, 0))
    leaves = case.leaves(torch.float32)
    decoder: Any = tuple(leaves[1:])
    out = triplane_render(leaves[0], decoder, case.origins, case.directions, case.spec)
    with pytest.raises(NotImplementedError, match="render.impl=ref"):
        torch.autograd.grad(out[0].sum(), leaves[0], create_graph=True)


def test_arguments_that_do_not_fit() -> None:
    case = Case(4, 4, 2, 4, 2, spec(4, 0))
    decoder: Any = tuple(case.weights)
    rays = case.origins, case.directions
    with pytest.raises(ValueError, match=r"expected \[N, 3, C, P, P\]"):
        triplane_render(case.planes[:, :2], decoder, *rays, case.spec)
    with pytest.raises(ValueError, match="do not fit 3 plane channels"):
        triplane_render(case.planes[:, :, :3], decoder, *rays, case.spec)
    with pytest.raises(ValueError, match="float32"):
        triplane_render(case.planes.double(), decoder, *rays, case.spec)
    with pytest.raises(ValueError, match="at least 2"):
        triplane_render(case.planes, decoder, *rays, spec(1, 0))
    with pytest.raises(ValueError, match="do not fit rays of 1 images"):
        triplane_render(case.planes.repeat(2, 1, 1, 1, 1), decoder, *rays, case.spec)


# ---- which of the two renders -------------------------------------------------------------------


def scene() -> tuple[Tensor, TriplaneDecoder, Tensor, Tensor]:
    origins, directions = ray_bundle(torch.from_numpy(camera_label(0.2, 0.1))[None], 6)
    return torch.randn(1, 3, 8, 16, 16), TriplaneDecoder(8, 16, 8, motion=True), origins, directions


def config(**changes: Any) -> RenderConfig:
    return RenderConfig(samples_coarse=8, samples_fine=8, hidden=16, **changes)


def calls_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> list[RaySpec]:
    specs: list[RaySpec] = []

    def counted(*arguments: Any) -> Any:
        specs.append(arguments[4])
        return triplane_render(*arguments)

    monkeypatch.setattr("training.rendering.fused.triplane_render", counted)
    return specs


@torch.no_grad()
def test_auto_takes_the_operator_and_ref_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_the_operator(monkeypatch)
    arguments = scene()
    fast = trace(*arguments, config())
    assert len(calls) == 1
    plain = trace(*arguments, config(impl="ref"))
    chunks = trace(*arguments, config(impl="ref", ray_chunk=5))
    assert len(calls) == 1
    for a, b, c in zip(fast, plain, chunks, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # float32, 16 samples
        torch.testing.assert_close(b, c, atol=1e-6, rtol=1e-6)  # matrix products of other sizes
    with pytest.raises(ValueError, match="render.impl=cuda"):
        trace(*arguments, config(impl="cuda"))


def test_what_the_operator_cannot_do_goes_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_the_operator(monkeypatch)
    planes, decoder, origins, directions = scene()
    origins = origins.clone().requires_grad_()
    trace(planes, decoder, origins, directions, config()).depth.sum().backward()
    assert origins.grad is not None and origins.grad.abs().sum() > 0 and not calls
    monkeypatch.setattr(library, "use_library", lambda kind, explicit=False: False)
    trace(planes, decoder, origins.detach(), directions, config())
    assert not calls


def test_quality_fast_is_for_looking_not_for_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_the_operator(monkeypatch)
    trace(*scene(), config(quality="fast"))
    with torch.no_grad():
        trace(*scene(), config(quality="fast"))
    assert calls[0].min_weight == 0 and calls[1].min_weight > 0
