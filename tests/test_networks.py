"""CLeBS, generator, super-resolution and discriminator: shapes, invariants and what must not depend on what."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conventions.cameras import camera_label, project_points
from dnnlib import UserError
from dnnlib.config import load_config
from torch_utils.ops.triplane_render import channels_last
from training.config import Config, ExpressionConfig, LossConfig, ModelConfig
from training.discriminator.dual import DualDiscriminator, minibatch_std
from training.expression.clebs import BasisScaling, ExpressionEncoder
from training.expression.contrastive import contrastive_loss
from training.generator.model import Export3D
from training.generator.model import Volume as TriPlanes
from training.generator.planes import Fuse
from training.generator.stem import CanonicalLift
from training.generator.vit import EAdaLN
from training.layers import LowPass
from training.noise import draw_noise
from training.rendering import fused
from training.rendering.volume import RayOutput, render_rays
from training.superresolution.module import SuperResolution

SPACE = 12


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_config(Config, "tiny", []).model


@pytest.fixture
def model(config: ModelConfig) -> Export3D:
    torch.manual_seed(0)
    model = Export3D(config, SPACE)
    # leave the zero initialisations: as after some training
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def cameras(*yaw_deg: float) -> Tensor:
    return torch.stack([torch.from_numpy(camera_label(math.radians(y), 0.1)) for y in yaw_deg])


# ------------------------------------------------------------------ CLeBS


def test_basis_is_orthonormal_and_stays_put_under_small_steps() -> None:
    scaling = BasisScaling(SPACE, n_bases=6, dim=20)
    v = scaling.basis()
    torch.testing.assert_close(v.T @ v, torch.eye(6), atol=1e-5, rtol=0)  # fp32 QR
    with torch.no_grad():
        scaling.matrix.add_(1e-3 * torch.randn_like(scaling.matrix))
    assert (v * scaling.basis()).sum(0).min() > 0.99  # no direction turned round


def test_a_turned_basis_gives_the_same_refined_expression() -> None:
    scaling, beta = BasisScaling(SPACE, n_bases=5, dim=20), torch.randn(7, SPACE)
    refined, coefficients = scaling(beta), scaling.coefficients(beta)
    rotation = torch.linalg.qr(torch.randn(5, 5))[0]
    scaling.rotate(rotation)
    torch.testing.assert_close(scaling(beta), refined, atol=1e-5, rtol=0)  # fp32 QR
    torch.testing.assert_close(
        scaling.coefficients(beta), coefficients @ rotation.T, atol=1e-5, rtol=0
    )


def test_refined_expression_is_the_sum_of_scaled_bases() -> None:
    scaling = BasisScaling(SPACE, n_bases=3, dim=8)
    beta = torch.randn(5, SPACE)
    lam, v = scaling.coefficients(beta), scaling.basis()
    by_hand = sum(lam[:, i, None] * v[None, :, i] for i in range(3))
    torch.testing.assert_close(scaling(beta), by_hand)
    torch.testing.assert_close(scaling(beta) @ v, lam, atol=1e-5, rtol=1e-4)  # V^T beta' = lambda


def test_basis_receives_a_gradient() -> None:
    scaling = BasisScaling(SPACE, n_bases=3, dim=8)
    scaling(torch.randn(2, SPACE)).square().sum().backward()
    # |beta'|^2 = |lambda|^2 does not depend on an orthonormal basis
    assert scaling.matrix.grad is not None
    assert scaling.matrix.grad.abs().max() < 1e-5
    scaling.zero_grad()
    scaling(torch.randn(2, SPACE)).sum().backward()
    assert scaling.matrix.grad.abs().max() > 1e-3


def test_identity_mode_hands_beta_on() -> None:
    encoder = ExpressionEncoder(ExpressionConfig(mode="identity"), SPACE)
    beta = torch.randn(2, SPACE)
    assert encoder.out_dim == SPACE and torch.equal(encoder(beta), beta)
    assert not list(encoder.parameters())
    with pytest.raises(ValueError, match="expected"):
        encoder(torch.randn(2, SPACE + 1))


def test_contrastive_loss_by_hand() -> None:
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    log_tau = torch.tensor(0.5).log()
    perfect = contrastive_loss(image, image, log_tau)  # cos 1 with its own frame, 0 with the other
    assert perfect.loss.item() == pytest.approx(-2 + math.log(math.exp(2) + 1), rel=1e-6)
    assert perfect.accuracy == 1
    printed = contrastive_loss(image, image, log_tau, "negatives")  # sum without j = k: only exp(0)
    assert printed.loss.item() == pytest.approx(-2.0, rel=1e-6)
    swapped = contrastive_loss(image, image.flip(1), log_tau)
    assert swapped.accuracy == 0 and swapped.loss > perfect.loss


def test_negatives_never_cross_videos() -> None:
    image, expression = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    log_tau = torch.tensor(0.07).log()
    both = contrastive_loss(image, expression, log_tau).loss
    alone = [
        contrastive_loss(image[i : i + 1], expression[i : i + 1], log_tau).loss for i in (0, 1)
    ]
    torch.testing.assert_close(both, torch.stack(alone).mean())


# -------------------------------------------------------------- generator


def test_eadaln_starts_as_layer_norm_and_follows_its_equation() -> None:
    norm, x, b = EAdaLN(6, 4), torch.randn(2, 5, 6), torch.randn(2, 4)
    plain = torch.nn.functional.layer_norm(x, (6,))
    torch.testing.assert_close(norm(x, b), plain)
    torch.nn.init.normal_(norm.affine.weight)
    sigma, mu = norm.affine(b).chunk(2, dim=1)
    torch.testing.assert_close(norm(x, b), (1 + sigma)[:, None] * plain + mu[:, None])


def test_low_pass_keeps_constants_and_damps_the_patch_grid() -> None:
    smooth = LowPass(4)
    torch.testing.assert_close(
        smooth(torch.ones(1, 1, 32, 32))[..., 8:-8, 8:-8], torch.ones(1, 1, 16, 16)
    )
    wave = torch.cos(2 * math.pi * torch.arange(64) / 4).expand(1, 1, 64, 64)  # one period a patch
    gain = smooth(wave)[..., 16:-16, 16:-16].abs().max()
    assert gain == pytest.approx(
        math.exp(-2 * (math.pi / 4) ** 2), abs=0.05
    )  # taps end at two sigma


def test_lift_undoes_the_pose_of_the_source() -> None:
    """A mark on the head, seen from two cameras, comes to the same cell of the plane, where its x and y are."""
    lift, side = CanonicalLift(box_side=0.8), 64
    points, _ = lift.surface(side, torch.device("cpu"))
    cell = 20 * side + 38  # above the middle, to the image's right
    for label in cameras(-25, 0, 25):
        u, v = project_points(points[cell : cell + 1], label)[0] * side
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        spot = torch.exp(-((columns + 0.5 - u) ** 2 + (rows + 0.5 - v) ** 2) / 4)
        plane = lift(spot[None, None], label[None])[0, 0]
        row, column = divmod(int(plane.argmax()), side)
        assert abs(row - 20) <= 1 and abs(column - 38) <= 1  # the spot is two pixels wide


def test_lift_says_how_frontally_the_source_sees_a_cell() -> None:
    left, middle, right = (
        CanonicalLift(0.8)(torch.zeros(1, 1, 32, 32), c[None])[0, 1] for c in cameras(-40, 0, 40)
    )
    assert middle[16, 16] > 0.95
    torch.testing.assert_close(left, right.flip(1), atol=1e-5, rtol=0)  # fp32 of mirrored cameras
    assert (
        right[16, 22] > middle[16, 22] > left[16, 22]
    )  # a camera on the right sees the right cheek


def test_source_camera_matters_only_when_aligned(config: ModelConfig) -> None:
    image, beta = torch.rand(1, 3, 32, 32), torch.randn(1, SPACE)
    for align, equal in (("none", True), ("source", False)):
        generator = replace(config.generator, align=align)  # type: ignore[arg-type]
        model = Export3D(replace(config, generator=generator), SPACE)
        a, b = (
            model.planes(model.encode_source(image, c), beta).planes for c in (None, cameras(30))
        )
        assert torch.equal(a, b) is equal


def test_a_still_background_comes_from_the_source(config: ModelConfig) -> None:
    net = SuperResolution(8, config.superresolution, background=True)
    features, source = torch.zeros(1, 8, 8, 8), torch.rand(1, 3, 32, 32)
    visible = torch.zeros(1, 1, 8, 8)
    visible[..., :4] = 1.0
    out = net(features, visible, source).image
    # the mask starts as sigmoid(4) = 0.982 of the caller's; its edge is four pixels wide
    torch.testing.assert_close(out[..., :14], 0.982 * source[..., :14], atol=1e-3, rtol=0)
    assert not out[..., 18:].any()
    with torch.no_grad():
        net.to_rgb.bias[3] = 50.0  # as much of the source as the network can ask for
    assert not net(features, visible, source).image[..., 18:].any()


def test_shapes_ranges_and_determinism(model: Export3D) -> None:
    image, beta = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, SPACE)
    planes = model.planes(model.encode_source(image), beta)
    out = model.render(planes, cameras(0, 20))
    assert planes.planes.shape == (2, 3, 8, 16, 16)
    assert out.image.shape == (2, 3, 32, 32) and out.raw.shape == (2, 3, 8, 8)
    assert out.features.shape == (2, 8, 8, 8) and torch.equal(out.features[:, :3], out.raw)
    assert out.depth.shape == out.opacity.shape == (2, 1, 8, 8)
    assert out.opacity.min() >= 0 and out.opacity.max() <= 1
    r = model.config.render
    assert out.depth.min() >= r.near - 1e-4 and out.depth.max() <= r.far + 1e-4
    again = model.render(planes, cameras(0, 20))
    assert out.painted is None  # no photo's pixels in this preset
    assert all(torch.equal(a, b) for a, b in zip(out[:5], again[:5], strict=True))


@pytest.mark.parametrize("channels", [(8,), (8, 6), (8, 6, 4), (8, 6, 4, 4)])
def test_the_sizes_of_super_resolution_set_the_raw_image(
    config: ModelConfig, channels: tuple[int, ...]
) -> None:
    superresolution = replace(config.superresolution, channels=channels)
    generator = replace(config.generator, background="image", texture="source")
    config = replace(config, superresolution=superresolution, generator=generator)
    side = 32 // 2 ** (len(channels) - 1)
    assert config.raw_resolution == side
    model = Export3D(config, SPACE)
    out = model(torch.rand(1, 3, 32, 32) * 2 - 1, torch.zeros(1, SPACE), cameras(0))
    assert out.image.shape == (1, 3, 32, 32)
    assert out.raw.shape == (1, 3, side, side) and out.depth.shape == (1, 1, side, side)
    noise = draw_noise(0, 0, range(1), config, LossConfig(), torch.device("cpu"))
    assert noise.coarse.shape == (1, side**2, config.render.samples_coarse)


def test_super_resolution_of_no_or_too_many_sizes_is_refused() -> None:
    for text in ("[]", "[8,8,8,8,8]"):
        with pytest.raises(UserError, match=r"superresolution\.channels has \d values"):
            load_config(Config, "tiny", [f"model.superresolution.channels={text}"])


def test_planes_without_gradients_lie_as_the_renderer_reads_them(model: Export3D) -> None:
    source, beta = model.encode_source(torch.rand(2, 3, 32, 32) * 2 - 1), torch.randn(2, SPACE)
    learning = model.planes(source, beta).planes
    with torch.no_grad():
        planes = model.planes(source, beta).planes
    assert torch.equal(planes, learning.detach())
    assert channels_last(planes).data_ptr() == planes.data_ptr()  # not turned again


def test_camera_leaves_the_triplane_bit_identical_and_changes_the_view(model: Export3D) -> None:
    image, beta = torch.rand(1, 3, 32, 32) * 2 - 1, torch.randn(1, SPACE)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    source = model.encode_source(image)
    first = model.planes(source, beta)
    a = model.render(first, cameras(-30))
    b = model.render(first, cameras(30))
    second = model.planes(source, beta)
    assert torch.equal(first.planes, second.planes)
    assert not torch.equal(a.image, b.image)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # no hidden state


def test_one_coefficient_changes_the_expression(model: Export3D) -> None:
    source = model.encode_source(torch.rand(1, 3, 32, 32) * 2 - 1)
    refined = model.expression(torch.randn(1, SPACE))
    still = model.render(model.planes_from_refined(source, refined), cameras(0))
    moved = model.render(
        model.planes_from_refined(source, refined + model.expression.directions()[:1]), cameras(0)
    )
    # random weights answer weakly; the same input twice answers with exactly 0
    assert (still.image - moved.image).abs().max() > 1e-5


def test_one_source_serves_many_expressions_and_cameras(model: Export3D) -> None:
    image, beta = torch.rand(1, 3, 32, 32) * 2 - 1, torch.randn(3, SPACE)
    source = model.encode_source(image)
    together = model.planes(source, beta).planes
    alone = torch.cat([model.planes(source, b[None]).planes for b in beta])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)  # batched matmul order
    views = model.render(model.planes(source, beta[:1]), cameras(-10, 0, 10))
    torch.testing.assert_close(
        views.image[1:2],
        model.render(model.planes(source, beta[:1]), cameras(0)).image,
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("conditioning", ["eadaln", "cross_attention"])
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("mode", ["clebs", "lebs", "identity"])
def test_every_variant_trains_every_parameter(
    config: ModelConfig, conditioning: str, ours: bool, mode: str
) -> None:
    generator = replace(config.generator, conditioning=conditioning)  # type: ignore[arg-type]
    if ours:
        generator = replace(
            generator, background="image", align="source", texture="source", expression_map=2
        )
    expression = replace(config.expression, mode=mode)  # type: ignore[arg-type]
    model = Export3D(replace(config, generator=generator, expression=expression), SPACE)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    out = model(
        torch.rand(2, 3, 32, 32), torch.randn(2, SPACE), cameras(0, 10), deterministic=False
    )
    (out.image.square().mean() + out.raw.square().mean()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert not silent


def test_plane_mean_follows_the_generator_and_is_added(
    model: Export3D, config: ModelConfig
) -> None:
    source = model.encode_source(torch.rand(1, 3, 32, 32))
    beta = torch.randn(1, SPACE)
    before = model.planes(source, beta).planes
    generated = model.plane_residual(source, model.expression(beta))
    model.update_plane_mean(generated[0])
    share = 1 - config.generator.plane_mean_decay
    torch.testing.assert_close(model.plane_mean, share * generated[0])
    torch.testing.assert_close(model.planes(source, beta).planes, before + share * generated)


@pytest.mark.parametrize("learning", [False, True])
def test_ray_chunks_change_nothing(
    config: ModelConfig, learning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, sizes = [], []

    def counted(field: Any, origins: Tensor, *rest: Any) -> RayOutput:
        sizes.append(origins.shape[1])
        return render_rays(field, origins, *rest)

    monkeypatch.setattr(fused, "render_rays", counted)
    for chunk in (0, 13):
        torch.manual_seed(0)
        render = replace(config.render, impl="ref", ray_chunk=chunk)
        model = Export3D(replace(config, render=render), SPACE)
        planes = torch.randn(1, 3, 8, 16, 16, requires_grad=learning)
        with torch.set_grad_enabled(learning):
            out = model.render(TriPlanes(planes), cameras(5)).features
        grads = torch.autograd.grad(out.square().sum(), planes) if learning else ()
        found.append((out.detach(), *grads))
    # 64 rays whole, then in five chunks, each a second time on the way back
    assert sizes[0] == 64 and sorted(sizes[1:]) == sorted([13, 13, 13, 13, 12] * (1 + learning))
    for whole, parts in zip(*found, strict=True):
        # float32: the blocks of a matrix product differ with its size
        torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


def test_source_share_is_its_part_of_the_convolution() -> None:
    fuse = Fuse(5, 3, 2)
    torch.nn.init.normal_(fuse.mix.bias)
    x, source, direct = torch.randn(4, 5, 8, 8), torch.randn(1, 3, 8, 8), torch.randn(4, 2, 8, 8)
    whole = torch.cat([x, source.expand(4, -1, -1, -1), direct], dim=1)
    # float32, sums of 90 terms in another order, worst seen 1e-6
    torch.testing.assert_close(
        fuse(x, fuse.source_share(source), direct), fuse.block(fuse.mix(whole)), rtol=0, atol=1e-5
    )


def test_source_blocks_run_once_per_source(config: ModelConfig) -> None:
    deep = replace(config, generator=replace(config.generator, source_depth=2))
    model = Export3D(deep, SPACE)
    calls = []
    for block in model.source_encoder.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    source = model.encode_source(torch.rand(1, 3, 32, 32) * 2 - 1)
    for _ in range(3):
        model.planes(source, torch.rand(1, SPACE))
    assert len(calls) == 2


def test_gradient_checkpointing_changes_no_gradient(model: Export3D) -> None:
    image, beta = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, SPACE)
    found, held = [], []

    def keep(tensor: Tensor) -> Tensor:
        held[-1] += 1
        return tensor

    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        model.zero_grad()
        held.append(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = model(image, beta, cameras(0, 10))
        (out.image.square().mean() + out.depth.mean()).backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) > 50 and held[1] < held[0] / 2  # or nothing was checkpointed
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)


def test_wrong_shapes_are_refused(model: Export3D) -> None:
    with pytest.raises(ValueError, match="expected \\[N, 3, 32, 32\\]"):
        model.encode_source(torch.zeros(1, 3, 64, 64))
    planes = model.planes(model.encode_source(torch.zeros(1, 3, 32, 32)), torch.zeros(1, SPACE))
    with pytest.raises(ValueError, match="expected \\[N, 25\\]"):
        model.render(planes, torch.zeros(1, 16))


# ---------------------------------------------------------- discriminator


def test_discriminator_sees_image_raw_and_camera(config: ModelConfig) -> None:
    torch.manual_seed(0)
    net = DualDiscriminator(config)
    image, raw, camera = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 8, 8), cameras(0, 30)
    for x in (image, raw, camera):
        x.requires_grad_()
    logits = net(image, raw, camera)
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in (image, raw, camera))
    unconditioned = DualDiscriminator(
        replace(config, discriminator=replace(config.discriminator, camera_dim=0))
    )
    a = unconditioned(image, raw, camera)
    assert torch.equal(a, unconditioned(image, raw, camera.roll(1, 0)))


def test_minibatch_std_by_hand() -> None:
    x = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 2.0)])
    out = minibatch_std(x, group=4)  # deviation of {0, 2} is 1
    torch.testing.assert_close(out[:, 1], torch.ones(2, 2, 2))
    assert minibatch_std(torch.randn(3, 2, 4, 4), 2).shape == (3, 3, 4, 4)  # 3 has no divisor 2


@pytest.mark.parametrize("preset", ["paper256", "base512"])
def test_large_presets_run_one_step(preset: str) -> None:
    config = load_config(Config, preset, []).model
    model = Export3D(config, 64)
    size = config.resolution
    cheap = replace(config.render, samples_coarse=4, samples_fine=4)
    model.config = replace(
        config, render=cheap
    )  # the samples of a ray do not change a single weight's shape
    out = model(torch.zeros(1, 3, size, size), torch.zeros(1, 64), cameras(0), deterministic=False)
    assert out.image.shape == (1, 3, size, size)
    assert out.raw.shape == (1, 3, size // 4, size // 4)
    logits = DualDiscriminator(config)(out.image, out.raw, cameras(0))
    (out.image.square().mean() + logits.mean()).backward()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    optimiser.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_standardised_coefficients_have_mean_zero_and_deviation_one() -> None:
    scaling = BasisScaling(SPACE, n_bases=3, dim=8)
    beta = torch.rand(500, SPACE)
    before, basis = scaling.coefficients(beta), scaling.basis()
    scaling.standardise(beta)
    after = scaling.coefficients(beta)
    # fp32 sums over 500 samples
    torch.testing.assert_close(after.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.std(0), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        after, (before - before.mean(0)) / before.std(0), atol=1e-3, rtol=1e-3
    )
    assert torch.equal(basis, scaling.basis())
