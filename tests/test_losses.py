"""Losses against hand-worked numbers, and gradients where they must and must not flow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conventions.cameras import camera_label, project_points
from training.losses.adversarial import (
    discriminator_losses,
    generator_adversarial_loss,
    r1_due,
    r1_penalty,
)
from training.losses.reconstruction import (
    EYES_WORLD,
    density_tv_loss,
    depth_loss,
    face_weight_map,
    gradient_l1,
    opacity_loss,
    point_weight_map,
    reconstruction_losses,
    resize,
    weighted_l1,
)


def test_l1_by_hand() -> None:
    output, target = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
    assert weighted_l1(output, target).item() == pytest.approx(0.75)
    weight = torch.tensor([[[[3.0, 1.0]]]])
    assert weighted_l1(output, target, weight).item() == pytest.approx((3 * 0.5 + 1 * 1.0) / 4)
    assert weighted_l1(output, target, 10 * weight).item() == pytest.approx(
        2.5 / 4
    )  # the map's scale is no matter


def test_gradient_loss_by_hand() -> None:
    difference = torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]]])
    zero = torch.zeros_like(difference)
    # horizontal |1|, |0| -> 0.5; vertical |3|, |2| -> 2.5
    assert gradient_l1(difference, zero).item() == pytest.approx(3.0)
    assert gradient_l1(difference + 7, zero).item() == pytest.approx(3.0)  # blind to brightness
    weight = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    # horizontal weights 1, 0 -> 1; vertical 0.5, 0.5 -> 2.5
    assert gradient_l1(difference, zero, weight).item() == pytest.approx(3.5)


def test_reconstruction_losses_are_zero_for_the_target_itself() -> None:
    target = torch.rand(2, 3, 16, 16) * 2 - 1
    losses = reconstruction_losses(target, resize(target, 4), target, torch.rand(2, 1, 16, 16))
    assert set(losses) == {"l1", "l1_raw", "gradient"} and all(
        v.item() == 0 for v in losses.values()
    )
    with pytest.raises(ValueError, match="differ in shape"):
        reconstruction_losses(target[:, :, :8], resize(target, 4), target)


def test_gradients_reach_output_and_raw() -> None:
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    raw = torch.rand(1, 3, 2, 2, requires_grad=True)
    sum(
        reconstruction_losses(image, raw, torch.zeros(1, 3, 8, 8)).values(), torch.zeros(())
    ).backward()
    assert image.grad is not None and raw.grad is not None
    torch.testing.assert_close(
        raw.grad, torch.full_like(raw, 1 / 12)
    )  # mean over 12 values, all positive


def test_opacity_and_depth_by_hand() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :3] = 1  # upper left block whole, upper right half
    opacity = torch.tensor([[[[0.5, 0.5], [0.25, 0.0]]]])
    assert opacity_loss(opacity, mask)["opacity"].item() == pytest.approx((0.5 + 0 + 0.25 + 0) / 4)
    target = torch.full((1, 1, 4, 4), 99.0)  # nonsense outside the mask
    target[..., :2, :3] = 2.5
    surface = torch.tensor([[[[2.6, 2.9], [1.0, 1.0]]]])  # of what was hit
    opacity = torch.tensor([[[[0.9, 0.5], [0.3, 0.0]]]])
    depth = opacity * surface + (1 - opacity) * 3.3
    expected = (0.1 * 1 * 0.9 + 0.4 * 0.5 * 0.5) / 1.5
    # rel: float32; the far share is taken off a depth of 3 and divided by an opacity of 0.5
    found = depth_loss(depth, opacity, 3.3, target, mask)["depth"].item()
    assert found == pytest.approx(expected, rel=1e-5)
    nothing = torch.zeros_like(mask)
    assert depth_loss(depth, opacity, 3.3, target, nothing)["depth"].item() == 0


@pytest.mark.parametrize("surface", [2.5, 2.6])
def test_depth_moves_matter_and_neither_adds_nor_removes_any(surface: float) -> None:
    """A pixel at the head's edge, half covered, beside a whole one and an empty one."""
    opacity = torch.tensor([[[[1.0, 0.5, 0.0]]]]).expand(1, 1, 3, 3).requires_grad_()
    place = torch.full((1, 1, 3, 3), surface, requires_grad=True)
    depth = opacity * place + (1 - opacity) * 3.3
    target, mask = torch.full((1, 1, 3, 3), 2.5), torch.ones(1, 1, 3, 3)
    mask[..., 2] = 0
    loss = depth_loss(depth, opacity, 3.3, target, mask)["depth"]
    # atol: float32 rounding of distances of 3
    assert loss.item() == pytest.approx((surface - 2.5) * 9 / 2 / 6, abs=1e-6)
    of_opacity, of_place = torch.autograd.grad(loss, (opacity, place))
    torch.testing.assert_close(of_opacity, torch.zeros_like(of_opacity), atol=1e-6, rtol=0)
    if surface > 2.5:
        expected = torch.tensor([[[[1.0, 0.5, 0.0]]]]).expand(1, 1, 3, 3) / 6
        torch.testing.assert_close(of_place, expected)


