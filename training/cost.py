"""Floating point operations of a training step, counted on random inputs before the first one (running/flops.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from conventions.cameras import camera_label
from running.flops import FlopCount
from training import objectives
from training.config import Config
from training.generator.model import Export3D
from training.noise import draw_noise

_CROSSED = 4  # samples, when the loss has a share of them driven by others


class StepCost(NamedTuple):
    """FLOP of one sample, both passes; parts that come later add to those before."""

    generator: float  # reconstruction
    adversarial: float = (
        0.0  # while the discriminator trains: its step, and the generator's loss through it
    )
    r1: float = 0.0  # in the steps with R1

    def of_step(self, samples: float, adversarial: bool, r1_interval: int) -> float:
        """FLOP of a step of so many samples, R1 spread over its interval."""
        later = self.adversarial + self.r1 / r1_interval if adversarial else 0.0
        return samples * (self.generator + later)


def random_batch(model: Export3D, n: int, device: torch.device) -> dict[str, Tensor]:
    """A batch of n pairs that shows nothing, of the shapes that training sees; mask and depth included."""
    random = torch.Generator().manual_seed(0)
    side, dim = model.config.resolution, model.expression.space_dim
    batch = {
        "source": torch.rand(n, 3, side, side, generator=random) * 2 - 1,
        "driving": torch.rand(n, 3, side, side, generator=random) * 2 - 1,
        "beta": torch.rand(n, dim, generator=random),
        "source_beta": torch.rand(n, dim, generator=random),
        "camera": torch.from_numpy(camera_label(0.2, 0.1)).expand(n, -1),
        "source_camera": torch.from_numpy(camera_label(0.0, 0.0)).expand(n, -1),
        "mask": torch.ones(n, 1, side, side),
        "depth": torch.full((n, 1, side, side), 2.5),
    }
    return {name: x.to(device) for name, x in batch.items()}


def count_step(
    model: Export3D,
    critic: nn.Module | None,
    networks: objectives.LossNetworks,
    config: Config,
    device: torch.device,
) -> StepCost:
    """Count a step of the generator's training. Changes no weight and leaves no gradient."""
    loss = config.loss
    n = _CROSSED if objectives.n_crossed(loss, _CROSSED) else 1
    batch = random_batch(model, n, device)
    noise = draw_noise(0, 0, range(n), config.model, loss, device)

    def generate(against: nn.Module | None) -> tuple[objectives.GeneratorPass, int]:
        with FlopCount() as count:
            done = objectives.generator_pass(model, batch, noise, objectives.n_crossed(loss, n))
            terms = objectives.generator_losses(model, done, batch, noise, loss, networks, against)
            objectives.weighted_sum(terms, loss, 1.0).backward()
        return done, count.total

    def judge(against: nn.Module, done: objectives.GeneratorPass, with_r1: bool) -> int:
        out = done.out.each(torch.Tensor.detach)
        with FlopCount() as count:
            terms = objectives.critic_losses(against, out, batch, loss, with_r1)
            torch.stack(list(terms.values())).sum().backward()
        return count.total

    with _untouched(model, critic):
        done, plain = generate(None)
        if critic is None:
            return StepCost(plain / n)
        critic.requires_grad_(False)
        done, through = generate(critic)
        critic.requires_grad_(True)
        step, with_r1 = judge(critic, done, False), judge(critic, done, True)
    return StepCost(plain / n, (through - plain + step) / n, (with_r1 - step) / n)


@contextmanager
def _untouched(model: Export3D, critic: nn.Module | None) -> Iterator[None]:
    """No gradients are left, and nothing is computed twice for the sake of memory: that is not the model's work."""
    checkpointing, model.gradient_checkpointing = model.gradient_checkpointing, False
    try:
        yield
    finally:
        model.gradient_checkpointing = checkpointing
        for module in (model, critic):
            if module is not None:
                module.zero_grad(set_to_none=True)
