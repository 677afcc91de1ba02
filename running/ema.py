"""Running average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

RAMP_SHARE = 0.1  # early on, the half-life is at most this share of the images seen


class WeightAverage(Generic[Module]):
    """theta_ema <- b theta_ema + (1 - b) theta, with b = (1/2)^(batch / half-life).

    The half-life grows with the images seen until it reaches `half_life_images`, so that the random weights of
    the beginning are forgotten soon. Buffers (T_EMA among them) are copied as they are.
    """

    def __init__(self, module: Module, half_life_images: int) -> None:
        self.module: Module = copy.deepcopy(module).eval().requires_grad_(False)
        self.half_life_images = half_life_images

    @torch.no_grad()
    def update(self, module: nn.Module, n_images: int, batch_size: int) -> None:
        """Take in `module`, whose weights have seen `n_images` images, the last step `batch_size` of them."""
        half_life = min(float(self.half_life_images), RAMP_SHARE * n_images)
        keep = 0.5 ** (batch_size / half_life) if half_life > 0 else 0.0
        own: list[Tensor] = [p for p in self.module.parameters() if p.is_floating_point()]
        new = [p.detach() for p in module.parameters() if p.is_floating_point()]
        torch._foreach_lerp_(own, new, 1 - keep)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(dict(state), strict=True)
