"""The volume renderer against closed forms, hand-worked numbers and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conventions.cameras import CAMERA_RADIUS, FOCAL_NORMALISED, camera_label, project_points
from training.rendering.rays import ray_bundle
from training.rendering.triplane import TriplaneDecoder, plane_coordinates, sample_triplane
from training.rendering.volume import composite, importance_depths, render_rays, stratified_depths

NEAR, FAR = 2.25, 3.3


def frontal() -> torch.Tensor:
    return torch.from_numpy(camera_label(0.0, 0.0))[None]


def test_rays_pass_through_pixel_centres() -> None:
    label = torch.from_numpy(camera_label(0.4, -0.2, 0.1))[None]
    origins, directions = ray_bundle(label, 8)
    points = origins + 2.5 * directions
    seen = project_points(points[0], label[0])
    column, row = torch.arange(64) % 8, torch.arange(64) // 8
    expected = torch.stack([column + 0.5, row + 0.5], dim=1) / 8
    torch.testing.assert_close(
        seen, expected, atol=2e-6, rtol=0
    )  # fp32 of a projection at distance 2.7
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1, 64))


def test_ray_of_the_first_pixel_by_hand() -> None:
    origins, directions = ray_bundle(frontal(), 2)
    slope = (
        0.25 / FOCAL_NORMALISED
    )  # pixel centre (1/4, 1/4), half an image from the principal point at 1/2
    # the frontal camera looks down at the pivot's height 0, at pivot z 0.2: straight along -z
    expected = torch.tensor([-slope, slope, -1.0]) / math.sqrt(1 + 2 * slope**2)
    torch.testing.assert_close(origins[0, 0], torch.tensor([0.0, 0.0, CAMERA_RADIUS]))
    torch.testing.assert_close(directions[0, 0], expected)


def test_plane_axes_by_hand() -> None:
    point = torch.tensor([[[0.1, 0.2, 0.3]]])
    xy, yz, zx = plane_coordinates(point, box_side=1.0)[0, :, 0]
    torch.testing.assert_close(xy, torch.tensor([0.2, -0.4]))  # (x, -y) * 2
    torch.testing.assert_close(yz, torch.tensor([0.6, -0.4]))  # (z, -y) * 2
    torch.testing.assert_close(zx, torch.tensor([0.2, -0.6]))  # (x, -z) * 2


def test_true_planes_tell_y_from_z_and_the_legacy_layout_does_not() -> None:
    points = torch.tensor([[[0.1, 0.2, 0.3], [0.1, -0.2, 0.3]]])  # differ in y only
    planes = torch.zeros(1, 3, 2, 16, 16)
    planes[:, 1:] = torch.randn(1, 2, 2, 16, 16)  # nothing on the XY plane
    true = sample_triplane(planes, points)
    legacy = sample_triplane(planes, points, axes="eg3d_legacy")
    assert (true[0, 0] - true[0, 1]).abs().max() > 1e-3
    assert torch.equal(legacy[0, 0], legacy[0, 1])


def test_triplane_is_the_mean_of_bilinear_samples() -> None:
    planes = torch.zeros(1, 3, 1, 4, 4)
    planes[0, 0, 0, 0, 3] = 12.0  # XY plane: top right texel, centre at x = y = 3/8
    planes[0, 1, 0] = 3.0
    at_centre = sample_triplane(planes, torch.tensor([[[0.375, 0.375, 0.0]]]))
    torch.testing.assert_close(at_centre, torch.tensor([[[5.0]]]))  # (12 + 3 + 0) / 3
    half_way = sample_triplane(planes, torch.tensor([[[0.25, 0.375, 0.0]]]))
    torch.testing.assert_close(half_way, torch.tensor([[[3.0]]]))  # (6 + 3 + 0) / 3
    outside = sample_triplane(planes, torch.tensor([[[0.9, 0.0, 0.9]]]))
    assert outside.item() == 0.0


def test_triplane_gradients() -> None:
    planes = torch.randn(1, 3, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    # away from texel borders, where the bilinear weight has a kink
    points = torch.tensor([[[0.13, -0.22, 0.31], [-0.37, 0.07, -0.18]]], dtype=torch.float64)
    points.requires_grad_()
    assert torch.autograd.gradcheck(sample_triplane, (planes, points))


def test_decoder_ranges() -> None:
    colour, density = TriplaneDecoder(8, 16, 8)(torch.randn(2, 100, 8) * 50)
    assert colour.min() >= -0.001 and colour.max() <= 1.001 + 1e-6
    assert density.min() >= 0


def test_composite_equals_the_closed_form_of_a_constant_medium() -> None:
    """Opacity of a medium of density s and length L is 1 - exp(-s L), whatever the samples."""
    depths = torch.linspace(NEAR, FAR, 9, dtype=torch.float64).view(1, 1, -1)
    density = torch.full((1, 1, 9, 1), 1.7, dtype=torch.float64)
    colour = torch.full((1, 1, 9, 2), 0.25, dtype=torch.float64)
    out, weights = composite(colour, density, depths, FAR)
    opacity = 1 - math.exp(-1.7 * (FAR - NEAR))
    assert out.opacity.item() == pytest.approx(opacity, abs=1e-12)
    assert weights.sum().item() == pytest.approx(opacity, abs=1e-12)
    torch.testing.assert_close(out.features, torch.full_like(out.features, 0.25 * opacity))


def test_composite_by_hand() -> None:
    """Two intervals of length 1: mean densities 1 and 2, mean colours 1/2 and 3/2."""
    depths = torch.tensor([[[1.0, 2.0, 3.0]]])
    density = torch.tensor([0.0, 2.0, 2.0]).view(1, 1, 3, 1)
    colour = torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 3, 1)
    out, weights = composite(colour, density, depths, far=4.0)
    w0 = 1 - math.exp(-1)
    w1 = math.exp(-1) * (1 - math.exp(-2))
    torch.testing.assert_close(weights.flatten(), torch.tensor([w0, w1]))
    assert out.features.item() == pytest.approx(0.5 * w0 + 1.5 * w1, rel=1e-6)
    assert out.depth.item() == pytest.approx(1.5 * w0 + 2.5 * w1 + (1 - w0 - w1) * 4.0, rel=1e-6)


def test_empty_space_is_transparent_and_has_depth_far() -> None:
    depths = stratified_depths(1, 4, NEAR, FAR, 8)
    out, _ = composite(torch.rand(1, 4, 8, 3), torch.zeros(1, 4, 8, 1), depths, FAR)
    assert out.opacity.abs().max() == 0 and out.features.abs().max() == 0
    torch.testing.assert_close(out.depth, torch.full((1, 4, 1), FAR))


def test_stratified_samples_lie_in_their_strata() -> None:
    noise = torch.rand(2, 3, 6)
    depths = stratified_depths(2, 3, NEAR, FAR, 6, noise)
    edges = torch.linspace(NEAR, FAR, 7)
    assert (depths >= edges[:-1]).all() and (depths <= edges[1:]).all()
    middle = stratified_depths(1, 1, 0.0, 1.0, 4)
    torch.testing.assert_close(middle.flatten(), torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_importance_samples_gather_where_the_weight_is() -> None:
    depths = torch.linspace(0, 1, 11).view(1, 1, -1)
    weights = torch.zeros(1, 1, 10)
    weights[..., 6] = 1.0  # the interval [0.6, 0.7]
    fine = importance_depths(depths, weights, 200)
    assert (fine.diff(dim=-1) >= 0).all()
    near_surface = ((fine > 0.5) & (fine < 0.8)).float().mean()
    # smoothing hands half of the peak's mass to each neighbour; the floor of 0.01 leaves the rest a few percent
    assert near_surface > 0.9


def slab(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A hard, opaque sphere of radius 0.3 whose colour is its height."""
    inside = (points.norm(dim=-1, keepdim=True) < 0.3).to(points)
    return points[..., 1:2].expand(*points.shape[:-1], 2), inside * 200


