"""What a network that learns one person keeps of all the others: its weights are drawn back to where they started."""

from __future__ import annotations

import torch
from torch import nn


class Anchor:
    """Decay towards the weights at the start, in place of towards zero: w -= lr anchor (w - w_0)."""

    def __init__(self, module: nn.Module, strength: float) -> None:
        """Remembers the weights that learn, as they are now; nothing where `strength` is 0."""
        self._strength = strength
        learned = [p for p in module.parameters() if p.requires_grad] if strength > 0 else []
        self._pairs = [(p, p.detach().clone()) for p in learned]

    @torch.no_grad()
    def pull(self, lr: float) -> None:
        """After a step of learning rate `lr`."""
        for now, start in self._pairs:
            now.lerp_(start, min(1.0, lr * self._strength))
