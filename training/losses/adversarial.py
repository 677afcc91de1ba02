"""Adversarial losses: non-saturating, with R1 on real images (paper, sec. 3.5; the discriminator is EG3D's dual one).

A discriminator is any callable (image [N, 3, H, W], raw [N, 3, h, h], camera [N, 25]) -> score [N] or [N, 1]; real
images have a high score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Losses = dict[str, Tensor]
Discriminator = Callable[[Tensor, Tensor, Tensor], Tensor]


def generator_adversarial_loss(
    discriminator: Discriminator, image: Tensor, raw: Tensor, camera: Tensor
) -> Losses:
    """`adversarial` = mean softplus(-D(fake)); non-saturating."""
    return {"adversarial": functional.softplus(-discriminator(image, raw, camera).float()).mean()}


def discriminator_losses(
    discriminator: Discriminator,
    fake_image: Tensor,
    fake_raw: Tensor,
    fake_camera: Tensor,
    real_image: Tensor,
    real_raw: Tensor,  # the real image shrunk to the raw render's size
    real_camera: Tensor,
) -> Losses:
    """`discriminator_fake` = mean softplus(D(fake)), `discriminator_real` = mean softplus(-D(real)).

    No gradient reaches the generator.
    """
    fake = discriminator(fake_image.detach(), fake_raw.detach(), fake_camera).float()
    real = discriminator(real_image, real_raw, real_camera).float()
    return {
        "discriminator_fake": functional.softplus(fake).mean(),
        "discriminator_real": functional.softplus(-real).mean(),
    }


def r1_due(step: int, interval: int) -> bool:
    """Whether `step` is one of those that pay the penalty."""
    return interval > 0 and step % interval == 0


def r1_penalty(
    discriminator: Discriminator,
    real_image: Tensor,
    real_raw: Tensor,
    camera: Tensor,
    gamma: float = 1.0,
    interval: int = 1,  # computed every so many steps only, and made stronger by as much
) -> Losses:
    """`r1` = gamma/2 * mean over images of |dD/d(image, raw)|^2, times `interval`.

    Both inputs count: the discriminator sees them as one image of six channels.
    """
    image = real_image.detach().requires_grad_(True)
    raw = real_raw.detach().requires_grad_(True)
    # fp32: the squared norm over all pixels of a half precision gradient is worth little.
    with torch.autocast(device_type=image.device.type, enabled=False):
        scores = discriminator(image.float(), raw.float(), camera.float())
        gradients = torch.autograd.grad(
            scores.sum(), [image, raw], create_graph=True, allow_unused=True
        )
    squared = [g.square().sum(dim=(1, 2, 3)) for g in gradients if g is not None]
    return {"r1": torch.stack(squared).sum(dim=0).mean() * (0.5 * gamma * interval)}
