"""What a training step minimises: every function returns a dict of named scalars, unweighted.

Letters: S source, D driving frame, beta expression parameters, p camera, T tri-plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnnlib import UserError
from pretrained.identity import IdentityLoss, identity_loss
from pretrained.perceptual import PerceptualLoss, perceptual_loss
from tracking.differentiable import ExpressionReader
from training.config import LossConfig
from training.generator.model import Export3D, RenderOutput, Volume
from training.losses.adversarial import (
    discriminator_losses,
    generator_adversarial_loss,
    r1_penalty,
)
from training.losses.expression import ExpressionLoss
from training.losses.reconstruction import (
    density_tv_loss,
    depth_loss,
    face_weight_map,
    opacity_loss,
    reconstruction_losses,
    resize,
)
from training.noise import StepNoise

Losses = dict[str, Tensor]
Batch = Mapping[str, Tensor]
Discriminator = Callable[[Tensor, Tensor, Tensor], Tensor]

# The terms of the generator's loss; each is the name of its weight in LossConfig.
GENERATOR_TERMS = (
    "l1",
    "l1_raw",
    "gradient",
    "perceptual",
    "perceptual_raw",
    "identity",
    "expression",
    "adversarial",
    "density_tv",
    "opacity",
    "depth",
)


@dataclass(frozen=True)
class LossNetworks:
    """Frozen networks that losses look through; None where the loss is off."""

    perceptual: PerceptualLoss | None = None
    identity: IdentityLoss | None = None
    expression: ExpressionLoss | None = None

    def record(self) -> dict[str, Any]:
        """Which they are, with hashes, for the run's record."""
        both = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: None if net is None else net.record() for name, net in both.items()}


def load_loss_networks(
    config: LossConfig,
    device: torch.device,
    betas: Tensor | None = None,  # [M, D] of the training data; for loss.expression
) -> LossNetworks:
    """The networks that `config` asks for.

    Raises:
        UserError: a network has no such name, or its weights are missing or damaged.
    """
    perceptual = identity = expression = None
    if config.perceptual > 0 or config.perceptual_raw > 0:
        perceptual = perceptual_loss(config.perceptual_net, config.perceptual_weights or None)
        perceptual.to(device)
    if config.identity > 0:
        identity = identity_loss(config.identity_net, config.identity_weights or None).to(device)
    if config.expression > 0:
        if betas is None:
            raise ValueError("loss.expression needs betas of the training data")
        expression = ExpressionLoss(ExpressionReader(), betas).to(device)
    return LossNetworks(perceptual, identity, expression)


def channels_used(config: LossConfig) -> tuple[str, ...]:
    """Channels beside the image that a term looks at; the others need not be decoded."""
    mask = config.opacity > 0 or config.depth > 0
    return ("mask",) * mask + ("depth",) * (config.depth > 0)


def check_terms(config: LossConfig, channels: tuple[str, ...], what: str) -> None:
    """Refuse weights that make no sense for the data.

    Raises:
        UserError: names the term.
    """
    for name in GENERATOR_TERMS:
        if getattr(config, name) < 0:
            raise UserError(f"loss.{name} is negative; use 0 to switch it off")
    if not any(getattr(config, name) > 0 for name in GENERATOR_TERMS):
        raise UserError("all losses are switched off; give at least loss.l1 a weight")
    needs = {"opacity": ("mask",), "depth": ("depth", "mask")}
    lacking = {
        name: missing
        for name, wanted in needs.items()
        if getattr(config, name) > 0 and (missing := [c for c in wanted if c not in channels])
    }
    if lacking:
        terms = " and ".join(
            f"loss.{name} needs the channel {missing[0]!r}" for name, missing in lacking.items()
        )
        cures = ", ".join(f"loss.{name}=0" for name in lacking)
        raise UserError(f"{terms}, which {what} does not have; set {cures}")


class GeneratorPass(NamedTuple):
    out: RenderOutput  # of the first samples, which their own driving frame drives
    volume: Volume
    mean_residual: Tensor  # mean of G(S, beta') over the batch, for T_EMA
    crossed: Tensor  # images [K, 3, H, H] of the last samples, driven by the beta of the first K


def generator_pass(
    model: Export3D, batch: Batch, noise: StepNoise, n_crossed: int = 0
) -> GeneratorPass:
    """S, beta_D, p_D -> the driving frame as the model sees it; the last `n_crossed` with another person's beta."""
    own = len(batch["beta"]) - n_crossed
    beta = torch.cat([batch["beta"][:own], batch["beta"][:n_crossed]])
    source = model.encode_source(batch["source"], batch["source_camera"], batch["source_beta"])
    refined = model.expression(beta)
    residual = model.plane_residual(source, refined)
    volume = model.with_residual(source, refined, residual)
    out = model.render(volume, batch["camera"], (noise.coarse, noise.fine))
    mean, crossed = residual.detach().mean(dim=0), out.image[own:]
    return GeneratorPass(out.each(lambda x: x[:own]), volume, mean, crossed)


