"""The fused tri-plane renderer on the CPU: against the plain torch renderer in float64, and its promises."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triplane_support import CASES, Case, assert_agrees, lazy_and_full, spec

from conventions.cameras import camera_label
from dnnlib.config import load_config
from torch_utils.ops import library
from torch_utils.ops.triplane_render import RaySpec, channels_last, triplane_render
from training.config import Config, RenderConfig
from training.generator.model import Export3D
from training.generator.model import Volume as TriPlanes
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

    def render(
        planes: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *rays: Tensor
    ) -> Tensor:
        def field(x: Tensor) -> tuple[Tensor, Tensor]:
            y = F.linear(F.softplus(F.linear(sample_triplane(planes, x), w1, b1)), w2, b2)
            return torch.sigmoid(y[..., 1:]) * 1.002 - 0.001, F.softplus(y[..., :1] - 1)

        return torch.cat(render_rays(field, *rays, 2.25, 3.3, 6), dim=-1)

    assert torch.autograd.gradcheck(render, tuple(leaves))


def test_a_scene_that_only_changes_sideways_moves_no_ray_up_or_down() -> None:
    case = Case(16, 16, 4, 16, 8, spec(8, 8))
    case.planes[:, 0] = case.planes[:, 0, :, :1]  # XY: all rows alike
    case.planes[:, 1] = case.planes[:, 1, :, :1]  # YZ, whose rows run along y, too
    origins, directions = case.fused()[-2:]
    for grad in (origins, directions):
        assert (grad[..., 1] == 0).all() and (grad[..., ::2] != 0).all()


def test_same_bits_every_time_and_for_any_number_of_threads() -> None:
    case = Case(32, 64, 32, 32, 24, spec(24, 24), 2, True)
    first, lazy = case.fused(), lazy_and_full(case, 1e-3)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for a, b in zip(case.fused(), first, strict=True):
                assert torch.equal(a, b)
            for (_, a), (_, b) in zip(lazy_and_full(case, 1e-3), lazy, strict=True):
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


class LargestArray(TorchDispatchMode):
    """Bytes of the largest array that an operation returns while this is entered."""

    seen = 0

    def __torch_dispatch__(self, run: Any, _: Any, inputs: Any = (), named: Any = None) -> Any:
        out = run(*inputs, **(named or {}))
        arrays = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.seen = max([self.seen, *(t.untyped_storage().nbytes() for t in arrays)])
        return out


def test_gradients_of_many_views_are_as_large_as_one_triplane() -> None:
    """The network's render: no copy of the planes, nor of their gradient, for each camera."""
    model = Export3D(load_config(Config, "tiny").model, 4).requires_grad_(False)
    cameras = torch.stack([torch.from_numpy(camera_label(0.1 * i, 0.1)) for i in range(8)])
    planes = torch.randn(1, 3, model.config.generator.plane_channels, 128, 128)
    grads = []
    for impl in ("auto", "ref"):
        model.config = dataclasses.replace(
            model.config,
            render=dataclasses.replace(model.config.render, impl=impl),  # type: ignore[arg-type]
        )
        leaf = planes.clone().requires_grad_()
        with LargestArray() as largest:
            out = model.render(TriPlanes(leaf), cameras)
            grads += torch.autograd.grad(out.raw.square().sum() + out.depth.sum(), leaf)
        if impl == "auto":
            padded = 16 / planes.shape[2] if planes.shape[2] < 16 else 1.0
            assert largest.seen <= planes.nbytes * padded
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)  # float32 sums over 8 x 64 rays


@pytest.mark.parametrize(("images", "rays"), [(1, 0), (0, 4)])
def test_nothing_to_render(images: int, rays: int) -> None:
    _, decoder, *_ = scene()
    nothing = torch.zeros(images, rays, 3)
    for impl in ("auto", "ref"):
        planes = torch.randn(1, 3, 8, 4, 4, requires_grad=True)
        out = trace(planes, decoder, nothing, nothing, config(impl=impl))
        assert [t.shape for t in out] == [(images, rays, 11), (images, rays, 1), (images, rays, 1)]
        (grad,) = torch.autograd.grad(out.features.sum(), planes)
        assert not grad.any()


@pytest.mark.parametrize(
    "name", ["the paper's numbers, noise", "a wall", "two images, noise, odd sizes"]
)
def test_what_is_left_out_hardly_shows(name: str) -> None:
    limit = 1e-3
    for (full, lazy), bound in zip(
        lazy_and_full(CASES[name](), limit),
        # light behind what ends a ray: limit. Faint samples: a tenth of the weight has another colour at most,
        # and colours differ by less than 1. A wall's edge between two coarse samples moves by a part of their
        # distance, 1.05 / 24 (worst seen 0.01).
        (0.1, 0.02, 0.02),
        strict=True,
    ):
        assert (full - lazy).abs().max() < bound
        assert (full - lazy).abs().mean() < limit


def test_fog_keeps_all_its_colours() -> None:
    """Every sample is faint, and all of them together are the picture."""
    limit = 0.03
    pairs = lazy_and_full(Case(16, 16, 4, 16, 8, spec(24, 0)), limit)
    for full, lazy in pairs:
        torch.testing.assert_close(full, lazy, atol=limit, rtol=0)  # what light is left at the end
    assert pairs[0][0].max() > 5 * limit


