"""The expression that a frozen tracker reads from an output against the wanted one.   [ours]

The paper trains on pixels and features. Pixels answer a noisy label with less than the motion, and a raised brow is few
of them, so heads trained on them alone move too little. The tracker's reading asks for the motion itself, and
needs no true picture: also one person's photo driven by another person's expression can be judged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tracking.differentiable import ExpressionReader

_MIN_CONFIDENCE = 0.5  # of a face being there, as in the tracker
_NOISE = 0.05  # of a unit's score from one picture to the next: what moves less tells nothing


class ExpressionLoss(nn.Module):
    """Mean |reading - wanted| of the 52 units, weighted so that a brow counts as much as a jaw.

    A unit of deviation s in the data weighs s / (s^2 + noise^2): about 1 / s, but nothing where it never moves.

    betas: float [M, 52], labels of the training data.
    """

    def __init__(self, reader: ExpressionReader, betas: Tensor) -> None:
        super().__init__()
        self.reader = reader
        deviation = betas.float().std(dim=0)
        weight = deviation / (deviation.square() + _NOISE**2)
        self.register_buffer("weight", weight / weight.mean())

    def record(self) -> dict[str, Any]:
        return self.reader.record()

    def forward(self, image: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """image [N, 3, H, H] in the project's crop, [-1, 1]; wanted [N, 52]. Where no face is seen, nothing is said."""
        with torch.autocast(image.device.type, enabled=False):
            read = self.reader(image.float())
        distance = ((read.beta - wanted.float()).abs() * self.weight).mean(dim=1)
        seen = (read.confidence > _MIN_CONFIDENCE).float()
        return {"expression": (distance * seen).sum() / seen.sum().clamp(min=1)}