def generator_losses(
    model: Export3D,
    done: GeneratorPass,
    batch: Batch,
    noise: StepNoise,
    config: LossConfig,
    networks: LossNetworks,
    discriminator: Discriminator | None = None,  # None: reconstruction only
) -> Losses:
    """All terms with a weight above 0 that the data allow, unweighted."""
    own = len(done.out.image)
    wanted = torch.cat([batch["beta"][:own], batch["beta"][: len(done.crossed)]])
    batch = {name: x[:own] for name, x in batch.items()}
    out, real, camera = done.out, batch["driving"], batch["camera"]
    image, raw = out.image.float(), out.raw.float()
    weight = None
    if config.face_weight > 0:
        weight = face_weight_map(camera, image.shape[-1], config.face_weight)
    if config.painted_weight > 0 and out.painted is not None:
        painted = resize(out.painted.detach().float(), image.shape[-1])
        extra = 1 + config.painted_weight * painted
        weight = extra if weight is None else weight * extra
    losses = reconstruction_losses(image, raw, real, weight)
    if networks.perceptual is not None:
        if config.perceptual > 0:
            side = config.perceptual_crop or image.shape[-1]
            losses |= networks.perceptual(
                crop_at(image, noise.crop[:own], side), crop_at(real, noise.crop[:own], side)
            )
        if config.perceptual_raw > 0:
            small = networks.perceptual(raw, resize(real, raw.shape[-1]))
            losses["perceptual_raw"] = small["perceptual"]
    if networks.identity is not None:
        losses |= networks.identity(image, real)
    if networks.expression is not None:
        losses |= networks.expression(torch.cat([image, done.crossed.float()]), wanted)
    if config.density_tv > 0:
        box_side = model.config.render.box_side
        losses |= density_tv_loss(
            lambda points: model.density(done.volume, points),
            noise.tv_points * box_side,
            noise.tv_steps * config.density_tv_distance,
        )
    if config.opacity > 0 and "mask" in batch:
        losses |= opacity_loss(out.opacity.float(), batch["mask"])
    if config.depth > 0 and "depth" in batch and "mask" in batch:
        far = model.config.render.far
        losses |= depth_loss(out.depth, out.opacity, far, batch["depth"], batch["mask"])
    if discriminator is not None and config.adversarial > 0:
        losses |= generator_adversarial_loss(discriminator, image, raw, camera)
    return {name: losses[name] for name in GENERATOR_TERMS if name in losses}


def n_crossed(config: LossConfig, n: int) -> int:
    """How many of `n` samples another's expression drives: nobody's but the first ones', which keep their own."""
    return min(round(config.expression_crossed * n), n // 2) if config.expression > 0 else 0


def crop_at(image: Tensor, at: Tensor, side: int) -> Tensor:
    """Square crops [N, C, side, side] of [N, C, H, H] at `at` [N, 2], parts (down, across) of the free way."""
    free = image.shape[-1] - side
    if free <= 0:
        return image
    # by index: a GPU is not asked for the places
    ways = torch.arange(side, device=image.device)
    rows, columns = ((at * (free + 1)).long()[:, k, None] + ways for k in (0, 1))  # [N, side]
    n, c, _, width = image.shape
    down = image.gather(2, rows[:, None, :, None].expand(n, c, side, width))
    return down.gather(3, columns[:, None, None, :].expand(n, c, side, side))


def critic_losses(
    discriminator: Discriminator,
    out: RenderOutput,
    batch: Batch,
    config: LossConfig,
    with_r1: bool,
) -> Losses:
    """The discriminator's terms on generated and real frames; their sum is minimised."""
    own = len(out.image)
    real, camera = batch["driving"][:own], batch["camera"][:own]
    real_raw = resize(real, out.raw.shape[-1])
    losses = discriminator_losses(
        discriminator, out.image.float(), out.raw.float(), camera, real, real_raw, camera
    )
    if with_r1:
        losses |= r1_penalty(
            discriminator, real, real_raw, camera, config.r1_gamma, config.r1_interval
        )
    return losses


def weighted_sum(losses: Losses, config: LossConfig, adversarial_factor: float) -> Tensor:
    """The generator's loss: terms times their weights, `adversarial` also times its ramp."""
    total: Tensor | None = None
    for name, value in losses.items():
        weight = getattr(config, name) * (adversarial_factor if name == "adversarial" else 1.0)
        if weight > 0:
            total = value * weight if total is None else total + value * weight
    if total is None:
        raise ValueError("no loss has a weight above 0")
    return total
