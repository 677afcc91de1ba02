"""Every random number of a training step: a function of (seed, step, sample) alone, so there is no state to save."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from training.config import LossConfig, ModelConfig


def counter_seed(*counters: int) -> int:
    """A seed below 2^63 from a few counters, the same on every machine."""
    text = " ".join(str(int(c)) for c in counters).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


class StepNoise(NamedTuple):
    """All random numbers of a generator pass. Each sample of the global batch has its own, so that neither the
    number of processes nor gradient accumulation changes them."""

    coarse: Tensor  # [N, R, S] uniform in [0, 1), for stratified sampling
    fine: Tensor  # [N, R, F]
    tv_points: Tensor  # [N, M, 3] in [-1/2, 1/2), parts of the box's side
    tv_steps: Tensor  # [N, M, 3] standard normal
    crop: Tensor  # [N, 2] uniform in [0, 1), where the perceptual loss looks

    def part(self, start: int, stop: int) -> StepNoise:
        """Those of some of the samples."""
        return StepNoise(*(x[start:stop] for x in self))


def draw_noise(
    seed: int,
    step: int,
    samples: range,  # numbers within the global batch
    config: ModelConfig,
    loss: LossConfig,
    device: torch.device,
) -> StepNoise:
    """The noise of `step`."""
    r = config.render
    rays = config.raw_resolution**2
    points = loss.density_tv_points if loss.density_tv > 0 else 0
    generator = torch.Generator(device)
    rows = []
    for sample in samples:
        generator.manual_seed(counter_seed(seed, step, sample))
        rows.append(
            (
                torch.rand(rays, r.samples_coarse, device=device, generator=generator),
                torch.rand(rays, r.samples_fine, device=device, generator=generator),
                torch.rand(points, 3, device=device, generator=generator) - 0.5,
                torch.randn(points, 3, device=device, generator=generator),
                torch.rand(2, device=device, generator=generator),
            )
        )
    return StepNoise(*(torch.stack(column) for column in zip(*rows, strict=True)))


def uniform_rows(seed: int, step: int, samples: range, width: int) -> Tensor:
    """Uniform in [0, 1), one row of `width` numbers a sample, on the CPU."""
    generator = torch.Generator()
    rows = []
    for sample in samples:
        generator.manual_seed(counter_seed(seed, step, sample))
        rows.append(torch.rand(width, generator=generator))
    return torch.stack(rows)