def test_gradients_leave_nothing_out() -> None:
    case = Case(16, 16, 4, 16, 8, spec(24, 24), density=20.0)
    full = case.fused()
    case.spec = dataclasses.replace(case.spec, min_weight=1e-2)
    lazy = case.fused()
    assert not torch.equal(full[0], lazy[0])
    assert all(torch.equal(a, b) for a, b in zip(full[3:], lazy[3:], strict=True))


def test_nan_in_the_planes_shows() -> None:
    case = Case(16, 16, 4, 8, 6, spec(8, 0))
    case.planes[:, :, 3] = torch.nan
    assert all(bool(t.isnan().any()) for t in case.fused()[:3])


def test_second_gradients_are_refused_by_name() -> None:
    case = Case(4, 4, 2, 4, 2, spec(4, 0))
    leaves = case.leaves(torch.float32)
    decoder: Any = tuple(leaves[1:5])
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
    good, fine = torch.rand(1, 4, 4), spec(4, 3)
    for noise in (good.double(), torch.rand(1, 4, 5), torch.rand(4, 4)):
        with pytest.raises(ValueError, match=r"noise is .* expected float32 \(1, 4, 4\)"):
            triplane_render(case.planes, decoder, *rays, case.spec, (noise, None))
    with pytest.raises(ValueError, match=r"expected float32 \(1, 4, 3\)"):
        triplane_render(case.planes, decoder, *rays, fine, (good, good))
    triplane_render(case.planes, decoder, *rays, case.spec, (good, good))  # no fine samples


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [5, 16, 32, 48])
@torch.no_grad()
def test_planes_of_half_the_bytes(dtype: torch.dtype, channels: int) -> None:
    """The same as their numbers in float32, to the bit: only the reading differs."""
    case = Case(channels, 16, 4, 9, 6, spec(8, 8), n=2)
    decoder: Any = tuple(case.weights)
    rays = case.origins, case.directions, case.spec
    planes = case.planes.to(dtype)
    planes[:, :, 0, 4, 4] = 6e-8  # subnormal in float16
    half = triplane_render(planes, decoder, *rays)
    for a, b in zip(half, triplane_render(planes.float(), decoder, *rays), strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


def test_planes_of_half_the_bytes_are_for_looking_only(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(4, 4, 2, 4, 2, spec(4, 0))
    decoder: Any = tuple(case.weights)
    leaf = case.planes.half().requires_grad_()
    with pytest.raises(ValueError, match="take float32"):
        triplane_render(leaf, decoder, case.origins, case.directions, case.spec)
    calls = calls_of_the_operator(monkeypatch)
    planes, *rest = scene()
    with torch.no_grad():
        trace(planes.half(), *rest, config())
    assert len(calls) == 1
    trace(planes.half(), *rest, config()).depth.sum().backward()  # the decoder learns
    assert len(calls) == 1


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


def test_the_camera_learns_through_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_the_operator(monkeypatch)
    planes, decoder, *_ = scene()
    label = torch.from_numpy(camera_label(0.2, 0.1))[None]
    grads = []
    for impl in ("auto", "ref"):
        leaf = label.clone().requires_grad_()
        out = trace(planes, decoder, *ray_bundle(leaf, 6), config(impl=impl))
        grads += torch.autograd.grad((out.features.sum() + out.depth.sum()), leaf)
    assert len(calls) == 1 and grads[1].abs().max() > 1
    torch.testing.assert_close(*grads, atol=1e-3, rtol=1e-4)  # float32 sums over 36 rays


def test_without_a_library_the_reference_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_the_operator(monkeypatch)
    monkeypatch.setattr(library, "use_library", lambda kind, explicit=False: False)
    trace(*scene(), config())
    assert not calls


@pytest.mark.parametrize(("quality", "samples"), [("fast", (8, 8)), ("draft", (4, 4))])
def test_quality_is_for_looking_not_for_learning(
    monkeypatch: pytest.MonkeyPatch, quality: str, samples: tuple[int, int]
) -> None:
    calls = calls_of_the_operator(monkeypatch)
    trace(*scene(), config(quality=quality))
    with torch.no_grad():
        trace(*scene(), config(quality=quality))
        noise = torch.rand(1, 36, 8), torch.rand(1, 36, 8)
        trace(*scene(), config(quality=quality), noise)  # one number for each sample that was named
    assert [s.min_weight > 0 for s in calls] == [False, True, True]
    assert [(s.samples_coarse, s.samples_fine) for s in calls] == [(8, 8), samples, (8, 8)]


@torch.no_grad()
def test_draft_of_the_reference_takes_half_the_samples() -> None:
    arguments = scene()
    draft = trace(*arguments, config(quality="draft", impl="ref"))
    few = RenderConfig(samples_coarse=4, samples_fine=4, hidden=16, impl="ref")
    for a, b in zip(draft, trace(*arguments, few), strict=True):
        assert torch.equal(a, b)