def test_density_tv() -> None:
    points = torch.rand(2, 20_000, 3) - 0.5
    steps = 0.01 * torch.randn(2, 20_000, 3)
    for shape in ((2, -1), (2, -1, 1)):
        value = density_tv_loss(
            lambda p, s=shape: (5 * p[..., 0] + p[..., 1] * 0).reshape(s), points, steps
        )["density_tv"]
        # E|5 dx| of a normal step of 0.01
        assert value.item() == pytest.approx(5 * 0.01 * math.sqrt(2 / math.pi), rel=0.02)
    assert (
        density_tv_loss(lambda p: torch.ones(p.shape[:2]), points, steps)["density_tv"].item() == 0
    )


def test_weight_maps_sit_on_the_features() -> None:
    points = torch.tensor([[[0.25, 0.75]]])
    weight = point_weight_map(points, 32, gain=3.0, radius=0.05)
    assert weight.shape == (1, 1, 32, 32)
    y, x = divmod(int(weight.argmax()), 32)
    assert abs((x + 0.5) / 32 - 0.25) < 0.02 and abs((y + 0.5) / 32 - 0.75) < 0.02
    assert weight.max() == pytest.approx(4.0, abs=0.3) and weight.min() == pytest.approx(1.0)
    cameras = torch.from_numpy(camera_label(0.0, 0.0))[None].repeat(2, 1)
    cameras[1] = torch.from_numpy(camera_label(0.5, 0.0))
    face = face_weight_map(cameras, 64, 2.0)
    torch.testing.assert_close(
        face[0], face[0].flip(-1), atol=1e-4, rtol=0
    )  # frontal: left as right
    profile = face[1, 0].mean(dim=0)
    assert not torch.allclose(profile, profile.flip(0), atol=1e-2)
    eye = project_points(torch.tensor([[EYES_WORLD[1]]]), cameras[:1])[0, 0]
    assert face[0, 0, int(eye[1] * 64), int(eye[0] * 64)] > 2.8  # of 1 + 2


class LinearScore(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, image: Tensor, raw: Tensor, camera: Tensor) -> Tensor:
        return self.gain * (image.sum(dim=(1, 2, 3)) + 3 * raw.sum(dim=(1, 2, 3))) + camera[:, 0]


def test_adversarial_losses_by_hand() -> None:
    net, camera = LinearScore(), torch.zeros(1, 25)
    image, raw = (
        torch.zeros(1, 3, 4, 4, requires_grad=True),
        torch.zeros(1, 3, 1, 1, requires_grad=True),
    )
    loss = generator_adversarial_loss(net, image, raw, camera)["adversarial"]
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert image.grad is not None and raw.grad is not None
    # d softplus(-s)/ds = -1/2 at s = 0, ds/dimage = 2, ds/draw = 6
    assert image.grad[0, 0, 0, 0].item() == pytest.approx(-1.0) and raw.grad[
        0, 0, 0, 0
    ].item() == pytest.approx(-3.0)
    image.grad = None
    losses = discriminator_losses(
        net, image, raw, camera, torch.ones(1, 3, 4, 4) / 48, raw, camera + 1
    )
    assert losses["discriminator_fake"].item() == pytest.approx(math.log(2))
    assert losses["discriminator_real"].item() == pytest.approx(
        math.log(1 + math.exp(-3)), rel=1e-5
    )
    sum(losses.values(), torch.zeros(())).backward()
    assert image.grad is None and net.gain.grad is not None  # the generator is left alone


def test_r1_by_hand_and_its_second_gradient() -> None:
    net, camera = LinearScore(), torch.zeros(2, 25)
    image, raw = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 1, 1)
    loss = r1_penalty(net, image, raw, camera, gamma=1.0, interval=4)["r1"]
    squared = 48 * 2.0**2 + 3 * 6.0**2
    assert loss.item() == pytest.approx(0.5 * squared * 4)
    loss.backward()
    assert net.gain.grad is not None
    assert net.gain.grad.item() == pytest.approx(0.5 * 4 * 2 * 2.0 * (48 + 3 * 9))
    assert [s for s in range(20) if r1_due(s, 8)] == [0, 8, 16] and not r1_due(0, 0)