def test_depth_of_a_sphere_and_up_is_up() -> None:
    origins, directions = ray_bundle(frontal(), 9)
    out = render_rays(slab, origins, directions, NEAR, FAR, 48, 48)
    image = out.depth.view(9, 9)
    # one coarse interval is 0.022 wide; importance samples make it finer
    assert image[4, 4].item() == pytest.approx(CAMERA_RADIUS - 0.3, abs=0.02)
    colour = out.features.view(9, 9, 2)[..., 0]
    assert colour[1, 4] > 0.1 and colour[7, 4] < -0.1
    assert out.opacity.view(9, 9)[4, 4] > 0.999


def test_importance_pass_equals_a_dense_reference() -> None:
    def soft(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        radius = points.norm(dim=-1, keepdim=True)
        return torch.sin(points * 7)[..., :2] * 0.5 + 0.5, 30 * torch.sigmoid((0.3 - radius) * 40)

    origins, directions = ray_bundle(frontal(), 6)
    dense = render_rays(soft, origins, directions, NEAR, FAR, 2048)
    fine = render_rays(soft, origins, directions, NEAR, FAR, 48, 48)
    coarse = render_rays(soft, origins, directions, NEAR, FAR, 48)
    error_fine = (fine.features - dense.features).abs().mean()
    error_coarse = (coarse.features - dense.features).abs().mean()
    assert (
        error_fine < error_coarse and error_fine < 2e-3
    )  # second-order rule at a sample distance of 1 cm


def test_importance_sampling_choice_carries_no_gradient_but_values_do() -> None:
    centre = torch.tensor(0.3, requires_grad=True)

    def ball(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        radius = points.norm(dim=-1, keepdim=True)
        return points[..., :2], 30 * torch.sigmoid((centre - radius) * 40)

    origins, directions = ray_bundle(frontal(), 4)
    noise = (torch.rand(1, 16, 8), torch.rand(1, 16, 8))
    render_rays(ball, origins, directions, NEAR, FAR, 8, 8, noise).depth.sum().backward()
    assert centre.grad is not None and torch.isfinite(centre.grad) and centre.grad.abs() > 0


def test_render_gradcheck() -> None:
    origins, directions = (x.double() for x in ray_bundle(frontal(), 2))
    decoder = TriplaneDecoder(2, 4, 3).double()
    planes = torch.randn(1, 3, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def render(p: torch.Tensor) -> torch.Tensor:
        def radiance(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = decoder.out(torch.nn.functional.softplus(decoder.hidden(sample_triplane(p, x))))
            return torch.sigmoid(y[..., 1:]), torch.nn.functional.softplus(y[..., :1] - 1)

        out = render_rays(radiance, origins, directions, NEAR, FAR, 6)
        return torch.cat([out.features, out.depth, out.opacity], dim=-1)

    assert torch.autograd.gradcheck(render, (planes,))


def test_chunks_of_rays_change_nothing() -> None:
    origins, directions = ray_bundle(frontal(), 6)
    whole = render_rays(slab, origins, directions, NEAR, FAR, 16, 8)
    parts = [
        render_rays(slab, origins[:, i : i + 7], directions[:, i : i + 7], NEAR, FAR, 16, 8)
        for i in range(0, 36, 7)
    ]
    assert np.array_equal(whole.depth.numpy(), torch.cat([p.depth for p in parts], dim=1).numpy())


def test_autocast_leaves_rays_and_coordinates_in_full_precision() -> None:
    label = torch.from_numpy(camera_label(0.3, 0.1))[None]
    origins, directions = ray_bundle(label, 8)
    points = origins + 2.5 * directions
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ray_bundle(label, 8)[1], directions)
        coordinates = plane_coordinates(points, 1.0)
    assert torch.equal(coordinates, plane_coordinates(points, 1.0))
    depths = stratified_depths(1, 4, NEAR, FAR, 8)
    colour, density = torch.rand(1, 4, 8, 3), torch.rand(1, 4, 8, 1)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = composite(colour, density, depths, FAR)
    assert torch.equal(half.features, composite(colour, density, depths, FAR)[0].features)
